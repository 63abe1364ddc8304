"""How long a million requests take to simulate, and how much memory; one process, one core.

`--requests N` runs another number; cases named on the line leave the others out. On a busy machine look at CPU seconds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from llmhw.queueing import StepModel
from llmhw.simulation import SLO, Engine, LogNormal, Poisson, simulate

# An 8 B model in bf16 on one large GPU, in round numbers: 5 ms of weights, a prompt at 50,000 tokens a second
STEP = StepModel(0.005, prefill_token_seconds=2e-5, sequence_seconds=1e-5, cached_token_seconds=4e-8)
CASES = {
    "continuous": {},
    "chunked": {"chunked_prefill": True, "max_batched_tokens": 2048},
    "few blocks": {"kv_blocks": 1800},
    "disaggregated": {"mode": "disaggregated", "transfer_seconds": 0.005},
    "dynamic": {"mode": "dynamic", "max_delay_seconds": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}")
    arguments = parser.parse_args()
    lengths = {
        "input_tokens": LogNormal(median=300, sigma=0.7, most=4000),
        "output_tokens": LogNormal(median=170, sigma=0.6, most=1500),
    }
    heads = ("seconds", "CPU s", "us each", "peak MiB", "steps", "batch", "preempted")
    print(f"{'case':<14}", *(f"{head:>10}" for head in heads))
    for name in arguments.cases or CASES:
        load = Poisson(rate=20, requests=arguments.requests, seed=1, **lengths)  # type: ignore[arg-type]
        engine = Engine(STEP, **({"max_sequences": 128, "kv_blocks": 8000} | CASES[name]))  # type: ignore[arg-type]
        start, worked = time.perf_counter(), time.process_time()
        found = simulate(engine, load, slo=SLO(ttft_seconds=0.5, tpot_seconds=0.05))
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        each = 1e6 * worked / max(found.requests, 1)
        numbers = (f"{seconds:.1f}", f"{worked:.1f}", f"{each:.1f}", f"{peak:.0f}", f"{found.steps:,}")
        numbers += (f"{found.mean_batch:.1f}", f"{found.preemptions:,}")
        print(f"{name:<14}", *(f"{number:>10}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
