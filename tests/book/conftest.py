"""The book, built once on a clean copy of the tree, and the notebooks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pages() -> list[str]:
    """Every page that the table of contents names, without suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@cache
def parsed(path: Path) -> BeautifulSoup:
    """A built page. Whoever changes it changes it for all tests."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def english(html: Path) -> list[Path]:
    """The pages of the English tree; the Chinese one lies in it."""
    found = sorted(path for path in html.rglob("*.html") if not {"_static", "zh"} & set(path.relative_to(html).parts))
    assert found
    return found


def tree() -> list[Path]:
    """The files of the project, built and ignored ones left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        parts = {path: path.relative_to(ROOT).parts for path in ROOT.rglob("*")}
        built = {"node_modules", "_build", "__pycache__"}
        names = [Path(*part) for part in parts.values() if not part[0].startswith(".") and not built & set(part)]
    return [name for name in names if (ROOT / name).is_file()]


@dataclass(frozen=True)
class Build:
    """What `make book` does, and the folder of its site."""

    returncode: int
    log: str
    html: Path


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Both trees of the book, in an empty folder: a second build over a first one hides warnings."""
    folder = tmp_path_factory.mktemp("book")
    for name in tree():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    if (ROOT / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(ROOT / "node_modules")
    command = [sys.executable, "-m", "book.build"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Build(run.returncode, run.stdout + run.stderr, folder / "_build" / "html")


@pytest.fixture(scope="session")
def html(build: Build) -> Path:
    """The folder of the built site."""
    if build.returncode:
        pytest.fail("the book was not built; see test_build.py", pytrace=False)
    return build.html
