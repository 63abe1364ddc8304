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


def test_no_name_that_is_loaded_late_is_a_module_too() -> None:
    """Importing a module sets the package's attribute of that name, and would hide the function."""
    from importlib.util import find_spec

    assert not [name for name in llmhw._LATER if find_spec(f"llmhw.{name}")]
