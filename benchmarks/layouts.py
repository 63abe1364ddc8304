"""Published layouts in their whole space: the share of layouts that fit and are faster, and the fastest of all.

`python benchmarks/layouts.py` takes about a minute on one core; `--json` prints one object a layout. Where more than
a tenth is faster, `catalog/layouts.csv` says why. Of 2021 a second search holds the axes to what was known then.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from llmhw.validation.layouts import OF_2021, PublishedLayout, Standing, published_layouts, standing


def row(where: Standing, seconds: float, then: Standing | None = None) -> dict[str, Any]:
    """One line of the table."""
    layout = where.layout
    return {
        "name": layout.name,
        "devices": f"{layout.job.cluster.devices} x {layout.job.cluster.accelerator.name}",
        "fits": where.fits,
        "faster": where.faster,
        "fitting": where.fitting,
        "share": where.share,
        "share_then": then.share if then else None,
        "slower": where.slower,
        "own": str(where.own),
        "best": str(where.best),
        "why": layout.why,
        "seconds": seconds,
    }


def placed(layout: PublishedLayout) -> dict[str, Any]:
    start = time.perf_counter()
    where = standing(layout)
    seconds = time.perf_counter() - start
    return row(where, seconds, standing(layout, **OF_2021) if layout.date.startswith("2021") else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("kind", nargs="*", default=["training", "serving"], help="training, serving or both")
    asked = parser.parse_args()
    for kind in asked.kind:
        for layout in published_layouts(kind):
            one = placed(layout)
            if asked.json:
                print(json.dumps(one))
                continue
            then = "" if one["share_then"] is None else f"; of 2021 {one['share_then']:.1%}"
            place = f"{one['faster']:,} of {one['fitting']:,} ({one['share']:.2%}{then})"
            print(f"{one['name']} on {one['devices']}: {place} are faster, ", end="")
            print(f"the best {one['slower']:.2f} times; {one['seconds']:.1f} s")
            print(f"  published {one['own']}{'' if one['fits'] else ' (does not fit)'}\n  best      {one['best']}")
            if one["why"]:
                print(f"  because   {one['why']}")


if __name__ == "__main__":
    main()
