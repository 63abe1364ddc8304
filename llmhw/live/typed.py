"""The same question as lines of Python and as a command: what a reader copies from a calculator."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import join
from typing import Any


def call(name: str, /, *given: Any, **fields: Any) -> str:
    """A call in Python; an argument that is text of Python already is `Code`. What is None is left out.

    >>> call("llmhw.Cluster", "h100", 8, inter_link=None)
    "llmhw.Cluster('h100', 8)"
    """
    named = [f"{key}={value!r}" for key, value in fields.items() if value is not None]
    made = f"{name}({', '.join([*map(repr, given), *named])})"
    if len(made) <= WIDTH:
        return made
    inside = ",\n".join([*map(repr, given), *named]).replace("\n", "\n    ")
    return f"{name}(\n    {inside},\n)"


WIDTH = 88


class Code(str):
    """Text that is Python, not a string of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def command(*words: Any, options: Mapping[str, Any]) -> str:
    """A line of the command; an option that is True is a flag, one that is None or False is left out.

    >>> command("train", "llama-3-8b", options={"gpu": "RTX 4090", "micro_batch": 1, "frozen": False})
    "llmhw train llama-3-8b --gpu 'RTX 4090' --micro-batch 1"
    """
    typed = ["llmhw", *map(str, words)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        typed.append(f"--{name.replace('_', '-')}")
        if value is not True:
            typed.append(f"{value!r}" if isinstance(value, float) else str(value))
    return join(typed)
