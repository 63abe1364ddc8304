"""Each notebook runs alone, in an empty folder, against the wheel that readers install."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.book.conftest import NOTEBOOKS, ROOT

pytestmark = pytest.mark.xdist_group("standalone")

RUN = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
proof = "import sys, llmhw; assert llmhw.__file__.startswith(sys.prefix), llmhw.__file__"
notebook.cells.append(nbformat.v4.new_code_cell(proof))
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
"""


def run(command: list[object], folder: Path) -> str:
    """The output of a command that must succeed; no PYTHONPATH, so that nothing leads back to the checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--wheel-dir", folder, ROOT], folder)
    (built,) = folder.glob("llmhw-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds the wheel.

    Its other packages are those of the environment that runs the tests. A path file lends them: Python does not follow
    the path files of a lent folder, so the editable install of the checkout stays invisible.
    """
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], folder)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    where = Path(run([python, "-c", "import llmhw; print(llmhw.__file__)"], folder).strip())
    assert where.is_relative_to(folder)
    return python


def test_the_wheel_carries_the_catalog(python: Path, tmp_path: Path) -> None:
    run([python, "-c", "import llmhw; assert llmhw.model('gpt2').parameters.total > 0"], tmp_path)


def test_the_command_starts(python: Path, tmp_path: Path) -> None:
    assert "llmhw" in run([python.with_name("llmhw"), "--help"], tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, python: Path, tmp_path: Path) -> None:
    copy = tmp_path.parent / path.name
    copy.write_bytes(path.read_bytes())
    run([python, "-c", RUN, copy], tmp_path)
    assert not list(tmp_path.iterdir()), "the notebook leaves files behind"
