"""Published speed of training and of inference beside predictions, and with whole sources left out.

`python benchmarks/published_speed.py training-throughput` (or `serving`) fits the constants again from their priors,
then once without each source, family of devices, engine or trainer, layout and kind of model, judges each on what it
has not seen, and prints what is in `calibration.json`. With `--write` it puts the constants, the errors and the
intervals there. About a minute for training, three for serving.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import llmhw.catalog
from llmhw.validation import KINDS, calibration


def main() -> None:
    kind = next((word for word in sys.argv[1:] if word in KINDS), "training-throughput")
    timed = KINDS[kind].timed
    if timed is None:
        sys.exit(f"{kind} has no constants of time")
    made = calibration(None, kind, fresh=True)
    lines = [("left out", name, found) for name, found in made["left_out"]["sources"].items()]
    lines += [("kept out of fits", name, found) for name, found in made.get("held", {}).get("sources", {}).items()]
    tables = {"fitted": made["residuals"], "priors alone": made["unfitted"], "source left out": made["left_out"]}
    tables |= {f"{what} left out": made["left_out"][what] for what in made["fitted"] if what in made["left_out"]}
    tables["kept out of fits"] = made.get("held", {})
    lines += [
        (what, name, table[name]) for what, table in tables.items() for name in made["residuals"] if name in table
    ]
    print(f"{'':<24}{'':<64}{'groups':>6}{'median':>9}{'90 %':>9}{'bias':>9}")
    for what, name, found in lines:
        parts = (f"{100 * found[part]:7.1f} %" for part in ("median_abs_error", "p90_abs_error", "bias"))
        print(f"{what:<24}{name:<64}{found['groups']:>6}", *parts, sep="")
    for name, interval in made["interval"].items():
        wider = ", ".join(f"{flag} {100 * width:.0f}" for flag, width in made["distance"][name].items())
        print(f"{name}: 80 % of measured over predicted time in {interval}; widths in % that add to that: {wider}")
    for place, prior in made["prior"].items():
        value: Any = made
        for key in place.split("."):
            value = value[key]
        print(f"{place:<44} prior {prior['value']:<10.4g} +- {prior['spread']:<5.2g} fitted {value:.4g}")
    if "--write" in sys.argv:
        path = Path(llmhw.catalog.__file__).parent / "calibration.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        whole[timed.subject] = made
        path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
