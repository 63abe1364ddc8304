"""A folder, a file or standard input: which kind of source it is, and what is refused by what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.checks import check_text
from llmhw.files import first_bytes, parse_json, read_json, read_text
from llmhw.units import MOST_LETTERS, LLMHWError, shown

Config = dict[str, Any]

_WAY_OUT = "give the path of a config.json"
_ENDINGS = (".json", ".jsonc", ".gguf", ".safetensors", ".yaml", ".yml", ".sh", ".txt", ".bin", ".pt", ".pth")
_PATH = 300

# Files that lie beside a model's config: what they are, by their name or by keys that only they have.
_OTHERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("adapter_config.json", ("peft_type",), "the configuration of a LoRA adapter"),
    ("tokenizer_config.json", ("tokenizer_class",), "a tokenizer's configuration"),
    ("tokenizer_config.json", ("added_tokens_decoder",), "a tokenizer's configuration"),
    ("special_tokens_map.json", (), "a tokenizer's list of special tokens"),
    ("tokenizer.json", ("added_tokens", "model"), "a tokenizer"),
    ("vocab.json", (), "a tokenizer's vocabulary"),
    ("model.safetensors.index.json", ("weight_map",), "the index of a checkpoint's files"),
    ("pytorch_model.bin.index.json", (), "the index of a checkpoint's files"),
    ("generation_config.json", ("_from_model_config", "transformers_version"), "a configuration of sampling"),
    ("preprocessor_config.json", ("image_processor_type",), "the configuration of an image processor"),
    ("processor_config.json", ("processor_class",), "the configuration of a processor"),
    ("hf_quant_config.json", ("producer", "quantization"), "a note on how a checkpoint was quantized"),
)


def is_path(text: str) -> bool:
    """Whether a text is meant as a path: there is such a thing, or it looks like nothing else."""
    from os.path import exists

    ending = text.lower().endswith(_ENDINGS)
    return text == "-" or ending or text.startswith(("/", "./", "../", "~/", ".\\")) or exists(text)


def read(path: str, argument: str, named: str = "") -> tuple[str, Config]:
    """The name and the config that a folder, a file or "-" for standard input holds.

    argument   what an error calls the path
    named      what it calls it by instead, such as the id of the Hub that the folder came from
    """
    from os.path import isdir

    what = f"{argument}={shown(named or path, _PATH)}"
    if path != "-" and isdir(path):
        return _folder(path, argument, what)
    head = b"" if path == "-" else first_bytes(path, 8)
    ending = path.lower().rpartition(".")[2]
    if head[:4] == b"GGUF" or ending == "gguf":
        from llmhw.sources import gguf

        return gguf.read(path, argument)
    if ending == "safetensors":
        return _beside(path, argument, f"{what} holds weights")
    if head[:4] == b"PK\x03\x04" or head[:2] in (b"\x80\x02", b"\x80\x04") or ending in ("bin", "pt", "pth"):
        raise LLMHWError(f"{what} holds weights in PyTorch's own form, which is not read; {_way_out(path)}")
    for name, _, kind in _OTHERS:
        if path.rpartition("/")[2] == name and name != "adapter_config.json":
            raise LLMHWError(f"{what} is {kind}, no model's config; {_way_out(path)}")
    text = _text(path, argument)
    name, config = _of_text(text, path, what)
    return name or _name_from(path), config


# What was read from a pipe, which gives it once, while a question may name it for many answers.
_PIPED: dict[tuple[str, int], str] = {}


def _text(path: str, argument: str) -> str:
    """The text of a file; of a pipe that was read to its end before, what it gave then."""
    import sys

    text = read_text(path, argument=argument, way_out=_WAY_OUT)
    if path != "-" and not path.startswith("/dev/"):
        return text
    key = path, id(sys.stdin)
    if text:
        _PIPED[key] = text
    return text or _PIPED.get(key, "")


def _folder(path: str, argument: str, what: str) -> tuple[str, Config]:
    from os import listdir
    from os.path import join

    from llmhw.sources.hub import snapshot

    try:
        held = sorted(listdir(path))
    except OSError as error:
        raise LLMHWError(f"{what} cannot be read ({error.strerror}); {_WAY_OUT}") from None
    for name in ("config.json", "params.json", "model_config.yaml"):
        if name in held:
            return read(join(path, name), argument)
    if "snapshots" in held:  # a repository in the Hub's cache
        inner = snapshot(path)
        if inner is None:
            raise LLMHWError(f"{what} is a folder of the Hugging Face cache without a config.json; {_WAY_OUT}")
        owner_and_name = _last(path).removeprefix("models--").split("--")
        return owner_and_name[-1], _folder(inner, argument, what)[1]
    models = [name for name in held if name.lower().endswith(".gguf") and not name.lower().startswith("mmproj")]
    if models:
        from llmhw.sources import gguf

        return gguf.read(join(path, gguf.only(models, what)), argument)
    if "adapter_config.json" in held:
        return read(join(path, "adapter_config.json"), argument)
    listed = f"it holds {', '.join(held[:3])}{', ...' if len(held) > 3 else ''}" if held else "it is empty"
    raise LLMHWError(f"{what} is a folder without a config.json ({listed}); {_WAY_OUT}")


def of_text(text: str, argument: str, way_out: str) -> tuple[str, Config]:
    """The name and the config in a text that came from no file, such as what a reader pasted; the name may be empty."""
    return _of_text(text, "-", argument, way_out)


def _of_text(text: str, path: str, what: str, way_out: str = _WAY_OUT) -> tuple[str, Config]:
    from re import search

    from llmhw.sources import megatron

    is_json, is_yaml = text.lstrip()[:1] in ("{", "[", '"'), path.lower().endswith((".yaml", ".yml"))
    if not (is_json or is_yaml) and search(r"--(num-layers|hidden-size)\b(?!\s*:)", text):
        return "", megatron.from_arguments(text, what)
    if is_yaml or (not is_json and search(r"(?m)^[\w-]+:(\s|$)", text)):
        return _of_data(megatron.from_yaml(text, what), path, what)
    # Python's own writer has Infinity, which published files hold under keys that are not read
    return _of_data(parse_json(text, what, way_out=way_out, infinite=True), path, what)


def _of_data(data: Config, path: str, what: str) -> tuple[str, Config]:
    """The config of an object, by the keys that it has."""
    from llmhw.sources import megatron, native

    if "peft_type" in data:
        raise _adapter(data, what)
    if "dim" in data and "n_layers" in data:
        return "", native.from_params(data, what)
    if "n_embd" in data and ("n_query_groups" in data or "padded_vocab_size" in data):
        return native.from_litgpt(data, what)
    if not {"model_type", "architectures", "text_config"} & set(data):
        for _, keys, kind in _OTHERS:
            if keys and all(key in data for key in keys):
                raise LLMHWError(f"{what} is {kind}, no model's config; {_way_out(path)}")
        if megatron.is_arguments(data):
            return "", megatron.from_mapping(data, what)
    return name_in(data), _with_quantization(data, path)


def name_in(data: Mapping[str, Any], key: str = "_name_or_path") -> str:
    """The name that a config gives itself, if it is one: some hold a folder of whoever wrote it, or nothing."""
    name = data.get(key) or ""
    return check_text(f"config key {key}", name) if name else ""


def _with_quantization(data: Config, path: str) -> Config:
    """The config, with what `hf_quant_config.json` beside it says, unless it says that itself."""
    from os.path import dirname, isfile, join

    beside = join(dirname(path), "hf_quant_config.json")
    if path == "-" or path.startswith("/dev/") or data.get("quantization_config") is not None or not isfile(beside):
        return data
    found = read_json(beside, argument="config", way_out="mend it, or leave it out")
    return {**data, "quantization_config": {"quant_method": "modelopt", **found}}


def _adapter(data: Mapping[str, Any], what: str) -> LLMHWError:
    base = data.get("base_model_name_or_path")
    if isinstance(base, str) and base.strip() and base.isprintable():
        return LLMHWError(f"{what} is a LoRA adapter of {shown(base)}; give that model")
    return LLMHWError(f"{what} is a LoRA adapter, no model's config; give the model that it adapts")


def _beside(path: str, argument: str, what: str) -> tuple[str, Config]:
    """The model of the config that lies beside a file of weights."""
    from os.path import dirname, isfile, join

    for name in ("config.json", "params.json"):
        if isfile(found := join(dirname(path), name)):
            return read(found, argument)
    raise LLMHWError(f"{what}, and no config.json lies beside it; {_WAY_OUT}")


def _way_out(path: str) -> str:
    from os.path import dirname, isfile, join

    beside = join(dirname(path), "config.json")
    return (
        f"give {beside}, which lies beside it"
        if path != "-" and isfile(beside)
        else "give the path of the model's config.json"
    )


def _last(path: str) -> str:
    from pathlib import Path

    return Path(path).resolve().name


def _name_from(path: str) -> str:
    """What to call a model whose source says no name: the file, or its folder."""
    from pathlib import Path

    if path == "-" or path.startswith("/dev/"):
        return "model"
    file = Path(path)
    stem = (
        file.stem if file.stem not in ("config", "params", "model_config") else file.resolve().parent.name or "config"
    )
    return stem[:MOST_LETTERS]
