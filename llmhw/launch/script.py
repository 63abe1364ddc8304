"""Shell scripts as people keep them: comments, line continuations, variables, arrays and plain arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmhw.units import LLMHWError, shown

_MOST = 10**6
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^{}]*))?\}|\$(\w+)")
_SUM = re.compile(r"\$\(\(([^()]*)\)\)")
_SET = re.compile(
    r"^\s*(?:export\s+|local\s+)?([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\$\(\([^()]*\)\)|[^\s;|&()]*)", re.MULTILINE
)
_BATCH = re.compile(r"^#SBATCH\s+(--[\w-]+)[= ](\S+)", re.MULTILINE)


def commands(text: str, what: str = "the text") -> str:
    """The script without comments and documents inside, lines joined, variables put in where they are known."""
    if len(text) > _MOST:
        raise LLMHWError(f"{what} has {len(text):,} letters; a script of at most {_MOST:,} is read")
    text = text.replace("\r\n", "\n")
    bare = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?[^\n]*\n.*?\n\s*\1\s*(?=\n|$)", "\n", text, flags=re.DOTALL)
    bare = re.sub(r"(?m)(?:^|(?<=\s))#.*$", "", bare)
    joined = re.sub(r"\\[ \t]*\n", " ", bare)
    known = dict(_slurm(text))
    for name, value in _SET.findall(joined):
        found = put_in(value.strip("\"'"), known)
        if "$" not in found:
            known[name] = found
    return put_in(joined, known)


def _slurm(text: str) -> Mapping[str, str]:
    """What Slurm sets, by the lines that ask it for nodes."""
    asked: dict[str, str] = dict(_BATCH.findall(text))
    nodes = asked.get("--nodes", "")
    each = re.sub(r"\D*[:=]", "", asked.get("--gpus-per-node", asked.get("--gres", "")))
    found = {"SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes}
    found |= {"SLURM_GPUS_PER_NODE": each, "SLURM_GPUS_ON_NODE": each}
    return {name: value for name, value in found.items() if value.isdecimal()}


def put_in(text: str, known: Mapping[str, str]) -> str:
    """A text with the variables that are known, or have a value for where they are not, in their places."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[3]
        return known.get(name, found[2] if found[2] is not None else found[0])

    text = _VARIABLE.sub(value, text)

    def result(found: re.Match[str]) -> str:
        names = re.sub(r"[A-Za-z_]\w*", lambda word: known.get(word[0], word[0]), found[1])
        return found[0] if (number := _computed(names)) is None else str(number)

    return _SUM.sub(result, text)


def _computed(text: str) -> int | None:
    """A product or quotient of whole numbers; None for anything else."""
    parts = re.fullmatch(r"\s*(\d{1,9})((?:\s*[*/]\s*\d{1,9}){0,9})\s*", text)
    if parts is None:
        return None
    number = int(parts[1])
    for sign, factor in re.findall(r"([*/])\s*(\d+)", parts[2]):
        if sign == "/" and not int(factor):
            return None
        number = number * int(factor) if sign == "*" else number // int(factor)
    return number


def flags(text: str) -> dict[str, list[str]]:
    """The flags of a script, names with underscores, and the words behind each; the last of a name counts.

    >>> flags("python train.py --tp-size 8 --recompute-modules core_attn mlp --bf16")
    {'tp_size': ['8'], 'recompute_modules': ['core_attn', 'mlp'], 'bf16': []}
    """
    found: dict[str, list[str]] = {}
    behind: list[str] | None = None
    for word in _words(text):
        if re.fullmatch(r"--[A-Za-z][\w.-]*(?:=.*)?", word, re.DOTALL):
            name, given, value = word[2:].partition("=")
            behind = [value.strip("\"'")] if given else []
            found[name.replace("-", "_")] = behind
        elif word in ("(", ")", ";", "&&", "||", "|", "&") or "[@]" in word or "[*]" in word or word.startswith("-m"):
            behind = None
        elif behind is not None and not word.startswith("-"):
            behind.append(word)
    return found


def _words(text: str) -> list[str]:
    """Words of a shell, quotes taken off; an array's brackets are words of their own."""
    words = re.findall(r"\"[^\"]*\"|'[^']*'|[();|&]+|[^\s();|&\"']+(?:\"[^\"]*\"|'[^']*')?", text)
    return [word[1:-1] if word[:1] == word[-1:] and word[:1] in "\"'" and len(word) > 1 else word for word in words]


def whole(what: str, name: str, words: list[str] | str) -> int:
    """A whole number of a file."""
    text = words if isinstance(words, str) else (words[0] if words else "")
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise LLMHWError(f"{what}: {name} {shown(text, 40)} must be a whole number; write the number there")
    return int(text)
