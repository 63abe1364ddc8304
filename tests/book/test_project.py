"""The files around the code agree with each other."""

from __future__ import annotations

import json
import re
import tomllib

import yaml

import llmhw
from tests.book.conftest import ROOT, tree

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert llmhw.__version__ == PROJECT["version"] == citation["version"]
    assert f"## [{PROJECT['version']}]" in changelog


def test_one_address() -> None:
    wrong = []
    for name in tree():
        if name.suffix in {".md", ".toml", ".yml", ".cff", ".ipynb", ".py", ".bib"}:
            text = (ROOT / name).read_text(encoding="utf-8")
            owners = set(re.findall(r"github\.com/([\w-]+)/llmhw\b", text))
            wrong += [f"{name}: {owner}" for owner in owners - {"llmhw"}]
    assert not wrong


def test_every_pin_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert not [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not [line for line in pins if line.startswith("nvidia")], "the tests run on the CPU build of PyTorch"


def test_the_lock_file_names_no_host() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert not [name for name, entry in packages.items() if "resolved" in entry]
    assert all("integrity" in entry for name, entry in packages.items() if name)


def test_base_install_is_small() -> None:
    assert {re.split(r"[<>=]", name)[0] for name in PROJECT["dependencies"]} == {"numpy", "pandas"}


def test_the_floor_of_numpy_has_what_is_used() -> None:
    """Arrays know `__array_namespace__` since NumPy 2.0; pandas works with that from 2.2.2 on."""
    floors = dict(re.fullmatch(r"(\w+)>=([\d.]+)", name).groups() for name in PROJECT["dependencies"])  # type: ignore[union-attr]
    floor = {name: tuple(map(int, version.split("."))) for name, version in floors.items()}
    used = [str(p) for p in (ROOT / "llmhw").rglob("*.py") if "__array_namespace__" in p.read_text(encoding="utf-8")]
    assert floor["numpy"] >= (2, 0) or not used
    assert floor["numpy"] < (2, 0) or floor["pandas"] >= (2, 2, 2)
