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


def test_serve_can_be_called_whichever_way_it_was_imported() -> None:
    """`serve` is a function, and the module that it is in."""
    from llmhw.serve import ServingEstimate, engine_for

    job = llmhw.ServingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 1))
    for _ in range(2):
        assert isinstance(llmhw.serve(job, input_tokens=100, output_tokens=10), ServingEstimate)
    assert engine_for(job).tp == 1
    code = "import llmhw; f = llmhw.serve; import llmhw.serve as g; print(callable(f), callable(g))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
