"""Files of trainers and engines, read into the options of a job."""

from __future__ import annotations

from llmhw.files import read_text
from llmhw.units import LLMHWError

_WAY_OUT = "give the file that starts a trainer or an engine"


def text_of(path_or_text: str) -> tuple[str, str]:
    """The text, and what errors call it: its path, or "the text"."""
    if "\n" in path_or_text:
        return path_or_text, "the text"
    return read_text(path_or_text, argument="from", way_out=_WAY_OUT), path_or_text


def found_form(text: str, what: str) -> str:
    """The form that a text looks like."""
    raise LLMHWError(f"from={what!r} is of no form that is known; {_WAY_OUT}")
