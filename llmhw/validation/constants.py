"""Fitted constants as a JSON file: read with clear errors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from llmhw.files import write_whole
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
    """Write what `make()` gives as JSON to `path`, whole or not at all, and return it."""
    made: list[Mapping[str, Any]] = []

    def text() -> str:
        made.append(make())
        return _json(made[0])

    write_whole(path, text)
    return made[0]


def _json(constants: Mapping[str, Any]) -> str:
    from json import dumps

    try:
        return dumps(constants, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise LLMHWError(f"the fitted constants are not JSON ({error}); fit to other rows") from None
