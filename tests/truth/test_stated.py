"""README and book say how many cases are compared; these tests keep them honest."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from llmhw.families import ENCODERS, FAMILIES, REMOTE
from llmhw.families.wrappers import WRAPPERS
from tests.truth.cases import FLOPS_FAMILIES, STACKED_EXPERTS, counts
from tests.truth.families import has_experts, sized
from tests.unit.command import run
from tests.unit.stated import published

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "book/how-to-read.md"])
def test_stated_counts(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for quantity, cases in counts().items():
        assert f"{cases:,}" in text, f"{page} must say that {cases:,} cases of {quantity} are compared"
    assert f"{len(FAMILIES)} families" in text


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_which_families_stack_experts(model_type: str) -> None:
    """Muon is left out only where experts are stacked, so the count above is the count that runs."""
    assert all(
        has_experts(model_type, sized(model_type, variant)) == (model_type in STACKED_EXPERTS) for variant in (0, 1)
    )


def test_readme_counts_the_catalog_and_the_layouts() -> None:
    import llmhw
    from tests.truth.test_distributed import FEW, MORE

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    catalog = f"{len(llmhw.models())} models, {len(llmhw.accelerators())} accelerators, "
    assert f"{catalog}{len(llmhw.number_formats())} number formats" in text
    read = len(FAMILIES) + len(ENCODERS) + len(REMOTE)
    assert f"architectures that are read, {read} families" in text
    assert f"{len(WRAPPERS)} wrappers" in text
    assert f"{len(FLOPS_FAMILIES)} of the {len(FAMILIES)} families" in text
    layouts = len(FEW) + len(MORE)
    assert f"{layouts} layouts" in text
    page = " ".join((ROOT / "book/how-to-read.md").read_text(encoding="utf-8").split())
    assert f"the ranks of {layouts} parallel layouts" in page


def test_readme_shows_what_the_command_prints() -> None:
    """Each line below a command is one of the lines that it prints; blanks may be fewer where columns were left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = 0
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for session in block.split("$ llmhw ")[1:]:
            line, *lines = session.splitlines()
            done = run(*shlex.split(line))
            assert (done.returncode, done.stderr) == (0, ""), line
            printed = {" ".join(printed.split()) for printed in done.stdout.splitlines()}
            assert [told for told in lines if told.strip() and " ".join(told.split()) not in printed] == [], line
            shown += len(lines)
    assert shown > 20


def test_readme_runs_as_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library part shows runs, and gives what its comments say of it."""
    for extra in ("matplotlib", "torch"):
        pytest.importorskip(extra)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tmp_path / "step.svg").stat().st_size
    said = dict(re.findall(r'^(\S.*?) +# "?(\d[\d.]*|Fits.*?)(?:: |\.\.\.|"|$)', code, re.MULTILINE))
    assert len(said) == 5
    for expression, value in said.items():
        found = eval(expression, names)
        assert (
            found.startswith(value) if isinstance(found, str) else f"{found:.{len(value.partition('.')[2])}f}" == value
        )


def test_readme_states_the_error_of_published_memory() -> None:
    from llmhw.catalog import read_calibration
    from llmhw.validation import verdicts

    found = published("training-memory")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"over {len(found.groups)} configurations ({len(found.rows)} rows of" in text
    assert f"median error is {100 * found.median_abs_error:.1f} %" in text
    assert f"90th percentile {100 * found.p90_abs_error:.1f} %" in text
    stated = {name: read_calibration("training_memory")["residuals"][name] for name in ("all", "something assumed")}
    ends = ("median_abs_error", "p90_abs_error")
    told = {name: [f"{100 * errors[end]:.1f} %" for end in ends] for name, errors in stated.items()}
    assert f"({stated['all']['configurations']} configurations) it is {' and '.join(told['all'])}" in text
    assert f"had to be assumed, {' and '.join(told['something assumed'])}" in text
    judged = verdicts()
    assert f"Of {len(judged)} published verdicts" in text
    assert f"{sum(one.right for one in judged)} are right" in text


def test_the_architecture_of_contributing_is_in_the_tree() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"in `([\w/]+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [path for path, _ in shown] == ["llmhw/families/llamas.py", "tests/truth/variants/llamas.py"]
    for path, code in shown:
        held = (ROOT / path).read_text(encoding="utf-8")
        assert [part for part in code.split("\n\n") if part.rstrip() not in held] == []


def test_readme_states_the_error_of_published_checkpoints() -> None:
    from statistics import median

    from llmhw.catalog import read_table
    from tests.unit.test_quantization import published

    sizes = [published(row) for row in read_table("checkpoint_sizes") if row["use"] == "truth"]
    errors = [100 * abs(mine / theirs - 1) for mine, theirs in sizes]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"over {len(errors)} other checkpoints, in the forms above, {median(errors):.2f} % and {max(errors):.2f} %"
        in text
    )
