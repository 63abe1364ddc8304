"""Layouts a second of `llmhw.search` on one core, its memory, and how it grows; single predictions in the same run.

`--json` prints one object. `layouts_per_second` is of the largest case: complete and valid layouts, memory and time of
each. Arrays and threads: NumPy's elementwise functions, which the search is made of, run on one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llmhw import Cluster, accelerators, model
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.search import search
from llmhw.step_time import time_step
from llmhw.training import memory


def job(name: str, batch: int = 2048, **options: Any) -> TrainingJob:
    """A job whose layout is to be found."""
    asked = {"kernels": "megatron", "precision": "bf16-mixed-fp32-grads", "seq_len": 8192} | options
    cluster = Cluster("h100", 8, inter_link="infiniband ndr")
    return TrainingJob(model=model(name), cluster=cluster, parallelism=Parallelism(dp=8), global_batch=batch, **asked)


def clusters(counts: Sequence[int]) -> list[Cluster]:
    return [Cluster("h100", n, inter_link="infiniband ndr") for n in counts]


def best_seconds(run: Callable[[], Any], times: int = 5) -> tuple[float, Any]:
    """The fastest of a few runs: what else runs on the machine only slows."""
    found: list[float] = []
    made = None
    for _ in range(times):
        start = time.perf_counter()
        made = run()
        found.append(time.perf_counter() - start)
    return min(found), made


def case(asked: TrainingJob, counts: Sequence[int], times: int = 5, **space: Any) -> dict[str, Any]:
    seconds, found = best_seconds(lambda: search(asked, clusters(counts), **space), times)
    return {
        "model": asked.model.name,
        "devices": list(counts),
        "tried": found.tried,
        "valid": found.valid,
        "fitting": found.fitting,
        "seconds": seconds,
        "valid_per_second": found.valid / seconds,
    }


def single(asked: TrainingJob) -> float:
    """Layouts a second of a loop over single predictions, time and memory."""
    one = replace(asked, cluster=clusters([64])[0], parallelism=Parallelism(dp=8, tp=8, sequence_parallel=True))

    def both() -> None:
        time_step(one)
        memory(one)

    seconds, _ = best_seconds(lambda: [both() for _ in range(20)])
    return 20 / seconds


def serving() -> dict[str, Any]:
    """Every layout and format of a model on every device of the catalog."""
    spec, places = model("llama-3-70b"), [Cluster(device, 8) for device in accelerators()]
    asked = ServingJob(model=spec, cluster=places[0])
    seconds, found = best_seconds(lambda: search(asked, places, input_tokens=1000, output_tokens=1000))
    return {"devices": len(places), "tried": found.tried, "valid": found.valid, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    cases = {
        "a space of 20,000": case(job("llama-3-8b", 256), [64], recompute=("none", "selective", "full")),
        "405B on 16,384": case(job("llama-3.1-405b"), [16384]),
        "a mixture of experts": case(job("mixtral-8x7b"), [64]),
        "the largest": case(job("llama-3-70b"), [8 * 2**i for i in range(12)]),
    }
    growth = [case(job("llama-3-70b", 131072), [n], 2) for n in (8, 64, 512, 4096, 32768, 131072)]
    found = {
        "layouts_per_second": cases["the largest"]["valid_per_second"],
        "cases": cases,
        "growth": growth,
        "single_predictions_per_second": single(job("llama-3-70b", 2048)),
        "serving": serving(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, one in cases.items():
        rate = one["valid_per_second"]
        print(f"{name:22} {one['valid']:>10,} valid layouts in {one['seconds']:6.3f} s: {rate:,.0f}/s")
    for one in growth:
        print(f"{one['devices'][0]:>9,} devices   {one['valid']:>10,} valid layouts in {one['seconds']:6.3f} s")
    print(f"one by one: {found['single_predictions_per_second']:,.0f} layouts/s")
    served = found["serving"]
    print(f"serving: {served['valid']:,} layouts and formats, {served['devices']} devices: {served['seconds']:.2f} s")
    print(f"peak memory of the process: {found['peak_memory_bytes'] / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
