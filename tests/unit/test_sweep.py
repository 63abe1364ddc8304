"""Many models on many devices: the same rows whoever computes them, none lost, and a file whatever happens."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.catalog import model_names
from llmhw.cost import RunOptions, newest_prices
from llmhw.planning.demand import Demand
from llmhw.planning.places import offers
from llmhw.sweep import QUESTIONS, sweep
from llmhw.units import LLMHWError
from tests.unit.command import run

fit_module: Any = import_module("llmhw.fit")  # `llmhw.fit` is the function
MODELS = ["gpt2", "llama-3-8b", "deepseek-v3"]
DEVICES = ["h100", "a10"]
ASKED: dict[str, Any] = {"gpus": [1, 3], "tp": [1, 2]}  # two ranks on three devices, or on one, are refused


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def serial() -> Any:
    return sweep("room", MODELS, DEVICES, **ASKED)


def test_pairs_are_single_answers(serial: Any) -> None:
    """In the order of models, devices and options; what is refused is a row that says why."""
    asked = [(m, d, n, tp) for m in MODELS for d in DEVICES for n in (1, 3) for tp in (1, 2)]
    assert len(serial.rows) == serial.pairs == serial.total == len(asked)
    for (m, d, n, tp), row in zip(asked, serial.rows, strict=True):
        told = {"model": m, "device": llmhw.accelerator(d).name, "gpus": n, "tp": tp}
        assert row.items() >= told.items()
        if tp > n or n % tp:
            assert row.keys() == {*told, "refused"}
            with pytest.raises(LLMHWError, match=re.escape(row["refused"])):
                llmhw.ServingJob(model=llmhw.model(m), cluster=llmhw.Cluster(d, n), tp=tp)
        else:
            job = llmhw.ServingJob(model=llmhw.model(m), cluster=llmhw.Cluster(d, n), tp=tp)
            held = {k: v for k, v in llmhw.serving_memory(job).to_row().items() if k not in ("model", "device")}
            assert row == {**held, **told, "refused": ""}
    assert sum(serial.refused.values()) == sum(bool(row["refused"]) for row in serial.rows) == 12


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered(question: str) -> None:
    found = sweep(question, ["qwen3-0.6b"], ["h100"])
    assert found.rows
    assert not found.refused
    assert found.rows[0]["device"] == "H100 SXM5 80GB"


def parameters(spec: llmhw.ModelSpec, device: llmhw.Accelerator, options: dict[str, Any]) -> list[dict[str, Any]]:
    """A question of one's own."""
    if options["times"] > 2:
        raise LLMHWError("too many times")
    return [{"parameters": spec.parameters.total * options["times"], "memory": device.memory_bytes}]


def test_a_question_of_ones_own() -> None:
    found = sweep(parameters, "gpt2", ["h100"], times=[1, 2, 3])
    total = llmhw.model("gpt2").parameters.total
    assert [row.get("parameters") for row in found.rows] == [total, 2 * total, None]
    assert found.refused == {"too many times": 1}


class Backwards(Executor):
    """Ends the newest piece first."""

    def __init__(self) -> None:
        self.inner = ThreadPoolExecutor(8)
        self.number = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.number += 1
        return self.inner.submit(self._late, 0.3 / self.number, fn, *args, **kwargs)

    @staticmethod
    def _late(seconds: float, fn: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return fn(*args, **kwargs)


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(3), Backwards], ids=["threads", "the newest first"])
def test_order_does_not_depend_on_who_computes(serial: Any, make: Any) -> None:
    assert sweep("room", MODELS, DEVICES, executor=make(), **ASKED) == serial


def test_processes_give_the_same(serial: Any) -> None:
    told: list[tuple[int, int]] = []
    found = sweep("room", MODELS, DEVICES, workers=2, progress=lambda *at: told.append(at), **ASKED)
    assert found == serial
    assert told[-1] == (found.total, found.total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.filterwarnings("ignore")  # of tornado's and dask's own
def test_dasks_local_cluster_gives_the_same(serial: Any) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask's cluster is in the extra `test`")
    # one process: this is about the executor, and benchmarks/sweep.py about several of them
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert sweep("room", MODELS, DEVICES, executor=client.get_executor(), **ASKED) == serial


# -- files ------------------------------------------------------------------------------------


def test_a_file_has_the_rows(serial: Any, tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    found = sweep("room", MODELS, DEVICES, output=path, **ASKED)
    assert (found.path, found.rows, found.pairs) == (str(path), (), serial.pairs)
    assert found.refused == serial.refused
    written = rows_of(path)
    assert list(written[0])[:4] == ["model", "device", "gpus", "tp"]
    for row, kept in zip(written, serial.rows, strict=True):
        for name, text in row.items():
            value = kept.get(name)
            if isinstance(value, float):
                assert float(text) == value
            elif not isinstance(value, list):
                assert text == ("" if value is None else str(value))
    assert os.listdir(tmp_path) == ["found.csv"]


def test_parquet_has_the_rows(serial: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs the extra `parquet`")
    import pandas

    path = tmp_path / "found.parquet"
    sweep("room", MODELS, DEVICES, output=path, **ASKED)
    table = pandas.read_parquet(path)
    assert table["model"].tolist() == [row["model"] for row in serial.rows]
    answered = [i for i, row in enumerate(serial.rows) if not row["refused"]]
    assert table["longest"][answered].tolist() == [serial.rows[i]["longest"] for i in answered]
    assert table["refused"].isna().sum() == len(answered)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What a sweep that was interrupted after a few pairs has left."""

    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    path = tmp_path / "found.csv"
    found = sweep("room", MODELS, DEVICES, output=path, progress=stop, **ASKED)
    assert not found.complete
    assert 5 <= found.pairs < found.total
    assert found.verdict == f"interrupted after {found.pairs} of {found.total} pairs; the rows are in {found.path}."
    assert len(rows_of(Path(found.path))) == found.pairs
    return path


def test_an_interrupted_sweep_goes_on(serial: Any, left: Path) -> None:
    part = left.with_name("found.part.csv")
    with pytest.raises(LLMHWError, match=r"found\.part\.csv is what an interrupted sweep has left; go on with it"):
        sweep("room", MODELS, DEVICES, output=left, **ASKED)
    with pytest.raises(LLMHWError, match="is of another sweep"):
        sweep("room", MODELS[::-1], DEVICES, output=left, resume=True, **ASKED)
    with pytest.raises(LLMHWError, match="is of another sweep"):
        sweep("room", MODELS, DEVICES, output=left, resume=True, gpus=1)
    text = part.read_text(encoding="utf-8")
    part.write_text(text[:-9], encoding="utf-8")  # ended by force while it wrote
    found = sweep("room", MODELS, DEVICES, output=left, resume=True, **ASKED)
    assert found.complete
    assert found.refused == serial.refused
    whole = left.with_name("whole.csv")
    sweep("room", MODELS, DEVICES, output=whole, **ASKED)
    assert left.read_text(encoding="utf-8") == whole.read_text(encoding="utf-8")
    assert not part.exists()


def test_ctrl_c_of_the_command_and_going_on(tmp_path: Path) -> None:
    """With two workers, in its own group: every process gets the signal, and what --resume adds makes the same file."""
    models, devices = model_names()[:30], [one.name for one in llmhw.accelerators()[:40]]
    path, part = tmp_path / "found.csv", tmp_path / "found.part.csv"
    asked = ["sweep", "room", "--models", ",".join(models), "--gpu", ",".join(devices), "--output", str(path)]
    made = subprocess.Popen(
        [sys.executable, "-m", "llmhw", *asked, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(llmhw.__file__).parents[1])},
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and made.poll() is None and not (part.exists() and len(rows_of(part)) > 10):
        time.sleep(0.02)
    os.killpg(made.pid, signal.SIGINT)
    out, err = made.communicate(timeout=60)
    assert made.returncode == 130
    assert "Traceback" not in out + err
    told = re.search(r"interrupted after ([\d,]+) of 1,200 pairs, which are in .*--resume goes on with it", err)
    assert told
    assert len(rows_of(part)) == int(told[1].replace(",", "")) > 10
    assert not path.exists()

    assert run(*asked, "--resume").returncode in (0, None)
    sweep("room", models, devices, output=tmp_path / "whole.csv", gpus=[1])
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not part.exists()


def test_every_price_of_a_device_is_a_pair() -> None:
    """As many as the catalog has machines, each at its own price; a device without a price is one pair."""
    found = sweep("serve", ["qwen3-0.6b"], ["l4", "m4 max 128gb"], price="all", kind=["on_demand", "spot"])
    device = llmhw.accelerator("l4")
    listed = [p for kind in ("on_demand", "spot") for p in newest_prices(device, kind=kind)[0]]
    assert len(listed) > 1
    assert [row["price"] for row in found.rows] == [*map(str, listed), None]
    (speed,) = {row["tokens_per_second"] for row in found.rows[:-1]}
    for price, row in zip(listed, found.rows, strict=False):
        dollars = price.dollars_per_device_hour / (speed * 3600) * 1e6
        assert row["dollars_per_million_tokens"] == pytest.approx(dollars)
    assert found.rows[-1]["dollars_per_million_tokens"] is None


def test_plans_are_those_of_the_device_alone() -> None:
    """Each pair is the plan of that device at that price; what cannot be done is a row with what is short."""
    found = sweep("plan-serve", ["qwen3-0.6b"], ["l4"], provider=["AWS", "Nobody"], slo_tpot=[0.05, 1e-6])
    best, short, *nowhere = found.rows
    aws = RunOptions(provider="AWS")
    job = llmhw.ServingJob(model=llmhw.model("qwen3-0.6b"), cluster=llmhw.Cluster("l4"))
    alone = llmhw.plan(job, offers=offers(llmhw.accelerator("l4"), aws)[0], run=aws, demand=Demand(slo_tpot=0.05))
    assert best.items() >= {"place": alone.best.place, "layout": alone.best.layout, "refused": ""}.items()
    assert best["dollars_per_hour"] == alone.best.figures["dollars_per_hour"].value
    assert short["refused"].startswith("Does not work within slo_tpot=1e-06")
    assert all(row["refused"].startswith("provider='Nobody' has no price of L4") for row in nowhere)


def test_fit_does_not_depend_on_the_devices_before() -> None:
    """What one device has found out helps the next: the answers are those of each by itself."""
    names = ["rtx 4090", "t4", "h100", "l4"]
    rows = sweep("fit", ["llama-3.2-1b"], names).rows
    fit_module._known_most.cache_clear()
    fit_module._known_devices.cache_clear()
    others = sweep("fit", ["llama-3.2-1b"], names[::-1]).rows
    assert sorted(map(str, rows)) == sorted(map(str, others))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"question": "serv"},
            "question='serv' is not known; use one of fit, room, serve, memory, train, plan-serve",
        ),
        ({"models": ["lama-3"]}, "model='lama-3' is not known"),
        ({"models": []}, "models="),
        ({"models": [3]}, "models holds 3, which is no name"),
        ({"devices": ["h1000"]}, "h1000"),
        ({"workers": 0}, "workers=0 must be a whole number of at least 1"),
        ({"executor": 3}, r"executor=3 has no submit\(\); give one of concurrent.futures, or workers="),
        ({"gpus": 0}, "gpus=0 must be a whole number of at least 1"),
        ({"question": "serve", "price": ["all", 3]}, "price='all' is each price of a device: leave other values out"),
        ({"question": "serve", "price": -1}, "price=-1 must be a number above 0"),
        ({"question": "plan-serve", "kind": "sport"}, "kind='sport' is not known; did you mean spot"),
        ({"question": "serve", "prices": "none.csv"}, "prices='none.csv' does not exist"),
        ({"question": "fit", "provider": ["AWS"]}, "provider='AWS' is no option of fit; use one of"),
        ({"gpus": []}, r"gpus=\[\] has no value to try"),
        ({"output": "found.txt"}, r"output='found.txt' needs a form for rows: end it in .csv or .parquet"),
        ({"output": "no such folder/found.csv"}, "cannot be written"),
        ({"resume": True}, "resume=True goes on with a file"),
        ({"wieghts": "bf16"}, "wieghts='bf16' is no option of room; did you mean weights"),
    ],
)
def test_what_holds_for_all_pairs_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        sweep(**{"question": "room", "models": ["gpt2"], "devices": ["h100"]} | change)
