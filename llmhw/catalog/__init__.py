"""The data files of the library, and the only code that reads them.

Tables are CSV with one row a thing; models are Hugging Face `config.json` files. `README.md` beside
this file says what each table holds and how to add a row. Nothing is read when this module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from llmhw.checks import check_items, check_mapping, check_prose, check_text
from llmhw.frozen import frozen
from llmhw.units import LLMHWError, check_choice, check_number, shown, unknown_name

_FOLDER = Path(__file__).parent


@cache
def _text(*path: str) -> str:
    # Not importlib.resources: importing that takes longer than reading every table, and wheels are unpacked.
    return _FOLDER.joinpath(*path).read_text(encoding="utf-8")


@cache
def _rows(*path: str) -> tuple[dict[str, str], ...]:
    from csv import DictReader

    # A cell that is missing at the end of a row reads as "", the same as an empty one: not known.
    return tuple(DictReader(_text(*path).splitlines(keepends=True), restval=""))


@cache
def _tables(*folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _FOLDER.joinpath(*folder).glob("*.csv")))


def _read(argument: str, name: str, *folder: str) -> list[dict[str, str]]:
    stem, known = check_text(argument, name).removesuffix(".csv"), _tables(*folder)
    if stem not in known:
        raise unknown_name(argument, name, known)
    return [dict(row) for row in _rows(*folder, f"{stem}.csv")]


def table_names() -> tuple[str, ...]:
    """The tables of the catalog, in alphabetical order."""
    return _tables()


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of one table of the catalog, as text; an empty cell is a fact that is not known.

    name   one of `table_names()`, with or without ".csv"

    The rows are copies: changing them changes no later answer. A misspelt name raises `LLMHWError`.

    >>> next(row["memory_mib"] for row in read_table("accelerators") if row["name"] == "H100 SXM5 80GB")
    '81559'
    """
    return _read("table", name)


@cache
def date() -> str:
    """The date of the catalog's newest price: how old its facts are.

    >>> date() >= "2026"
    True
    """
    return max(row["date"] for row in _rows("prices.csv"))


def read_measurements(name: str) -> list[dict[str, str]]:
    """Published measurements that predictions are compared with, as text: the rows of `measurements/<name>.csv`.

    An empty cell was not stated by the source. A misspelt name raises `LLMHWError`.

    >>> len({row["source"] for row in read_measurements("training_memory")})
    18
    """
    return _read("measurements", name, "measurements")


@cache
def _calibration() -> dict[str, dict[str, Any]]:
    from json import loads

    found: dict[str, dict[str, Any]] = frozen(loads(_text("calibration.json")))
    return found


def read_calibration(subject: str) -> dict[str, Any]:
    """Constants fitted to measurements: one subject of `calibration.json`, with date, data and residuals.

    They cannot be changed; to try others, change a `copy.deepcopy` of them.

    >>> sorted(read_calibration("training_memory"))[:2]
    ['context_bytes', 'data']
    """
    found = _calibration()
    return found[check_choice("subject", subject, found)]


# What a constant of time may be, by name: more than a first number, or equal to it, and at most a second.
_SHARE, _POSITIVE, _SECONDS, _FACTOR = ((0.0, 2.0, True), (0.0, 1e18, True), (0.0, 1e3, False), (0.0, 1e6, False))
_RANGES = {
    name: bounds
    for bounds, names in {
        _SHARE: """matmul matmul8 matmul4 attention state bandwidth inside between unaligned cache weight_only running
            flash1 flash2 through_host attention_share matmul_share grouped""",
        _POSITIVE: "per_joule per_unit attention8 level2 widen",
        _SECONDS: """gap host blocking sync inside_latency between_latency step launch eager each arrive meet
            between_meet sends""",
        _FACTOR: """scores reread overlap tiled uneven fill passes routed launches recurrence ramp cast accumulate
            contention jitter skew expand packed gather_exposed tp_exposed ep_exposed pp_exposed dp_exposed
            ep_exposed_share routed_share""",
    }.items()
    for name in names.split()
}
_WORDS = ("meaning", "attention_kernel", "class", "architectures", "devices")


def check_calibration(subject: str, kind: str, calibration: Mapping[str, Any]) -> None:
    """Raise `LLMHWError` for constants that are of another kind, are missing, or that no hardware can have.

    subject   of `calibration.json`: training_time or serving_time
    kind      of `llmhw validate`, whose --fit writes such constants
    """
    known = read_calibration(subject)
    if calibration is known:  # which a test has checked
        return
    needed = [name for name in ("common", "links", "families", "switches", "engines", "interval") if name in known]
    given = check_mapping("calibration", calibration)
    missing = [name for name in needed if not isinstance(given.get(name), Mapping)]
    if missing:
        raise _no_calibration(subject, kind, ", ".join(missing))
    check_constants("common", given["common"])
    groups = [name for name in needed if name not in ("common", "interval")]
    for group in groups:
        for name, constants in given[group].items():
            if group == "switches":
                for word, values in check_mapping(f"calibration {group}.{name}", constants).items():
                    check_constants(f"{group}.{name}.{word}", values)
            else:
                check_constants(f"{group}.{name}", constants)
    always = set(known["common"]).union(set.intersection(*(set(family) for family in known["families"].values())))
    for name, family in {"other": {}, **given["families"]}.items():
        lacking = sorted(always.difference(given["common"], family, _WORDS))
        if lacking:
            raise _no_calibration(subject, kind, f"{', '.join(lacking)} for the family {shown(name)}")
    for meter, interval in given["interval"].items():
        check_text("calibration interval", meter)
        _check_interval(f"calibration interval.{meter}", interval)


def _no_calibration(subject: str, kind: str, what: str) -> LLMHWError:
    return LLMHWError(
        f"calibration has no {what}, so it is not one of {subject.replace('_', ' ')}; "
        f"give what `llmhw validate --kind {kind} --fit` wrote"
    )


def check_constants(group: str, constants: Any) -> None:
    """Raise `LLMHWError` for names that are no constants of time, and for values that no hardware can have."""
    for name, value in check_mapping(f"calibration {group}", constants).items():
        if name in _WORDS:
            several = name in ("architectures", "devices")
            for word in check_items(f"calibration {group}.{name}", value) if several else [value]:
                check_prose(f"calibration {group}.{name}", word)
        else:
            check_choice(f"calibration {group}", name, _RANGES)
            least, most, above = _RANGES[name]
            check_number(f"calibration {group}.{name}", value, least, most=most, above=above)


def _check_interval(argument: str, value: Any) -> None:
    ends = [check_number(argument, end, most=1e3, above=True) for end in check_items(argument, value)]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise LLMHWError(f"{argument}={shown(value)} must be two numbers, the lower one first")


# -- models -----------------------------------------------------------------------------------


def model_index() -> tuple[dict[str, str], ...]:
    """The rows of `models/INDEX.csv`, in alphabetical order of the names. They are not to be changed."""
    return _rows("models", "INDEX.csv")


def model_names() -> list[str]:
    """The short names of the catalog's models in the order of the index, without those of a refused architecture."""
    return [row["name"] for row in model_index() if not row["refused"]]


@cache
def _model_files() -> dict[str, str]:
    return {row["name"]: row["file"] for row in model_index()}


@cache
def _quantization_files() -> frozenset[str]:
    return frozenset(path.name for path in _FOLDER.joinpath("hf_quant_config").glob("*.json"))


def read_model(name: str) -> tuple[str, dict[str, Any]]:
    """The short name and the published `config.json` of a model of the catalog.

    name   its short name, an alias, its Hugging Face id, or what people make of these: see `llmhw.names`. What lies
           on the disk under this name is meant instead, unless the name is the catalog's to the letter.

    A name that is not in the catalog raises `KeyError`; `llmhw.model` turns it into a hint.

    >>> short, config = read_model("Llama 3 70B")
    >>> short, config["num_hidden_layers"]
    ('llama-3-70b', 80)
    """
    from json import loads
    from os.path import exists

    from llmhw.names import find_model, models

    short = models().exactly(name)
    if short is None:
        found = None if exists(name) else find_model(name)
        if found is None:
            raise KeyError(name)
        short = found.name
    config = loads(_text("models", _model_files()[short]))
    if f"{short}.json" in _quantization_files():  # as it lies beside the published config
        config["hf_quant_config"] = loads(_text("hf_quant_config", f"{short}.json"))
    return short, config
