"""Peak memory of training beside published measurements, source by source, and with whole sources left out.

The constants of the allocator, of the context and of batches of varied lengths are fitted again without each source,
then judged on that source. Runs that failed for memory, and longest sequences that fit, are checked by themselves.
`--write` puts constants and errors into `calibration.json`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import llmhw
from llmhw.catalog import read_calibration
from llmhw.validation import Validation, error_summary, fit_constants, groups, validate, verdicts
from llmhw.validation.statistics import Prediction

# What the source with readings of nvidia-smi and nothing assumed says of its devices before any tensor is there
STATED_CONTEXT = 1573 * 2**20
PATH = Path(llmhw.__file__).parent / "catalog" / "calibration.json"


def stated(rows: Iterable[Prediction], assumed: bool = False) -> list[Prediction]:
    """The rows of which nothing is assumed, or the others."""
    return [row for row in rows if ("assumed" in row.meter) == assumed]


def left(rows: Iterable[Prediction]) -> dict[str, Any]:
    """Errors of these rows, one vote a configuration."""
    found = error_summary([group.error for group in groups(rows)])
    return {
        "configurations": found["groups"],
        **{name: round(found[name], 3) for name in ("median_abs_error", "p90_abs_error") if name in found},
    }


def constants_of(rows: Iterable[Prediction], without: str = "") -> dict[str, float]:
    """Constants fitted to all rows but a source's; without readings of nvidia-smi the context that a source states."""
    known = {**read_calibration("training_memory"), "context_bytes": STATED_CONTEXT}
    found = fit_constants(rows, without=without)
    return {name: known[name] if value is None else value for name, value in found.items()}


def out(found: Validation, source: str) -> Mapping[str, Any]:
    """Constants fitted without a source, and its errors with them."""
    constants = constants_of(found.rows, source)
    part = [row for row in validate(None, "training-memory", calibration=constants).rows if source in row.source]
    return {**constants, **left(part)}


def main() -> None:
    found = validate(None, "training-memory")
    print(found)
    constants = constants_of(found.rows)
    print("\nfitted to all:", ", ".join(f"{name} {value:.4g}" for name, value in constants.items()))
    parts = {"all": stated(found.rows), "something assumed": stated(found.rows, assumed=True)}
    for name in ("allocated", "reserved", "device"):
        parts[name] = [row for row in parts["all"] if row.meter == name]
    for source in ("torchtitan", "BLOOM", "InternEvo", "fms-acceleration", "ms-swift"):
        parts[source] = [row for row in found.rows if source in row.source]
    residuals = {name: left(rows) for name, rows in parts.items()}
    for name, error in residuals.items():
        print(f"  {name:<20} {error}")
    print("constants fitted without a source, judged on it:")
    left_out = {source: out(found, source) for source in ("torchtitan", "BLOOM", "InternEvo", "torchao docs")}
    for source, error in left_out.items():
        print(f"  {source:<20} {error}")
    print("runs that failed for memory, and longest sequences that fit:")
    checked = verdicts()
    for (source, evidence, right), count in sorted(Counter((v.source, v.evidence, v.right) for v in checked).items()):
        print(f"  {source[:50]:<52} {evidence:<9} {'right' if right else 'wrong'} {count}")
    if "--write" in sys.argv:
        text = json.loads(PATH.read_text(encoding="utf-8"))
        fresh = {"date": date.today().isoformat(), "residuals": residuals, "left_out": left_out}
        text["training_memory"] |= {**constants, **fresh}
        PATH.write_text(json.dumps(text, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
