"""Ids of the Hub: the local cache, and a server on loopback in the Hub's place, which its own library asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import llmhw
from llmhw.catalog import read_model
from llmhw.sources.hub import repository_of
from llmhw.units import LLMHWError
from tests.unit.command import refused, run
from tests.unit.configs import TINY

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def keep(cache: Path, name: str, files: dict[str, Any], commit: str = COMMIT, ref: str = "main") -> Path:
    """A repository in the cache, as the Hub's library lays it out."""
    root = cache / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    for file, data in files.items():
        (root / "blobs").mkdir(exist_ok=True)
        blob = root / "blobs" / f"{commit[:6]}{file}"
        blob.write_text(json.dumps(data), encoding="utf-8")
        (folder / file).symlink_to(blob)
    if ref:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit, encoding="utf-8")
    return root


# -- what a text names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("org/Name", "org/Name", None),
        ("gpt2", "gpt2", None),
        ("org/Name-1.5_b@v1.0", "org/Name-1.5_b", "v1.0"),
        ("org/Name@main", "org/Name", None),
        ("hf://org/Name", "org/Name", None),
        ("hf://models/org/Name@abc1234", "org/Name", "abc1234"),
        ("https://huggingface.co/org/Name", "org/Name", None),
        ("https://huggingface.co/org/Name/", "org/Name", None),
        ("https://huggingface.co/org/Name/tree/main", "org/Name", None),
        ("https://huggingface.co/org/Name/blob/v2/config.json", "org/Name", "v2"),
        ("https://huggingface.co/org/Name/resolve/main/config.json?download=true", "org/Name", None),
        ("http://hf.co/gpt2", "gpt2", None),
    ],
)
def test_ids_and_addresses(text: str, name: str, revision: str | None) -> None:
    found = repository_of(text)
    assert found is not None
    assert (found.id, found.revision, found.stated) == (name, revision, "://" in text)


@pytest.mark.parametrize(
    "text", ["a/b/c", "org/", "/etc/passwd", "../org", "org/Na me", "org/../x", "-", "", "a b", "x" * 300]
)
def test_what_is_no_id(text: str) -> None:
    assert repository_of(text) is None


@pytest.mark.parametrize(
    "text", ["https://example.org/org/Name", "ftp://huggingface.co/org/Name", "https://huggingface.co/", "hf://a/b/c"]
)
def test_addresses_of_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(LLMHWError, match=r"is no address|names no model of the Hub"):
        llmhw.model(text)


def test_an_address_of_a_model_of_the_catalog() -> None:
    """The catalog comes first: nothing is looked for."""
    assert llmhw.model("https://huggingface.co/meta-llama/Meta-Llama-3-70B") == llmhw.model("llama-3-70b")
    assert llmhw.model("hf://meta-llama/Meta-Llama-3-70B").name == "llama-3-70b"


def test_a_name_of_the_catalog_never_looks_at_the_disk() -> None:
    code = """
import sys
import llmhw
llmhw.model("gpt2")  # reads the catalog's index
seen = []
sys.addaudithook(lambda event, args: seen.append(args[0]) if event in ("open", "os.listdir", "os.scandir") else None)
llmhw.model("llama-3-8b")
llmhw.model("meta-llama/Meta-Llama-3-8B")
print([str(path) for path in seen if "catalog" not in str(path) and not str(path).endswith((".py", ".pyc"))])
print([name for name in sys.modules if name.startswith("llmhw.sources")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


# -- the cache --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def test_the_cache_is_read(cache: Path) -> None:
    keep(cache, "org/Tiny", {"config.json": TINY})
    for text in ("org/Tiny", "https://huggingface.co/org/Tiny", "hf://org/Tiny", "org/Tiny@main", f"org/Tiny@{COMMIT}"):
        spec = llmhw.model(text)
        assert (spec.name, spec.hidden) == ("Tiny", 64)
    assert run("model", "org/Tiny", "--quiet").returncode == 0
    assert llmhw.model(cache / "models--org--Tiny").name == "Tiny"


def test_main_comes_before_others_and_a_revision_before_main(cache: Path) -> None:
    keep(cache, "org/Tiny", {"config.json": TINY | {"num_hidden_layers": 3}}, commit="b" * 40, ref="v2")
    keep(cache, "org/Tiny", {"config.json": TINY})
    assert llmhw.model("org/Tiny").num_layers == 2
    assert llmhw.model("org/Tiny@v2").num_layers == 3
    assert llmhw.model("org/Tiny@bbbbbbb").num_layers == 3
    with pytest.raises(LLMHWError, match="neither in the catalog nor in the Hugging Face cache here"):
        llmhw.model("org/Tiny@v3")


def test_what_lies_beside_a_config_in_the_cache(cache: Path) -> None:
    quantized = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    keep(cache, "org/Tiny-FP8", {"config.json": TINY, "hf_quant_config.json": quantized})
    spec = llmhw.model("org/Tiny-FP8")
    assert spec.quantization == "modelopt"
    assert spec.config["quantization_config"]["quantization"]["quant_algo"] == "FP8"


def test_an_id_in_the_cache_is_itself_and_not_what_the_catalog_recognizes_in_it(cache: Path) -> None:
    assert llmhw.model("maker/Meta-Llama-3-8B-Instruct-bnb-4bit").name == "llama-3-8b"
    keep(cache, "mine/Meta-Llama-3-8B-Instruct-bnb-4bit", {"config.json": TINY})
    assert llmhw.model("mine/Meta-Llama-3-8B-Instruct-bnb-4bit").hidden == 64
    keep(cache, "meta-llama/Meta-Llama-3-8B", {"config.json": TINY})
    assert llmhw.model("meta-llama/Meta-Llama-3-8B").hidden == 4096, "an id of the catalog"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "one"}, "one"),
        ({"HUGGINGFACE_HUB_CACHE": "two"}, "two"),
        ({"HF_HOME": "three"}, "three/hub"),
        ({"XDG_CACHE_HOME": "four"}, "four/huggingface/hub"),
        ({"HOME": "five"}, "five/.cache/huggingface/hub"),
    ],
)
def test_the_cache_lies_where_the_hubs_library_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    keep(tmp_path / folder, "org/Tiny", {"config.json": TINY})
    assert llmhw.model("org/Tiny").hidden == 64
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / folder


def test_an_unknown_id_is_one_line_with_the_ways_out(cache: Path) -> None:
    line = refused("model", "org/Llama-3.1-8B-Mine")
    assert "neither in the catalog nor in the Hugging Face cache here" in line
    assert "--hub asks the Hub for its config.json, or give the path of one" in line
    assert "the nearest names of the catalog are llama-3.1-8b" in line
    line = refused("fit", "org/Nothing", "--gpu", "h100")
    assert "--hub asks the Hub" in line


# -- the Hub ----------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: files of a repository, and why there are none."""

    asked: ClassVar[list[tuple[str, str]]] = []
    repositories: ClassVar[dict[str, dict[str, Any]]] = {
        "org/Tiny": {"config.json": TINY},
        "org/Opt": {"config.json": TINY, "hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}},
        "org/Native": {"params.json": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 100}},
        "org/Empty": {"README.md": {}},
    }

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        type(self).asked.append((self.path, self.headers.get("authorization", "")))
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repository = self.repositories.get(f"{owner}/{name}")
        status, code = 200, ""
        if name == "Gated" and not self.headers.get("authorization"):
            status, code = 401, "GatedRepo"
        elif name == "Broken":
            status = 500
        elif repository is None and name != "Gated":
            status, code = 401, "RepoNotFound"
        elif revision not in ("main", "v2"):
            status, code = 404, "RevisionNotFound"
        elif file not in (repository or {"config.json": TINY}):
            status, code = 404, "EntryNotFound"
        body = json.dumps((repository or {"config.json": TINY})[file]).encode() if status == 200 else b""
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{name}-{file}"')
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(cache: Path, lines: list[list[str]], **environment: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of these lines, in one process: the library of the Hub reads its settings once."""
    code = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from llmhw.cli import main
done = []
for line in {lines!r}:
    sys.argv = ["llmhw", *line]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            done.append((end.code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    settings = {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=kept | settings,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [tuple(one) for one in json.loads(done.stdout)]


def test_files_are_downloaded_when_asked_for(cache: Path, endpoint: str) -> None:
    lines = [
        ["model", "org/Tiny", "--quiet"],
        ["model", "org/Tiny", "--quiet", "--hub"],
        ["model", "org/Tiny", "--quiet"],
        ["fit", "org/Native,org/Opt", "--hub", "--gpu", "h100", "--seq-len", "64"],
        ["model", f"{endpoint}/org/Tiny@v2", "--quiet", "--hub"],
        ["model", "llama-3-8b", "--quiet", "--hub"],
        ["model", "org/Gated", "--quiet", "--hub"],
    ]
    Hub.asked.clear()
    done = ask(cache, lines, HF_ENDPOINT=endpoint, HF_TOKEN="hf_secret")
    assert [code for code, _, _ in done] == [2, 0, 0, 0, 0, 0, 0], done
    assert "--hub asks the Hub" in done[0][2]
    assert done[1][1] == done[2][1]
    assert (cache / "models--org--Opt" / "snapshots" / COMMIT / "hf_quant_config.json").is_file()
    assert not any("llama-3-8b" in path.lower() for path, _ in Hub.asked)
    assert {token for path, token in Hub.asked if "Gated" in path} == {"Bearer hf_secret"}
    assert not any("safetensors" in path and "index" not in path for path, _ in Hub.asked), "no weights"


def test_what_the_hub_has_not_is_one_line(cache: Path, endpoint: str) -> None:
    names = ["org/Gated", "org/Missing", "org/Tiny@v9", "org/Empty", "org/Broken"]
    done = ask(cache, [["model", name, "--hub"] for name in names], HF_ENDPOINT=endpoint)
    said = [
        "is gated: accept its terms on its page, then run `hf auth login` or set HF_TOKEN, or give the path",
        "is not on the Hub, or private: look at its spelling, set HF_TOKEN, or give the path of its config.json",
        "has no revision 'v9' on the Hub; leave it out, or give the path of its config.json",
        "is on the Hub, but has no config.json; give its base model, or the path of a config.json",
        "cannot be had from the Hub (",
    ]
    for (code, out, err), message in zip(done, said, strict=True):
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1, err


def test_offline_and_out_of_reach_are_one_line(cache: Path) -> None:
    ((code, _, err),) = ask(cache, [["model", "org/Tiny", "--hub"]], HF_HUB_OFFLINE="1")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub; unset it, or give the path" in err
    ((code, _, err),) = ask(cache, [["model", "org/Tiny", "--hub"]], HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be had from the Hub ([Errno 111] Connection refused); look at the connection" in err


def test_the_library_asks_too(cache: Path, endpoint: str) -> None:
    code = "import llmhw; print(llmhw.model('org/Tiny', hub=True).parameters.total)"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert done.stdout.strip() == str(llmhw.ModelSpec.from_config(TINY).parameters.total)


def test_without_the_hubs_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        LLMHWError, match=r"hub=True needs huggingface_hub; pip install 'llmhw\[hub\]', or give the path"
    ):
        llmhw.model("org/Tiny", hub=True)


def test_hub_is_a_flag() -> None:
    with pytest.raises(LLMHWError, match="hub=1 must be True or False"):
        llmhw.model("org/Tiny", hub=1)  # type: ignore[arg-type]
    assert read_model("gpt2")[0] == "gpt2"
