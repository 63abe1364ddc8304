"""Fitted constants as a JSON file: read with clear errors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from llmhw.units import LLMHWError


def read_constants(path: str | PathLike[str]) -> dict[str, Any]:
    """The constants in a JSON file that `write_constants` wrote. Raises `LLMHWError` if it is not there or not JSON."""
    from json import loads
    from pathlib import Path

    file = Path(path)
    way_out = "give a file that `llmhw validate --fit` wrote"
    try:
        found = loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LLMHWError(f"{file} does not exist; {way_out}") from None
    except OSError as error:
        raise LLMHWError(f"{file} cannot be read ({error.strerror}); {way_out}") from None
    except (ValueError, RecursionError) as error:
        raise LLMHWError(f"{file} is not JSON ({error}); {way_out}") from None
    if not isinstance(found, dict):
        raise LLMHWError(f"{file} holds a JSON {type(found).__name__}, not an object; {way_out}")
    return found


def write_constants(path: str | PathLike[str], make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Write what `make()` gives as JSON to `path`, and return it.

    A file that was there stays until the new one is whole. The folder is tried before `make` is called, since a fit
    may take minutes.
    """
    from contextlib import suppress
    from os import fsync, getpid, replace
    from os.path import exists as path_exists  # False for a name that is too long; Path.exists raises
    from pathlib import Path

    # the target of a link, not the link, is what is replaced
    file = Path(path).resolve()
    if path_exists(file) and not file.is_file():
        raise LLMHWError(f"{path} is not a file; give the path of a JSON file to write")
    if not file.parent.is_dir():
        raise LLMHWError(f"{path} cannot be written: the folder {file.parent} does not exist; create it first")
    beside = file.with_name(f".{file.name}.{getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as out:
            constants = make()
            out.write(_json(constants))
            out.flush()
            fsync(out.fileno())
        replace(beside, file)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror}); give a path in a folder you may write"
        raise LLMHWError(reason) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return constants


def _json(constants: Mapping[str, Any]) -> str:
    from json import dumps

    try:
        return dumps(constants, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise LLMHWError(f"the fitted constants are not JSON ({error}); fit to other rows") from None
