"""Published speed of training and of inference beside predictions, and with whole sources left out.

`python benchmarks/published_speed.py training-throughput` (or `serving`) fits the constants again from their priors,
then once without the sources of each cluster, judges each on what it has not seen, and prints what is in
`calibration.json`. With `--write` it puts the constants, the errors and the intervals there. About eight minutes each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import llmhw.catalog
from llmhw.units import LLMHWError
from llmhw.validation import KINDS, Validation, serving, training_throughput, validate
from llmhw.validation.statistics import Group, percentile, source_family
from llmhw.validation.table import Row, read_table_of

SUBJECTS = {"training-throughput": "training_time", "serving": "serving_time"}
FITS: dict[str, Callable[..., dict[str, Any]]] = {
    "training-throughput": training_throughput.fit,
    "serving": serving.fit,
}

# Sources that measured one cluster or one program, by the start of their names: all of them are left out together.
TOGETHER = (
    ("Narayanan", "Korthikanti", "Megatron-LM README"),
    ("torchtitan",),
    ("BigScience",),
)


def cluster_of(source: str) -> str:
    """The sources that a source is left out with."""
    family = source_family(source)
    return next((", ".join(names) for names in TOGETHER if family.startswith(names)), family)


def usable(kind: str) -> list[Row]:
    """Rows that count: read by somebody, no repeats."""
    rows = []
    for row in read_table_of(KINDS[kind].catalog(), "the catalog's table").rows:
        try:
            row.check(KINDS[kind].measured)
        except LLMHWError:
            continue
        rows.append(row)
    return rows


def left_out(kind: str, cluster: str) -> tuple[str, Validation]:
    """Constants fitted without the sources of a cluster, and how they do on them."""
    rows = usable(kind)
    held = [row for row in rows if cluster_of(row.source) == cluster]
    constants = FITS[kind](rows, fresh=True, without={source_family(row.source) for row in held})
    return cluster, validate(held, kind, calibration=constants)


def errors(groups: list[Group]) -> dict[str, Any]:
    """What the errors of so many groups come to."""
    sizes = [abs(g.error) for g in groups]
    if not sizes:
        return {"groups": 0}
    return {
        "groups": len(groups),
        "median_abs_error": round(percentile(sizes, 50), 4),
        "p90_abs_error": round(percentile(sizes, 90), 4),
        "mean_abs_error": round(sum(sizes) / len(sizes), 4),
        "bias": round(percentile([g.error for g in groups], 50), 4),
    }


def slowness(group: Group) -> float:
    """Measured over predicted time."""
    ratio = group.measured / group.predicted
    return ratio if group.unit == "seconds" else 1 / ratio


def main() -> None:
    kind = next((word for word in sys.argv[1:] if word in SUBJECTS), "training-throughput")
    rows = usable(kind)
    clusters = sorted({cluster_of(row.source) for row in rows})
    constants = FITS[kind](rows, fresh=True)
    everything = validate(rows, kind, calibration=constants)

    unseen: list[Group] = []
    sources = {}
    with ProcessPoolExecutor(2) as pool:
        for _, found in pool.map(partial(left_out, kind), clusters):
            unseen += found.groups
            for name in sorted({source_family(group.source) for group in found.groups}):
                sources[name] = errors([g for g in found.groups if source_family(g.source) == name])
                print(name, sources[name], flush=True)
    residuals, held = {}, {}
    for name in constants["interval"]:
        residuals[name] = errors([g for g in everything.groups if g.meter == name])
        held[name] = errors([g for g in unseen if g.meter == name])
        ratios = [slowness(g) for g in unseen if g.meter == name]
        low, high = percentile(ratios, 10), percentile(ratios, 90)
        constants["interval"][name] = [round(low, 3), round(high, 3)]
        print(name, "all:", residuals[name], "left out:", held[name], "80 % interval:", constants["interval"][name])
    for place, prior in constants["prior"].items():
        value: Any = constants
        for key in place.split("."):
            value = value[key]
        print(f"{place:<44} prior {prior['value']:<10.4g} +- {prior['spread']:<5.2g} fitted {value:.4g}")
    if "--write" in sys.argv:
        constants |= {
            "date": date.today().isoformat(),
            "data": f"catalog/measurements: {len(everything.groups)} configurations, llmhw validate --kind {kind}",
            "method": "benchmarks/published_speed.py: Huber's loss on log(predicted / measured), one vote a "
            "configuration, normal priors on the logarithms of the constants; intervals are the 10th and 90th "
            "percentile of measured / predicted time over sources left out of the fit",
            "residuals": residuals,
            "left_out": {**held, "sources": sources},
        }
        path = Path(llmhw.catalog.__file__).parent / "calibration.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        whole[SUBJECTS[kind]] = constants
        path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
