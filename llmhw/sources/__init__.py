"""What a model may be read from: ids of the Hub, folders and files of every kind that people have.

Each kind of source is read into a `config` dict as Hugging Face publishes it, which `llmhw.families` turns into a
model. `llmhw.catalog` is asked first, so a name of it never looks at the disk.

`hub`        the local Hugging Face cache, and the Hub itself where that is asked for
`local`      a folder, a file, standard input: which kind it is, and what is refused by what it is
`gguf`       metadata and tensors of GGUF files
`native`     `params.json` of Mistral and Meta, DeepSeek's own inference configs, litgpt's
`megatron`   arguments of Megatron-LM and NeMo: command lines, scripts, YAML
`headers`    what safetensors files hold, by their headers
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmhw.files import check_path
from llmhw.units import LLMHWError, nearest, shown

if TYPE_CHECKING:
    from os import PathLike

Config = dict[str, Any]

_WAY_OUT = "give a name as `llmhw models` lists them, or the path of a config.json"


def config_of(name: str | PathLike[str], hub: bool = False) -> tuple[str, Config]:
    """The name and the config of a model.

    name   a name of the catalog; an id of the Hub, "org/Name" or "org/Name@revision", also with https://huggingface.co/
           or hf:// before it; the path of a folder or a file; "-" for standard input
    hub    whether the Hub may be asked for an id that is not in the local Hugging Face cache

    Raises `LLMHWError`, one line with the way out, for what is not found or not covered.
    """
    from os import PathLike, fspath

    from llmhw.catalog import read_model
    from llmhw.sources import local
    from llmhw.sources.hub import repository_of

    text = fspath(name) if isinstance(name, PathLike) else name
    text = check_path("model", text, _WAY_OUT)
    repository = repository_of(text)
    if repository is None or repository.revision is None:
        with suppress(KeyError):
            if not in_cache(text) and not (hub and _asked_for(text)):
                return read_model(repository.id if repository else text)
    if (repository is None or not repository.stated) and local.is_path(text):
        return local.read(text, "config")
    if repository is None:
        raise _unknown(text)
    return _of_repository(text, repository, hub)


def in_cache(name: str) -> bool:
    """Whether a name means what the local Hugging Face cache holds: an id there that is no name of the catalog itself.

    What the catalog only recognizes under another name is another checkpoint, such as a quantized one.
    """
    from llmhw.names import models
    from llmhw.sources.hub import cached, repository_of

    if "/" not in name or models().exactly(name) is not None:
        return False
    repository = repository_of(name)
    return repository is not None and models().exactly(repository.id) is None and cached(repository) is not None


def fetch(name: str) -> None:
    """Download the files that describe a model into the local cache, if it is an id of the Hub that is unknown here."""
    from llmhw.sources.hub import cached, download, repository_of

    repository = repository_of(name) if _asked_for(name) else None
    if repository and not cached(repository):
        download(repository)


def _asked_for(name: str) -> bool:
    """Whether the Hub is to be asked for a name: no name of the catalog itself, and nothing here."""
    from llmhw.names import models
    from llmhw.sources.hub import repository_of
    from llmhw.sources.local import is_path

    repository = repository_of(name)
    if repository is None or (not repository.stated and is_path(name)):
        return False
    if repository.revision is None and models().exactly(repository.id) is not None:
        return False
    return "/" in repository.id or models().find(repository.id) is None


def _of_repository(text: str, repository: Any, hub: bool) -> tuple[str, Config]:
    from llmhw.sources import local
    from llmhw.sources.hub import cached, download

    folder = cached(repository)
    if folder is None and hub:
        folder = download(repository)
    if folder is None:
        raise _unknown(text, repository.id)
    return repository.name, local.read(folder, "model", named=repository.id)[1]


def _unknown(text: str, repository: str = "") -> LLMHWError:
    """The error for a name that is found nowhere."""
    from llmhw.catalog import model_names
    from llmhw.names import unknown_model

    if "/" not in repository:
        return unknown_model("model", text, "run `llmhw models` for the list, or give the path of a config.json")
    close = nearest(repository.rpartition("/")[2].lower(), model_names())
    return LLMHWError(
        f"model={shown(text)} is not known: neither in the catalog nor in the Hugging Face cache here; hub=True asks "
        "the Hub for its config.json, or give the path of one"
        + (f"; the nearest names of the catalog are {', '.join(close)}" if close else "")
    )
