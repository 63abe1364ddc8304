"""Ids of the Hugging Face Hub: the local cache, with the standard library; the Hub itself, with its own library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from llmhw.units import LLMHWError, shown

# The small files that describe a model; all but the first may be missing.
FILES = ("config.json", "params.json", "hf_quant_config.json", "model.safetensors.index.json")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# What an id and a revision are made of, as the Hub has it.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"


@dataclass(frozen=True)
class Repository:
    """A model on the Hub.

    id         "org/Name", or "Name" of the first models
    revision   branch, tag or commit; None: main
    stated     whether it was written as an address, so that it can be nothing else
    """

    id: str
    revision: str | None = None
    stated: bool = False

    @property
    def name(self) -> str:
        """The id without its owner."""
        return self.id.rpartition("/")[2]


def repository_of(text: str) -> Repository | None:
    """The repository that a text names, as an id or an address of the Hub; None for what is neither.

    >>> repository_of("https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json")
    Repository(id='Qwen/Qwen3-8B', revision=None, stated=True)
    >>> repository_of("Qwen/Qwen3-8B@v1.0").revision
    'v1.0'
    """
    from re import fullmatch

    scheme, colon, rest = text.partition("://")
    stated = bool(colon)
    if not stated:
        rest = text
    elif scheme.lower() in ("https", "http"):
        host, _, rest = rest.partition("/")
        if host.lower() not in (*_HOSTS, _endpoint()):
            raise LLMHWError(f"model={shown(text)} is no address of the Hub; give one of https://huggingface.co/")
    elif scheme.lower() != "hf":
        raise LLMHWError(f"model={shown(text)} is no address that is read; give the id of the Hub, or a path")
    elif rest.startswith("models/"):
        rest = rest.removeprefix("models/")
    rest = rest.partition("?")[0].partition("#")[0].rstrip("/") if stated else rest
    address = fullmatch(rf"({_PART}(?:/{_PART})?)/(?:blob|tree|resolve|raw)/([^/]+)(?:/.*)?", rest) if stated else None
    plain = fullmatch(rf"({_PART}(?:/{_PART})?)(?:@([^@\s]{{1,100}}))?", rest)
    found = address or plain
    if found is None or ".." in rest:
        if stated:
            raise LLMHWError(
                f"model={shown(text)} names no model of the Hub; give it as https://huggingface.co/org/Name"
            )
        return None
    revision = found[2] if found[2] not in ("main", "") else None
    return Repository(found[1], revision, stated)


def _endpoint() -> str:
    """The host of a mirror of the Hub that is set."""
    from os import environ

    return environ.get("HF_ENDPOINT", "").partition("://")[2].partition("/")[0].lower()


def cache_folder() -> str:
    """Where the Hub's own tools keep what they downloaded."""
    from os import environ
    from os.path import expanduser, join

    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return expanduser(environ[variable])
    home = environ.get("HF_HOME") or join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return join(expanduser(home), "hub")


def cached(repository: Repository) -> str | None:
    """The folder of the local cache that holds the model's files, if one does; nothing is downloaded."""
    from os.path import join

    return snapshot(join(cache_folder(), "models--" + repository.id.replace("/", "--")), repository.revision)


def snapshot(root: str, revision: str | None = None) -> str | None:
    """The folder of a repository's files inside its folder of the cache: of the revision, of main, else the newest."""
    from os import listdir
    from os.path import getmtime, isdir, join

    base = join(root, "snapshots")
    try:
        kept = [name for name in listdir(base) if isdir(join(base, name))]
    except OSError:
        return None
    commit = _reference(join(root, "refs", revision or "main")) or revision
    exact = [name for name in kept if commit and (name == commit or (len(commit) >= 7 and name.startswith(commit)))]
    if exact or revision:
        kept = exact
    kept = [name for name in kept if _described(join(base, name))]
    return join(base, max(kept, key=lambda name: getmtime(join(base, name)))) if kept else None


def _described(folder: str) -> bool:
    from os import listdir

    return any(name in FILES[:2] or name.lower().endswith(".gguf") for name in listdir(folder))


def _reference(path: str) -> str:
    from llmhw.files import first_bytes

    return first_bytes(path, 100).decode("ascii", "replace").strip()


def download(repository: Repository) -> str:
    """Download the small files that describe the model into the cache, with `huggingface_hub`; their folder.

    Raises `LLMHWError` where that library is missing, the Hub is out of reach, or has no such model for this user.
    """
    what = f"model={shown(repository.id)}"
    try:
        import huggingface_hub as library
        from huggingface_hub import errors, utils
    except ImportError:
        way_out = "pip install 'llmhw[hub]', or give the path of its config.json"
        raise LLMHWError(f"{what} cannot be asked for: hub=True needs huggingface_hub; {way_out}") from None
    try:
        with _quiet(utils):
            folder = _downloaded(library, errors.RemoteEntryNotFoundError, repository)
    except Exception as error:  # also what its HTTP library raises, which differs between its versions
        raise LLMHWError(f"{what} {_reason(errors, error, repository)}") from None
    if not folder:
        raise LLMHWError(
            f"{what} is on the Hub, but has no config.json; give its base model, or the path of a config.json"
        )
    return folder


def _downloaded(library: Any, missing: type[Exception], repository: Repository) -> str:
    """The folder of the files that there are; empty if there are none."""
    from os.path import dirname

    with suppress(missing):
        # downloads ask again and again where nobody answers; this asks once
        library.get_hf_file_metadata(library.hf_hub_url(repository.id, FILES[0], revision=repository.revision))
    folder = ""
    for file in FILES:
        with suppress(missing):
            settings = {"revision": repository.revision, "cache_dir": cache_folder()}
            folder = dirname(library.hf_hub_download(repository.id, file, **settings))
    return folder


@contextmanager
def _quiet(tools: Any) -> Iterator[None]:
    """The Hub's library without its log and its bars: what goes wrong is one line."""
    level, bars = tools.logging.get_verbosity(), tools.are_progress_bars_disabled()
    tools.logging.set_verbosity(100)
    if not bars:
        tools.disable_progress_bars()
    try:
        yield
    finally:
        tools.logging.set_verbosity(level)
        if not bars:
            tools.enable_progress_bars()


def _reason(errors: Any, error: Exception, repository: Repository) -> str:
    """Why a download failed, and what to do."""
    otherwise = "or give the path of its config.json"
    if isinstance(error, errors.GatedRepoError):
        return f"is gated: accept its terms on its page, then run `hf auth login` or set HF_TOKEN, {otherwise}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {shown(repository.revision)} on the Hub; leave it out, {otherwise}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"is not on the Hub, or private: look at its spelling, set HF_TOKEN, {otherwise}"
    if isinstance(error, errors.HFValidationError):
        return f"is no id of the Hub; write it as org/Name, {otherwise}"
    if offline():
        return f"is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub; unset it, {otherwise}"
    return f"cannot be had from the Hub ({_cause(error)}); look at the connection and at HF_ENDPOINT, {otherwise}"


def offline() -> bool:
    """Whether the Hub's library is told to stay offline."""
    from os import environ

    return any(
        environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _cause(error: BaseException) -> str:
    """What went wrong at first, on one short line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."
