"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike

from llmhw.units import LLMHWError


def check_output(path: str | PathLike[str], inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """An error if a file to write is one that is read, be it by another name.

    >>> check_output("a.csv", ["./a.csv"])
    Traceback (most recent call last):
    llmhw.units.LLMHWError: a.csv is read by this command and would be lost; give the output another name
    """
    from os.path import exists, realpath, samefile

    for name in inputs:
        if realpath(path) == realpath(name) or (exists(path) and exists(name) and samefile(path, name)):
            raise LLMHWError(f"{path} is read by this command and would be lost; give the output another name")


def write_whole(
    path: str | PathLike[str], make: Callable[[], str | bytes], *, inputs: Iterable[str | PathLike[str]] = ()
) -> None:
    """Write the text or bytes that `make()` gives to `path`; never onto one of `inputs`, which are read.

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

    check_output(path, inputs)
    # the target of a link, not the link, is what is replaced
    file = Path(path).resolve()
    if path_exists(file) and not file.is_file():
        raise LLMHWError(f"{path} is not a file; give the path of a file to write")
    if not path_exists(file.parent):
        raise LLMHWError(f"{path} cannot be written: its folder does not exist; create it first")
    beside = file.with_name(f".{file.name}.{getpid()}.tmp")
    try:
        with beside.open("wb") as out:
            made = make()
            out.write(made.encode() if isinstance(made, str) else made)
            out.flush()
            fsync(out.fileno())
        replace(beside, file)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror}); give a path in a folder you may write"
        raise LLMHWError(reason) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
