"""Tables of measurements: a CSV file, or rows in memory, read so that every complaint names its row and column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import floor, log10, prod
from os import PathLike
from typing import Any

from llmhw.files import parse_json
from llmhw.hardware import Accelerator, accelerator, fitting, given, instance, memory_bytes, sold_bytes
from llmhw.model import ModelSpec, model
from llmhw.names import Resolved, check_format, find_model
from llmhw.precision import number_format
from llmhw.sources import config_of
from llmhw.units import LLMHWError, finite, nearest, shown
from llmhw.validation.columns import FLAGS, NUMBER, RATES

Source = str | PathLike[str] | Iterable[Mapping[str, Any]]

# Columns that say the shape of a dense model.
SIZES = ("n_layers", "d_model", "n_heads", "d_ff", "vocab")

# Bytes of a file of measurements, at most: some five million rows.
MOST_BYTES = 2 * 10**9

# What the column `evidence` calls a row that nobody measured.
_NOT_MEASURED = ("analytic", "estimate", "oom", "capacity")


class Row(dict[str, str]):
    """The cells of one row as text. A column that the table lacks reads as an empty cell.

    name     the row's id, or its line in the file if it has none; an id that comes twice bears its line too
    flaw     why the row cannot be read, "" if it can
    called   what the file calls a column that it has under another name
    folder   the table's, which the paths of its cells are relative to; "" for rows in memory
    """

    called: Mapping[str, str] = {}
    folder: str = ""

    def __init__(self, cells: Mapping[str, Any], name: str = "", flaw: str = "") -> None:
        super().__init__({column: _text(value) for column, value in cells.items()})
        self.name = name or _label(self["id"])
        self.flaw = flaw

    @classmethod
    def of_text(cls, cells: Iterable[tuple[str, str]], name: str, flaw: str = "") -> Row:
        """A row of cells that are text already, without blanks around."""
        row = cls.__new__(cls)
        dict.__init__(row, cells)
        row.name, row.flaw = name, flaw
        return row

    def __missing__(self, column: str) -> str:
        return ""

    @property
    def source(self) -> str:
        """Who published the measurement, as the table says it."""
        named = self["source"] or "(no source)"
        return _label(named, 200)

    def with_cells(self, **cells: str) -> Row:
        """The row with other values in these cells."""
        return Row({**self, **cells}, self.name, self.flaw).of_table(self.called, self.folder)

    def of_table(self, called: Mapping[str, str], folder: str) -> Row:
        """The row itself, with what its table says of it."""
        self.called, self.folder = called, folder
        return self

    def error(self, column: str, expected: str) -> LLMHWError:
        """The error for a cell that cannot be used: row, column, value and what is expected."""
        name = self.called.get(column, column)
        return LLMHWError(f"{self.name or 'row'}: {name}={shown(self[column])} must be {expected}")

    def number(self, column: str, default: float | None = None) -> float:
        """A finite number; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None:
            raise self.error(column, NUMBER.replace(" above 0", ""))
        return value

    def positive(self, column: str, default: float | None = None) -> float:
        """A finite number above 0; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None or value <= 0:
            raise self.error(column, NUMBER)
        return value

    def count(self, column: str, default: int | None = 1, *, least: int = 1, most: int = 10**9) -> int:
        """A whole number from `least` to `most`; `default` if the cell is empty, an error if that is None.

        >>> Row({"n_gpus": "eight"}, "TT0001").count("n_gpus")
        Traceback (most recent call last):
        llmhw.units.LLMHWError: TT0001: n_gpus='eight' must be a whole number of at least 1
        """
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None or not value.is_integer() or value < least:
            raise self.error(column, f"a whole number of at least {least}")
        if value > most:
            raise self.error(column, f"at most {most:,}")
        return int(value)

    def flag(self, column: str) -> bool | None:
        """true or false; None if the cell is empty."""
        if not self[column]:
            return None
        value = FLAGS.get(self[column].casefold())
        if value is None:
            raise self.error(column, "true or false")
        return value

    def device(self, usual: bool = False) -> Accelerator:
        """The accelerator named by `device`, else by `gpu`, with other values for what `device_changes` names (JSON).

        usual   of several that a name may mean, take the usual one

        One that the catalog lacks is made of `gpu_memory`, `gpu_bandwidth` and a `gpu_tflops_...`. Without these an
        unknown one raises `LLMHWError` with the nearest known names.
        """
        name = self["device"] or self["gpu"]
        rates = {fmt: self.positive(f"gpu_tflops_{fmt}") for fmt in RATES if self[f"gpu_tflops_{fmt}"]}
        memory = _with_unit(self["gpu_memory"], "GB")
        try:
            if not name:
                raise self.error("gpu", "the name of an accelerator; run `llmhw gpus` for the list")
            found = _device_called(name, memory, usual)
        except LLMHWError:
            if not (memory and self["gpu_bandwidth"] and rates):
                raise
            found = given(memory=memory, bandwidth=_with_unit(self["gpu_bandwidth"], "GB/s"), tflops=rates)
        changes = _json(self, "device_changes")
        for name, value in changes.items():
            known = getattr(found, name, None) if name in Accelerator.__dataclass_fields__ else None
            number = isinstance(known, (int, float)) and not isinstance(value, bool)
            usual = isinstance(value, (int, float)) and 0 < value < 1e30 if number else isinstance(value, str)
            if not (isinstance(known, (int, float, str)) and usual):
                raise self.error(
                    "device_changes", "a JSON object of fields of an accelerator: names, and numbers above 0"
                )
        return replace(found, **changes) if changes else found

    @property
    def named_format(self) -> str:
        """The format that the model's name says, as in "...-GPTQ"; "" if it says none."""
        called = find_called(self["model"] or self["model_name"])
        return called.format if called else ""

    def number_format(self, default: str = "") -> str:
        """The library's name of the format of the weights: of `weights`, else of `quant`, else of the model's name.

        default   what it is where nobody says it
        """
        stated = self.named_format
        name = self["weights"] or split_quant(self["quant"])[0] or stated or default
        if not name:
            raise self.error("quant", "the number format of the file; run `llmhw formats` for the list")
        found = number_format(_KERNELS.sub("", without_remark(name)).strip())
        if stated and self["quant"] and not self["weights"]:
            check_format("quant", found.name, self["model_name"], stated)
        return found.name

    def spec(self) -> ModelSpec:
        """The model of the row: what its columns say first of these.

        config       with `model_type`, a whole config.json; or the path of one, from the table's folder; or a name
        model        a name of the catalog or the path of a config.json; `n_layers` and the keys of `config` (JSON)
                     stand in place of the catalog's own
        sizes        n_layers, d_model, n_heads, d_ff, vocab and the like: see `sized_model`
        model_name   as `model`, without a remark in brackets and, at need, its owner; before the sizes, if it has
                     experts and the sizes none

        Other parameters than `n_params` says, by 2 % or more than its last digit, raise `LLMHWError`.
        """
        found = self._spec()
        if self["n_params"]:
            self._check_params(found)
        return found

    def _check_params(self, found: ModelSpec) -> None:
        stated, counted = self.positive("n_params"), found.parameters
        digits = f"{stated:.15e}".partition("e")[0].rstrip("0").replace(".", "")
        rounding = 0.5 * 10.0 ** (floor(log10(stated)) - len(digits) + 1)
        again = prod(found.head_shape) if found.tied else 0  # many count a tied head beside the embedding
        off = min(abs(counted.total + more - stated) for more in (0, counted.mtp, again, -counted.towers))
        if off > max(0.02 * counted.total, rounding):
            raise LLMHWError(
                f"{self.called.get('n_params', 'n_params')}={self['n_params']} is not the {counted.total:.4g} of "
                f"{found.name}, which model_name={shown(self['model_name'])} was taken for; mend one of them"
            )

    def _spec(self) -> ModelSpec:
        config, layers = self["config"], self.count("n_layers", 0, least=0, most=10_000)
        inner = self["d_ff"] or (self["expert_inner"] if self["n_experts"] else "")
        missing = [column for column in SIZES if not (inner if column == "d_ff" else self[column])]
        if config and config[0] not in "{[":
            try:
                return _changed(_beside(config, self.folder), "", layers)
            except LLMHWError:
                if missing or config.endswith(".json"):
                    raise
            config = ""
        changes = _json(self, "config") if config else {}
        if "model_type" in changes:
            return _changed("", config, 0)
        experts = self["n_experts"]
        named = self["model"] or (not experts and _has_experts(self["model_name"])) or self._is_named()
        if not (missing or named):
            heads = self.count("n_heads")
            return sized_model(
                layers=layers,
                hidden=self.count("d_model"),
                heads=heads,
                kv_heads=self.count("n_kv_heads", heads),
                inner=self.count("d_ff" if self["d_ff"] else "expert_inner"),
                vocab=self.count("vocab"),
                positions=self.count("seq_len", 2048),
                head_dim=self.count("head_dim", 0, least=0),
                tied=self.flag("tied"),
                experts=self.count("n_experts", 0, least=0),
                used=self.count("n_experts_used", None) if experts else 0,
                config=config,
                shape=self._shape(),
            )
        name = _beside(self["model"], self.folder) or without_remark(self["model_name"])
        if not name:
            raise self.error("model_name", "the name of a model; run `llmhw models` for the list")
        try:
            return _changed(name, config, layers)
        except LLMHWError:
            if len(missing) < len(SIZES) and not self["model"] and find_called(name) is None:
                raise LLMHWError(
                    f"{', '.join(missing)} not stated, and model_name={self['model_name']!r} is not in the catalog"
                ) from None
            raise

    def _is_named(self) -> bool:
        """Whether `model_name` is a model of the catalog that has the sizes of the row, layers apart."""
        called = find_called(self["model_name"])
        if called is None or any(self[column] for column in ("attention", "gated", "tied", "mtp", "first_dense")):
            return False
        found = _changed(called.name, "", 0)
        sizes = {
            "d_model": found.hidden,
            "n_heads": found.heads,
            "n_kv_heads": found.kv_heads,
            "vocab": found.vocab_size,
        }
        return all(self.count(column, size) == size for column, size in sizes.items())

    def _shape(self) -> Shape:
        """What the columns say of a model beside its sizes."""
        return Shape(
            expert_inner=self.count("expert_inner", 0, least=0),
            shared_inner=self.count("shared_inner", 0, least=0),
            moe_every=self.count("moe_every", 1),
            first_dense=self.count("first_dense", 0, least=0),
            attention=self["attention"],
            window=self.count("window", 0, least=0),
            gated=self.flag("gated"),
            mtp=self.count("mtp", 0, least=0),
        )

    def check(self, measured: Iterable[str]) -> None:
        """Raise `LLMHWError` with the reason why this row cannot be compared, if there is one.

        measured   columns of measured values: at least one is not empty, and none is anything but a number above 0
        """
        if self.flaw:
            raise LLMHWError(self.flaw)
        if self["duplicate_of"]:
            raise LLMHWError(f"a repeat of row {self['duplicate_of']}, which counts already")
        if self["source_opened"].casefold() == "false":
            raise LLMHWError("source_opened=false: nobody has read the source of this value")
        if self["evidence"] in _NOT_MEASURED:
            raise LLMHWError(f"evidence={self['evidence']!r}: nobody measured this value")
        if self["not_predicted"]:
            raise LLMHWError(self["not_predicted"])
        columns = list(measured)
        for column in [c for c in columns if self[c]] or columns[:1]:
            self.positive(column)


def without_remark(text: str) -> str:
    """A cell without a remark in brackets at its end, or that something is of its class.

    >>> without_remark("Llama 3 8B (truncated)"), without_remark("fp8")
    ('Llama 3 8B', 'fp8')
    """
    return text.partition(" (")[0].removesuffix(" class")


def split_quant(text: str) -> tuple[str, str]:
    """The formats of weights and of the cache that a cell names; "" for a cache that it does not.

    >>> split_quant("Weight = fp16, KV Cache = fp8"), split_quant("fp8 weights, fp8 KV"), split_quant("Q4_K_M")
    (('fp16', 'fp8'), ('fp8', 'fp8'), ('Q4_K_M', ''))
    """
    found = _WEIGHTS_AND_CACHE.match(without_remark(text).casefold())
    named = [one for one in found.groups() if one] if found else []
    return (named[0], named[1]) if named else (text, "")


# Whose products a cell names behind a format.
_KERNELS = re.compile(r"(?i)[ _-](?:gemm|gemv|marlin|exllama(?:v2)?)$")
_WEIGHTS_AND_CACHE = re.compile(
    r"w(?:eights?)?\s*[=:]?\s*([\w-]+)\s*[,;/+]\s*kv(?:[ -]?cache)?\s*[=:]?\s*([\w-]+)$"
    r"|([\w-]+) w(?:eights?)?\s*[,;/+]\s*([\w-]+) kv(?:[ -]?cache)?$"
)


@cache
def find_called(name: str) -> Resolved | None:
    """The model of the catalog that a cell means; None if there is none, or several."""
    try:
        return find_model(without_remark(name))
    except LLMHWError:
        return None


def _beside(path: str, folder: str) -> str:
    """A path from the table's folder, if such a file is there; else what it is."""
    from os.path import exists, isabs, join

    beside = join(folder, path)
    return beside if path and folder and not isabs(path) and exists(beside) else path


def _with_unit(text: str, unit: str) -> str | None:
    """A size or rate with its unit, which tables often leave to the column's name; None for an empty cell."""
    return f"{text}{unit}" if text and finite(text) is not None else text or None


# The usual one of several devices of a name, where it is not the one with most memory.
_USUAL = {
    "a100": "A100 80GB SXM4",
    "h20": "H20 96GB",
    "rtx 2080 ti": "RTX 2080 Ti 11GB",
    "rtx 3080": "RTX 3080 10GB",
}
# Words that name no device but where it is, or how it is cooled; and how many chips a slice of TPUs has.
_AROUND = re.compile(
    r"(?i)\b(?:virtualized|nvidia|geforce|mac ?(?:studio|mini|book ?(?:pro|air)?|pro)|imac|eco|cards?|dlc|[ad]lc|"
    r"(?:air|liquid|water)[ -]cooled)\b|-?\bclass\b|\[.*?\]|(?<=v[2-7][ep])-\d+\b|(?<=v[2-7])-\d+\b"
)


@cache
def _device_called(name: str, memory: str | None, usual: bool = False) -> Accelerator:
    """The device that a cell means, with what its source wrote around it: "Pi 5 (RTX 4090)", "MI300X 750W".

    memory   which of the devices of that name it is
    usual    of several of that name, take what sizes and cores in the cell say, else the usual one
    """
    found: dict[str, Accelerator] = {}
    near: dict[str, int] = {}  # how many devices the words that name one may mean
    problem: LLMHWError | None = None
    for call in filter(None, (part.strip() for part in re.split(r"[()]", name))):
        if usual and found and re.fullmatch(r"x?\d+ ?(?:GB)?", call):
            continue  # a size, or how many there are
        bare, watts = _power_apart(call)
        bare = " ".join(_AROUND.sub(" ", bare).split()) if usual else bare
        try:
            one = _one_of(bare, memory, name if usual else "")
        except LLMHWError as error:
            # what is in brackets names a device, or is a remark
            problem = error if problem is None or (usual and "not known" in str(problem)) else problem
            continue
        if watts and one.tdp_watts != watts:
            problem = LLMHWError(f"gpu={shown(name)} draws {watts:g} W, and {one.name} {one.tdp_watts or 0:g} W")
            continue
        found[one.name] = one
        near[one.name] = min(near.get(one.name, 10**9), len(_meant(bare)))
    if len(found) > 1:  # a card in a computer
        found = {name: one for name, one in found.items() if one.form != "socket"} or found
    if len(found) > 1 and usual:  # a generation, and which device of it
        least = min(near[name] for name in found)
        found = {name: one for name, one in found.items() if near[name] == least}
    if len(found) > 1:
        raise LLMHWError(f"gpu={shown(name)} names {' and '.join(found)}; leave one out")
    if not found:
        raise problem or LLMHWError(f"gpu={shown(name)} names no device")
    return next(iter(found.values()))


def _one_of(bare: str, memory: str | None, cell: str) -> Accelerator:
    """The device of that name; `cell`: of several take what it says of memory and cores, else the usual one."""
    several = _meant(bare)
    if len(several) == 1:
        return several[0]
    if not cell:
        return accelerator(bare, memory)
    if memory:
        size = memory_bytes(memory)
        several = [one for one in several if size in sold_bytes(one)] or several
    for pattern, form in ((r"(\d+) ?GB", "{}GB"), (r"(\d+)[- ](?:GPU )?cores?", "{}-core")):
        for number in re.findall(pattern, cell, re.IGNORECASE):
            several = [one for one in several if form.format(number) in one.name.split()] or several
    usual = [_USUAL[kin] for kin in _USUAL if bare.casefold().startswith(kin)]
    return next(
        (one for one in several if one.name in usual),
        max(several, key=lambda one: (one.memory_bytes, one.memory_bandwidth_bytes_per_second or 0)),
    )


def _meant(bare: str) -> list[Accelerator]:
    """The devices that a name fits, or the one of the rentable machine that it names: "trn1.32xlarge"."""
    try:
        return fitting(bare)
    except LLMHWError as error:
        try:
            return [instance(bare).accelerator]
        except LLMHWError:
            raise error from None


def _power_apart(call: str) -> tuple[str, float]:
    """The name of a device without its power, and that power in watts; 0 if it states none."""
    words = call.split()
    power = [word for word in words if word[-1:] in "Ww" and word[:-1].isdigit()]
    return " ".join(word for word in words if word not in power), float(power[0][:-1]) if power else 0.0


def _json(row: Row, column: str) -> dict[str, Any]:
    try:
        return parse_json(row[column] or "{}", column)
    except LLMHWError:
        raise row.error(column, "a JSON object, each key once") from None


@cache
def _has_experts(name: str) -> bool:
    try:
        counted = model(name).parameters
    except LLMHWError:
        return False
    return counted.active != counted.text


@cache
def _changed(name: str, config: str, layers: int) -> ModelSpec:
    """A model of the catalog, or of a file, with other values in its config; or, without a name, of that config."""
    from json import loads

    changes: dict[str, Any] = loads(config or "{}")
    if name and not changes and layers in (0, model(name).num_layers):
        return model(name)
    changes |= {"num_hidden_layers": layers} if layers else {}
    short, known = config_of(name) if name else ("model", {})
    return ModelSpec.from_config({**known, **changes}, name=short)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is beside its sizes; the columns of a table of these names."""

    expert_inner: int = 0
    shared_inner: int = 0
    moe_every: int = 1
    first_dense: int = 0
    attention: str = ""
    window: int = 0
    gated: bool | None = None
    mtp: int = 0

    def model_type(self, experts: int, classic: bool) -> str:
        """The family of the catalog's that has such layers.

        classic   the sizes are those of a GPT
        """
        if self.attention in _OF_ATTENTION:
            return _OF_ATTENTION[self.attention]
        if experts:
            plain = not (self.expert_inner or self.first_dense or self.moe_every > 1)
            return "qwen2_moe" if self.shared_inner else "mixtral" if plain else "qwen3_moe"
        if self.attention == "window":
            return "mistral"
        gated = not classic if self.gated is None else self.gated
        return "llama" if gated else "gpt2" if classic else "nemotron"

    def config(self, layers: int, inner: int, experts: int, used: int) -> dict[str, Any]:
        """Keys of a config for what it says."""
        known: dict[str, Any] = {}
        if self.attention == "window":
            known["sliding_window"] = self.window or 4096
        if self.attention == "mla":
            known |= {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128}
            known |= {"v_head_dim": 128, "num_nextn_predict_layers": self.mtp, "moe_layer_freq": self.moe_every}
            known |= {"first_k_dense_replace": self.first_dense if experts else layers}
            each = self.expert_inner or inner
            known |= {"n_routed_experts": experts or 1, "num_experts_per_tok": used or 1, "moe_intermediate_size": each}
            return known | {"n_shared_experts": max(0, round(self.shared_inner / each))}
        if experts:
            known |= {"num_experts": experts, "num_local_experts": experts, "num_experts_per_tok": used}
            known |= {"moe_intermediate_size": self.expert_inner or inner, "decoder_sparse_step": self.moe_every}
            known |= {"mlp_only_layers": list(range(self.first_dense))}
            known |= {"shared_expert_intermediate_size": self.shared_inner} if self.shared_inner else {}
        return known


_OF_ATTENTION = {"mla": "deepseek_v3", "mamba2": "mamba2", "gdn": "qwen3_5_text"}
_PLAIN = Shape()


@cache
def sized_model(
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    inner: int,
    vocab: int,
    positions: int,
    head_dim: int = 0,
    tied: bool | None = None,
    experts: int = 0,
    used: int = 0,
    config: str = "",
    shape: Shape = _PLAIN,
) -> ModelSpec:
    """A model of these sizes: a mixture if it has experts, else a GPT or a Llama, or what `shape` says.

    It is a GPT where the feed-forward part is 4 x hidden wide, every head has its own keys, and nobody says how wide
    a head is or whether the output head is tied.

    inner       width of the feed-forward part, or of one expert
    positions   longest sequence, which a GPT has embeddings for
    head_dim    of a query; 0: hidden / heads
    tied        whether the output head is the embedding table; None: a Llama's is not
    experts     in every layer, or as `shape` has it, and how many of them a token passes through
    config      keys of its config with other values, as JSON

    >>> sized_model(layers=24, hidden=2304, heads=24, kv_heads=24, inner=9216, vocab=51200, positions=2048).model_type
    'gpt2'
    """
    from json import loads

    classic = inner == 4 * hidden and kv_heads == heads and not (head_dim or experts or tied is not None)
    kind = shape.model_type(experts, classic)
    known: dict[str, Any] = {"model_type": kind, "vocab_size": vocab}
    if kind == "gpt2":
        sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": inner, "n_positions": positions}
        return ModelSpec.from_config(known | sizes | loads(config or "{}"), name=kind)
    known |= {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "tie_word_embeddings": bool(tied),
        "max_position_embeddings": positions,
    }
    known |= {"head_dim": head_dim} if head_dim and kind != "mamba2" else {}
    known |= {"num_heads": 2 * hidden // 64, "head_dim": 64, "expand": 2, "state_size": 128} if kind == "mamba2" else {}
    known |= shape.config(layers, inner, experts, used)
    return ModelSpec.from_config(known | loads(config or "{}"), name=kind)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with the name of what they were read from, for messages.

    rows   read from the file anew each time they are gone through
    """

    name: str
    columns: tuple[str, ...]
    rows: Collection[Row]

    def require(self, columns: Iterable[str]) -> None:
        """Raise `LLMHWError` if a column is missing: it names the column, the file and the columns that are there."""
        missing = [column for column in columns if column not in self.columns]
        if not missing:
            return
        hints = {c: nearest(c, [other for other in self.columns if other], 2) for c in missing}
        named = ", ".join(
            repr(c) + (f" (did you mean {' or '.join(_label(h) for h in hints[c])}?)" if hints[c] else "")
            for c in missing
        )
        verb = "columns {} are" if len(missing) > 1 else "column {} is"
        there = ", ".join(_label(column) for column in self.columns[:40]) + (", ..." if len(self.columns) > 40 else "")
        text = f"{verb.format(named)} missing in {self.name}; its columns are {there}"
        if len(self.columns) == 1 and (";" in self.columns[0] or "\t" in self.columns[0]):
            text = f"{self.name} does not separate its columns by commas; save it as comma-separated CSV"
        raise LLMHWError(text)

    def renamed(self, names: Mapping[str, str]) -> Table:
        """The same with other names for some columns."""
        if not names:
            return self
        columns = tuple(names.get(column, column) for column in self.columns)
        if isinstance(self.rows, _Lines):
            return Table(self.name, columns, _Lines(self.rows.path, columns, self.rows.lines, self.rows.twice, names))
        called = {new: old for old, new in names.items()}
        rows = []
        for row in self.rows:
            rows.append(Row.of_text([(names.get(c, c), value) for c, value in row.items()], row.name, row.flaw))
            rows[-1].called = called
        return Table(self.name, columns, tuple(rows))


def read_table_of(source: Source, name: str = "the given rows") -> Table:
    """The table behind `source`, as `table_of` gives it, with all its rows in memory."""
    found = table_of(source, name)
    return replace(found, rows=tuple(found.rows))


def table_of(source: Source, name: str = "the given rows") -> Table:
    """The table behind `source`: the path of a CSV file in UTF-8, or rows as mappings from column to value.

    name   what messages call rows in memory

    Rows whose cells are all empty are left out, cells missing at the end of a row are empty, and a row with cells
    beyond the last column has a flaw.
    """
    if isinstance(source, (str, PathLike)):
        return _open_csv(source)
    try:
        rows = iter(source)
    except TypeError:
        raise LLMHWError(f"source={shown(source)} must be the path of a CSV file, or rows as dicts") from None
    given = []
    for number, cells in enumerate(rows, start=1):
        if not isinstance(cells, Mapping):
            raise LLMHWError(
                f"row {number} is {type(cells).__name__} {str(cells)[:40]!r}, not a mapping from column to value; "
                "give the path of a CSV file, or rows as dicts (of a pandas frame: frame.to_dict('records'))"
            )
        given.append((f"row {number}", cells))
    columns = tuple(dict.fromkeys(str(column) for _, cells in given for column in cells))
    times = Counter(_text(cells.get("id")) for _, cells in given)
    return Table(name, columns, tuple(_named(place, cells, times) for place, cells in given))


def _named(place: str, cells: Mapping[str, Any], times: Mapping[str, int]) -> Row:
    """A row with a name: the one it has, else its id, the place if there is none, both if the id comes twice."""
    if isinstance(cells, Row) and cells.name:
        return cells
    i = _text(cells.get("id"))
    return Row(cells, place if not i else f"{_label(i)} ({place})" if times[i] > 1 else _label(i))


@dataclass(frozen=True, slots=True)
class _Lines(Collection[Row]):
    """The rows of a CSV file that was found to be one, read as they are asked for.

    lines   how many rows there are
    twice   ids that come more than once
    names   of the file -> of the column that it stands for
    """

    path: Any
    columns: tuple[str, ...]
    lines: int
    twice: frozenset[str]
    names: Mapping[str, str]

    def __len__(self) -> int:
        return self.lines

    def __contains__(self, row: object) -> bool:
        return any(row is other for other in self)

    def __iter__(self) -> Iterator[Row]:
        from os.path import dirname

        columns, twice, width = self.columns, self.twice, len(self.columns)
        folder = dirname(str(self.path))
        called = {new: old for old, new in self.names.items()}
        at = columns.index("id") if "id" in columns else width
        for line, values in _csv_lines(self.path):
            cells = list(map(str.strip, values))
            flaw = ""
            if len(cells) > width:
                beyond = next((value for value in cells[width:] if value), "")
                if beyond:
                    flaw = (
                        f"line {line} has {len(cells)} cells for {width} columns, {shown(beyond)} among them; "
                        "put quotes around cells that hold a comma"
                    )
            elif len(cells) < width:
                cells += [""] * (width - len(cells))
            i = cells[at] if at < width else ""
            name = f"line {line}" if not i else f"{_label(i)} (line {line})" if i in twice else _label(i)
            yield Row.of_text(zip(columns, cells, strict=False), name, flaw).of_table(called, folder)


def _open_csv(source: str | PathLike[str]) -> Table:
    """The table in a CSV file, which is read once before: for its columns, its ids, and what is wrong with it."""
    from pathlib import Path

    path = Path(source)
    _check_text(path)
    columns: tuple[str, ...] = ()
    once: set[str] = set()
    twice: set[str] = set()
    lines = at = 0
    for _, values in _csv_lines(path, head=True):
        if not columns:
            columns = tuple(map(str.strip, values))
            while not columns[-1]:  # spreadsheets leave empty columns at the end
                columns = columns[:-1]
            _check_columns(str(path), columns)
            at = columns.index("id") if "id" in columns else len(columns)
            continue
        lines += 1
        i = values[at].strip() if at < min(len(values), len(columns)) else ""
        if i:
            (twice if i in once else once).add(i)
    return Table(str(path), columns, _Lines(path, columns, lines, frozenset(twice), {}))


def _csv_lines(path: Any, *, head: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The line at which it begins, and the cells, of every row that has any.

    head   the columns' names too, first
    """
    from csv import Error, reader

    line, first = 1, True
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = reader(file, strict=True)
            for values in lines:
                if any(map(str.strip, values)):
                    if head or not first:
                        yield line, values
                    first = False
                line = lines.line_num + 1
    except Error as error:
        raise LLMHWError(
            f"{path}, line {line} is not CSV ({error}); close its quotes, and double those inside"
        ) from None
    if first:
        raise LLMHWError(f"{path} is empty; its first line must name the columns")


def _check_columns(name: str, columns: tuple[str, ...]) -> None:
    twice = [column for column, times in Counter(columns).items() if times > 1 and column]
    if twice:
        raise LLMHWError(f"{name} has the column {shown(twice[0])} twice; rename or remove one")


def _check_text(path: Any) -> None:
    """Raise `LLMHWError` unless this is a file of text in UTF-8, and not too large a one."""
    from codecs import getincrementaldecoder
    from os.path import isdir, isfile

    if isdir(path):
        raise LLMHWError(f"{path} is a folder; give the path of a CSV file")
    line = size = 0
    decoder = getincrementaldecoder("utf-8")()
    try:
        if path.exists() and not isfile(path):
            raise LLMHWError(f"{path} is no regular file, which is read more than once; give the path of a CSV file")
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                if not size and chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise LLMHWError(f"{path} is UTF-16 text; save it as CSV in UTF-8")
                if b"\0" in chunk:
                    raise LLMHWError(f"{path} is not a text file; save it as CSV in UTF-8")
                held, _ = decoder.getstate()
                whole = held + chunk
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    line += whole.count(b"\n", 0, error.start) + 1
                    byte = whole[error.start]
                    raise LLMHWError(
                        f"{path} is not UTF-8: byte {byte:#04x} in line {line}; save it as CSV in UTF-8"
                    ) from None
                line += chunk.count(b"\n")
                size += len(chunk)
                if size > MOST_BYTES:
                    raise LLMHWError(f"{path} has more than {MOST_BYTES:,} bytes; split it into several files")
        if decoder.getstate()[0]:
            raise LLMHWError(f"{path} is not UTF-8: its last character is cut; save it as CSV in UTF-8")
    except FileNotFoundError:
        raise LLMHWError(f"{path} does not exist; give the path of a CSV file") from None
    except LLMHWError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise LLMHWError(f"{_label(str(path), 200)} cannot be read ({reason}); give the path of a CSV file") from None


def _label(text: str, most: int = 60) -> str:
    """An id, a source or a column's name in a message: on one line, not long, without control characters."""
    return text if len(text) <= most and text.isprintable() else shown(text, most)


def one_line(text: str, most: int = 2000) -> str:
    """A reason, which a cell may be, without breaks and control characters."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _text(value: Any) -> str:
    """A cell as text: None and nan are empty, truth values in lower case."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
