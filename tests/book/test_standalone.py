"""Each notebook runs once: alone, in an empty folder, without a network, against the wheel that readers install.

nbval executes it, its folded answers too, and compares every output with the committed one. `pytest --nbval notebooks`
does the same in place, without the answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

from book.run import with_answers
from tests.book.conftest import NOTEBOOKS, ROOT

# Two kernels that start at one moment may choose the same ports.
pytestmark = pytest.mark.xdist_group("kernels")

PROOF = "import sys, llmhw; assert llmhw.__file__.startswith(sys.prefix), llmhw.__file__"
# IPython runs it before the first cell. The kernel's own messages go through ZeroMQ, which raises no such events.
NO_NETWORK = """
import sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        raise PermissionError(f"{event}: a notebook needs no network")

sys.addaudithook(hook)
del hook, sys
"""


def run(command: list[object], folder: Path, **more: object) -> str:
    """The output of a command that must succeed; no PYTHONPATH, so that nothing leads back to the checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))}
    around = clean | {key: str(value) for key, value in more.items()}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=around, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def environment(folder: Path) -> Path:
    """The Python of a fresh environment that holds the wheel.

    Its other packages are those of the environment that runs the tests. A path file lends them: Python does not follow
    the path files of a lent folder, so the editable install of the checkout stays invisible.
    """
    folder.mkdir()
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT], folder)
    (wheel,) = folder.glob("llmhw-*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], folder)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    where = Path(run([python, "-c", "import llmhw; print(llmhw.__file__)"], folder).strip())
    assert where.is_relative_to(folder)
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "no_network.py").write_text(NO_NETWORK, encoding="utf-8")
    return python


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the worker that comes first; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environment"
    ready = folder / "bin" / "python"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "ipython").exists():
            assert environment(folder) == ready
    return ready


def test_the_wheel_carries_the_catalog(python: Path, tmp_path: Path) -> None:
    run([python, "-c", "import llmhw; assert llmhw.model('gpt2').parameters.total > 0"], tmp_path)


def test_the_command_starts(python: Path, tmp_path: Path) -> None:
    assert "llmhw" in run([python.with_name("llmhw"), "--help"], tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, python: Path, tmp_path: Path) -> None:
    notebook = with_answers(nbformat.read(path, as_version=4))
    notebook.cells.append(nbformat.v4.new_code_cell(PROOF))
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    pytest_ = [python, "-B", "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tmp_path, "-p", "no:cacheprovider"]
    nbval = ["-p", "nbval.plugin", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", 300]
    rules = ["--nbval-sanitize-with", ROOT / "tests" / "nbval_sanitize.cfg"]
    ipython = python.parents[1] / "ipython"
    run([*pytest_, *nbval, *rules, copy], tmp_path, IPYTHONDIR=ipython, PYTEST_DISABLE_PLUGIN_AUTOLOAD=1)
    assert list(tmp_path.iterdir()) == [copy], "the notebook leaves files behind"
