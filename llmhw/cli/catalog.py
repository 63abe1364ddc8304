"""What the catalog knows, one model in numbers, and where a number comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

import llmhw
from llmhw.cli.command import Command
from llmhw.cli.jobs import default_seq_len
from llmhw.cli.options import (
    FORMAT,
    FORMATS,
    FORMULA,
    LENGTH,
    TOPICS,
    WHOLE,
    Choices,
    Option,
    model_argument,
    named,
    option,
    seq_len,
)
from llmhw.cli.output import LISTED, Listing, Shown, Text, counted
from llmhw.formula import Estimate, Report, Table
from llmhw.hardware import memory_bytes, sold_bytes
from llmhw.language import said
from llmhw.memory import OPTIMIZERS, PRECISIONS, told_towers
from llmhw.precision import CHECKPOINT, checkpoint_name, weight_groups
from llmhw.trainers import trainer, trainer_names
from llmhw.units import LLMHWError, check_choice, format_quantity, parse_number


def _pattern() -> click.Argument:
    return click.Argument(["pattern"], default="")


def _some(found: list[Any], pattern: str, what: str, command: str) -> list[Any]:
    if not found:
        raise LLMHWError(f"pattern={pattern!r} matches no {what}; run `llmhw {command}` for all of them")
    return found


def _models(options: dict[str, Any]) -> Listing:
    wanted = options["pattern"].lower()
    specs = [llmhw.model(name) for name in llmhw.models()]
    specs = _some([s for s in specs if wanted in s.name or wanted in s.model_type], wanted, "model", "models")
    cells = [
        (
            s.name,
            s.model_type,
            format_quantity(s.parameters.total, "count"),
            format_quantity(s.parameters.active, "count"),
            str(s.num_layers),
            f"{float(llmhw.kv_cache_bytes_per_token(s)) / 1024:,.1f}",
        )
        for s in specs
    ]
    columns = ("name", "family", "parameters", "active", "layers", "KiB of KV a token")
    return Listing(counted(len(cells), "model", "models"), columns, cells, [s.to_dict() for s in specs], right=2)


# A word that says more than the beginning of one: "rtx 40" is every RTX 40 card, and "4060" is no part of "1406".
def _matches(a: llmhw.Accelerator, words: Iterable[str]) -> bool:
    facts = f"{a.name} {a.vendor} {a.architecture} {a.form} {a.memory_type}".lower()
    found = re.findall(r"[a-z]+|\d+|[a-z0-9]+", facts) + re.split(r"[^a-z0-9.]+", facts)
    return all(any(one.startswith(word) for one in found) for word in words)


def _joined(a: llmhw.Accelerator) -> str:
    return "".join(a.name.lower().split())


def _peak(a: llmhw.Accelerator, fmt: str) -> str:
    rate = a.peaks.get(fmt, 0.0) / 1e12
    return "-" if not rate else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _gpus(options: dict[str, Any]) -> Listing:
    if options["here"]:
        return _here()
    found = llmhw.accelerators()
    words = " ".join(options["pattern"]).lower().split()
    if vendor := options["vendor"]:
        known = list(dict.fromkeys(a.vendor for a in found))
        wanted = check_choice("vendor", next((v for v in known if v.lower() == vendor.lower()), vendor), known)
        found = [a for a in found if a.vendor == wanted]
    if least := options["memory_at_least"]:
        size = memory_bytes(least)
        found = [a for a in found if max(a.memory_bytes, *sold_bytes(a)) >= size]
    found = [a for a in found if _matches(a, words)] or [a for a in found if "".join(words) in _joined(a)]
    if not found:
        limits = [f"--vendor {vendor}"] * bool(vendor) + [f"--memory-at-least {least}"] * bool(least)
        told = " with ".join([f"pattern={' '.join(words)!r}", *limits])
        raise LLMHWError(f"{told} matches no accelerator; run `llmhw gpus` for all of them")
    groups: dict[str, list[llmhw.Accelerator]] = {}
    for a in found:
        groups.setdefault(_kind(a) if len(found) > _GROUPED else "", []).append(a)
    cells: list[Sequence[str]] = []
    for kind, members in groups.items():
        cells += [(f"{kind}:", "", "", "", "", "", "")] if kind else []
        cells += [
            (
                f"  {a.name}" if kind else a.name,
                str(a.year),
                f"{a.memory_bytes / 2**30:,.1f}",
                f"{a.memory_bandwidth_bytes_per_second / 1e9:,.0f}",
                _peak(a, a.half_format),
                _peak(a, "fp8"),
                f"{a.link_bytes_per_second / 1e9:,.0f}" if a.link_bytes_per_second else "-",
            )
            for a in members
        ]
    columns = ("name", "year", "GiB", "GB/s", "16 bit", "fp8", "link")
    notes = (
        said(
            "GiB: what the driver offers; 16 bit (bf16, else fp16) and fp8: dense TFLOP/s; link: GB/s, one way. "
            'Names with spaces want quotes: --gpu "RTX 4090".'
        ),
    )
    title = counted(len(found), "accelerator", "accelerators")
    return Listing(title, columns, cells, [a.to_dict() for a in found], notes=notes)


# More rows than that stand in groups.
_GROUPED = 16


def _kind(a: llmhw.Accelerator) -> str:
    """The group of a device: its vendor, and what it is in."""
    forms = {"laptop": "laptops", "SoC": "systems on a chip", "APU": "systems on a chip", "socket": "CPUs"}
    series = re.split(r"[ +]", a.architecture)[0] if a.vendor in ("NVIDIA", "AMD", "Intel") else ""
    return ", ".join(filter(None, (a.vendor, said(forms.get(a.form, series)))))


def _here() -> Listing:
    """The accelerators of this machine, and what the catalog has of them."""
    from llmhw.here import cards, device_of, devices_here, processor

    found = cards()
    if not found:
        devices_here()  # says that there is none, and what to do
    cells, rows = [], []
    for card in found:
        try:
            device, why = device_of(card), ""
        except LLMHWError as error:
            device, why = None, str(error)
        memory = "-" if card.memory_bytes is None else f"{card.memory_bytes / 2**30:,.1f}"
        cells.append((card.name, memory, why if device is None else device.name))
        facts = {"tool": card.tool, "name": card.name, "memory_bytes": card.memory_bytes}
        rows.append(facts | {"device": None if device is None else device.name, "refused": why})
    cpu = processor()
    notes = [said("as {tool} prints them; --gpu auto takes them", tool=found[0].tool)]
    if cpu:
        try:
            known = said("--gpu {name!r} is it", name=llmhw.accelerator(cpu).name)
        except LLMHWError:
            known = said("the catalog does not have it")
        notes.append(said("llama.cpp runs on the CPU too, {cpu}: {known}", cpu=cpu, known=known))
    title = counted(len(cells), "accelerator here", "accelerators here")
    return Listing(title, ("name", "GiB", "in the catalog"), cells, rows, prose=True, notes=notes)


def _links(options: dict[str, Any]) -> Listing:
    wanted = options["pattern"].lower()
    found = [x for x in llmhw.links() if wanted in x.name.lower() or wanted in x.kind]
    _some(found, options["pattern"], "link", "links")
    cells = [
        (
            x.name,
            x.kind,
            f"{x.bytes_per_second / 1e9:,.1f}",
            "-" if x.latency_seconds is None else f"{x.latency_seconds * 1e6:.1f}",
        )
        for x in found
    ]
    title = counted(len(cells), "link", "links")
    return Listing(title, ("name", "kind", "GB/s one way", "us"), cells, [x.to_dict() for x in found], right=2)


def _formats(options: dict[str, Any]) -> Listing:
    wanted = options["pattern"].lower()
    found = [f for f in map(llmhw.number_format, llmhw.number_formats()) if wanted in f.name.lower()]
    _some(found, options["pattern"], "format", "formats")
    rows = [{"name": f.name, "bits_per_weight": f.bits_per_weight, "note": f.note} for f in found]
    cells = [(f.name, f"{f.bits_per_weight:.4g}", f.note) for f in found]
    title = counted(len(cells), "number format", "number formats")
    return Listing(title, ("name", "bits a weight", "note"), cells, rows, prose=True)


def _trainers(options: dict[str, Any]) -> Listing:
    wanted = options["pattern"].lower()
    found = [t for t in map(trainer, trainer_names()) if wanted in " ".join((t.name, *t.aliases, t.meaning)).lower()]
    _some(found, options["pattern"], "trainer", "trainers")
    title = counted(len(found), "trainer", "trainers")
    cells = [(t.name, t.kernels, t.elementwise, t.meaning) for t in found]
    notes = [said("--software NAME; --explain and --json of `llmhw train` say what it switches")]
    return Listing(
        title,
        ("name", "kernels", "elementwise", "what it is"),
        cells,
        [asdict(t) for t in found],
        prose=True,
        notes=notes,
    )


# -- one model --------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ModelFacts(Report):
    """Parameters, weights, cache and FLOPs of one model at one batch."""

    spec: llmhw.ModelSpec
    batch: int
    seq_len: int
    kv_format: str
    weight_format: str
    weights: Estimate
    cache: Estimate
    forward: Estimate
    backward: Estimate

    @property
    def title(self) -> str:
        return str(self.spec)

    @property
    def number_format(self) -> str:
        return self.weights.title

    @property
    def by_format(self) -> dict[str, dict[str, float]]:
        """Bytes of the weights by the format that they are stored in, and by component."""
        found: dict[str, dict[str, float]] = {}
        for group in weight_groups(self.spec, self.weight_format):
            found.setdefault(group.stored_as, {})[group.component] = group.bytes
        return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))

    @property
    def bits_per_weight(self) -> float:
        return float(8 * self.weights.total / self.spec.parameters.total)

    @property
    def per_token(self) -> float:
        return float(llmhw.kv_cache_bytes_per_token(self.spec, self.kv_format))

    @property
    def verdict(self) -> str:
        p, tokens = self.spec.parameters, self.batch * self.seq_len
        held, cache = (format_quantity(float(e.total), "bytes") for e in (self.weights, self.cache))
        return said(
            "{total} parameters ({active} active): {weights} of weights, {cache} of {format} KV cache for {batch} x "
            "{length:,} tokens, {flops} forward a token.",
            total=format_quantity(p.total, "count"),
            active=format_quantity(p.active, "count"),
            weights=held,
            cache=cache,
            format=self.kv_format,
            batch=self.batch,
            length=self.seq_len,
            flops=format_quantity(self.forward.total / tokens, "FLOP"),
        )

    def tables(self) -> list[Table]:
        p, tokens = self.spec.parameters, self.batch * self.seq_len
        parts = [
            (name, f"{value:,}", format_quantity(value / p.total, "fraction"))
            for name, value in [*p.by_component.items(), ("total", p.total), ("active per token", p.active)]
            if value
        ]
        if p.mtp:
            parts.append(("multi-token prediction, beside the total", f"{p.mtp:,}", ""))
        formats = [
            (fmt, format_quantity(sum(held.values()), "bytes"), ", ".join(map(said, held)))
            for fmt, held in self.by_format.items()
        ]
        stored = said("{bits:.4g} bits a weight", bits=self.bits_per_weight)
        a_token = [
            (said("KV cache in {format}", format=self.kv_format), format_quantity(self.per_token, "bytes")),
            ("forward", format_quantity(self.forward.total / tokens, "FLOP")),
            ("backward", format_quantity(self.backward.total / tokens, "FLOP")),
        ]
        return [
            Table(self.title, ("component", "parameters", "share"), parts),
            Table(self.weights.title, ("part", "size", "share"), self.weights.rows()),
            Table(stored, ("stored in", "size", "what"), formats, right=1, prose=True),
            Table(f"{self.forward.title} ({said(self.forward.note)})", ("part", "FLOPs", "share"), self.forward.rows()),
            Table("", ("a token", "size"), a_token),
        ]

    def warnings(self) -> list[str]:
        from llmhw.stored import total_line

        how = "in parameters and weights; what is active, and FLOPs, are the text model's"
        notes, file = told_towers(self.spec, how=how), total_line(self.spec)
        if self.spec.assumed:
            sizes = ", ".join(f"{key}={value}" for key, value in self.spec.assumed.items())
            text = "not in the config, so as in transformers' {type}: {sizes}"
            notes.append(said(text, type=self.spec.model_type, sizes=sizes))
        if self.weight_format != CHECKPOINT and self.spec.quantization:
            text = "the checkpoint is quantized ({method}): --weights checkpoint shows it"
            notes.append(said(text, method=self.spec.quantization))
        note = self.spec.checkpoint.note if self.weight_format == CHECKPOINT else ""
        return [line for line in (*notes, note, file) if line]

    def to_dict(self) -> dict[str, Any]:
        tokens = self.batch * self.seq_len
        return self.spec.to_dict() | {
            "batch": self.batch,
            "seq_len": self.seq_len,
            "weight_format": checkpoint_name(self.spec) if self.weight_format == CHECKPOINT else self.weight_format,
            "weight_bytes": self.weights.total,
            "bits_per_weight": self.bits_per_weight,
            "weight_bytes_by_format": {fmt: sum(held.values()) for fmt, held in self.by_format.items()},
            "kv_format": self.kv_format,
            "kv_cache_bytes_per_token": self.per_token,
            "kv_cache_bytes": self.cache.total,
            "flops": {
                "forward_per_token": self.forward.total / tokens,
                "backward_per_token": self.backward.total / tokens,
                "forward": self.forward.total,
                "backward": self.backward.total,
                "forward_by_component": self.forward.to_dict()["parts"],
            },
        }

    def to_row(self) -> dict[str, Any]:
        first = ("name", "batch", "seq_len", "weight_format", "kv_format")
        flat = super().to_row()
        return {"model" if k == "name" else k: flat[k] for k in (*first, *(k for k in flat if k not in first))}

    def explain(self, part: str | None = None) -> str:
        from llmhw.formula import explained

        return explained(part, weights=[self.weights], cache=[self.cache], FLOPs=[self.forward, self.backward])


def _model(options: dict[str, Any]) -> Report:
    if options["check"]:
        from llmhw.stored import check

        return check(options["model"])
    spec = llmhw.model(options["model"])
    fmt, batch = options["weights"], options["batch"]
    kv = llmhw.number_format(options["kv"] or (fmt == CHECKPOINT and spec.checkpoint.kv) or "bf16").name
    sizes = {"batch": batch, "seq_len": default_seq_len(spec, options["seq_len"])}
    return ModelFacts(
        spec,
        **sizes,
        kv_format=kv,
        weight_format=fmt if fmt == CHECKPOINT else llmhw.number_format(fmt).name,
        weights=llmhw.weights(spec, fmt),
        cache=llmhw.kv_cache(spec, kv_format=kv, **sizes),
        forward=llmhw.forward_flops(spec, causal=options["causal"], **sizes),
        backward=llmhw.backward_flops(spec, causal=options["causal"], **sizes),
    )


def _batch() -> Option:
    return Option(named("batch"), group=LENGTH, type=WHOLE, usual=1, help="Sequences at a time.")


MODEL = Command(
    "model",
    _model,
    [
        model_argument(),
        _batch(),
        seq_len(),
        Option(named("weights"), group=FORMATS, type=FORMAT, usual="checkpoint", help="Weight format."),
        Option(named("kv"), group=FORMATS, type=FORMAT, help="Cache format; default: the checkpoint's, else 16 bit."),
        option("--causal", is_flag=True, help="Count only the pairs under the causal mask, as flash kernels do."),
        option("--check", is_flag=True, help="Hold the safetensors files of a folder against the prediction."),
    ],
    code=lambda answer: int(not getattr(answer, "equal", True)),
    help="Parameters, weights, KV cache and FLOPs of one model.",
    shown=Shown(
        (
            ("parameters_total", "parameters", "count"),
            ("parameters_active", "active", "count"),
            ("weight_bytes", "weights", "bytes"),
            ("kv_cache_bytes_per_token", "KV a token", "bytes"),
            ("kv_cache_bytes", "KV cache", "bytes"),
            ("flops_forward_per_token", "forward a token", "FLOP"),
        ),
        (("smallest", "weight_bytes", min),),
    ),
    examples=("llmhw model llama-3-70b", "llmhw model llama-3-8b,qwen3-8b --weights bf16,fp8,int4-gptq"),
    explain=True,
)


# -- formulas ---------------------------------------------------------------------------------


# Which options a topic of a model uses; a formula takes all its numbers as key=value.
_USED = {
    "weights": ("weights",),
    "kv-cache": ("batch", "seq_len", "weights"),
    "forward-flops": ("batch", "seq_len"),
    "training-states": ("optimizer", "precision"),
    "lora": ("weights", "optimizer"),
}


def _explain(options: dict[str, Any]) -> Report:
    topic, arguments = options["topic"], options["arguments"]
    for p in (p for p in EXPLAIN.params if isinstance(p, Option) and p.many and p.name):
        if p.name not in _USED.get(topic, ()) and options[p.name or ""] != p.usual:
            raise LLMHWError(f"{p.name}={options[p.name]!r} has no effect on topic={topic!r}; leave it out")
    if not topic:
        entries = sorted(llmhw.formulas().values(), key=lambda f: (f.module, f.name))
        rows = [{"name": f.name, "unit": f.unit, "source": f.source, "code": f.expression} for f in entries]
        cells = [(f.name, f.unit, f.summary) for f in entries]
        columns = ("formula", "unit", "what it computes")
        return Listing(counted(len(rows), "formula", "formulas"), columns, cells, rows, right=3, prose=True)
    if topic in TOPICS:
        found = _topic(topic, arguments, options)
        text = f"{found.explain()}\n\ntotal = {format_quantity(found.total, found.unit)}"
        return Text(text, found.to_dict() | {"explanation": found.explain()})
    text = llmhw.explain(topic, **_numbers(arguments))
    return Text(text, {"formula": topic, "explanation": text})


def _topic(topic: str, arguments: tuple[str, ...], options: dict[str, Any]) -> Estimate:
    if len(arguments) != 1:
        raise LLMHWError(f"topic={topic!r} needs one model: llmhw explain {topic} llama-3-8b")
    spec, batch, fmt = llmhw.model(arguments[0]), options["batch"], options["weights"]
    tokens = default_seq_len(spec, options["seq_len"])
    if topic == "weights":
        return llmhw.weights(spec, fmt or CHECKPOINT)
    fmt = fmt or "bf16"
    if topic == "kv-cache":
        return llmhw.kv_cache(spec, batch=batch, seq_len=tokens, kv_format=fmt)
    if topic == "forward-flops":
        return llmhw.forward_flops(spec, batch=batch, seq_len=tokens)
    if topic == "training-states":
        return llmhw.training_states(spec, optimizer=options["optimizer"], precision=options["precision"])
    return llmhw.lora_states(spec, base_format=fmt, optimizer=options["optimizer"])


def _numbers(arguments: Iterable[str]) -> dict[str, float]:
    """key=value pairs as numbers; 7e9, 7B or 80GiB."""
    numbers: dict[str, float] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not (equals and key.isidentifier()):
            raise LLMHWError(f"argument={argument!r} must be key=number, such as tokens=4096 or weights=7B")
        numbers[key] = parse_number(key, text)
    return numbers


EXPLAIN = Command(
    "explain",
    _explain,
    [
        click.Argument(["topic"], type=FORMULA, default=""),
        click.Argument(["arguments"], nargs=-1, metavar="[MODEL | key=value ...]"),
        _batch(),
        seq_len(),
        Option(
            [*named("weights"), "--format"],
            group=FORMATS,
            type=FORMAT,
            help="Weights or cache; default: the checkpoint's, bf16.",
        ),
        option(
            "--optimizer", group=FORMATS, type=Choices("name", lambda: OPTIMIZERS), usual="adamw", help="Its states."
        ),
        option(
            "--precision", group=FORMATS, type=Choices("name", lambda: PRECISIONS), usual="bf16-mixed", help="Formats."
        ),
    ],
    help="Show the formula behind a number, with the numbers put in.\n\n"
    "Without a topic: all formulas. Topics of a model: " + ", ".join(TOPICS) + ". What `train`, `serve` and `memory` "
    "print is explained by them: --explain MFU.",
    shown=LISTED,
    examples=(
        "llmhw explain matmul_flops tokens=1 weights=7B",
        "llmhw explain kv-cache llama-3-70b --seq-len 8192",
    ),
)


GPUS = Command(
    "gpus",
    _gpus,
    [
        click.Argument(["pattern"], nargs=-1, metavar="[WORDS]..."),
        option("--vendor", group="Devices", many=False, help="Of this vendor alone."),
        option("--memory-at-least", group="Devices", many=False, metavar="24GB", help="With at least so much memory."),
        option("--here", group="Devices", is_flag=True, help="Those of this machine, as its drivers print them."),
    ],
    help="Accelerators: memory, bandwidth, dense rates, links. WORDS are beginnings of what describes them: a name, a "
    "series, a vendor, an architecture, a kind of memory.",
    shown=LISTED,
    examples=("llmhw gpus rtx 40", "llmhw gpus --vendor amd --memory-at-least 48GB"),
)


def _list(name: str, ask: Any, help: str, example: str) -> Command:
    return Command(name, ask, [_pattern()], help=help, shown=LISTED, examples=(example,))


COMMANDS = {
    command.name: command
    for command in (
        MODEL,
        _list(
            "models", _models, "The models of the catalog whose name or family contains PATTERN.", "llmhw models qwen3"
        ),
        GPUS,
        _list("links", _links, "The links and networks whose name or kind contains PATTERN.", "llmhw links infiniband"),
        _list(
            "trainers",
            _trainers,
            "The training software whose name or description contains PATTERN.",
            "llmhw trainers megatron",
        ),
        _list("formats", _formats, "The number formats whose name contains PATTERN.", "llmhw formats q4"),
        EXPLAIN,
    )
}
