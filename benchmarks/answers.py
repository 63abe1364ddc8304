"""How many answers a second the library gives, beside a transformers model built on the meta device."""

from __future__ import annotations

import time
from collections.abc import Callable

import llmhw
from llmhw.catalog import read_model
from llmhw.step_time import time_step
from llmhw.validation import validate


def per_second(call: Callable[[], object], least_seconds: float = 0.5) -> float:
    call()
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < least_seconds:
        call()
        count += 1
    return count / spent


def on_meta() -> int:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING["llama"](**{k: v for k, v in read_model("llama-3-70b")[1].items() if k != "model_type"})
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def a_job(spec: llmhw.ModelSpec) -> llmhw.TrainingJob:
    """Tensor, pipeline and data parallelism between nodes: everything that a step of a dense model has."""
    return llmhw.TrainingJob(
        model=spec,
        cluster=llmhw.Cluster("h100", 64, inter_link="infiniband ndr"),
        parallelism=llmhw.Parallelism(dp=2, tp=4, pp=8, vpp=5, zero=1, sequence_parallel=True),
        global_batch=256,
        kernels="megatron",
    )


def main() -> None:
    spec = llmhw.model("llama-3-70b")
    config = read_model("llama-3-70b")[1]
    job = a_job(spec)
    calls: dict[str, Callable[[], object]] = {
        "read a config and count": lambda: llmhw.ModelSpec.from_config(config).parameters.total,
        "weights in int4-gptq": lambda: llmhw.weights(spec, "int4-gptq").total,
        "KV cache": lambda: llmhw.kv_cache(spec, batch=8, seq_len=8192).total,
        "training states": lambda: llmhw.training_states(spec).total,
        "forward FLOPs": lambda: llmhw.forward_flops(spec, seq_len=8192).total,
        "fit table on an H100": lambda: llmhw.fit(spec, "h100"),
        "time of a training step": lambda: time_step(job),
        "a whole training estimate": lambda: llmhw.train(job).to_dict(),
    }
    assert on_meta() == spec.parameters.total
    reference = per_second(on_meta)
    print(f"{'answer (llama-3-70b)':<28} {'ms':>9} {'per second':>11} {'x the reference':>16}")
    print(f"{'transformers, meta device':<28} {1e3 / reference:>9.3f} {reference:>11,.1f} {1:>16}")
    for name, call in calls.items():
        rate = per_second(call)
        print(f"{name:<28} {1e3 / rate:>9.3f} {rate:>11,.0f} {rate / reference:>16,.0f}")
    start = time.perf_counter()
    found = validate(None, "training-throughput")
    spent = time.perf_counter() - start
    print(f"\nllmhw validate --kind training-throughput: {len(found.rows)} rows predicted in {spent:.2f} s")


if __name__ == "__main__":
    main()
