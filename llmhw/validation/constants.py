"""Fitted constants as a JSON file: read with clear errors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any

from llmhw.files import read_json, write_whole
from llmhw.units import LLMHWError


def read_constants(path: str | PathLike[str]) -> dict[str, Any]:
    """The constants in a JSON file that `write_constants` wrote. Raises `LLMHWError` if it is not there or not JSON."""
    return read_json(path, argument="calibration", way_out="give a file that `llmhw validate --fit` wrote")


def write_constants(
    path: str | PathLike[str],
    make: Callable[[], Mapping[str, Any]],
    *,
    inputs: Iterable[str | PathLike[str]] = (),
) -> Mapping[str, Any]:
    """Write what `make()` gives as JSON to `path`, whole or not at all, and return it.

    inputs   files that are read for it, such as the table of the rows: never written onto, by whatever name
    """
    made: list[Mapping[str, Any]] = []

    def text() -> str:
        made.append(make())
        return _json(made[0])

    write_whole(path, text, inputs=inputs)
    return made[0]


def _json(constants: Mapping[str, Any]) -> str:
    from json import dumps

    try:
        return dumps(constants, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise LLMHWError(f"the fitted constants are not JSON ({error}); fit to other rows") from None
