"""The reader's language: sentences and labels in English, or in the Chinese of `catalog/chinese.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from llmhw.catalog import read_table
from llmhw.units import check_choice

LANGUAGES = ("en", "zh")
LANGUAGE: ContextVar[str] = ContextVar("language", default="en")


@cache
def _chinese() -> dict[str, str]:
    return {row["english"]: row["chinese"] for row in read_table("chinese")}


@contextmanager
def in_language(language: str) -> Iterator[None]:
    """Answer in a language within the block: "en" or "zh".

    >>> with in_language("zh"):
    ...     said("weights")
    '权重'
    """
    token = LANGUAGE.set(check_choice("language", language, LANGUAGES))
    try:
        yield
    finally:
        LANGUAGE.reset(token)


def said(english: str, /, **values: object) -> str:
    """A sentence in the reader's language, its `{names}` filled with the values; English where it has no Chinese.

    >>> said("{used} of {room}", used="18.3", room="72.9 GiB")
    '18.3 of 72.9 GiB'
    """
    template = english if LANGUAGE.get() == "en" else _chinese().get(english, english)
    return template.format(**values) if values else template


def of_locale(environment: Mapping[str, str]) -> str:
    """The language that the variables of a POSIX environment ask for: "zh" where it is Chinese, else "en".

    The locale is the first of LC_ALL, LC_MESSAGES and LANG that is set; LANGUAGE, a list with the best first, goes
    before it unless it is C, as in gettext.

    >>> of_locale({"LANG": "zh_CN.UTF-8"}), of_locale({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}), of_locale({})
    ('zh', 'en', 'en')
    """
    locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return "en"
    return "zh" if (environment.get("LANGUAGE") or locale).lower().startswith("zh") else "en"
