"""A model's steps on this machine beside the prediction that the measured machine's constants make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator, Cluster, accelerator_of
from llmhw.job import ServingJob
from llmhw.measure.clock import Clock, pick_device, threads_of
from llmhw.measure.device import Progress, measure_device
from llmhw.measure.modules import name_of, quiet, spec_of
from llmhw.measure.timed import (
    Decoder,
    pass_seconds,
    predicted_decode,
    predicted_prefill,
    predicted_step,
    step_seconds,
)
from llmhw.rates import interval_of
from llmhw.service import provenance
from llmhw.units import LLMHWError, check_choice, check_count, format_quantity

STEPS = ("training", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of step: seconds measured, predicted, and the ends of the prediction's 80 % interval."""

    kind: str
    measured: float
    predicted: float
    low: float | None = None
    high: float | None = None

    @property
    def ratio(self) -> float:
        """Predicted / measured."""
        return self.predicted / self.measured

    @property
    def covered(self) -> bool | None:
        """Whether the measured step lies in the interval; None: there is none."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high


@dataclass(frozen=True, slots=True, repr=False)
class StepMeasurement(Report):
    """Steps of one model on this machine beside their predictions.

    model, batch, seq_len   what ran
    machine                 whose constants predicted it
    steps                   what was measured
    note                    where it was interrupted
    """

    model: str
    params: int
    batch: int
    seq_len: int
    machine: str
    clock: str
    steps: tuple[Step, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        told = [f"{s.kind} {s.ratio - 1:+.0%}" for s in self.steps]
        return f"Predicted over measured: {', '.join(told) or 'nothing measured yet'}"

    def tables(self) -> list[Table]:
        def end(value: float | None) -> str:
            return "" if value is None else format_quantity(value, "seconds")

        rows = [
            (s.kind, end(s.measured), end(s.predicted), f"{s.ratio:.2f}", end(s.low), end(s.high)) for s in self.steps
        ]
        count = format_quantity(self.params, "params")
        title = f"{self.model} ({count}) on {self.machine}, {self.batch} x {self.seq_len:,} tokens"
        return [Table(title, ("step", "measured", "predicted", "ratio", "80 % from", "to"), rows)]

    def warnings(self) -> list[str]:
        return [self.note] if self.note else []

    def footer(self) -> tuple[str, ...]:
        return (self.clock,)

    def records(self) -> list[dict[str, Any]]:
        names = ("kind", "measured", "predicted", "ratio", "low", "high", "covered")
        return [{n: getattr(s, n) for n in names} for s in self.steps]

    def to_dict(self) -> dict[str, Any]:
        names = ("model", "params", "batch", "seq_len", "machine", "clock")
        return {**{n: getattr(self, n) for n in names}, "steps": self.records(), "note": self.note}


def _intervals(decoder: Decoder, device: Accelerator, fmt: str) -> dict[str, tuple[float, float] | None]:
    """Factors of the serving times, as for a job of transformers on this machine."""
    known = read_calibration("serving_time")
    job = ServingJob(model=decoder.spec, cluster=Cluster(device, 1), weights=fmt, engine="transformers")
    new = provenance(job, known)[1]
    return {"prefill": interval_of(known, "prefill", new), "decode": interval_of(known, "decode", new)}


def measure_step(
    model: Any,
    *,
    machine: Accelerator | str | None = None,
    kind: str | None = None,
    batch: int = 1,
    seq_len: int = 256,
    precision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    toy: bool = False,
    progress: Progress | None = None,
) -> StepMeasurement:
    """Seconds of a training step, of reading prompts and of one more token, beside the prediction.

    model       catalog name, path of a `config.json`, its content as a dict, or a `ModelSpec`; its weights are random
    machine     a file that `llmhw measure device --fit` wrote, or its device; default: it is measured first
    kind        training, prefill or decode; default: all three
    batch       sequences
    seq_len     tokens of each; decoding begins behind so many
    precision   fp32 or bf16 throughout; default: fp32 on a CPU, bf16 on a GPU
    device      auto, cpu or cuda
    threads     of PyTorch on a CPU; give what the machine was measured with
    toy         with a machine that is measured first: tiny sizes
    progress    called as progress(steps done, steps in all)

    The training step is forward, backward and PyTorch's AdamW on transformers' own model; serving is its forward pass
    with a cache, without a loop around it. Interrupted (Ctrl-C), it returns what it has, with `note`.
    """
    if kind is not None:
        check_choice("kind", kind, STEPS)
    for name, value in (("batch", batch), ("seq_len", seq_len)):
        check_count(name, value, 1)
    where = pick_device(device)
    fmt = precision or ("fp32" if where == "cpu" else "bf16")
    check_choice("precision", fmt, ("fp32", "bf16"))
    spec = spec_of(model)
    if spec is None:
        raise LLMHWError("model is a module without a known config; give a catalog name or a config.json")
    if machine is None:
        machine = measure_device(device=where, threads=threads, toy=toy).accelerator
    at = accelerator_of(machine)
    one = Decoder(spec.config, fmt, where)
    done: list[Step] = []
    wanted = STEPS if kind is None else (kind,)
    with threads_of(threads if where == "cpu" else None) as count, quiet():
        clock, note = Clock(where, count, budget=0.02 if toy else 1.0), ""
        try:
            passes = (0.0, 0.0)
            for name in wanted:
                if name == "training":
                    time = predicted_step(one, at, batch, seq_len)
                    ends = time.interval or (None, None)
                    done.append(Step(name, step_seconds(one, clock, batch, seq_len), time.total, *ends))
                else:
                    passes = passes if any(passes) else pass_seconds(one, clock, batch, seq_len)
                    done.append(_served(name, passes, one, at, batch, seq_len))
                if progress:
                    progress(len(done), len(wanted))
        except KeyboardInterrupt:
            note = f"interrupted after {', '.join(s.kind for s in done) or 'nothing'}, in {wanted[len(done)]}"
    total = int(spec.parameters.total)
    words = f"{clock.name}, {count} threads, {fmt}"
    return StepMeasurement(name_of(model), total, batch, seq_len, at.name, words, tuple(done), note)


def _served(name: str, passes: tuple[float, float], one: Decoder, at: Accelerator, batch: int, seq_len: int) -> Step:
    predict: Callable[..., float] = predicted_prefill if name == "prefill" else predicted_decode
    seconds = predict(one, at, batch, seq_len)
    spread = _intervals(one, at, one.fmt)[name]
    ends = (seconds * spread[0], seconds * spread[1]) if spread else (None, None)
    return Step(name, passes[STEPS.index(name) - 1], seconds, *ends)
