"""Files: read within limits, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, BinaryIO

from llmhw.units import LLMHWError, shown

MOST_BYTES = 16 * 10**6
MOST_DEPTH = 40
MOST_DIGITS = 20
# Letters of a path that an error shows: nearly all paths are shorter.
_PATH = 300


def read_text(
    path: str | PathLike[str],
    *,
    argument: str = "path",
    limit: int = MOST_BYTES,
    way_out: str = "give a file of text",
    strict: bool = True,
) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    path      of a regular file; "-" is standard input, and a pipe of the shell, as `<(...)` makes one, is read too
    limit     most bytes
    way_out   the end of the error
    strict    False: what a terminal printed, in UTF-16 as PowerShell writes it, or with other bytes between

    Raises `LLMHWError` for what is not there, not a file, too large or not UTF-8.

    >>> read_text("no such file", argument="config", way_out="give the path of a config.json")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: config='no such file' does not exist; give the path of a config.json
    """
    from os import fspath

    name = check_path(argument, path, way_out)
    try:
        if name == "-":
            import sys

            data = sys.stdin.buffer.read(limit + 1)
        else:
            data = _bytes(name, limit)
    except FileNotFoundError:
        raise LLMHWError(f"{argument}={shown(fspath(path), _PATH)} does not exist; {way_out}") from None
    except (OSError, AttributeError, ValueError) as error:  # no standard input: it is None, or closed
        reason = getattr(error, "strerror", None) or str(error)
        raise LLMHWError(f"{argument}={shown(fspath(path), _PATH)} cannot be read ({reason}); {way_out}") from None
    if len(data) > limit:
        raise LLMHWError(f"{argument}={shown(fspath(path), _PATH)} has more than {limit:,} bytes; {way_out}")
    if not strict:
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LLMHWError(f"{argument}={shown(fspath(path), _PATH)} is not text in UTF-8 ({error}); {way_out}") from None


def check_path(argument: str, path: Any, way_out: str) -> str:
    """The path as a text, if it can be one."""
    from os import fspath

    if not isinstance(path, (str, PathLike)) or not isinstance(fspath(path), str):
        raise LLMHWError(f"{argument}={shown(path)} is no path; {way_out}")
    name = fspath(path)
    if not name.strip():
        raise LLMHWError(f"{argument}={shown(name)} is an empty path; {way_out}")
    if "\0" in name:
        raise LLMHWError(f"{argument}={shown(name)} holds a zero byte, which no path may; {way_out}")
    return name


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A regular file, or a pipe that the shell has opened for this process; `OSError` for anything else."""
    import os
    from stat import S_ISDIR, S_ISFIFO, S_ISREG

    # without waiting for a writer, as opening a FIFO does
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        given = name.startswith(("/dev/fd/", "/proc/self/fd/")) or name == "/dev/stdin"
        if not (S_ISREG(mode) or (given and S_ISFIFO(mode))):
            raise OSError(0, "it is a folder" if S_ISDIR(mode) else "it is no regular file")
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def first_bytes(name: str, count: int) -> bytes:
    """The first bytes of a regular file; nothing of what is none, or cannot be read."""
    from os.path import isfile

    try:
        if isfile(name):
            with opened(name) as file:
                return file.read(count)
    except (OSError, ValueError):
        pass
    return b""


def _bytes(name: str, limit: int) -> bytes:
    """At most limit + 1 bytes of a file."""
    with opened(name) as file:
        return file.read(limit + 1)


def read_json(
    path: str | PathLike[str],
    limit: int = MOST_BYTES,
    depth: int = MOST_DEPTH,
    *,
    argument: str = "path",
    way_out: str = "give a file of JSON",
    infinite: bool = False,
) -> dict[str, Any]:
    """The object that a file of JSON holds; `path`, `limit` and `way_out` as in `read_text`.

    depth      most objects and lists within each other
    infinite   whether NaN and Infinity, which are no JSON but are written by Python, may stand in it

    Raises `LLMHWError` for what is no JSON object, for a key that stands twice in an object, and for integers of more
    than 20 digits.
    """
    from os import fspath

    text = read_text(path, argument=argument, limit=limit, way_out=way_out)
    return parse_json(text, f"{argument}={shown(fspath(path), _PATH)}", depth, way_out=way_out, infinite=infinite)


def parse_json(
    text: str, what: str, depth: int = MOST_DEPTH, *, way_out: str = "give a file of JSON", infinite: bool = False
) -> dict[str, Any]:
    """The object that a text of JSON holds; `what` is its name in an error, the rest as in `read_json`."""
    import json

    def whole(digits: str) -> int:
        if len(digits.lstrip("-")) > MOST_DIGITS:
            raise LLMHWError(f"{what} has the integer {shown(digits, 30)} of more than {MOST_DIGITS} digits; {way_out}")
        return int(digits)

    def constant(name: str) -> float:
        if not infinite:
            raise LLMHWError(f"{what} has {name}, which is no JSON; {way_out}")
        return float(name)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise LLMHWError(f"{what} has the key {shown(twice)} twice in one object; leave one out")
        return found

    if depth_of(text, depth) > depth:
        raise LLMHWError(f"{what} has objects or lists within each other more than {depth} deep; {way_out}")
    try:
        data = json.loads(text, parse_int=whole, parse_constant=constant, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise LLMHWError(f"{what} is not JSON (line {error.lineno}: {error.msg}); {way_out}") from None
    if not isinstance(data, dict):
        raise LLMHWError(f"{what} holds a JSON {type(data).__name__}, not an object; {way_out}")
    return data


def depth_of(text: str, most: int = MOST_BYTES) -> int:
    """How deep objects and lists lie within each other; brackets inside strings do not count.

    most   what is deeper is not looked through to its end

    >>> depth_of('{"a": ["[["]}'), depth_of("[" * 1000, most=40)
    (2, 41)
    """
    from re import finditer

    deepest = level = 0
    # a string that is not closed is matched too, so that the text is gone through only once
    for found in finditer(r'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', text):
        if found[0] in "[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > most:
                break
        elif found[0] in "]}":
            level -= 1
    return deepest


def check_output(path: str | PathLike[str], inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """Raise `LLMHWError` if this is no path to write to, or the file, by whatever name, that one of `inputs` names."""
    from os.path import exists, samefile

    way_out = "give the path of a file to write"
    name = check_path("output", path, way_out)
    if name == "-":
        raise LLMHWError("output='-' is no file; leave it out, and the text is printed")
    for source in inputs:
        try:
            same = name == source or (exists(name) and exists(source) and samefile(name, source))
        except (OSError, ValueError, TypeError):
            same = False
        if same:
            raise LLMHWError(f"output={shown(name)} is the file that is read ({source}); {way_out} beside it")


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Being told to end (SIGTERM, SIGHUP) raises SystemExit meanwhile, so that what is half written is removed."""
    import signal
    import threading

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    kept = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        kept = {number: signal.signal(number, end) for number in wanted if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def write_whole(
    path: str | PathLike[str], make: Callable[[], str | bytes], *, inputs: Iterable[str | PathLike[str]] = ()
) -> None:
    """Write the text or the bytes that `make()` gives to `path`.

    inputs   files that are read for it, and are never written onto

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
    # short, so that it fits wherever the file's own name does
    beside = file.with_name(f".{getpid()}.tmp" if len(file.name) > 200 else f".{file.name}.{getpid()}.tmp")
    with _ending_cleanly():
        try:
            with beside.open("wb") as out:
                made = make()
                out.write(made.encode(errors="backslashreplace") if isinstance(made, str) else made)
                out.flush()
                fsync(out.fileno())
            replace(beside, file)
        except OSError as error:
            reason = f"{path} cannot be written ({error.strerror}); give a path in a folder you may write"
            raise LLMHWError(reason) from None
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
