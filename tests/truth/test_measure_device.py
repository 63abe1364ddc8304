"""`measure device` and `measure step` on this machine, at toy size: they run, are whole, and mean what they say."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import llmhw

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs the extra torch")

from llmhw.machine import machine_of, read_machine
from llmhw.measure import DeviceMeasurement, measure_device, measure_step
from llmhw.measure.talk import bus_share
from llmhw.measure.timed import Decoder, decoder_config, predicted_decode, predicted_prefill, predicted_step


@pytest.fixture(scope="module")
def found() -> DeviceMeasurement:
    return measure_device(device="cpu", threads=1, toy=True, ranks=2)


def test_a_machine_is_measured_whole(found: DeviceMeasurement, tmp_path: Path) -> None:
    assert {r.what for r in found.rates} >= {
        "product",
        "copy",
        "read",
        "cache",
        "attention",
        "all-reduce",
        "all-to-all",
    }
    assert all(r.seconds > 0 and r.amount > 0 for r in found.rates)
    assert found.accelerator.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    path = tmp_path / "here.json"
    path.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    assert read_machine(path).reached == found.accelerator.reached
    assert found.verdict in str(found)


def test_the_constants_give_back_what_they_were_read_from(found: DeviceMeasurement) -> None:
    """Products alone take at least their FLOP at the fastest rate that was timed; all else comes on top."""
    here, one = found.accelerator, Decoder(decoder_config(hidden=128, layers=2, vocab=512), "fp32", "cpu")
    fastest = max(r.rate for r in found.rates if r.what == "product" and r.fmt == "fp32")
    matrices = sum(t.numel for t in one.spec.tensors if t.matmul)
    assert predicted_prefill(one, here, 1, 64) > 2 * (matrices - 128 * 512) * 64 / fastest
    assert predicted_step(one, here, 2, 64).total > predicted_step(one, here, 1, 64).total
    assert predicted_decode(one, here, 1, 64) < predicted_prefill(one, here, 1, 64)


def test_steps_beside_their_predictions(found: DeviceMeasurement) -> None:
    step = measure_step(
        decoder_config(hidden=128, layers=2, vocab=512), machine=found.accelerator, batch=1, seq_len=64, device="cpu",
        threads=1, toy=True,
    )  # fmt: skip
    assert [s.kind for s in step.steps] == ["training", "prefill", "decode"]
    # toy sizes say little of rates; an error of counting would be a factor of ten
    assert all(0.1 < s.ratio < 10 and s.low < s.predicted < s.high for s in step.steps)


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    """doc/PERFORMANCE.md of NVIDIA/nccl-tests: 2 (n - 1) / n of an all-reduce, (n - 1) / n of the others."""
    assert [bus_share(kind, 8) for kind in ("all-reduce", "all-gather", "broadcast")] == [1.75, 0.875, 1.0]


def test_interrupted_it_says_where_it_was_and_keeps_what_it_has() -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    found = measure_device(device="cpu", threads=1, toy=True, progress=stop)
    assert found.note.startswith("interrupted after 3 of ")
    assert (len(found.rates), found.constants) == (3, {})
    with pytest.raises(llmhw.LLMHWError, match="not measured to the end"):
        _ = found.accelerator


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device='tpu' is not"),
        ({"threads": 0}, "threads=0 must be"),
        ({"ranks": 0}, "ranks=0 must be"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as raised:
        measure_device(toy=True, **options)
    assert message in str(raised.value)


def test_the_file_of_another_format_is_refused(found: DeviceMeasurement) -> None:
    with pytest.raises(llmhw.LLMHWError, match="is not 'llmhw machine 1'"):
        machine_of(found.to_dict() | {"format": 2})
