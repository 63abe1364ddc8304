"""The JSON that `--json` prints, described: a JSON Schema (2020-12) for each command.

The schemas are made from answers, not written: `made(command)` asks a command all of its examples, with each of its
options in turn, and notes which keys come with which types; what a key means is taken from where the library says it.
They lie in `llmhw/catalog/schemas`, as a published contract: a key that is new there is new to those who read it, so a
test holds answers against the files. `python -m llmhw.schema` writes them anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from llmhw.units import LLMHWError, unknown_name

FOLDER = Path(__file__).parent / "catalog" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
HOME = "https://llmhw.github.io/llmhw/schemas"


# -- published ---------------------------------------------------------------------------------


def every() -> dict[str, dict[str, Any]]:
    """All schemas, by command."""
    return {name: schema(name) for name in sorted(path.stem.replace("-", " ") for path in FOLDER.glob("*.json"))}


def schema(command: str) -> dict[str, Any]:
    """The schema of what a command prints with --json.

    >>> schema("serve")["$schema"]
    'https://json-schema.org/draft/2020-12/schema'
    """
    import json

    try:
        found: dict[str, Any] = json.loads(_file(command).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise unknown_name("command", command, every()) from None
    return found


def text(schema: Mapping[str, Any]) -> str:
    """A schema as it lies in its file."""
    import json

    return json.dumps(schema, indent=1, ensure_ascii=False)


def _file(command: str) -> Path:
    return FOLDER / f"{command.replace(' ', '-')}.json"


# -- made of answers ----------------------------------------------------------------------------


@dataclass
class Shape:
    """What values at one place of many answers were."""

    kinds: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    of: dict[str, Shape] = field(default_factory=dict)
    items: Shape | None = None

    def add(self, value: Any) -> Shape:
        """One more value that was there."""
        kind = _kind(value)
        self.kinds[kind] += 1
        if kind == "object":
            self.keys.update(list(value))
            for key, inner in value.items():
                self.of.setdefault(key, Shape()).add(inner)
        elif kind == "array":
            self.items = self.items or Shape()
            for inner in value:
                self.items.add(inner)
        return self

    @property
    def open_ended(self) -> bool:
        """Whether an object's keys are names of things, such as parts or formats, and not of fields."""
        if any(not re.fullmatch(r"[a-z_][a-z0-9_]*", key) for key in self.keys):
            return True
        alike = len({frozenset(inner.kinds) for inner in self.of.values()}) == 1
        scalar = alike and len(self.keys) > 1 and not any("null" in inner.kinds for inner in self.of.values())
        return scalar and any(count < self.kinds["object"] for count in self.keys.values())

    def merged(self) -> Shape:
        """The values of all keys as those of one."""
        found = Shape()
        for inner in self.of.values():
            found.join(inner)
        return found

    def join(self, other: Shape) -> None:
        """What another one saw, too."""
        self.kinds.update(other.kinds)
        self.keys.update(other.keys)
        for key, inner in other.of.items():
            self.of.setdefault(key, Shape()).join(inner)
        if other.items:
            self.items = self.items or Shape()
            self.items.join(other.items)

    def to_schema(self, say: Mapping[str, str], *, closed: bool = False) -> dict[str, Any]:
        """The schema of such values.

        say      what keys mean
        closed   whether an object has no other keys than those seen
        """
        kinds = sorted(self.kinds)
        found: dict[str, Any] = {}
        if kinds and kinds != ["null"]:  # what was never known may be anything
            found["type"] = kinds[0] if len(kinds) == 1 else kinds
        if "object" in kinds and self.open_ended and not closed:
            found["additionalProperties"] = self.merged().to_schema(say)
        elif "object" in kinds:
            found["properties"] = {key: _told(key, inner.to_schema(say), say) for key, inner in self.of.items()}
            if closed or self.kinds["object"] >= _ENOUGH:
                found["required"] = [key for key, count in self.keys.items() if count == self.kinds["object"]]
            found |= {"additionalProperties": False} if closed else {}
        if "array" in kinds and self.items and self.items.kinds:
            found["items"] = self.items.to_schema(say)
        return found


# Objects inside an answer that must have been seen before a key that was in all of them counts as one that always is.
_ENOUGH = 20


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"  # what is whole in one answer need not be in the next
    return "string" if isinstance(value, str) else "object" if isinstance(value, Mapping) else "array"


_UNITS = {
    "bytes_per_second": "bytes per second",
    "flops_per_second": "FLOP per second",
    "tokens_per_second": "tokens per second",
    "requests_per_second": "requests per second",
    "bytes": "bytes",
    "seconds": "seconds",
    "dollars": "dollars",
    "kwh": "kWh",
    "watts": "watts",
    "days": "days",
    "hours": "hours",
}


def _told(key: str, made: dict[str, Any], say: Mapping[str, str]) -> dict[str, Any]:
    """The schema of a key, with what it means; at least its unit, which the name says."""
    unit = next((text for end, text in _UNITS.items() if key.endswith(end) or key.startswith(f"{end}_")), "")
    text = say.get(key) or (f"In {unit}." if unit else "")
    return {"description": text, **made} if text else made


def _meanings(cls: type) -> dict[str, str]:
    """What the keys of an answer mean: its docstring says, or those of its properties."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        own = {name: one.__doc__ for name, one in vars(base).items() if isinstance(one, property) and one.__doc__}
        found |= {name: text.strip().partition("\n")[0] for name, text in own.items()}
        for named, text in _ENTRY.findall(base.__doc__ or ""):
            found |= dict.fromkeys(named.split(", "), " ".join(text.split()))
    return {name: text[:1].upper() + text[1:].rstrip(".") + "." for name, text in found.items() if text}


# "name, name   text, and more of it" in a docstring
_ENTRY = re.compile(r"^    ([a-z_]+(?:, [a-z_]+)*)  +(\S.*(?:\n {8,}\S.*)*)", re.M)


class Seen:
    """The answers of one command."""

    def __init__(self, command: Any) -> None:
        self.command = command
        # what an option means, the answer's key of its name means too
        options = {param.name: getattr(param, "help", "") or "" for param in command.params}
        self.options = {name: text.partition("  [")[0] for name, text in options.items() if text}
        self.answers: dict[str, tuple[Shape, dict[str, str]]] = {}
        self.rows: dict[str, Shape] = {}
        self.versions = Shape()
        self.asked: Shape | None = None

    def add(self, answer: Any) -> None:
        """One more of them, or a list of many."""
        from llmhw.cli.output import Listing, Sweep, versions
        from llmhw.units import plain

        self.versions.add(versions())

        if isinstance(answer, Sweep):
            self.asked = self.asked or Shape()
            for asked, one in zip(answer.asked, answer.answers, strict=True):
                self.asked.add(plain(asked))
                if not isinstance(one, LLMHWError):
                    self.add(one)
        elif isinstance(answer, Listing):
            for row in plain(answer.plain_rows):
                self.rows.setdefault(f"{answer.columns[0].title()}Row", Shape()).add(row)
        else:
            found = plain(answer.to_dict())
            name = "Formula" if "formula" in found else type(answer).__name__
            shape, _ = self.answers.setdefault(name, (Shape(), self.options | _meanings(type(answer))))
            shape.add(found)

    def to_schema(self) -> dict[str, Any]:
        """The schema of all that the command prints with --json."""
        made: dict[str, Any] = {}
        for name, (shape, say) in sorted(self.answers.items()):
            one = shape.to_schema(say, closed=True)
            properties = {**one["properties"], "versions": {"$ref": "#/$defs/versions"}}
            made[name] = {**one, "properties": properties, "required": [*one["required"], "versions"]}
            if self.asked:
                properties = {"asked": {"$ref": "#/$defs/asked"}, **one["properties"]}
                made[f"{name}OfMany"] = {**one, "properties": properties, "required": ["asked", *one["required"]]}
        for name, shape in sorted(self.rows.items()):
            made[name] = shape.to_schema(self.options, closed=True)
        kinds = [_ref(name) for name in self.answers]
        kinds += [{"type": "array", "items": _ref(name)} for name in sorted(self.rows)]
        if self.asked:
            made["asked"] = {
                "type": "object",
                "description": "The options that have several values.",
                "minProperties": 1,
            }
            made["refused"] = _object(
                "Why a combination has no answer.", asked=_ref("asked"), refused={"type": "string"}
            )
            many = [_ref(f"{name}OfMany") for name in sorted(self.answers)]
            kinds.append({"type": "array", "items": {"anyOf": [*many, _ref("refused")]}})
        if any(param.name == "part" for param in self.command.params):
            words = {"type": "string"}
            made["explanation"] = _object("What --explain NAME prints.", part=words, explanation=words)
            kinds.append(_ref("explanation"))
        made["versions"] = {"description": "What computed it.", **self.versions.to_schema({}, closed=True)}
        name = self.command.name
        return {
            "$schema": DIALECT,
            "$id": f"{HOME}/{name.replace(' ', '-')}.json",
            "title": f"llmhw {name} --json",
            "description": self.command.help.partition("\n")[0],
            "anyOf": kinds,
            "$defs": dict(sorted(made.items())),
        }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _object(text: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# Lines beside the examples of a command: what these leave out.
_UNPRICED = "--gpu 'RTX 3090 Ti'"
_MORE: dict[str, tuple[str, ...]] = {
    "plan train": (
        f"gpt2 {_UNPRICED},'TPU v5e',l4 --gpus 8 --tokens 1e9,2e9",
        "gpt2 --instance g5.xlarge",
        "gpt2 --gpu 'GB200 NVL72' --gpus 64",
        "gpt2 --gpu h100 --gpus 8 --mtbf 1 --restart 86400",
    ),
    "plan finetune": (
        f"gpt2 {_UNPRICED},'TPU v5e',l4 --gpus 8 --method full,lora",
        "gpt2 --gpu 'GB200 NVL72' --gpus 64",
        "gpt2 --gpu h100 --gpus 8 --mtbf 1 --restart 86400",
    ),
    "model": ("gpt2,mixtral-8x7b,deepseek-v3,gemma-3-27b,qwen2.5-vl-7b,t5,qwen3-next-80b-a3b,gpt-oss-120b",),
    "cost": ("--gpu h100 --price 0.01", "--gpu 'Gaudi 3' --purchase-price 3000", "--gpu h100,'GB200 NVL72'"),
    "fit": ("llama-3-70b --gpu 'RTX 4090'", "deepseek-v3,gpt-oss-20b --gpu h100 --gpus 8"),
    "memory": ("mixtral-8x7b --gpu h100 --gpus 8 --ep 8 --zero 1", "llama-3-70b --gpu 'RTX 4090'"),
    "train": (
        "mixtral-8x7b --gpu h100 --gpus 16 --ep 8 --zero 1",
        "llama-3-70b --gpu 'RTX 4090'",
        f"gpt2 {_UNPRICED}",
        "gpt2 --gpu 'TPU v5e' --gpus 4",
        "gpt2 --gpu h100,'GB200 NVL72'",
    ),
    "serve": (
        "deepseek-v3 --gpu h200 --gpus 8 --tp 8 --price 2",
        "llama-3-70b --gpu 'RTX 4090'",
        f"llama-3-8b {_UNPRICED},'M4 Max','TPU v5e'",
    ),
    "simulate": (
        "llama-3-8b --gpu h100 --concurrency 4 --requests 20 --slo-ttft 1",
        "llama-3-8b --gpu h100,h200 --rate 1 --requests 2 --output-tokens 1",
        "llama-3-8b --gpu h100,l4 --rate 1 --requests 1",
    ),
    "explain": ("", *(f"{topic} llama-3-8b" for topic in ("weights", "kv-cache", "forward-flops", "lora"))),
    "validate": ("--kind facts --worst 1", "--kind facts --columns"),
    "measure": (
        "flops gpt2",
        "activations gpt2",
        "memory gpt2",
        "optimizer gpt2",
        "step smollm2-135m --kind decode --seq-len 8 --toy --device cpu --threads 1",
    ),
    **dict.fromkeys(("models", "gpus", "links", "formats", "trainers", "prices"), ("",)),
}
# Values that are tried of an option, by what its type is called.
_TRIED = {
    "N": ("2", "8"),
    "X": ("0.5", "2"),
    "format": ("fp8", "q4_k_m"),
    "link": ("50",),
    "model": ("llama-3.2-1b", "mtp"),
}
# These read or write files.
_LEFT_OUT = ("FILE", "LOG")


def _lines(command: Any) -> Iterator[list[str]]:
    """What a command is asked: its examples, more lines, and the first example with each of its options."""
    from shlex import split

    from llmhw.cli.command import HOW

    words = len(command.name.split())
    bases = [split(line)[1 + words :] for line in command.examples]
    yield from bases
    yield from map(split, _MORE.get(command.name, ()))
    if any(param.name == "currency" for param in command.params):
        yield [*bases[0], "--currency", "EUR"]
    if not bases or words > 1 or command.name in ("measure", "validate", "log", "which", "compare"):
        return  # each takes seconds
    for param in command.params:
        if not param.opts[0].startswith("-") or param.name in (*HOW, "here"):
            continue
        if not param.expose_value or any(word in (param.metavar or "") for word in _LEFT_OUT):
            continue
        flag = max(param.opts, key=len)
        if param.is_flag:
            values: Iterable[tuple[str, ...]] = [(name,) for name in (flag, *param.secondary_opts)]
        else:
            known = param.type.names() if hasattr(param.type, "listed") else _TRIED.get(param.type.name, ())
            values = [(flag, str(value)) for value in known]
        for value in values:
            yield [*bases[0], *value]


def made(name: str, lines: Iterable[list[str]] = ()) -> dict[str, Any]:
    """The schema of a command, made anew from its answers; `lines`: more arguments to ask it with."""
    from click import UsageError

    from llmhw.cli import COMMANDS

    command = import_module(f"llmhw.cli.{COMMANDS[name][0]}").COMMANDS[name]
    seen = Seen(command)
    for line in (*_lines(command), *lines):
        try:
            command.found(line, seen.add)
        except (LLMHWError, UsageError):
            continue
    return seen.to_schema()


def described() -> list[str]:
    """The commands whose answers are described: all that print JSON."""
    from llmhw.cli import COMMANDS
    from llmhw.cli.command import Command

    found = {name: import_module(f"llmhw.cli.{place}").COMMANDS[name] for name, (place, *_) in COMMANDS.items()}
    return [name for name, command in found.items() if isinstance(command, Command) and name != "schema"]


def main(wanted: Iterable[str] = ()) -> None:
    """Write the files anew: all, or those of some commands."""
    from glob import glob

    logs = {"log": [[path, "--gpu", "h100"] for path in sorted(glob("tests/unit/logs/*.log"))]}
    FOLDER.mkdir(exist_ok=True)
    for name in wanted or described():
        _file(name).write_text(text(made(name, logs.get(name, ()))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
