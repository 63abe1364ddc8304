"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

from llmhw.units import LLMHWError


def write_whole(path: str | PathLike[str], make: Callable[[], str]) -> None:
    """Write the text that `make()` gives to `path`.

    A file that was there stays until the new one is whole. The folder is tried before `make` is called, which may take
    long. Raises `LLMHWError` if the path cannot be written.

    >>> write_whole("no such folder/table.csv", lambda: "a,b")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: no such folder/table.csv cannot be written: its folder does not exist; create it first
    """
    from contextlib import suppress
    from os import fsync, getpid, replace
    from os.path import exists as path_exists  # False for a name that is too long; Path.exists raises
    from pathlib import Path

    # the target of a link, not the link, is what is replaced
    file = Path(path).resolve()
    if path_exists(file) and not file.is_file():
        raise LLMHWError(f"{path} is not a file; give the path of a file to write")
    if not path_exists(file.parent):
        raise LLMHWError(f"{path} cannot be written: its folder does not exist; create it first")
    beside = file.with_name(f".{file.name}.{getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8", newline="") as out:
            out.write(make())
            out.flush()
            fsync(out.fileno())
        replace(beside, file)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror}); give a path in a folder you may write"
        raise LLMHWError(reason) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
