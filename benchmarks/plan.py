"""Processor seconds of plans, each in a process of its own: the first of its session, start-up apart.

`--json` prints one object. A plan is what `llmhw plan train` and `plan serve` compute: searches, then exact figures of
every choice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

# What is asked -> the job, and where as an argument of `llmhw.plan`.
_TRAIN = 'TrainingJob(model="{}", cluster="h100", seq_len={})'
CASES = {
    "405B on 16,384 H100": (_TRAIN.format("llama-3.1-405b", 8192), '[("h100", 16384)]'),
    "8B on all that is for rent": (_TRAIN.format("llama-3-8b", 8192), "None"),
    "70B on all that is for rent": (_TRAIN.format("llama-3-70b", 8192), "None"),
    "DeepSeek-V3 on 2,048 H200": (_TRAIN.format("deepseek-v3", 4096), '[("h200", 2048)]'),
    "70B served, all with a price": ('ServingJob(model="llama-3-70b", cluster="h100")', "None"),
}
CODE = """
import time, json, llmhw
from llmhw.planning import serving, training
job = llmhw.{job}
began = time.process_time()
found = llmhw.plan(job, {where})
took = time.process_time() - began
print(json.dumps({{"seconds": took, "tried": found.counts["tried"], "choices": len(found.choices)}}))
"""


def measured(job: str, where: str, times: int) -> dict[str, float]:
    """The fastest of a few processes: what else runs on the machine only slows."""
    code = CODE.format(job=job, where=where)
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(times)
    ]
    found: dict[str, float] = min(runs, key=lambda one: one["seconds"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    found = {name: measured(*case, asked.times) for name, case in CASES.items()}
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, one in found.items():
        print(f"{name:28} {one['seconds']:6.2f} s  {one['tried']:>11,} layouts")


if __name__ == "__main__":
    main()
