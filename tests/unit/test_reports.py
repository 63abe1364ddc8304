"""Every report prints in a terminal and in a notebook, and becomes plain data and a table of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw import Cluster, Estimate, Parallelism, ServingJob, TrainingJob
from llmhw.cost import TrainingRun
from llmhw.fit import FitTable
from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator
from llmhw.logs import LogComparison, compare
from llmhw.messages import Communication, collectives
from llmhw.model import ModelSpec
from llmhw.ownership import rent_or_buy
from llmhw.peak import StepPeak, step_peak
from llmhw.planning.mixed import mixed
from llmhw.planning.which import runnable
from llmhw.pools import pools
from llmhw.search import SearchResult, search
from llmhw.service import ServingEstimate, SimulatedService, simulate_service
from llmhw.serving import ServingMemory, serving_memory
from llmhw.simulation import SimulationResult
from llmhw.sweep import sweep
from llmhw.training import JobMemory, TrainingEstimate, memory
from llmhw.validation import Validation, validate


def _job() -> TrainingJob:
    return TrainingJob(
        model=llmhw.model("llama-3-8b"),
        cluster=Cluster("h100", 16, inter_link="ndr"),
        parallelism=Parallelism(dp=4, tp=2, pp=2, zero=1),
        micro_batch=1,
        global_batch=32,
        seq_len=4096,
    )


def _train() -> TrainingEstimate:
    return llmhw.train(_job(), tokens=1e12, price=2)


def _serving(**layout: Any) -> ServingJob:
    return ServingJob(model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", 4), tp=2, max_model_len=8192, **layout)


def _simulated() -> SimulatedService:
    return simulate_service(_serving(), rate=2.0, requests=60)


def _measurement() -> Report:
    pytest.importorskip("torch")
    from llmhw.measure import Measurement, Row

    rows = (Row("weights", 1000, 1000), Row("other", 0, 0), Row("unknown", 24))
    return Measurement("states", "bytes", Row("all", 2000, 1000), rows, ("a note",))


def _saved() -> Report:
    pytest.importorskip("torch")
    from llmhw.measure import measure_activations

    return measure_activations("gpt2", seq_len=8)


def _distributed() -> Report:
    pytest.importorskip("torch")
    from llmhw.measure.distributed import DistributedMeasurement, Row

    rows = (*(Row(rank, "parameters, bytes", 1000, 1000) for rank in range(3)), Row(0, "calls", 5, 6))
    orders = (("F0.0", "B0.0"), ("F0.0", "B0.0"))
    return DistributedMeasurement("two stages", _job(), rows, orders, orders, (), 1.0)


def _compared() -> Report:
    from tempfile import TemporaryDirectory

    from llmhw.stored import check
    from tests.unit.test_stored import checkpoint

    with TemporaryDirectory() as folder:
        return check(str(checkpoint(Path(folder) / "mine", num_hidden_layers=3)))


# what makes one; how its text begins; words that must be in its text; what its frame is indexed by
REPORTS: dict[str, tuple[Callable[[], Report], str, tuple[str, ...], str | None]] = {
    Estimate.__name__: (
        lambda: llmhw.training_states(llmhw.model("gpt2")),
        "training states of gpt2",
        ("weights", "total", "100.0 %"),
        "part",
    ),
    StepPeak.__name__: (
        lambda: step_peak(llmhw.model("gpt2"), batch=1, seq_len=64),
        "peak of a training step of gpt2",
        ("optimizer states", "temporaries"),
        "part",
    ),
    ModelSpec.__name__: (
        lambda: llmhw.model("mixtral-8x7b"),
        "mixtral-8x7b (mixtral): 46.7 B parameters, 12.9 B active",
        (),
        "component",
    ),
    JobMemory.__name__: (
        lambda: memory(_job()),
        "memory of llama-3-8b on 16 x H100 SXM5 80GB: dp=4, tp=2, pp=2, ",
        ("stage 0", "stage 1", "total"),
        "part",
    ),
    TrainingEstimate.__name__: (
        _train,
        "training of llama-3-8b on 16 x H100 SXM5 80GB: ",
        ("step", "tokens/s a device", "MFU", "it fits", "device-hours", "cost", "energy", "matrix products", "total"),
        "part",
    ),
    TrainingRun.__name__: (
        lambda: _train().run,
        "1.00 T tokens on 16 x H100 SXM5 80GB\n",
        ("assumed restart_seconds=600: MegaScale", "goodput", "$2.00"),
        None,
    ),
    "Plan": (
        lambda: llmhw.plan(TrainingJob(model="gpt2", cluster="h100"), ["h100"], tokens=1e9),
        "plans to train gpt2, 1.00 B tokens",
        ("Why: the only choice", "energy", "tried"),
        None,
    ),
    "Pools": (
        lambda: pools(
            ServingJob(model="llama-3-8b", cluster="h100"),
            rate=10,
            input_tokens=1000,
            output_tokens=200,
            slo_ttft=1,
            slo_tpot=0.03,
        ),
        "llama-3-8b: 10 requests/s",
        ("prompts", "decode", "both"),
        "pool",
    ),
    "Mixed": (
        lambda: mixed(llmhw.model("llama-3-8b"), ["RTX 3090", "RTX 4090"], weights_format="Q4_K_M"),
        "llama-3-8b in Q4_K_M",
        ("RTX 3090", "RTX 4090"),
        None,
    ),
    "Runnable": (
        lambda: runnable(Cluster("L4", 1)),
        "models that run on 1 x L4",
        ("longest context", "models run"),
        None,
    ),
    "Swept": (lambda: sweep("room", ["gpt2"], ["h100", "l4"]), "room: ", ("gpt2", "L4"), None),
    "Ownership": (
        lambda: rent_or_buy(("h100", 8), months=18, utilization=0.6, device_hours=1000, tokens_per_second=100, users=3),
        "8 x H100 SXM5 80GB for 18 months, needed 60 % of the time\n",
        ("lost value", "electricity", "break-even", "a million tokens", "assumed life_months=54"),
        None,
    ),
    Communication.__name__: (
        lambda: collectives(_job(), pp_rank=0),
        "collectives of llama-3-8b on rank 0, one step\nwhat ",
        ("reduce-scatter", "in a step"),
        None,
    ),
    "Comparison": (
        _compared,
        "mine: its files beside its config\nnot equal: ",
        ("attention", "-3,072", "in the files", "F16"),
        "what",
    ),
    LogComparison.__name__: (
        lambda: compare(
            "Model loading took 14.99 GiB\n# GPU blocks: 24000", spec="llama-3.1-8b", device="h100", engine="vllm:0.9"
        ),
        "log of vllm: serving llama-3.1-8b in bf16",
        ("quantity", "weights", "tokens", "ratio", "assumed"),
        "quantity",
    ),
    FitTable.__name__: (
        lambda: llmhw.fit(llmhw.model("llama-3-8b"), "RTX 4090", seq_len=8192),
        "llama-3-8b on RTX 4090",
        ("inference, bf16", "no, short by"),
        "use",
    ),
    ServingMemory.__name__: (
        lambda: serving_memory(_serving()),
        "serving llama-3-8b in bf16, KV cache in bf16, on 4 x H100 SXM5 80GB, tp=2, 2 replicas, vllm\n",
        ("KV cache", "budget", "sequences of 8,192 tokens; cache of"),
        "part",
    ),
    ServingEstimate.__name__: (
        lambda: llmhw.serve(_serving(), input_tokens=1000, output_tokens=300, rate=2.0, slo_tpot=0.05, price=2.0),
        "serving llama-3-8b in bf16",
        ("of weights", "of KV cache", "tokens/s", "as many as are asked for", "within the limits", "a million"),
        "concurrency",
    ),
    SimulatedService.__name__: (
        _simulated,
        "serving llama-3-8b in bf16",
        ("One of 2 equal groups was simulated, with 1 of the 2 requests a second", "output tokens, all groups"),
        None,
    ),
    SimulationResult.__name__: (
        lambda: _simulated().result,
        "continuous batching: 60 requests in ",
        ("latency", "KV blocks held"),
        None,
    ),
    Accelerator.__name__: (lambda: llmhw.accelerator("h100"), "H100 SXM5 80GB\n  architecture  ", ("NVLink 4",), None),
    Validation.__name__: (
        lambda: validate(None, "facts"),
        "published facts of models: |predicted / measured - 1|, one vote a configuration\n96 of 114 rows predicted: ",
        ("all",),
        "source",
    ),
    SearchResult.__name__: (
        lambda: search(_job(), best=3, tp=2, pp=(1, 2)),
        "layouts of llama-3-8b on 16 x H100 SXM5 80GB, 2 nodes of 8 ",
        (" tried, ", " valid, ", "16 x H100 SXM5 80GB", "tp=2", " refused: "),
        None,
    ),
    "Measurement": (_measurement, "states\n", ("0.5000", "\na note"), "bytes"),
    "SavedActivations": (_saved, "activations kept by gpt2", ("transformer.h.*.mlp", "1.0000"), None),
    "DistributedMeasurement": (
        _distributed,
        "two stages\nranks ",
        ("0-2 ", "\nstage 1: F0.0 B0.0; 0 idle slots", "order of the pipeline equal: yes"),
        None,
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_has_all_faces(name: str) -> None:
    make, begin, words, index = REPORTS[name]
    found = make()
    assert type(found).__name__ == name
    text = str(found)
    assert text.startswith(begin)
    assert [word for word in words if word not in text] == []
    assert not any(line != line.rstrip() for line in text.splitlines())
    if name == "ModelSpec":
        assert repr(found) == f"<ModelSpec {text}>"
    elif name == "Accelerator":
        assert repr(found).startswith("Accelerator(name=")
    else:
        assert repr(found) == text

    html = found._repr_html_()
    tables = found.tables()
    assert html.count("<table><caption>") == html.count("</table>") == len(tables) > 0
    for table in tables:
        assert escape(table.title + table.aside) in html
        assert table.rows
        widths = {len(row) for row in table.rows} | ({len(table.columns)} if table.columns else set())
        assert len(widths) == 1
        for cell in {cell for row in [table.columns, *table.rows] for cell in row}:
            assert f">{escape(cell)}</t" in html
            assert cell in text or name == "ModelSpec" or cell in table.columns

    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain
    assert not any(isinstance(value, dict) for value in found.to_row().values())

    frame = found.to_frame()
    assert len(frame) == len(found.records()) > 0
    assert frame.index.name == index
    assert frame.index.is_unique


def test_these_are_all_reports() -> None:
    pytest.importorskip("torch")
    import_module("llmhw.measure.distributed")

    def below(kind: type) -> set[str]:
        own = {kind.__name__} if kind.__module__.startswith("llmhw.") else set()  # not those that other tests make
        return own.union(*(below(sub) for sub in kind.__subclasses__()))

    # those of the command are tried with it
    of_the_command = {"Grid", "Sweep", "Listing", "Text", "Validated", "ModelFacts"}
    # and those of a machine's time in tests/truth/test_measure_device.py
    of_the_machine = {"DeviceMeasurement", "StepMeasurement"}
    assert below(Report) - {"Report", "StageReport", "Measured"} - of_the_command - of_the_machine == set(REPORTS)


def test_columns_of_a_table() -> None:
    rows = [("time", "1 s", "short"), ("dollars", "1000", "a long reason")]
    table = Table("what", ("a", "b", "c"), rows, prose=True, aside=" it takes")
    assert table.lines() == ["what", "a           b  c", "time      1 s  short", "dollars  1000  a long reason"]
    bare = table._replace(head=(), prose=False)
    assert bare.lines() == ["what", "time      1 s          short", "dollars  1000  a long reason"]
    assert table.html().startswith("<table><caption>what it takes</caption><thead><tr><th>a</th><th style=")
    assert "<thead>" not in table._replace(columns=()).html()
