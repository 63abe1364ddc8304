"""How people call models and number formats, and what is meant: the one resolver of names.

People type what they have: a Hub id, a repackaging of it, the name of a file, an Ollama tag. What only says who made
it, what it was tuned for, when, and in which format it is stored is peeled off, as little as is needed. What is left
must be a name of the catalog, letter by letter: the nearest by spelling is only suggested.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from llmhw.units import LLMHWError, nearest, shown


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means.

    name     the catalog's name
    format   the number format that the name states, as `llmhw formats` has it; the name's own words where the catalog
             has no such format ("gguf", "exl2-4.0bpw"); "" if it states none
    peeled   the words that were taken off beside the format's, as they were written; () for an exact name
    """

    name: str
    format: str = ""
    peeled: tuple[str, ...] = ()


# -- spelling ---------------------------------------------------------------------------------

# A dot belongs to a number if digits are around it, and separates words elsewhere ("v0.2.Q4_K_M").
_BETWEEN = r"(?:(?<!\d)\.|\.(?!\d)|[-_ :,+()\[\]/])+"


def _words(name: str) -> str:
    """Its words in lower case, with one dash between."""
    return re.sub(_BETWEEN, "-", name.casefold()).strip("-")


def key(name: str) -> str:
    """A name as two spellings of it agree: case and separators do not matter, but between two digits they do.

    >>> key("Llama 3 70B") == key("llama3_70b"), key("gemma-3-4b") == key("gemma-34b")
    (True, False)
    """
    words = re.sub(r"(?<![a-z0-9])v(?=\d)", "", _words(name))  # "LLaMA v3.1" is Llama 3.1
    return re.sub(r"(?<!\d)-|-(?!\d)", "", words)


# -- number formats in names ------------------------------------------------------------------

_METHODS = re.compile(
    r"(?:^|-)(gptq|awq|auto-?round|exl[23]|hqq|aqlm|bnb|bitsandbytes|llm-int8|torchao|quark|marlin|nvfp4|mxfp[468]"
    r"|nf4|fp4|fp8|float8|mlx|gguf|ggml|safetensors|onnx|openvino|ov)"
    r"((?:-(?:dynamic|static|per-tensor|tensorwise|block|blockwise|dq|mx|cs|ds|kv|turbo|pro|v\d|q[2-8]|[2-8]b(?=-\d+g)))*)(?=-|$)"
)
_WIDTHS = re.compile(
    r"(?:^|-)(?:(w(?P<a>\d{1,2})a\d{1,2})|(u?int)(?P<b>[2-8])(?:wo)?|(?P<c>[2-8]|16)-?bits?|(?P<d>\d(?:\.\d{1,2})?)-?bpw"
    r"(?:-h\d)?)(?:-(?:dwq|sym|asym|wo))?(?=-|$)"
)
_FLOATS = re.compile(r"(?:^|-)(bf16|bfloat16|fp16|float16|f16|fp32|float32|f32)(?=-|$)")
_GROUPS = re.compile(r"(?:^|-)(?:gs?(\d{2,4})|(\d{2,4})g)(?=-|$)")
# Containers of files and of kernels, which say nothing where another word names the format.
_CONTAINERS = ("gguf", "ggml", "mlx", "marlin", "safetensors", "onnx", "openvino", "ov")
# What words mean that are no alias of a number format by themselves, by bits ("" where none are stated).
_MEANT = {
    "gptq": {"": "int4-gptq", "4": "int4-gptq", "8": "gptq-8bit", "3": "gptq-3bit"},
    "awq": {"": "int4-awq", "4": "int4-awq"},
    "bnb": {"": "nf4", "4": "nf4", "8": "int8-llm"},
    "w4a16": {"4": "int4-w4a16"},
    "w8a16": {"8": "int8-w8a16"},
    "fp4": {"": "nvfp4"},
}


@cache
def _format_names() -> Mapping[str, str]:
    """Spelling, as `key` writes it -> the catalog's name of a number format; a name wins over an alias."""
    from llmhw.catalog import read_table

    rows = read_table("number_formats")
    aliases = {key(alias): row["name"] for row in reversed(rows) for alias in row["aliases"].split(";") if alias}
    return {**aliases, **{key(row["name"]): row["name"] for row in rows}}


@cache
def _gguf_types() -> re.Pattern[str]:
    from llmhw.catalog import read_table

    names = [_words(row["name"]) for row in read_table("number_formats") if row["kind"] == "gguf"]
    listed = "|".join(sorted((re.escape(name) for name in names if name != "f16"), key=len, reverse=True))
    # and types of llama.cpp that the catalog lacks: Q4_K_XL, TQ1_0, the Q4_0_4_4 of older files
    others = r"(?:i?q|tq)\d-(?:k-)?(?:xxs|xs|xl|nl|s|m|l|\d)"
    return re.compile(rf"(?:^|-)((?:{others}|{listed})(?:-(?:xl|4-4|4-8|8-8))?)(?=-|$)")


def split_format(name: str) -> tuple[str, str]:
    """The words of a name that do not tell its number format, and the format that the others state ("" for none).

    Two that do not agree are both named, as in "Q4_K_M and fp8".

    >>> split_format("Qwen3-8B-GPTQ-Int4"), split_format("llama-3-8b.Q4_K_M"), split_format("phi-4")
    (('qwen3-8b', 'int4-gptq'), ('llama-3-8b', 'Q4_K_M'), ('phi-4', ''))
    """
    rest = _words(name)

    def taken(pattern: re.Pattern[str]) -> list[re.Match[str]]:
        nonlocal rest
        found = []
        while one := pattern.search(rest):
            found.append(one)
            rest = "-".join(filter(None, (rest[: one.start()], rest[one.end() :].strip("-"))))
        return found

    stated = [_first_known(one[1]) or one[1].upper().replace("-", "_") for one in taken(_gguf_types())]
    methods = [_method(one) for one in taken(_METHODS)]
    widths, floats = taken(_WIDTHS), [_first_known(one[1]) for one in taken(_FLOATS)]
    groups = taken(_GROUPS) if methods or widths else []
    named = [method for method in methods if method not in _CONTAINERS]
    if len(named) > 1:
        named = [method for method in named if method != "bnb"]  # whose nf4 it is
    if not stated and (named or widths):
        bits = next((one[place] for one in widths for place in "abcd" if one[place]), "")
        group = next((f"-g{one[1] or one[2]}" for one in groups if "128" not in one.groups()), "")
        stated = [_format_meant(method, bits, group) for method in named or [_width_alone(widths[0])]]
    return rest, " and ".join(
        dict.fromkeys(stated or floats or [method for method in methods if method != "safetensors"])
    )


def _method(found: re.Match[str]) -> str:
    words = {"bitsandbytes": "bnb", "float8": "fp8", "auto-round": "autoround", "llm-int8": "int8-llm"}
    kind = next((word for word in ("block", "dq", "mx") if word in found[2]), "")
    return {"fp8-mx": "mxfp8"}.get(method := f"{words.get(found[1], found[1])}{kind and '-'}{kind}", method)


def _width_alone(found: re.Match[str]) -> str:
    """The method where only bits are stated: w4a16 and int8 are formats, 4bit is MLX's word, bpw that of ExLlama."""
    return found[1] or found[3] or ("mlx" if found["c"] else "exl2")


def _format_meant(method: str, bits: str, group: str) -> str:
    """The format that a method and a number of bits state: the catalog's name, or the words themselves."""
    if method == "mlx" and bits == "16":
        return "bf16"
    spelled = f"{method}-{bits}{'bpw' if method in ('exl2', 'exl3') else 'bit'}" if bits else method
    meant = _MEANT.get(method, {}).get(bits, "")
    whole = method if method[-1].isdigit() and method[:3] != "exl" else ""  # nvfp4 and w4a16 say it all
    return _first_known(meant and meant + group, f"{spelled}{group}", f"{method}{bits}", whole) or whole or spelled


def _first_known(*spellings: str) -> str:
    known = _format_names()
    return next((known[key(one)] for one in spellings if one and key(one) in known), "")


def check_format(argument: str, asked: str, name: str, stated: str) -> None:
    """Raise `LLMHWError` if a format is asked for that is not the one which the model's name states.

    asked    name of a number format
    stated   `Resolved.format`; of "gguf" any type of GGUF is one, of "mlx-4bit" anything of 4 bits
    """
    from llmhw.catalog import read_table

    facts = {row["name"]: row for row in read_table("number_formats")}
    meant = facts.get(_first_known(asked), {})
    agrees = not stated or stated == meant.get("name")
    if stated and (stated not in facts or facts[stated]["rule"] == "mlx"):  # "4bit" alone is MLX's word, at most
        width = re.search(r"\d+(?=bit)", stated)
        agrees = stated == meant.get("kind") or (width is not None and width.group() == meant.get("bits"))
    if not agrees:
        raise LLMHWError(
            f"{argument}={shown(asked)} is not the {stated} that model={shown(name)} states; leave one out"
        )


# -- names of models --------------------------------------------------------------------------

# What a model was tuned for and who packed it: not a weight more or less. Sizes, versions and words such as distill,
# vl, coder, math, reward, embedding, guard, mtp, eagle and draft make another model, and are never here.
_ROLES = frozenset(
    """instruct it chat base hf pt inst sft dpo rlvr rl thinking reasoning preview latest original abliterated
    uncensored heretic obliterated derestricted unsloth ud i1 imat imatrix qat quantized""".split()
)
# Owners that files carry as their first word ("Meta-Llama-3-8B"); the owners of the catalog's own ids are others.
_VENDORS = frozenset("meta google facebook microsoft nvidia ibm amd apple mistral".split())
_DATES = re.compile(
    r"(?:^|-)(?:(?:0[1-9]|1[0-2])-20[2-3]\d|20[2-3]\d(?:0[1-9]|1[0-2])[0-3]\d|2[3-9](?:0[1-9]|1[0-2])(?:[0-3]\d)?"
    r"|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?=-|$)"
)
_FILE = re.compile(r"(?:[-.]\d{5}-of-\d{5})?\.(?:gguf|ggml|safetensors)$", re.IGNORECASE)
# An owner, with the address of its site; a path, which begins with a dot, a slash or a tilde, has none.
_OWNER = re.compile(
    r"(?:https?://|hf://)?(?:[a-z0-9-]+(?:\.[a-z0-9-]+)+/)?(?:[a-z0-9][\w.-]*/)?(?=[^/]+$)", re.IGNORECASE
)


def _without(pattern: re.Pattern[str], words: str) -> str:
    while found := pattern.search(words):
        words = "-".join(filter(None, (words[: found.start()], words[found.end() :].strip("-"))))
    return words


def _without_roles(words: str) -> str:
    """Without roles; a name of nothing else is left as it is."""
    return "-".join(word for word in words.split("-") if word not in _ROLES) or words


# What is peeled, in the order in which it is tried.
_PEELS: tuple[tuple[Callable[[str], str], ...], ...] = (
    (),
    (lambda words: _without(_DATES, words),),
    (_without_roles,),
    (lambda words: _without(_DATES, words), _without_roles),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalog.

    name        its short name
    spellings   its other names, Hub ids among them
    facts       what two entries of one architecture have alike
    """

    name: str
    spellings: tuple[str, ...]
    facts: tuple[str, ...] = ()


class Names:
    """The names of some models.

    entries   the models; a short name wins over other spellings, and an entry over later ones
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = {entry.name: entry for entry in entries}

    @cached_property
    def _exact(self) -> dict[str, str]:
        """Names and other spellings, as `key` writes them -> the entries that have them."""
        found = {key(name): name for name in self.entries}
        for bare in (False, True):
            for entry in self.entries.values():
                for spelling in entry.spellings:
                    found.setdefault(key(spelling.rpartition("/")[2] if bare else spelling), entry.name)
        return found

    @cached_property
    def _barer(self) -> dict[str, list[str]]:
        """Spellings without dates and roles, and with dashes for dots -> the entries that have them."""
        found: dict[str, list[str]] = {}
        for entry in self.entries.values():
            bare = {_words(spelling.rpartition("/")[2]) for spelling in (entry.name, *entry.spellings)}
            peeled = {_peeled(words, peel) for words in bare for peel in _PEELS}
            for spelling in {key(words) for words in peeled} | {key(words.replace(".", "-")) for words in peeled}:
                found.setdefault(spelling, []).append(entry.name)
        return found

    @cached_property
    def _owners(self) -> frozenset[str]:
        ids = [spelling for entry in self.entries.values() for spelling in entry.spellings if "/" in spelling]
        return _VENDORS.union(_words(spelling.rpartition("/")[0]) for spelling in ids)

    def _with_and_without_maker(self, words: str) -> list[str]:
        """The words, then those behind each owner that they may begin with."""
        dashes = [i for i, letter in enumerate(words) if letter == "-"]
        return [words, *(words[i + 1 :] for i in dashes if words[:i] in self._owners)]

    def exactly(self, name: str) -> str | None:
        """The entry of that name, in any case and with any separators; None for a path."""
        if name in self.entries:  # to the letter, for which no spelling must be read
            return name
        return None if name[:1] in "./~" or name[-1:] in "/\\" else self._exact.get(key(name))

    def find(self, name: str) -> Resolved | None:
        """The entry that is meant, and what was peeled to find it; None if there is none.

        Peels a word of the format only where no entry has it in its name. Several entries raise `LLMHWError`.
        """
        found = self.exactly(name)
        owner = _OWNER.match(name)
        if found or owner is None:
            return Resolved(found) if found else None
        whole = _words(_FILE.sub("", name[owner.end() :]))
        rest, stated = split_format(whole)
        if " and " in stated:
            raise LLMHWError(f"model={shown(name)} states the formats {stated}; leave one out")
        for begin, its_format in ((whole, ""), (rest, stated)):
            for words in self._with_and_without_maker(begin):
                for peel in _PEELS:
                    left = _peeled(words, peel)
                    found = self._match(name, left, words) if left and not (peel and left == words) else None
                    if found:
                        return Resolved(found, its_format, _taken_off(name, owner.end(), begin, left))
        return None

    def _match(self, name: str, left: str, words: str) -> str | None:
        """The one entry called `left`; `words` still has the date and the roles that were peeled off it."""
        exact, barer = self._exact.get(key(left)), self._barer.get(key(left), [])
        if exact and left == words:
            return exact
        several = [one for one in barer if one != exact]
        if exact and all(self.entries[one].facts == self.entries[exact].facts for one in several):
            return exact
        if not exact and len(barer) == 1:
            return barer[0]
        if not barer:
            return None
        raise LLMHWError(f"model={shown(name)} is ambiguous; use one of {', '.join(barer)}")


def _peeled(words: str, peel: tuple[Callable[[str], str], ...]) -> str:
    for step in peel:
        words = step(words)
    return words if re.search("[a-z]", words) else ""


def _taken_off(name: str, owner: int, begin: str, left: str) -> tuple[str, ...]:
    """The owner, and the words between `begin` and what is left of it, as the name writes them."""
    gone = Counter(begin.split("-")) - Counter(left.split("-"))
    written = []
    for word in re.split(_BETWEEN, name[owner:]):
        if gone[word.casefold()] > 0:
            gone[word.casefold()] -= 1
            written.append(word)
    return (*filter(None, [name[:owner].rstrip("/")]), *written)


@cache
def models() -> Names:
    """The names of the catalog's models."""
    from llmhw.catalog import model_index

    return Names(
        Entry(
            row["name"],
            tuple(filter(None, (*row["aliases"].replace("|", ";").split(";"), row["hf_id"]))),
            (row["model_type"], row["parameters_transformers"]),
        )
        for row in model_index()
    )


def find_model(name: str) -> Resolved | None:
    """The model of the catalog that a name means, as `Names.find` looks for it.

    >>> find_model("bartowski/Meta-Llama-3-8B-Instruct-GGUF:Q4_K_M")
    Resolved(name='llama-3-8b', format='Q4_K_M', peeled=('bartowski',))
    """
    return models().find(name)


def unknown_model(argument: str, name: str, see: str = "run `llmhw models` for the list") -> LLMHWError:
    """The error for a model that is not in the catalog; it suggests what is spelled alike once the rest is peeled."""
    close = nearest(_peeled(split_format(name.rpartition("/")[2])[0], _PEELS[-1]), models().entries)
    hint = f"did you mean {', '.join(close)}?" if close else see
    return LLMHWError(f"{argument}={shown(name)} is not known; {hint}")
