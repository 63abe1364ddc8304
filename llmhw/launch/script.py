"""Flags of the commands in a script, and what Slurm tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmhw.launch.shell import read_script
from llmhw.units import LLMHWError, shown

_MOST = 10**6
_BATCH = re.compile(r"^#SBATCH\s+(--[\w-]+)[= ](\S+)", re.MULTILINE)
_FLAG = re.compile(r"--[A-Za-z][\w.-]*(?:=.*)?", re.DOTALL)


def _slurm(text: str) -> Mapping[str, str]:
    """What Slurm sets, by the lines that ask it for nodes."""
    asked: dict[str, str] = dict(_BATCH.findall(text))
    nodes = asked.get("--nodes", "")
    each = re.sub(r"\D*[:=]", "", asked.get("--gpus-per-node", asked.get("--gres", "")))
    found = {"SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes}
    found |= {"SLURM_GPUS_PER_NODE": each, "SLURM_GPUS_ON_NODE": each}
    return {name: value for name, value in found.items() if value.isdecimal()}


def words_of(text: str) -> list[str]:
    """Words of all commands of a script, "" between two commands; those of a quoted command too."""
    if len(text) > _MOST:
        raise LLMHWError(f"the script has {len(text):,} letters; at most {_MOST:,} are read")
    told = "".join(f"{name}={value}\n" for name, value in _slurm(text).items())
    found: list[str] = []
    for command in read_script(told + text).commands:
        for word in command:
            # a command in quotes, or a flag and its value that an array holds as one
            inner = read_script(word).commands if re.search(r"\s--\w|^--\S+\s", word) else [[word]]
            for part in inner:
                found += part
        found.append("")
    return found


def flags(words: list[str]) -> dict[str, list[str]]:
    """The flags among words, names with underscores, and the words behind each; the last of a name counts.

    >>> flags("python train.py --tp-size 8 --recompute-modules core_attn mlp --bf16".split())
    {'tp_size': ['8'], 'recompute_modules': ['core_attn', 'mlp'], 'bf16': []}
    """
    found: dict[str, list[str]] = {}
    behind: list[str] | None = None
    for word in words:
        if _FLAG.fullmatch(word):
            name, given, value = word[2:].partition("=")
            behind = [value.strip("\"'")] if given else []
            found[name.replace("-", "_")] = behind
        elif not word or word == "-m":
            behind = None
        elif behind is not None and not word.startswith("-"):
            behind.append(word)
    return found


def whole(what: str, name: str, text: str) -> int:
    """A whole number of a file."""
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise LLMHWError(f"{what}: {name} {shown(text, 40)} must be a whole number; write the number there")
    return int(text)
