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
    for name, found in made["left_out"]["sources"].items():
        print(name, found)
    for what in ("unfitted", *(name for name in made["left_out"] if name not in (*made["residuals"], "sources"))):
        for name, found in made.get(what, made["left_out"].get(what, {})).items():
            print("priors alone" if what == "unfitted" else f"{what} left out", name, found)
    for name, found in made["residuals"].items():
        interval = made["interval"].get(name, "none")
        print(name, "all:", found, "left out:", made["left_out"][name], "80 % interval:", interval)
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
