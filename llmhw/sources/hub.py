"""Ids of the Hugging Face Hub: the local cache, with the standard library; the Hub itself, with its own library."""

from __future__ import annotations

from dataclasses import dataclass

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
        from huggingface_hub import errors
    except ImportError:
        raise LLMHWError(
            f"{what} cannot be asked for: hub=True needs huggingface_hub; pip install 'llmhw[hub]'"
        ) from None
    from os.path import dirname

    given = "give the path of its config.json"
    found = ""
    try:
        for file in FILES:
            try:
                found = dirname(
                    library.hf_hub_download(repository.id, file, revision=repository.revision, cache_dir=cache_folder())
                )
            except errors.RemoteEntryNotFoundError:
                continue  # of this name it has none
    except errors.GatedRepoError:
        reason = "is gated: accept its terms on its page, then run `hf auth login` or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = f"has no revision {repository.revision!r} on the Hub; leave it out, or look on its page"
    except errors.RepositoryNotFoundError:
        reason = "is not on the Hub, or private: look at its spelling, or set HF_TOKEN"
    except errors.LocalEntryNotFoundError as error:
        if offline():
            reason = "is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub; unset it"
        else:
            reason = f"cannot be asked for: the Hub is out of reach ({_cause(error)}); look at the connection"
    except errors.HFValidationError:
        reason = "is no id of the Hub; write it as org/Name"
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"cannot be asked for ({_cause(error)})"
    else:
        if not found:
            raise LLMHWError(f"{what} is on the Hub, but has no config.json; {given}, or of its base model")
        return found
    raise LLMHWError(f"{what} {reason}, or {given}")


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
