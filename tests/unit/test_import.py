"""What `import llmhw` may load, and the names it offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmhw

LOADED = "import sys, llmhw; print(*sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"


def test_import_loads_no_third_party_module() -> None:
    # -S: no site packages, so an editable install's own hooks do not count
    folder = llmhw.__path__[0].rpartition("llmhw")[0]
    code = f"import sys; sys.path.insert(0, {folder!r}); {LOADED}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__main__", "llmhw"]


def test_public_names() -> None:
    assert len(llmhw.__all__) <= 48, "the public surface fits on one screen"
    assert sorted(llmhw.__all__, key=lambda n: (not n[0].isupper(), n)) == llmhw.__all__
    for name in llmhw.__all__:
        found = getattr(llmhw, name)
        assert (found.__doc__ or "").strip(), f"{name} has a docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        llmhw.modle  # noqa: B018


@pytest.mark.parametrize("first", ["llmhw", "llmhw.search"])
def test_a_name_that_is_loaded_late_and_is_a_module_too_answers_as_the_function(first: str) -> None:
    """Importing a module sets the package's attribute of that name: the second call is the module's."""
    from importlib import import_module
    from importlib.util import find_spec

    both = [name for name in llmhw._LATER if find_spec(f"llmhw.{name}")]
    assert both == ["search"], "one name at most is worth the trouble"
    code = (
        f"import {first}, llmhw; "
        "job = llmhw.TrainingJob(model=llmhw.model('gpt2'), cluster=llmhw.Cluster('h100', 1), seq_len=1024); "
        "print(*[llmhw.search(job, best=1).to_dict() for _ in range(2)], sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    job = llmhw.TrainingJob(model=llmhw.model("gpt2"), cluster=llmhw.Cluster("h100", 1), seq_len=1024)
    function = import_module("llmhw.search").search
    assert done.stdout.splitlines() == 2 * [str(function(job, best=1).to_dict())]
