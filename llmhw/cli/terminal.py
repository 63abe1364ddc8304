"""The terminal: what is printed there, how wide it is, what takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

from llmhw.units import columns, wrapped

LANG = "The language of answers; default: the locale's. --json, --csv and what is refused are in English."


class OutputError(OSError):
    """The terminal, pipe or file behind the standard output takes nothing more."""


def say(text: str, *, err: bool = False) -> None:
    """Print; a reader that has gone away is no error, a full disk is one."""
    stream = sys.stderr if err else sys.stdout
    try:
        if stream is None:
            raise OSError(9, "it is closed")
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except UnicodeEncodeError:
        say(text.encode("ascii", "backslashreplace").decode(), err=err)
    except (OSError, ValueError) as error:
        if err:
            return
        raise OutputError(getattr(error, "strerror", None) or str(error)) from None


def width() -> int | None:
    """Columns of the terminal; a pipe or a file has no width, so that grep and awk see one row a line."""
    if not (sys.stdout and sys.stdout.isatty()):
        return None
    from shutil import get_terminal_size

    return max(40, get_terminal_size().columns)


def folded(lines: Iterable[str], most: int | None) -> Iterator[str]:
    """Prose, wrapped at the terminal's width."""
    for line in lines:
        yield from wrapped(line, most) if most and columns(line) > most else [line]


def no_color(context: Any, _: Any, value: bool) -> None:
    """What --no-color does."""
    if value:
        context.color = False


def language(context: Any, _: Any, value: str | None) -> None:
    """What --lang does, behind any command, until the command ends."""
    if value is not None and not context.resilient_parsing:
        from llmhw.language import LANGUAGES, in_language
        from llmhw.units import check_choice

        wanted = value.lower().replace("_", "-").partition("-")[0]  # zh-CN is zh
        context.find_root().with_resource(in_language(check_choice("lang", wanted, LANGUAGES)))


class Progress:
    """A bar on the terminal for what takes longer than two seconds; none in a pipe.

    >>> with Progress("rows") as step:
    ...     step(1, 10)
    """

    def __init__(self, label: str) -> None:
        self.label, self.began, self.last = label, monotonic(), 0
        self.bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int | None) -> None:
        if self.bar is None:
            if not total or monotonic() - self.began < 2 or not (sys.stderr and sys.stderr.isatty()):
                return
            import click

            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr).__enter__()
        self.bar.update(done - self.last)
        self.last = done

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.render_finish()
