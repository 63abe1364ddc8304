"""Whatever a public function is given, it answers or says in one line what is wrong.

`CALLS` has one valid call for each. The test puts every kind of wrong value in the place of each argument. With
LLMHW_FUZZ_EXAMPLES=50000 hypothesis makes that many calls with other values, several of them wrong at a time.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.cost import RunOptions
from llmhw.hardware import PriceList
from llmhw.ownership import rent_or_buy
from llmhw.planning import Limits
from llmhw.service import simulation_engine
from llmhw.simulation import SLO, Poisson
from llmhw.units import LLMHWError
from tests.unit.lines import MODELS, changed

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "0"))
SECONDS = 10.0  # to see a hang and no slowness


# -- one valid call for each ------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A function and arguments that it answers to; `open`: those that are not replaced."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    open: tuple[str, ...] = ()

    @property
    def function(self) -> Callable[..., Any]:
        module, _, attribute = self.name.removesuffix(".from_config").rpartition(".")
        found: Any = getattr(importlib.import_module(module), attribute)
        return found.from_config if self.name.endswith(".from_config") else found  # type: ignore[no-any-return]


@cache
def _training() -> llmhw.TrainingJob:
    return llmhw.TrainingJob(model="gpt2", cluster=("h100", 2), seq_len=256)


@cache
def _serving() -> llmhw.ServingJob:
    return llmhw.ServingJob(model="gpt2", cluster="h100")


@cache
def _piped() -> llmhw.TrainingJob:
    return llmhw.TrainingJob(
        model="gpt2", cluster=("h100", 4), parallelism=llmhw.Parallelism(dp=2, pp=2), seq_len=256, global_batch=8
    )


def _listed() -> PriceList:
    """Prices of one's own."""
    return PriceList("mine", tuple(llmhw.prices("h100", provider="AWS")))


def _facts(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in type(thing).__dataclass_fields__}


def _calls() -> Iterator[Call]:
    spec, layout = {"spec": "gpt2"}, {"parallelism": _piped().parallelism}
    training, serving = {"job": _training()}, {"job": _serving()}
    lengths = {"input_tokens": 100, "output_tokens": 20}
    yield Call("llmhw.accelerator", {"name": "h100"})
    yield Call("llmhw.accelerators")
    yield Call("llmhw.link", {"name": "nvlink 4"})
    yield Call("llmhw.links")
    yield Call("llmhw.instance", {"name": "p5.48xlarge", "provider": "AWS", "region": "us-east-1"})
    yield Call("llmhw.instances", {"accelerator": "h100"})
    yield Call("llmhw.prices", {"accelerator": "h100"})
    yield Call("llmhw.model", {"name": "gpt2"})
    yield Call("llmhw.models")
    yield Call("llmhw.number_format", {"name": "nf4"})
    yield Call("llmhw.number_formats")
    yield Call("llmhw.formulas")
    yield Call("llmhw.explain", {"name": "matmul_flops", "tokens": 1, "weights": 10})
    yield Call("llmhw.Accelerator", _facts(llmhw.accelerator("h100")))
    yield Call("llmhw.Link", _facts(llmhw.link("nvlink 4")))
    yield Call("llmhw.Instance", _facts(llmhw.instance("p5.48xlarge")))
    yield Call("llmhw.NumberFormat", _facts(llmhw.number_format("nf4")))
    cluster = {"accelerator": "h100", "devices": 16, "devices_per_node": 8}
    yield Call("llmhw.Cluster", cluster | {"intra_link": "nvlink 4", "inter_link": "infiniband ndr"})
    yield Call("llmhw.Parallelism", _facts(_piped().parallelism))
    yield Call("llmhw.TrainingJob", {"model": "gpt2", "cluster": ("h100", 2)} | _changeable(_training()))
    yield Call("llmhw.ServingJob", {"model": "gpt2", "cluster": "h100"} | _changeable(_serving()))
    yield Call("llmhw.ModelSpec.from_config", {"config": dict(llmhw.model("gpt2").config), "name": "mine"})
    yield Call("llmhw.weights", {**spec, "number_format": "int4-gptq"})
    sizes = {**spec, "batch": 2, "seq_len": 16}
    yield Call("llmhw.kv_cache", {**sizes, "kv_format": "fp8", "tp": 2, "layers": [0, 1]})
    yield Call("llmhw.kv_cache_bytes_per_token", {**spec, "kv_format": "fp8", "tp": 2, "layers": [0]})
    yield Call("llmhw.training_states", {**spec, "optimizer": "muon", "precision": "bf16"})
    lora = {"rank": 8, "targets": "attention"}
    yield Call("llmhw.lora_states", {**spec, **lora, "base_format": "nf4", "optimizer": "sgd", "precision": "fp32"})
    yield Call("llmhw.memory.lora_tensors", {**spec, **lora})
    yield Call("llmhw.forward_flops", {**sizes, "past": 3, "causal": True, "logits": "last"})
    yield Call("llmhw.backward_flops", {**sizes, "causal": True})
    yield Call("llmhw.training_flops", {**sizes, "causal": True, "recompute": "full"})
    yield Call("llmhw.convention_flops", {**sizes, "convention": "palm"})
    yield Call("llmhw.precision.weight_groups", {**spec, "number_format": "q4_k_m"})
    yield Call("llmhw.precision.weight_bytes", {**spec, "number_format": "q4_k_m"})
    yield Call("llmhw.precision.model_bits_per_weight", {**spec, "number_format": "q4_k_m"})
    asked = {"spec": "gpt2", "device": "h100", "batch": 2, "seq_len": 64, "formats": ["bf16"], "rank": 8}
    yield Call("llmhw.fit", asked | {"utilization": 0.9})
    yield Call("llmhw.training_memory", training)
    yield Call("llmhw.train", training | {"tokens": 1e9, "price": 2.5, "pue": 1.2})
    served = {"concurrency": 2, "slo_ttft": 0.5, "slo_tpot": 0.1}
    yield Call("llmhw.serve", serving | lengths | served | {"price": 2.5})
    yield Call("llmhw.serve", serving | lengths | {"rate": 2.0, "draft": "distilgpt2", "draft_tokens": 2})
    yield Call("llmhw.serving_memory", serving | {"visible_bytes": 8e10})
    yield Call("llmhw.search", training | {"clusters": ["h100"], "best": 2, "price": 2.0, "tp": (1, 2), "pp": 1})
    yield Call("llmhw.search", serving | lengths | {"clusters": ["h100"], "tp": 1, "weights": ["bf16"], "slo_ttft": 1})
    planned = {"clusters": ["h100"], "limits": Limits(deadline_days=30), "run": RunOptions(price=2.0), "tokens": 1e6}
    yield Call(
        "llmhw.plan", training | planned | {"best": 2, "by": "time", "tuning": True, "tp": 1, "pp": 1}, ("clusters",)
    )
    yield Call("llmhw.planning.places.given", {"clusters": ["h100"]})
    written = {"form": "slurm", "model_id": "mine/one", "tokens": 1e9, "notes": ["mine"], "around": "torchrun"}
    yield Call("llmhw.emit", training | written)
    yield Call("llmhw.launch.read", {"path_or_text": "[training]\nseq_len = 8\n[parallelism]\n", "form": "torchtitan"})
    yield Call("llmhw.hardware.usual_network", {"accelerator": "h100"})
    yield Call("llmhw.catalog.read_table", {"name": "links"})
    yield Call("llmhw.catalog.read_measurements", {"name": "training_runs"})
    yield Call("llmhw.catalog.read_calibration", {"subject": "training_time"})
    yield Call("llmhw.step_time.time_step", training)
    yield Call("llmhw.step_time.time_bounds", training)
    yield Call("llmhw.messages.collectives", {"job": _piped(), "place": 1})
    yield Call("llmhw.messages.collectives", {"job": _piped(), "pp_rank": 1, "bucket_cap_mb": 25.0})
    yield Call("llmhw.messages.group_ranks", {**layout, "place": 1, "axis": "dp"})
    yield Call("llmhw.messages.ddp_buckets", {"sizes": [10, 20], "bucket_cap_mb": 25.0})
    yield Call("llmhw.sharding.place_of", {**layout, "rank": 1})
    yield Call("llmhw.sharding.stage_layers", {**spec, **layout, "pp_rank": 1})
    yield Call("llmhw.sharding.rank_tensors", {**spec, **layout, "pp_rank": 1, "tp_rank": 0})
    states = {"optimizer": "adamw", "precision": "fp32", "kernels": "torch"}
    yield Call("llmhw.sharding.rank_states", {**spec, **layout, "place": 1, **states})
    yield Call("llmhw.sharding.rank_parameter_bytes", {**spec, **layout, "place": 1, "precision": "fp32"})
    case = {"batch": 1, "seq_len": 64, "precision": "bf16", "attention": "flash", "kernels": "megatron", "tp": 2}
    case |= {"sequence_parallel": True, "cp": 1, "imbalance": 1.5, "dropout": True}
    ends = {"loss": True, "embedding": True, "head": True, "layers": [0, 1]}
    yield Call("llmhw.activations.activations", {**spec, "recompute": "block", "recompute_layers": 1, **ends, **case})
    yield Call("llmhw.activations.layer_activations", {**spec, "layer": 1, "recompute": "full", **case})
    peak = {"precision": "fp32", "optimizer": "adamw", "recompute": "none"}
    yield Call("llmhw.peak.step_peak", {**sizes, **peak})
    yield Call("llmhw.schedule.pipeline_actions", {"schedule": "1f1b", "pp": 2, "vpp": 2, "micro_batches": 4})
    actions = [["F0.0", "B0.0"]]
    yield Call("llmhw.schedule.time_slots", {"actions": actions})
    yield Call("llmhw.schedule.micro_batches_in_flight", {"actions": actions})
    yield Call("llmhw.job.data_parallel", {"devices": 8, "tp": 2, "pp": 2, "cp": 1})
    yield Call("llmhw.service.engine_for", serving)
    yield Call("llmhw.service.check_lengths", serving | lengths)
    yield Call("llmhw.service.independent_groups", serving | {"prefill_workers": 0})
    yield Call("llmhw.service.bandwidth_bound_tokens_per_second", serving | lengths | {"concurrency": 2})
    yield Call("llmhw.service.simulate_service", serving | lengths | {"rate": 5.0, "requests": 20, "seed": 1})
    played = {"engine": simulation_engine(_serving(), **lengths), "requests": Poisson(5, 100, 20, requests=20)}
    # whatever can be iterated over may be requests; what it holds is checked when its turn comes
    yield Call(
        "llmhw.simulate",
        played | {"slo": SLO(ttft_seconds=0.5), "trace_requests": 1, "trace_seconds": (0.0, 1.0)},
        open=("requests",),
    )
    yield Call("llmhw.service.simulation_engine", serving | lengths)
    yield Call("llmhw.simulation.Poisson", {"rate": 5, "input_tokens": 9, "output_tokens": 2, "requests": 3, "seed": 1})
    yield Call(
        "llmhw.simulation.Closed", {"concurrency": 5, "input_tokens": 9, "output_tokens": 2, "requests": 3, "seed": 1}
    )
    yield Call("llmhw.simulation.LogNormal", {"median": 100, "sigma": 1.0})
    yield Call("llmhw.simulation.Uniform", {"low": 1, "high": 10})
    yield Call("llmhw.simulation.SLO", {"ttft_seconds": 0.5, "tpot_seconds": 0.1})
    generation = {"number_format": "bf16", "kv_format": "bf16", "batch": 2, "prompt_tokens": 8, "new_tokens": 4}
    generation |= {"reserved_tokens": 0, "devices": 1, "attention": "flash", "prompt_logits": True}
    yield Call("llmhw.serving.generation_memory", {**spec, **generation})
    yield Call("llmhw.serving.memory_constant", {"name": "driver_bytes"})
    yield Call("llmhw.serving.dealt_layers", {"layers": 12, "stages": 5})
    yield Call("llmhw.serving.device_budget", {"device": "h100", "utilization": 0.9})
    step = {"step_seconds": 6.0, "tokens_per_step": 10**6, "tokens": 1e9, "flops_per_token": 1e9}
    step |= {"checkpoint_bytes": 1e9, "cluster": "h100", "step_seconds_interval": (5.0, 7.0)}
    run = {"provider": "AWS", "region": "us-east-1", "kind": "spot", "checkpoint_interval_seconds": 600.0, "pue": 1.2}
    run |= {"mtbf_device_hours": 1e4, "restart_seconds": 60.0, "host_watts": 100.0, "power_fraction": 0.9}
    yield Call("llmhw.cost.training_run", step | {"price": 2.0, "storage_bytes_per_second": 1e9})
    yield Call("llmhw.cost.training_run", step | run)
    run = {"grid": "France", "hardware_share": 0.5, "repair_hours": 24.0, "prices": _listed()}
    yield Call("llmhw.cost.training_run", step | run)
    yield Call("llmhw.currencies.currency", {"name": "EUR"})
    yield Call("llmhw.grids.grid", {"name": "France"})
    owned = {"cluster": ("h100", 8), "months": 18.0, "utilization": 0.6, "purchase_price": 3e4, "life_months": 48.0}
    owned |= {"electricity": 0.1, "hosting": 200.0, "staff": 0.0, "upkeep": 0.1, "interest": 0.05, "pue": 1.1}
    yield Call("llmhw.ownership.rent_or_buy", owned | {"provider": "AWS", "region": "us-east-1"})
    yield Call("llmhw.ownership.rent_or_buy", owned | {"price": 2.5, "device_hours": 10.0, "users": 3.0})
    both = {"owned": rent_or_buy(("h100", 8))}
    yield Call("llmhw.ownership.per_run", both | {"run": 100.0})
    yield Call("llmhw.ownership.per_million_tokens", both | {"service": 100.0})
    yield Call("llmhw.ownership.per_user_month", both | {"users": 100.0})
    yield Call("llmhw.engine.engine_of", {**spec, "cluster": "h100", "engine": "tensorrt-llm-2025", "tp": 1})


def _changeable(job: Any) -> dict[str, Any]:
    return {name: value for name, value in _facts(job).items() if name not in ("model", "cluster", "parallelism")}


CALLS = list(_calls())

# -- what is wrong ----------------------------------------------------------------------------


class Strange:
    """Nothing of the library."""

    def __repr__(self) -> str:
        raise RuntimeError("even its repr fails")


WRONG: tuple[Any, ...] = (
    None, "", " ", "x", "abc" * 100, "\ud800", "a\0b", "\x1b[31m", "../../x", "١٢", "1e3", b"x", -1, 0, 1.5, 7, 10**30,
    10**5000, 1e308, 1e-320, math.nan, math.inf, -math.inf, -0.5, True, False, 1j, Decimal(3), Fraction(1, 3), [],
    [None], {}, {"a": 1}, (), ("h100", -1), {1}, object(), Strange(), Strange, (lambda: 1), np.zeros(3),
    np.float64(-1), np.int64(3), range(3), Path("no such file"),
)  # fmt: skip


class TooLongError(Exception):
    pass


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooLongError

    # of the processor's time, since a machine may be busy; and ten times as long on the clock, for what only waits
    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 10 * seconds))
    before = {number: signal.signal(number, late) for number, _, _ in clocks}
    for _, timer, most in clocks:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for number, timer, _ in clocks:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def nonsense(value: Any, depth: int = 0) -> bool:
    """Whether an answer holds a number that is not finite, or a total below 0."""
    if isinstance(value, (bool, str, bytes)) or value is None or depth > 6:
        return False
    if isinstance(value, (int, float)):
        return not math.isfinite(value)
    if isinstance(value, llmhw.Estimate):
        return not 0 <= value.total < math.inf
    if isinstance(value, Mapping):
        return any(nonsense(entry, depth + 1) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return any(nonsense(entry, depth + 1) for entry in value[:50])
    if hasattr(value, "to_dict"):
        answer = value.to_dict()
        json.dumps(answer, allow_nan=False)
        return nonsense(answer, depth + 1)
    return False


def problem(call: Call, arguments: Mapping[str, Any]) -> str:
    """What goes wrong in this call; empty if it answers or refuses as it should."""
    try:
        with within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = call.function(**arguments)
            return "nonsense in the answer" if nonsense(answer) else ""
    except LLMHWError as error:
        text = str(error)
        return "" if "\n" not in text and text.isprintable() and len(text) < 1500 else f"not one line: {text[:300]!a}"
    except TooLongError:
        return f"longer than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {ascii(str(error))[:200]}"


def described(arguments: Mapping[str, Any]) -> str:
    from llmhw.units import shown

    return ", ".join(f"{name}={shown(value, 40)}" for name, value in arguments.items())


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_the_valid_call_is_answered(call: Call) -> None:
    call.function(**call.arguments)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_no_wrong_value_breaks_it(call: Call) -> None:
    found = []
    for name in set(call.arguments) - set(call.open):
        for value in WRONG:
            what = problem(call, {**call.arguments, name: value})
            if what:
                found.append(f"{call.name}({described({name: value})}): {what}")
    assert not found, "\n" + "\n".join(found)


def test_every_public_function_is_tried() -> None:
    tried = {call.name.rpartition(".")[2] for call in CALLS}
    answers = {"Estimate", "LLMHWError", "ModelSpec", "ServingEstimate", "ServingMemory", "TrainingEstimate"}
    assert set(llmhw.__all__) <= tried | answers


# -- many more --------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from(WRONG),
    st.integers(-(10**20), 10**20),
    st.integers(-10, 5000),
    st.floats(),
    st.text(max_size=400),
    st.sampled_from(
        ["h100", "gpt2", "fp8", "nf4", "full", "torch", "megatron", "adamw", "vllm", "llama.cpp", "tpu v5e"]
    ),
    st.lists(st.one_of(st.integers(-3, 9), st.text(max_size=5), st.floats()), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.tuples(st.sampled_from(["h100", "x", 3]), st.integers(-3, 9)),
)


@pytest.mark.skipif(not EXAMPLES, reason="the long mode: LLMHW_FUZZ_EXAMPLES=50000, as `make fuzz` sets it")
@settings(
    max_examples=max(EXAMPLES, 1),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=False,
)
@given(st.data())
def test_nothing_breaks_it(data: st.DataObject) -> None:
    call = data.draw(st.sampled_from(CALLS))
    if replaced := sorted(set(call.arguments) - set(call.open)):
        names = data.draw(st.lists(st.sampled_from(replaced), min_size=1, max_size=3, unique=True))
        wrong = {name: data.draw(VALUES) for name in names}
        assert not problem(call, {**call.arguments, **wrong}), f"{call.name}({described(wrong)})"


# What is right somewhere: so that a call goes deep before something does not fit.
RIGHT: dict[str, list[Any]] = {
    "batch": [1, 3, 64],
    "seq_len": [1, 16, 4096, 131072],
    "tp": [1, 2, 4, 8],
    "layers": [None, [0], [1], [0, 1, 2]],
    "number_format": ["bf16", "fp8", "int4-gptq", "q4_k_m", "nf4", "mxfp4"],
    "kv_format": ["bf16", "fp8", "int8"],
    "optimizer": ["adamw", "adamw-8bit", "adafactor", "muon", "sgd"],
    "precision": ["bf16-mixed", "fp32", "bf16"],
    "recompute": ["none", "selective", "per-op", "full"],
    "attention": ["flash", "eager"],
    "kernels": ["torch", "megatron"],
    "device": ["h100", "RTX 4090", "MI300X", "TPU v5e", "M4 Max 128GB", "V100 SXM2 32GB"],
    "engine": ["vllm", "tensorrt-llm", "llama.cpp", "transformers"],
    "targets": ["attention", "all-linear", ["q_proj"]],
    "convention": ["palm", "6nd", "megatron"],
    "zero": [0, 1, 2, 3],
    "micro_batch": [1, 2],
    "weights": ["bf16", "fp8", "int4-gptq", "q4_k_m", None],
    "kv": ["bf16", "fp8", None],
    "max_model_len": [None, 128, 8192],
    "page_size": [None, 1, 16],
    "frozen": [True, False],
    "lora_adapters": [0, 3],
}


@settings(
    max_examples=EXAMPLES // 10 or 60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not EXAMPLES,
)
@given(st.data())
def test_any_model_goes_through_them(data: st.DataObject) -> None:
    """Models of every family, and configs with something changed, with arguments that are right somewhere."""
    name = data.draw(
        st.sampled_from([name for name in MODELS.split() if name.islower() and name not in ("t5", "{config}")])
    )
    config = changed(data.draw, json.loads(json.dumps(llmhw.model(name).config, default=dict)))
    try:
        spec = llmhw.ModelSpec.from_config(config, name=name)
    except LLMHWError:
        return
    call = data.draw(st.sampled_from([call for call in CALLS if {"spec", "model"} & set(call.arguments)]))
    arguments = dict(call.arguments)
    for argument in {"spec", "model"} & set(arguments):
        arguments[argument] = spec
    for argument in sorted(set(RIGHT) & set(arguments)):
        arguments[argument] = data.draw(st.sampled_from([arguments[argument], *RIGHT[argument]]))
    what = problem(call, arguments)
    assert not what, f"{what} in {call.name}({described(arguments)}) of {config}"
    if call.name in ("llmhw.TrainingJob", "llmhw.ServingJob"):
        try:
            job = call.function(**arguments)
        except LLMHWError:
            return
        for other in CALLS:
            if type(other.arguments.get("job")) is type(job):
                what = problem(other, {**other.arguments, "job": job})
                assert not what, f"{what} in {other.name}({described(other.arguments)}) of {job}"
