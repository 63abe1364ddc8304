"""What the machine in front of you reaches: products, streams, attention, latency, and messages between its ranks.

From that come the constants of time that hold on it, as a file that every command takes as `--gpu FILE.json`: see
`llmhw.machine`. Products, streams and attention are timed as they are; what elementwise kernels and the launch of a
kernel take is read from two small decoders, of which one has work to do and the other has next to none.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import Any

import torch

from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator
from llmhw.here import cards, device_of, processor
from llmhw.machine import FORMAT, machine_of
from llmhw.measure.clock import TYPES, Clock, pick_device, threads_of
from llmhw.measure.modules import quiet
from llmhw.measure.timed import Decoder, decoder_config, pass_seconds, step_seconds
from llmhw.rates import BACKWARD_ATTENTION
from llmhw.units import LLMHWError, check_count, format_quantity

Progress = Callable[[int, int], None]
# Rows by which matrices are read from memory: one, and as many as a library multiplies by tiles.
_FEW = (1, 4)
_TFLOPS, _GB, _MIB = 1e12, 1e9, 2**20


@dataclass(frozen=True, slots=True)
class Rate:
    """One timed kernel or message.

    what      product, copy, read, attention, ... or the collective
    fmt       number format; "" for bytes
    size      in words
    amount    FLOP or bytes that count
    seconds   that it took
    """

    what: str
    fmt: str
    size: str
    amount: float
    seconds: float
    unit: str

    @property
    def rate(self) -> float:
        """FLOP/s or bytes/s."""
        return self.amount / self.seconds


@dataclass(frozen=True, slots=True, repr=False)
class DeviceMeasurement(Report):
    """What a machine reaches.

    machine     what it is: processor or card, threads, memory, versions, date, how times were taken
    rates       all that was timed
    constants   of time, by subject: see `llmhw.machine`; empty where the measurement was interrupted
    device      the facts of it, or the name that the catalog has
    note        where it was interrupted
    """

    machine: dict[str, Any]
    rates: tuple[Rate, ...]
    constants: dict[str, dict[str, float]] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> str:
        kinds = {"product": "matrix products", "copy": "copies", "read": "reads"}
        best = {what: max((r.rate for r in self.rates if r.what == what), default=0.0) for what in kinds}
        units = {"product": "FLOP/s", "copy": "B/s", "read": "B/s"}
        told = [f"{kinds[w]} up to {format_quantity(v, units[w])}" for w, v in best.items() if v]
        return f"{self.machine['name']}: {', '.join(told) or 'nothing measured yet'}"

    def tables(self) -> list[Table]:
        rows = [
            (r.what, r.fmt, r.size, format_quantity(r.seconds, "seconds"), format_quantity(r.rate, r.unit))
            for r in self.rates
        ]
        made = [Table("measured", ("what", "format", "size", "time", "rate"), rows, right=3)]
        if self.constants:
            found = [(s, n, f"{v:.4g}") for s, values in self.constants.items() for n, v in values.items()]
            made.append(Table("constants of this machine", ("subject", "constant", "value"), found, right=2))
        return made

    def warnings(self) -> list[str]:
        return [self.note] if self.note else []

    def footer(self) -> tuple[str, ...]:
        return (f"{self.machine['clock']}, {self.machine['threads']} threads",)

    def records(self) -> list[dict[str, Any]]:
        names = ("what", "fmt", "size", "amount", "seconds", "unit")
        return [{**{n: getattr(r, n) for n in names}, "rate": r.rate} for r in self.rates]

    def to_dict(self) -> dict[str, Any]:
        """What the calibration file holds: format, machine, device, constants, and all that was timed."""
        told: dict[str, Any] = {"format": FORMAT, "machine": self.machine, "device": self.device}
        return {**told, "constants": self.constants, "rates": self.records(), "note": self.note}

    @property
    def accelerator(self) -> Accelerator:
        """The device with what was measured on it, to be asked about in place of one of the catalog's."""
        if not self.constants:
            raise LLMHWError(f"the machine is not measured to the end ({self.note}); measure it again")
        return machine_of(self.to_dict())


# -- kernels ----------------------------------------------------------------------------------


def _sizes(device: str, toy: bool) -> dict[str, Any]:
    """Rows and matrices of products, bytes of streams, tokens of attention."""
    if toy:
        return {
            "rows": (1, 64),
            "matrices": (128,),
            "streams": (2**16, 2**20),
            "read": 2**20,
            "sides": (128,),
            "tokens": (64,),
        }
    if device == "cuda":
        return {
            "rows": (1, 16, 128, 1024, 8192), "matrices": (1024, 4096, 8192), "streams": (2**20, 2**26, 2**30),
            "read": 2**30, "sides": (2048, 4096, 8192), "tokens": (1024, 4096),
        }  # fmt: skip
    return {
        "rows": (1, 16, 64, 256, 1024), "matrices": (256, 512, 1024, 2048), "streams": (2**18, 2**22, 2**25, 2**27),
        "read": 2**27, "sides": (256, 512, 768, 1024), "tokens": (128, 256, 512),
    }  # fmt: skip


def _products(clock: Clock, fmt: str, sizes: dict[str, Any]) -> Iterator[Rate]:
    for n in sizes["matrices"]:
        matrix = torch.randn(n, n, device=clock.device).to(TYPES[fmt])
        for m in sizes["rows"]:
            x = torch.randn(m, n, device=clock.device).to(TYPES[fmt])
            taken = clock.seconds(partial(torch.nn.functional.linear, x, matrix))
            yield Rate("product", fmt, f"{m:,} x {n:,} x {n:,}", 2.0 * m * n * n, taken, "FLOP/s")


def _streams(clock: Clock, sizes: dict[str, Any]) -> Iterator[Rate]:
    for size in sizes["streams"]:
        x = torch.ones(size // 4, device=clock.device)
        y = torch.empty_like(x)
        taken = clock.seconds(partial(y.copy_, x))
        yield Rate("copy", "", format_quantity(size, "bytes"), 2.0 * size, taken, "B/s")


def _reads(clock: Clock, fmt: str, sizes: dict[str, Any]) -> Iterator[Rate]:
    """Weights that few rows are multiplied by, as decoding reads them: more than any cache of the processor holds."""
    width, dtype = TYPES[fmt].itemsize, TYPES[fmt]
    many = [
        torch.randn(side, side, device=clock.device).to(dtype)
        for side in sizes["sides"]
        for _ in range(max(1, sizes["read"] // len(sizes["sides"]) // (side * side * width)))
    ]
    held = sum(matrix.nbytes for matrix in many)
    for count in _FEW:
        inputs = {side: torch.randn(count, side, device=clock.device).to(dtype) for side in sizes["sides"]}

        def read(inputs: Any = inputs) -> None:
            for matrix in many:
                torch.nn.functional.linear(inputs[matrix.shape[1]], matrix)

        yield Rate("read", fmt, f"{format_quantity(held, 'bytes')}, rows: {count}", held, clock.seconds(read), "B/s")


def _grows(clock: Clock, fmt: str, sizes: dict[str, Any]) -> Iterator[Rate]:
    """Keys and values as transformers' cache has them: copied whole with one token more, which attention then reads."""
    width, dtype = TYPES[fmt].itemsize, TYPES[fmt]
    heads, each, tokens = 8, 64, 256
    pairs = max(1, sizes["read"] // (2 * heads * each * tokens * width))
    cached = [tuple(torch.randn(1, heads, tokens, each, device=clock.device).to(dtype) for _ in "kv")
              for _ in range(pairs)]  # fmt: skip
    new = torch.randn(1, heads, 1, each, device=clock.device).to(dtype)

    def grow() -> None:
        for keys, values in cached:
            k, v = (torch.cat((one, new), dim=-2) for one in (keys, values))
            torch.nn.functional.scaled_dot_product_attention(new, k, v)

    held = 2 * pairs * heads * each * tokens * width
    yield Rate("cache", fmt, format_quantity(held, "bytes"), held, clock.seconds(grow), "B/s")


def _attention(clock: Clock, fmt: str, sizes: dict[str, Any]) -> Iterator[Rate]:
    heads, width = (8, 64) if clock.device == "cpu" else (32, 128)
    for tokens in sizes["tokens"]:
        q, k, v = (
            torch.randn(1, heads, tokens, width, device=clock.device).to(TYPES[fmt]).requires_grad_() for _ in "qkv"
        )
        flops = 4.0 * heads * width * tokens * (tokens + 1) / 2

        def forward(q: Any = q, k: Any = k, v: Any = v) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        def both(forward: Any = forward) -> None:
            forward().sum().backward()

        size = f"{heads} x {tokens:,} x {width}"
        with torch.inference_mode():
            yield Rate("attention", fmt, size, flops, clock.seconds(forward), "FLOP/s")
        yield Rate("attention, both ways", fmt, size, 3.5 * flops, clock.seconds(both), "FLOP/s")


# -- constants --------------------------------------------------------------------------------


def _largest(rates: list[Rate], what: str, fmt: str = "") -> float:
    """The rate of the largest of that kind, which neither launches nor caches speak into."""
    return max((r for r in rates if r.what == what and (not fmt or r.fmt == fmt)), key=lambda r: r.amount).rate


def _plain_constants(rates: list[Rate], device: Accelerator, fmt: str) -> dict[str, dict[str, float]]:
    """Shares of the device's peaks and bandwidth that kernels reached."""
    peak, memory = device.peak(device.half_format), device.memory_bandwidth_bytes_per_second
    ahead = _largest(rates, "attention", fmt)
    both = [r for r in rates if r.what == "attention, both ways"][-1]
    # seconds forward, and 2.5 times as much work at `BACKWARD_ATTENTION` of the rate backward
    trained = both.amount / 3.5 * (1 + 2.5 / BACKWARD_ATTENTION) / both.seconds
    large = sorted(r.rate for r in rates if r.what == "product" and r.fmt == fmt and r.amount > 1e8)
    matmul = (large or [_largest(rates, "product", fmt)])[len(large) // 2] / device.peak(fmt)
    same = {"matmul": matmul, "fill": 0.0}
    alone, several = (r.rate for r in rates if r.what == "read")
    return {
        "training_time": {**same, "bandwidth": _largest(rates, "copy") / memory, "attention": trained / peak,
                          "ramp": 0.0},
        "serving_time": {**same, "bandwidth": alone / memory, "cache": _largest(rates, "cache") / memory,
                         "attention": ahead / peak, "packed": max(1.0, alone / several)},
    }  # fmt: skip


def _solved(predict: Callable[[float], float], measured: float, least: float = 0.0) -> float:
    """The value of a constant, on which a time depends linearly, at which it is as measured."""
    at_zero, at_one = predict(0.0), predict(1.0)
    return max(least, (measured - at_zero) / (at_one - at_zero))


def _probes(clock: Clock, toy: bool) -> dict[str, tuple[Decoder, float]]:
    """Two decoders and what they took: in training and in reading a prompt the one with work, in a step and in a token
    the one without."""
    busy = decoder_config(hidden=128 if toy else 256, layers=4, vocab=512 if toy else 4096)
    idle, tokens = decoder_config(hidden=32, layers=4, vocab=64), 64 if toy else 512
    fmt = "fp32" if clock.device == "cpu" else "bf16"
    found = {}
    for name, config, seq_len in (("work", busy, tokens), ("launches", idle, 8)):
        one = Decoder(config, fmt, clock.device)
        found[f"training, {name}"] = one, step_seconds(one, clock, 1, seq_len)
        found[f"serving, {name}"] = one, pass_seconds(one, clock, 1, seq_len)[0 if name == "work" else 1]
    return found


def _constants(rates: list[Rate], device: Accelerator, clock: Clock, toy: bool) -> dict[str, dict[str, float]]:
    """All constants: those of kernels, then what passes and launches must take for the probes to come out."""
    from llmhw.measure.timed import predicted_decode, predicted_prefill, predicted_step

    fmt = "fp32" if clock.device == "cpu" else "bf16"
    made = _plain_constants(rates, device, fmt)
    # a CPU computes what it launches; a GPU does so meanwhile
    waits = "gap" if clock.device == "cpu" else "host"
    eager: dict[str, float] = {"host": 0.0, "launches": 1.0, "gap": 0.0, "passes": 1.0, "jitter": 0.0}
    engine: dict[str, float] = {"launch": 0.0, "eager": 0.0, "gap": 0.0, "passes": 1.0}
    launch = "gap" if clock.device == "cpu" else "launch"
    probes, tokens = _probes(clock, toy), 64 if toy else 512

    def known() -> Accelerator:
        more = {"training_time eager": eager, "serving_time transformers": engine}
        return replace(device, reached={**made, **more})

    def at(group: dict[str, float], name: str, predict: Callable[[], float]) -> Callable[[float], float]:
        def put(value: float) -> float:
            group[name] = value
            return predict()

        return put

    for _ in range(3):  # each is read with the other as it is known by then
        for kind, name, group, predict in (
            ("training, work", "passes", eager, lambda one: predicted_step(one, known(), 1, tokens).total),
            ("training, launches", waits, eager, lambda one: predicted_step(one, known(), 1, 8).total),
            ("serving, work", "passes", engine, lambda one: predicted_prefill(one, known(), 1, tokens)),
            ("serving, launches", launch, engine, lambda one: predicted_decode(one, known(), 1, 8)),
        ):
            one, taken = probes[kind]
            group[name] = _solved(at(group, name, partial(predict, one)), taken)
    if clock.device == "cuda":
        engine["eager"] = engine["launch"]
    return {**made, "training_time eager": eager, "serving_time transformers": engine}


def _talked(ranks: int, kind: str, toy: bool) -> list[Rate]:
    """Bus bandwidth of each collective; bytes that cross a rank's link count."""
    from llmhw.measure.talk import bus_share, measured_collectives

    return [
        Rate(
            one["kind"], f"{ranks} ranks", format_quantity(one["bytes"], "bytes"),
            one["bytes"] * bus_share(one["kind"], ranks), one["seconds"], "B/s",
        )
        for one in measured_collectives(ranks, kind, toy=toy)
    ]  # fmt: skip


def _linked(
    constants: dict[str, dict[str, float]], rates: list[Rate], ranks: int, device: Accelerator
) -> dict[str, dict[str, float]]:
    """Latency of a message, and the share of the devices' link that collectives reach, where the catalog has one."""
    reduced = sorted((r for r in rates if r.what == "all-reduce"), key=lambda r: r.amount)
    least, most = reduced[0].seconds, reduced[-1].rate
    link = device.link_bytes_per_second
    share = {"inside": min(1.0, most / link)} if link else {}
    hops = 2 * (ranks - 1)
    constants["training_time"] |= {**share, "inside_latency": least / hops}
    constants["serving_time"] |= {**share, "meet": least}
    return constants


# -- the machine ------------------------------------------------------------------------------


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        raise LLMHWError("the size of this machine's memory is not known; measure on Linux, macOS or WSL") from None


def _machine(clock: Clock) -> dict[str, Any]:
    """What is measured, in words and numbers."""
    if clock.device == "cuda":
        name = torch.cuda.get_device_name()
        size = int(torch.cuda.get_device_properties(0).total_memory)
    else:
        name, size = processor() or platform.processor() or platform.machine(), _memory_bytes()
    return {
        "name": name, "processor": processor() or platform.machine(), "system": platform.system(), "memory_bytes": size,
        "threads": clock.threads, "torch": torch.__version__, "date": date.today().isoformat(), "clock": clock.name,
    }  # fmt: skip


def _facts(machine: dict[str, Any], rates: list[Rate], clock: Clock) -> tuple[dict[str, Any], Accelerator]:
    """The device: the catalog's, where it has the card; else what was reached is its peak."""
    if clock.device == "cuda":
        try:
            found = device_of(cards()[0])
            return {"like": found.name}, found
        except (LLMHWError, IndexError):
            pass
    peaks = {f"{fmt}_tflops": max(r.rate for r in rates if r.what == "product" and r.fmt == fmt) / _TFLOPS
             for fmt in dict.fromkeys(r.fmt for r in rates if r.what == "product")}  # fmt: skip
    bandwidth = max(_largest(rates, "copy"), _largest(rates, "read"))
    facts = {
        "name": machine["name"], "memory_mib": machine["memory_bytes"] // _MIB,
        "memory_bandwidth_gb_per_second": round(bandwidth / _GB, 6),
        **{name: round(value, 9) for name, value in peaks.items()},
    }  # fmt: skip
    return facts, Accelerator.from_row(facts, "machine device")


def measure_device(
    *,
    device: str = "auto",
    threads: int | None = None,
    ranks: int = 1,
    toy: bool = False,
    progress: Progress | None = None,
) -> DeviceMeasurement:
    """What this machine reaches, and the constants of time that follow from it.

    device     auto, cpu or cuda
    threads    of PyTorch on a CPU; default: as PyTorch has it. With one, times are CPU times, which other programs on
               the machine hardly change
    ranks      from 2 on: collectives between so many processes too, over gloo on CPUs and NCCL on GPUs
    toy        tiny sizes, in seconds: to see that it runs
    progress   called as progress(figures done, figures in all)

    Takes about a minute on a CPU. Interrupted (Ctrl-C), it returns what it has, with where it was in `note` and without
    constants. Needs transformers, whose decoder is one of the probes.
    """
    check_count("ranks", ranks, 1, most=1024)
    kind = pick_device(device)
    rates: list[Rate] = []
    with threads_of(threads if kind == "cpu" else None) as count, quiet():
        clock = Clock(kind, count, budget=0.02 if toy else 0.3)
        sizes, formats = _sizes(kind, toy), ("fp32", "bf16") if kind == "cpu" else ("bf16", "fp16", "fp32")
        main, machine = "fp32" if kind == "cpu" else "bf16", _machine(clock)
        parts = [
            *(_products(clock, fmt, sizes) for fmt in formats),
            _streams(clock, sizes),
            _reads(clock, main, sizes),
            _grows(clock, main, sizes),
        ]
        parts += [_attention(clock, main, sizes)]
        total = len(sizes["rows"]) * len(sizes["matrices"]) * len(formats) + len(sizes["streams"]) + len(_FEW) + 1
        total += 2 * len(sizes["tokens"])
        try:
            for part in parts:
                for one in part:
                    rates.append(one)
                    if progress:
                        progress(len(rates), total)
            facts, found = _facts(machine, rates, clock)
            constants = _constants(rates, found, clock, toy)
            if ranks > 1:
                rates += _talked(ranks, kind, toy)
                constants = _linked(constants, rates, ranks, found)
        except KeyboardInterrupt:
            where = f"interrupted after {len(rates)} of {total} figures; no constants: they need all"
            return DeviceMeasurement(machine, tuple(rates), note=where)
    return DeviceMeasurement(machine, tuple(rates), constants, facts)
