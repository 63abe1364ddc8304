"""Scripts of a shell: the commands that one runs, read without running it, and command lines written with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from llmhw.launch import commented
from llmhw.units import LLMHWError, shown

# -- read -------------------------------------------------------------------------------------

_HERE = re.compile(r"<<(-?)\s*(['\"\\]?)(\w+)\2")
_NAMED = re.compile(r"\$(?:\{(\w+)(?:(:?[-=?+])((?:[^{}]|\{[^{}]*\})*))?\}|(\w+))")
_ARRAY = re.compile(r"\$\{(\w+)\[[@*]\]\}")
_ASSIGNED = re.compile(r"(\w+)(\+?)=")
# Words that stand before a command of their own, and end nothing.
_BEFORE = frozenset("if then else elif while until do ! { } exec nohup time command sudo export set".split())


@dataclass
class Script:
    """What a script says.

    commands    the words of each command, in order, with values of variables in their places where they are known
    variables   that it sets, and environment of its commands, by the last value
    files       that it writes from its own text, by name
    """

    commands: list[list[str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_script(text: str, known: Mapping[str, str] | None = None) -> Script:
    r"""What a script of a POSIX shell or Bash says; what only running it would tell stays as it is written.

    known   values of variables that are set around it

    >>> found = read_script('TP=4\nargs=(--dtype auto  # half\n  -tp "$TP")\nvllm serve "${MODEL:-a/b}" "${args[@]}"')
    >>> found.commands
    [['vllm', 'serve', 'a/b', '--dtype', 'auto', '-tp', '4']]
    """
    script = Script(variables=dict(known or {}))
    rest = _without_files(text.replace("\r\n", "\n"), script).replace("\\\n", " ")
    reader = _Reader(rest, script)
    reader.run()
    return script


def _without_files(text: str, script: Script) -> str:
    """The text less its here-documents, which are put among the files of the script."""
    lines, kept = iter(text.split("\n")), []
    for line in lines:
        kept.append(line)
        begins = None if line.lstrip().startswith("#") else _HERE.search(line)
        if begins is None:
            continue
        body = []
        for inner in lines:
            if (inner.lstrip("\t") if begins[1] else inner) == begins[3]:
                break
            body.append(inner.lstrip("\t") if begins[1] else inner)
        kept[-1] = line[: begins.start()] + line[begins.end() :]
        into = re.search(r">>?\s*([^\s<>;&|]+)", kept[-1]) or re.search(r"\btee\s+(?:-a\s+)?([^\s<>;&|]+)", kept[-1])
        name = into[1].strip("\"'") if into else f"<<{begins[3]}"
        script.files[name] = "\n".join([*body, ""])
    return "\n".join(kept)


class _Reader:
    """Goes through a script letter by letter."""

    def __init__(self, text: str, script: Script) -> None:
        self.text, self.at, self.script = text, 0, script
        self.words: list[str] = []
        self.arrays: dict[str, list[str]] = {}

    def run(self) -> None:
        while self.at < len(self.text):
            letter = self.text[self.at]
            if letter in " \t":
                self.at += 1
            elif letter == "#":
                self.at = self._until("\n")
            elif letter in "\n;&|()<>":
                self.at += 1
                if letter in "<>":
                    self._redirected()
                else:
                    self._end()
            else:
                self._word()
        self._end()

    def _until(self, mark: str) -> int:
        found = self.text.find(mark, self.at)
        return len(self.text) if found < 0 else found

    def _redirected(self) -> None:
        """Past what a stream is sent to: it is no word of the command."""
        if self.words and self.words[-1].isdigit() and self.text[self.at - 2].isdigit():
            self.words.pop()  # the number of the stream
        while self.at < len(self.text) and self.text[self.at] in " \t<>&":
            self.at += 1
        if self.at < len(self.text) and self.text[self.at] not in "\n;|()":
            self._one()

    def _word(self) -> None:
        begins = _ASSIGNED.match(self.text, self.at)
        if begins and self.text[begins.end() : begins.end() + 1] == "(":
            self.at = begins.end() + 1
            listed = self._listed()
            self.arrays[begins[1]] = (self.arrays.get(begins[1], []) if begins[2] else []) + listed
            return
        spliced = _ARRAY.match(self.text, self.at + (self.text[self.at] == '"'))
        if spliced:
            self.at = spliced.end() + (self.text[self.at] == '"')
            self.words += self.arrays.get(spliced[1], [spliced[0]])
            return
        start = self.at
        value = self._one()
        bare = self.text[start : self.at] == f"${value}" or "$" not in self.text[start : self.at]
        if not bare and self.text[start] == "$" and " " in value and not value.startswith("$("):
            self.words += value.split()  # an unquoted variable is split at its spaces
        else:
            self.words.append(value)

    def _listed(self) -> list[str]:
        """The words of an array, up to its end."""
        outer, self.words = self.words, []
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self.text[self.at] in " \t\n":
                self.at += 1
            elif self.text[self.at] == "#":
                self.at = self._until("\n")
            else:
                before = self.at
                self._word()
                self.at += self.at == before
        self.at += 1
        found, self.words = self.words, outer
        return found

    def _one(self) -> str:
        """One word, its quotes taken off and its variables put in."""
        made: list[str] = []
        while self.at < len(self.text) and self.text[self.at] not in " \t\n;&|()<>":
            letter = self.text[self.at]
            if letter == "'":
                self.at += 1
                end = self._until("'")
                made.append(self.text[self.at : end])
                self.at = end + 1
            elif letter == '"':
                self.at += 1
                made.append(self._quoted())
            elif letter == "\\":
                made.append(self.text[self.at + 1 : self.at + 2])
                self.at += 2
            elif letter in "$`":
                made.append(self._value())
            else:
                made.append(letter)
                self.at += 1
        return "".join(made)

    def _quoted(self) -> str:
        made: list[str] = []
        while self.at < len(self.text) and self.text[self.at] != '"':
            letter = self.text[self.at]
            if letter == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`"):
                made.append(self.text[self.at + 1])
                self.at += 2
            elif letter in "$`":
                made.append(self._value())
            else:
                made.append(letter)
                self.at += 1
        self.at += 1
        return "".join(made)

    def _value(self) -> str:
        """A variable's value; what a command would print stays as it is written."""
        if self.text.startswith("$(", self.at):
            start, depth = self.at, 0
            while self.at < len(self.text):
                depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
                self.at += 1
                if depth == 0 and self.text[self.at - 1] == ")":
                    break
            return computed(self.text[start : self.at], self.script.variables)
        if self.text[self.at] == "`":
            start, self.at = self.at, self.at + 1
            self.at = self._until("`") + 1
            return self.text[start : self.at]
        named = _NAMED.match(self.text, self.at)
        if named is None:
            self.at += 1
            return "$"
        self.at = named.end()
        value = self.script.variables.get(named[1] or named[4])
        if value is not None:
            return value
        if named[2] in ("-", ":-", "=", ":="):
            return named[3].strip("\"'")
        return named[0]

    def _end(self) -> None:
        """The end of a command: what it sets, and the command itself."""
        words, self.words = self.words, []
        while words and (words[0] in _BEFORE or _ASSIGNED.match(words[0])):
            first = words.pop(0)
            if begins := _ASSIGNED.match(first):
                before = self.script.variables.get(begins[1], "") if begins[2] else ""
                self.script.variables[begins[1]] = before + first[begins.end() :]
        if words:
            self.script.commands.append(words)


def computed(text: str, known: Mapping[str, str]) -> str:
    """A product or quotient of whole numbers in `$((...))`, worked out; anything else as it is written.

    >>> computed("$((MICRO * 64))", {"MICRO": "2"}), computed("$(nproc)", {})
    ('128', '$(nproc)')
    """
    if not (text.startswith("$((") and text.endswith("))")):
        return text
    told = re.sub(r"\$?\{?([A-Za-z_]\w*)\}?", lambda name: known.get(name[1], name[0]), text[3:-2])
    parts = re.fullmatch(r"\s*(\d{1,9})((?:\s*[*/]\s*\d{1,9}){0,9})\s*", told)
    if parts is None:
        return text
    number = int(parts[1])
    for sign, factor in re.findall(r"([*/])\s*(\d+)", parts[2]):
        if sign == "/" and not int(factor):
            return text
        number = number * int(factor) if sign == "*" else number // int(factor)
    return str(number)


# -- what files hold --------------------------------------------------------------------------


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Names and values that a file has under a name; none where it has nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LLMHWError(f"from: {name}={shown(value, 60)} must be names and values")
    return value


def items(name: str, value: Any) -> list[Any]:
    """A list that a file has under a name; none where it has nothing."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise LLMHWError(f"from: {name}={shown(value, 60)} must be a list")
    return value


def whole(name: str, value: Any) -> int:
    """A whole number, 32k or 32K too, as vLLM and SGLang read them.

    >>> whole("--max-model-len", "32k"), whole("--max-model-len", "32K")
    (32000, 32768)
    """
    found = re.fullmatch(r"\s*(-?\d{1,15}(?:\.\d+)?)([kKmMgGtT]?)\s*", str(value))
    if found is None or isinstance(value, bool):
        raise LLMHWError(f"from: {name} {shown(value, 60)} must be a whole number")
    power = " kmgt".index(found[2].lower() or " ")
    return int(float(found[1]) * (1024 if found[2].isupper() else 1000) ** power)


# -- write ------------------------------------------------------------------------------------


class Raw(str):
    """Words of a shell as they are: quoted already, or several."""


def listed(name: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """An array of Bash with a flag in each line and why; a row is a flag, its value ("" for none) and the reason.

    >>> print("\\n".join(listed("args", [("--dtype", "auto", "as the checkpoint"), ("--x", "", "")])))
    args=(
      --dtype auto  # as the checkpoint
      --x
    )
    """
    lines = [(f"  {flag} {word(value)}".rstrip() if value else f"  {flag}", why) for flag, value, why in rows]
    return [f"{name}=(", *commented(lines).splitlines(), ")"] if lines else [f"{name}=()"]


def word(value: str) -> str:
    """A word as a shell reads it; one with a variable of the shell in it stands in double quotes.

    >>> word("a b"), word("$NODE_RANK"), word("bf16")
    ("'a b'", '"$NODE_RANK"', 'bf16')
    """
    if isinstance(value, Raw):
        return str(value)
    return f'"{value}"' if value.startswith("$") else quote(value)


def written_file(name: str, text: str, *, expand: bool = False, mark: str = "END") -> list[str]:
    """Lines that write a file up to a mark; with `expand`, variables of the shell in it get their values."""
    return [f"cat > {name} <<{mark if expand else repr(mark)}", *text.rstrip("\n").split("\n"), mark]
