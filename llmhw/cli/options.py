"""Options of the command: made from the fields of jobs, in groups, each with one value or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from importlib import import_module
from os.path import exists
from typing import Any

import click
from click.shell_completion import CompletionItem

import llmhw
from llmhw.cost import RunOptions
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.memory import OPTIMIZERS, PRECISIONS
from llmhw.planning.demand import Demand
from llmhw.planning.result import Limits
from llmhw.units import PRINTED_CURRENCY, LLMHWError, parse_count

# -- kinds of values --------------------------------------------------------------------------

_LINE = 40


class Names(click.ParamType[str]):
    """A text whose shell completion offers the names of a catalog."""

    def __init__(self, name: str, names: Callable[[], Iterable[str]]) -> None:
        self.name = name
        self.names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, start = incomplete.rpartition(",")
        return [
            CompletionItem(before + comma + name)
            for name in self.names()
            if name.lower().startswith(start.strip().lower())
        ]


class ModelName(Names):
    """What a model is read from. With --hub, what is not here yet is downloaded into the local cache."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if "/" in incomplete or "." in incomplete[:2]:
            return [CompletionItem(incomplete, type="file")]
        return super().shell_complete(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ctx and ctx.meta.get("hub"):
            from llmhw.sources import fetch

            fetch(str(value))
        return str(value)


class Choices(Names):
    """A name of few, shown in the help with all the others; case does not matter."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return next((name for name in self.names() if name.lower() == str(value).lower()), value)

    def listed(self) -> str:
        """All names, if they are too many for a line of the help."""
        return ", ".join(self.names()) if len("|".join(self.names())) > _LINE else ""

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME" if self.listed() else f"[{'|'.join(self.names())}]"


class PriceFile(click.ParamType[Any]):
    """A CSV file with prices, read once for all combinations."""

    name = "FILE.csv"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from llmhw.price_files import price_list

        return price_list("prices", value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Whole(click.ParamType[int]):
    """A whole number such as 8, 16k or 15T."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        name = (param.name if param else None) or "value"
        try:
            return int(value)  # 0 and below too: the field that it is for says what it may be
        except ValueError:
            found = parse_count(name, str(value))
        if not found.is_integer():
            raise LLMHWError(f"{name}={value!r} must be a whole number, such as 8, 16k or 15T")
        return int(found)


class Real(click.ParamType[float]):
    """A number."""

    name = "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(value)
            if found != found or not str(value).isascii() or "_" in str(value):
                raise ValueError
        except ValueError:
            name = (param.name if param else None) or "value"
            raise LLMHWError(f"{name}={value!r} must be a number, such as 0.5 or 3e9") from None
        return found


class Count(Whole):
    """A number above 0 such as 15e12 or 15T."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return parse_count((param.name if param else None) or "value", str(value))


class Lengths(click.ParamType[Any]):
    """A length in tokens, or how lengths are distributed: an argument of `llmhw.simulation.Poisson`."""

    name = "LENGTHS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from llmhw import simulation

        kinds = {
            "uniform": simulation.Uniform,
            "exponential": simulation.Exponential,
            "lognormal": simulation.LogNormal,
        }
        kind, _, rest = str(value).partition(":")
        name = param.name if param and param.name else "lengths"
        try:
            if not rest:
                return int(kind)
            if kind == "csv":
                return simulation.Empirical.from_csv(rest, name)
            numbers = [int(x) if x.isdecimal() else float(x) for x in rest.split(":")]
            return kinds[kind](*numbers)
        except LLMHWError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError):
            raise LLMHWError(
                f"{name}={value!r} must be a whole number, uniform:LOW:HIGH, exponential:MEAN, "
                "lognormal:MEDIAN:SIGMA[:LEAST:MOST] or csv:FILE"
            ) from None


# What `llmhw explain` explains of a model, beside single formulas.
TOPICS = ("weights", "kv-cache", "forward-flops", "training-states", "lora")

MODEL = ModelName("model", llmhw.models)
GPU = Names("gpu", lambda: [*(a.name for a in llmhw.accelerators()), "all", "auto"])
FORMAT = Names("format", lambda: ["checkpoint", *llmhw.number_formats()])
LINK = Names("link", lambda: [link.name for link in llmhw.links()])
MODE = Choices("mode", lambda: import_module("llmhw.simulation").MODES)
SOFTWARE = Choices("software", lambda: import_module("llmhw.trainers").trainer_names())
CURRENCY = Names("currency", lambda: [c.code for c in import_module("llmhw.currencies").currencies()])
GRID = Names("grid", lambda: [g.name for g in import_module("llmhw.grids").grids()])
KIND = Choices("kind", lambda: import_module("llmhw.validation").KINDS)
FORMULA = Names("formula", lambda: [*TOPICS, *llmhw.formulas()])
WHOLE, REAL, COUNT, LENGTHS = Whole(), Real(), Count(), Lengths()


# -- options ----------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """The values of a list: "1,2,4"; a file whose name holds a comma is one."""
    if "," not in text or exists(text):
        return [text]
    return [part.strip() for part in text.split(",")]


class Option(click.Option):
    """An option in a group of the help.

    many    it takes many values, --tp 1,2,4 or --tp 1 --tp 2: each is a combination of its own
    listed  it takes a list: many values for one answer
    usual   its value where it is not given
    per     how many of the field's units one of the option's is
    """

    def __init__(
        self,
        names: list[str],
        *,
        group: str = "Others",
        many: bool = True,
        listed: bool = False,
        usual: Any = None,
        per: float = 1,
        **settings: Any,
    ) -> None:
        flag = settings.get("is_flag") or "flag_value" in settings
        if settings.get("is_flag") and usual is None and "/" not in names[0]:
            usual = False
        self.group, self.usual, self.listed, self.per = group, usual, listed, per
        self.many = many and not listed and not flag
        if usual not in (None, False) and not flag:
            settings["help"] = f"{settings.get('help', '')}  [{usual}]"
        if not (self.many or listed) and (usual is not None or flag):
            settings["default"] = usual
        super().__init__(names, multiple=self.many or listed, **settings)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        names = self.type.listed() if isinstance(self.type, Choices) else ""
        return (record[0], f"{record[1]} One of {names}.") if record and names else record

    @property
    def factor(self) -> float:
        """How many of the field's units one of what is typed is."""
        return self.per / (PRINTED_CURRENCY.get()[1] if self.name in _AMOUNTS else 1.0)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if not (self.many or self.listed):
            one = super().type_cast_value(ctx, value)
            return one * self.factor if self.factor != 1 and isinstance(one, (int, float)) else one
        if not isinstance(value, (tuple, list)):
            value = ()
        found = tuple(self.type(part, self, ctx) for text in value for part in split(str(text)))
        return found if self.factor == 1 else tuple(number * self.factor for number in found)


class Model(click.Argument):
    """The model, or several, separated by commas."""

    many = True
    group = ""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return () if value is None else tuple(self.type(name, self, ctx) for name in split(str(value)))


def option(*names: str, **settings: Any) -> Option:
    """An option; arguments are those of `Option` and of `click.Option`."""
    return Option(list(names), **settings)


def model_argument(required: bool = True) -> Model:
    """The model that a command is asked about; not required where a file may name it."""
    return Model(["model"], type=MODEL, metavar="MODEL" if required else "[MODEL]", required=required)


# Options that are amounts of money: with --currency they are in that one.
_AMOUNTS = frozenset(
    "price purchase_price electricity hosting staff most budget budget_per_hour budget_per_month purchase".split()
)


def currency_option() -> Option:
    """--currency, which every command with amounts of money takes."""

    def ask(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None and not context.resilient_parsing:
            from llmhw.currencies import in_currency

            context.find_root().with_resource(in_currency(value))

    text = "Amounts are read and printed in it, at a dated rate; --json and --csv stay in dollars."
    settings: dict[str, Any] = {"group": MONEY, "many": False, "is_eager": True, "expose_value": False}
    return Option(["--currency"], type=CURRENCY, metavar="EUR|CNY|...", callback=ask, help=text, **settings)


def hub_option() -> Option:
    """--hub, which every command with a model takes."""

    def ask(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta["hub"] = value

    text = "Download the config of a model of the Hub that is not here. Needs the extra `hub`."
    return option("--hub", is_flag=True, is_eager=True, expose_value=False, callback=ask, help=text)


DEVICES, LAYOUT, LENGTH = "Devices", "Layout", "Batch and lengths"
FORMATS, ENGINE, LOAD = "Number formats", "Engine and software", "Load and limits"
STEP, MONEY, ANSWER = "Training step", "Money, failures, power", "Answer"
# The order of the groups in the help.
GROUPS = ("Question", DEVICES, LAYOUT, LENGTH, FORMATS, STEP, ENGINE, LOAD, MONEY, "Others", ANSWER)

_GROUP_OF = {
    DEVICES: "offload weight_offload kv_offload host utilization host_memory checkpoint_offload rollout_share "
    "rollout_gpus",
    LAYOUT: "tp pp ep attention_dp split all_reduce",
    LENGTH: "micro_batch global_batch seq_len max_model_len n_ctx max_sequences max_batched_tokens n_batch "
    "prefix_tokens prefix_hit page_size "
    "input_tokens output_tokens context",
    FORMATS: "precision compute weights kv kv_v optimizer quality",
    ENGINE: "engine kernels attention software compiled tp_overlap grad_overlap gather_prefetch grad_reduce cuda_graph "
    "dispatcher a2a_overlap attention_kernel lora_adapters lora_rank lora_targets",
}
_GROUPED = {name: group for group, names in _GROUP_OF.items() for name in names.split()}
_SHORT = {
    "gpu": "-g",
    "gpus": "-n",
    "weights": "-w",
    "micro_batch": "-b",
    "batch": "-b",
    "seq_len": "-s",
    "concurrency": "-c",
    "rate": "-r",
    "tokens": "-t",
}
# Second long flags: what llama.cpp calls it.
_ALSO = {
    "max_sequences": "--np",
    "max_batched_tokens": "--n-ubatch",
    "gpu_layers": "--ngl --n-gpu-layers",
    "cpu_moe": "--n-cpu-moe",
}
_KIND: dict[Any, Any] = {int: WHOLE, float: REAL, str: click.STRING}
_TYPES: dict[str, Any] = {
    "precision": Choices("precision", lambda: PRECISIONS),
    "optimizer": Choices("optimizer", lambda: OPTIMIZERS),
    "software": SOFTWARE,
    "weights": FORMAT,
    "kv": FORMAT,
    "kv_v": FORMAT,
    "host_memory": Names("500GB", tuple),
    "grid": GRID,
}
# Fields without an option: dp follows from --gpus.
NONE = ("dp",)


def named(name: str) -> list[str]:
    """The flags of an option: its short one, if it has any, and the long one."""
    flag = "--" + name.removesuffix("_seconds").removesuffix("_days").removesuffix("_device_hours").replace("_", "-")
    return [*([_SHORT[name]] if name in _SHORT else []), flag, *_ALSO.get(name, "").split(), name]


def seq_len() -> Option:
    """--seq-len, whose default depends on the model."""
    text = "Tokens of each sequence; default: 4096, or the model's limit."
    return Option(named("seq_len"), group=LENGTH, type=WHOLE, help=text)


# What the command takes otherwise than the field: it depends on the model, or has another unit.
_OWN: dict[str, Callable[[], Option]] = {
    "seq_len": seq_len,
    "kind": lambda: option("--spot", "kind", flag_value="spot", usual="on_demand", group=MONEY, help="Spot prices."),
    "prices": lambda: option(
        "--prices",
        many=False,
        type=PriceFile(),
        metavar="FILE.csv",
        group=MONEY,
        help="Prices of your own, instead of the catalog's; columns as `llmhw prices --csv` has them.",
    ),
    "storage_bytes_per_second": lambda: option(
        "--storage",
        "storage_bytes_per_second",
        type=REAL,
        per=1e9,
        group=MONEY,
        help="GB/s into storage, from all devices together.",
    ),
}


def field_option(f: Field[Any], group: str) -> Option:
    """The option of a field; a unit at the end of its name is left to the help."""
    if f.name in _OWN:
        return _OWN[f.name]()
    kind, default = f.metadata["kind"], f.default
    group = _GROUPED.get(f.name, group)
    settings: dict[str, Any] = {"group": group, "usual": default, "help": f.metadata["meaning"]}
    flags = named(f.name)
    if kind is bool:
        flags[0] += flags[0].replace("--", "/--no-") if default is None else ""
        return Option(flags, is_flag=True, **settings)
    if isinstance(kind, tuple):
        kind = Choices(f.name, kind.__iter__)
    # commas part the modules of one answer, not one answer from the next
    settings["many"] = f.name != "targets"
    return Option(flags, type=_TYPES.get(f.name, _KIND.get(kind, kind)), **settings)


_OF: dict[type, str] = {
    Parallelism: LAYOUT,
    TrainingJob: STEP,
    ServingJob: ENGINE,
    RunOptions: MONEY,
    Limits: LOAD,
    Demand: LOAD,
}


def field_options(made: type, only: Iterable[str] | None = None) -> list[Option]:
    """The options of all fields of a dataclass, or of those named."""
    names = None if only is None else set(only)
    found = [f for f in fields(made) if f.metadata and f.name not in NONE and (names is None or f.name in names)]
    return [option for f in found for option in (*_beside(f.name), field_option(f, _OF.get(made, MONEY)))]


def _beside(name: str) -> list[Option]:
    """Flags that give a field another value than its own option does."""
    if name != "kind":
        return []
    text = "Reserved prices, which only --prices FILE.csv has."
    return [option("--reserved", "kind", flag_value="reserved", usual="on_demand", group=MONEY, help=text)]


def taken(made: type, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, taken out of the options."""
    return {f.name: options.pop(f.name) for f in fields(made) if f.name in options}


# What a device of one's own is given, beside or instead of --gpu.
DEVICE_FACTS = ("gpu_memory", "gpu_bandwidth", "gpu_tflops")


def device_options() -> list[click.Parameter]:
    """--gpu, and facts of a device of one's own."""
    text = "Accelerator, by any words that describe one (`llmhw gpus`), `all`, `auto` (of this machine), or a .csv row."
    facts: dict[str, Any] = {"group": DEVICES, "type": click.STRING}
    return [
        Option(named("gpu"), group=DEVICES, type=GPU, help=text),
        option("--gpu-memory", metavar="24GB", help="Which size --gpu has, or a memory of your own.", **facts),
        option("--gpu-bandwidth", metavar="1008GB/s", help="Of its memory, instead of the catalog's.", **facts),
        option(
            "--gpu-tflops",
            listed=True,
            metavar="bf16=165,fp8=330",
            help="Dense rates, instead of the catalog's. Without --gpu: a device of your own.",
            **facts,
        ),
    ]


def cluster_options() -> list[click.Parameter]:
    """The devices of a job and how they are joined."""
    return [
        *device_options(),
        Option(named("gpus"), group=DEVICES, type=WHOLE, usual=1, help="Devices in all; --gpu auto: all there are."),
        option(
            "--devices-per-node",
            "devices_per_node",
            group=DEVICES,
            type=WHOLE,
            help="Devices of the fast network; default: as the device has it.",
        ),
        option(
            "--link",
            "intra_link",
            group=DEVICES,
            type=LINK,
            metavar="NAME|GB/s",
            help="Inside a node (`llmhw links`); default: the device's own.",
        ),
        option(
            "--network",
            "inter_link",
            group=DEVICES,
            type=LINK,
            metavar="NAME|GB/s",
            help="Between nodes, of each device; default: the best for rent.",
        ),
    ]


# -- what people write instead ----------------------------------------------------------------

_SYNONYMS = {
    "--weights": "quantization quant dtype weight-format load-format number-format format formats bits",
    "--kv": "kv-cache-dtype kv-format kv-dtype cache-format cache-type-k ctk quantkv",
    "--gpus": "num-gpus n-gpus devices num-devices gpu-count world-size",
    "--gpu": "device accelerator card hardware",
    "--gpu-memory": "vram memory gpu-vram device-memory",
    "--gpu-bandwidth": "bandwidth memory-bandwidth",
    "--gpu-tflops": "tflops flops gpu-flops peak",
    "--tp": "tensor-parallel-size tensor-parallel tensor-model-parallel-size",
    "--pp": "pipeline-parallel-size pipeline-parallel pipeline-model-parallel-size",
    "--cp": "context-parallel-size context-parallel",
    "--ep": "expert-parallel-size expert-parallel enable-expert-parallel",
    "--zero 3": "fsdp fsdp2 full-shard fully-shard",
    "--zero": "zero-stage deepspeed",
    "--frozen": "lora qlora peft adapters",
    "--n-ctx": "c ctx-size num-ctx contextsize",
    "--n-batch": "b batch-size-logical",
    "--flash-attention": "fa flash-attn",
    "--kv-v": "cache-type-v ctv",
    "--gpu-layers": "gpulayers num-gpu",
    "--cpu-moe": "moecpu",
    "--max-model-len": "ctx context context-length context-len ctx-size max-seq-len max-context",
    "--seq-len": "ctx n-ctx context context-length sequence-length length max-seq-len max-length",
    "--micro-batch": "batch batch-size bs per-device-train-batch-size micro-batch-size mbs",
    "--global-batch": "gradient-accumulation-steps gbs global-batch-size accumulation",
    "--concurrency": "batch batch-size bs users num-users parallel max-concurrency",
    "--batch": "batch-size bs micro-batch",
    "--max-sequences": "max-num-seqs max-batch-size num-parallel",
    "--max-batched-tokens": "max-num-batched-tokens ubatch ubatch-size ub",
    "--utilization": "gpu-memory-utilization mem-fraction-static mem-fraction",
    "--recompute full": "gradient-checkpointing activation-checkpointing checkpointing",
    "--optimizer": "optim",
    "--rate": "request-rate qps rps",
    "--input-tokens": "isl input-len prompt prompt-tokens input-length",
    "--output-tokens": "osl output-len max-tokens output-length",
    "--network": "inter-link internode",
    "--link": "intra-link nvlink",
    "--precision": "mixed-precision dtype bf16 fp16",
    "--draft": "speculative-model draft-model",
    "--tokens": "train-tokens dataset-tokens",
    "--price": "dollars cost price-per-hour",
    "--rank": "lora-rank r",
    "--users": "concurrency batch num-users clients",
    "--slo-ttft": "ttft first-token",
    "--slo-tpot": "tpot itl next-token",
    "--emit": "launch command",
}


def meant(flag: str, known: Iterable[str]) -> str:
    """What to write instead of an option that is not known."""
    word, options = flag.lstrip("-").lower().replace("_", "-"), list(known)
    if word in ("dp", "data-parallel", "data-parallel-size") and "--gpus" in options:
        return "it follows: give --gpus, of which --tp, --pp and --cp leave the data-parallel ranks"
    if word in ("model", "model-id"):
        return "the model stands without a flag, behind the command"
    right = [name for name, words in _SYNONYMS.items() if word in words.split() and name.split()[0] in options]
    if not right:
        right = get_close_matches(flag, options, n=3, cutoff=0.6)
    return f"use {' or '.join(right)}" if right else "--help lists those there are"


def combinations(options: Mapping[str, Any], many: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Each way to take one value of each option that has many."""
    from itertools import product

    names = list(many)
    for values in product(*(options[name] for name in names)):
        yield {**options, **dict(zip(names, values, strict=True))}
