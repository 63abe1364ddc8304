"""The published measurements, and what README states of their errors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from llmhw.catalog import read_calibration
from llmhw.validation import Validation, validate

README = Path(__file__).parents[2] / "README.md"


@cache
def published(kind: str) -> Validation:
    """The published measurements of a kind beside the predictions, made once by each worker."""
    return validate(None, kind)


def check_readme(found: Validation, subject: str, lines: dict[str, str]) -> None:
    """README's table of errors has these lines, each for a meter of `found` and of `left_out` in `calibration.json`."""
    text = README.read_text(encoding="utf-8")
    for meter, name in lines.items():
        seen, unseen = found.by_meter()[meter], read_calibration(subject)["left_out"][meter]
        errors = (seen.median_abs_error, seen.p90_abs_error, unseen["median_abs_error"], unseen["p90_abs_error"])
        cells = (name, len(seen.groups), *(f"{100 * error:.1f} %" for error in errors))
        assert f"| {' | '.join(map(str, cells))} |" in text
