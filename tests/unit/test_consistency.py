"""`model`, `fit`, `memory` and `serve` never contradict each other: a thousand questions drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import llmhw
from llmhw.fit import _inference, _Question, _row, fit
from llmhw.formula import Term
from llmhw.hardware import Cluster
from llmhw.job import ENGINES, Parallelism, ServingJob, TrainingJob
from llmhw.llamacpp import host_memory
from llmhw.memory import kv_cache, tower_terms, weights
from llmhw.model import ModelSpec, model
from llmhw.precision import formats_in
from llmhw.serving import serving_memory
from llmhw.training import memory
from llmhw.units import LLMHWError

QUESTIONS = 1000
MODELS = """llama-3.2-1b llama-3-8b llama-3.1-70b qwen2.5-7b qwen3-8b qwen3-30b-a3b gemma-2-9b gemma-3-27b mistral-7b
    mixtral-8x7b deepseek-v3 gpt-oss-20b gpt-oss-120b qwen3-next-80b-a3b phi-3-mini qwen2.5-vl-7b falcon-7b gpt2-xl
    qwen3-235b-a22b-fp8 qwen3.5-27b""".split()
DEVICES = (
    "RTX 3060 12GB",
    "RTX 4090",
    "RTX 5090",
    "L40S",
    "A100 80GB SXM4",
    "h100",
    "h200",
    "b200",
    "mi300x",
    "M4 Max 128GB",
)
FORMATS = ("bf16", "fp8", "int8", "int4-gptq", "int4-awq", "nvfp4", "Q4_K_M", "Q8_0", "checkpoint")
TRAINED = {
    "full training, AdamW mixed precision": {},
    "full training, 8-bit AdamW in bf16": {"optimizer": "adamw-8bit", "precision": "bf16"},
    "LoRA, rank 16": {"precision": "bf16", "frozen": True},
    "QLoRA, rank 16": {"precision": "bf16", "frozen": True, "base": "nf4-dq"},
}  # fmt: skip


def questions(number: int, seed: str) -> Iterator[dict[str, Any]]:
    """A model, devices that share it, formats, a length, a batch and a share of the devices."""
    draw = random.Random(seed)
    while number:
        spec = model(draw.choice(MODELS))
        longest = spec.max_seq_len or 4096
        number -= 1
        yield {
            "spec": spec,
            "device": draw.choice(DEVICES),
            "devices": draw.choice((1, 1, 1, 2, 4, 8)),
            "name": draw.choice(FORMATS),
            "kv": draw.choice((None, None, "fp8")),
            "seq_len": min(longest, draw.choice((1, 17, 512, 4096, 8192, 32768, 131072))),
            "batch": draw.choice((1, 1, 2, 16, 300)),
            "utilization": draw.choice((None, None, 0.8, 0.95)),
        }


def asked(q: dict[str, Any]) -> ServingJob:
    given = {"weights": q["name"], "kv": q["kv"], "utilization": q["utilization"], "max_model_len": q["seq_len"]}
    given |= {"model": q["spec"], "cluster": Cluster(q["device"], q["devices"])}
    if not ServingJob(**given).software.cells:
        return ServingJob(**given, tp=q["devices"])
    # it deals layers, and allocates as many slots as it is told
    return ServingJob(**given, pp=q["devices"], max_sequences=q["batch"])


def towers_of(spec: ModelSpec) -> list[Term]:
    return [t for terms in tower_terms(spec).values() for t in terms]


def refusal(q: dict[str, Any]) -> str:
    """Why the table has no row."""
    given = {name: q[name] for name in ("devices", "seq_len", "utilization")}
    try:
        return fit(q["spec"], q["device"], formats=[q["name"]], kv_format=q["kv"], **given).refused[q["name"]]
    except LLMHWError as error:
        return str(error)


def test_serving_says_the_same_everywhere() -> None:
    """Weights and cache of `model`, the need and the verdict of `fit`, the room of `serve`."""
    answered, refused = 0, list[tuple[dict[str, Any], str]]()
    for q in questions(QUESTIONS, "serving"):
        spec, tokens, batch = q["spec"], q["seq_len"], q["batch"]
        try:
            job = asked(q)
        except LLMHWError as error:
            refused.append((q, str(error)))
            continue
        answered += 1
        held = serving_memory(job)
        gpu = job.cluster.accelerator
        question = _Question(spec, gpu, q["devices"], batch, tokens, q["kv"], 16, q["utilization"], {})
        row = _row("inference", partial(_inference, q["name"]), question, lambda _: True)
        assert row.needed_bytes == pytest.approx(held.needed_bytes(tokens, -(-batch // job.attention_dp))), q
        assert row.usable_bytes == held.budget_bytes, q
        assert row.fits == (held.sequences(tokens) >= batch and not held.refusal), q
        assert (row.max_sequences >= 1) == (bool(held.sequences(tokens)) and not held.refusal), q
        if batch == 1:
            assert (row.fits, row.fits_barely) == (held.fits, held.fits_barely)
            said = held.verdict.partition(":")[0]
            assert row.verdict == (said if held.refusal else said.replace("start", "fit")), q
            assert row.max_seq_len >= held.longest or held.refusal, q
        parts = {part.name: float(part.value) for part in held.stages[0]}
        if job.software.cells:  # which reads rows of the embedding, and a file of towers, in host memory
            text = float(weights(spec, str(job.weights)).total) - sum(float(t.value) for t in towers_of(spec))
            host = float(host_memory(job, tokens)["weights"])
            tied = host if spec.tied else 0.0
            held_weights = sum(float(stage["weights"]) for stage in held.stages)
            assert held_weights + host - tied == pytest.approx(text, rel=0.02), q
        elif job.devices == 1:
            told = weights(spec, str(job.weights))
            towers = sum(value for name, value in parts.items() if name.endswith(" tower"))
            filled = any(fmt.name == "mxfp4" for fmt in formats_in(spec, str(job.weights)))  # up to whole tiles
            over = parts["weights"] + towers - float(told.total)
            assert abs(over) < 1 or (filled and over > 0), q
            page = job.page_tokens if job.software.paged else 1
            most = tokens if job.software.paged else job.context_limit
            cache = kv_cache(spec, seq_len=-(-most // page) * page, kv_format=str(job.kv), batch=batch)
            room = held.cache_bytes(tokens, sequences=batch)
            if held.pools[0]:  # layers of several kinds share pages, which are whole for each
                assert room >= float(cache.total), q
            else:
                assert room == pytest.approx(float(cache.total)), q
    assert answered > QUESTIONS / 2
    assert [q for q, words in refused[:20] if words not in refusal(q)] == []  # the table refuses it in the same words


def test_training_says_the_same_everywhere() -> None:
    """Rows of `fit` are answers of `memory`, and `train` has the same verdict."""
    draw = random.Random("training")
    for q in questions(40, "training"):
        spec, use = q["spec"], draw.choice(list(TRAINED))
        try:
            table = fit(spec, q["device"], formats=["bf16"], devices=q["devices"], seq_len=q["seq_len"])
            row = table[use]
        except LLMHWError:
            continue
        layout = llmhw.Parallelism(tp=q["devices"])
        job = llmhw.TrainingJob(
            model=spec, cluster=Cluster(q["device"], q["devices"]), parallelism=layout, seq_len=q["seq_len"],
            recompute="full", **TRAINED[use],
        )  # fmt: skip
        held = llmhw.training_memory(job)
        assert row.needed_bytes == pytest.approx(held.device_bytes, rel=1e-12), (q, use)
        assert (row.usable_bytes, row.verdict) == (held.capacity_bytes, held.verdict.partition(":")[0]), (q, use)
        if row.fits:
            assert llmhw.train(job).verdict.startswith(row.verdict), (q, use)


def test_a_service_has_the_verdict_of_its_memory() -> None:
    """`serve` runs as many requests as the memory has room for, and names the same need."""
    draw = random.Random("engines")
    for q in questions(120, "service"):
        try:
            job = asked(q | {"seq_len": max(32, q["seq_len"])})
            # an engine without limits of its own takes those of the load: here all have the same
            job = replace(job, engine=draw.choice(ENGINES), max_batched_tokens=512, max_sequences=16)
        except LLMHWError:
            continue
        held, tokens = serving_memory(job), job.context_limit
        try:
            found = llmhw.serve(job, input_tokens=tokens - tokens // 2, output_tokens=tokens // 2)
        except LLMHWError:  # what the engine's speed lacks
            continue
        assert found.fits == (held.sequences(tokens) > 0), q
        assert found.memory.needed_bytes(tokens) == held.needed_bytes(tokens), q
        if found.fits:
            most = min(held.sequences(tokens), job.max_sequences * job.attention_dp) * job.replicas
            assert found.point.concurrency == most, q
            assert found.verdict.partition(":")[0] == held.verdict.partition(":")[0], q


def test_what_was_asked_before_changes_no_answer() -> None:
    """A software that is named, and the same one assumed, of which fused norms are not taken for granted."""
    layout = Parallelism(dp=8, zero=3)
    job = TrainingJob(model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", 8), parallelism=layout)
    for seq_len, order in ((1000, 1), (1500, -1)):  # lengths that no other test has asked for
        assumed = replace(job, seq_len=seq_len)
        named = replace(assumed, software=str(assumed.software))
        told = {one is named: memory(one).device_bytes for one in (assumed, named)[::order]}
        assert told[True] < told[False]
