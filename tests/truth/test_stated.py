"""README and book say how many cases are compared; these tests keep them honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmhw.families import FAMILIES
from tests.truth.cases import STACKED_EXPERTS, counts
from tests.truth.families import config_of, sized

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
    from llmhw.model import ModelSpec
    from tests.truth.families import published

    stacked = any(
        t.experts > 1
        for variant in (0, 1)
        for layer in ModelSpec.from_config(published(config_of(model_type, sized(model_type, variant)))).layers
        for t in layer.tensors
    )
    assert stacked == (model_type in STACKED_EXPERTS)


def test_readme_counts_the_catalog_and_the_layouts() -> None:
    import llmhw
    from tests.truth.test_distributed import FEW, MORE

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    catalog = f"{len(llmhw.models())} models, {len(llmhw.accelerators())} accelerators, "
    assert f"{catalog}{len(llmhw.number_formats())} number formats" in text
    layouts = len(FEW) + len(MORE)
    assert f"{layouts} layouts" in text
    page = " ".join((ROOT / "book/how-to-read.md").read_text(encoding="utf-8").split())
    assert f"the ranks of {layouts} parallel layouts" in page


def test_readme_shows_what_serve_and_simulate_say() -> None:
    from llmhw import Cluster, ServingJob, model, serve
    from llmhw.service import simulate_service

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), weights="fp8")
    shown = {row[0]: row for row in serve(job, input_tokens=1000, output_tokens=500).rows()}
    lines = text[text.index("$ llmhw serve") : text.index("$ llmhw simulate")].splitlines()
    found = [tuple(line.strip().split("  ")) for line in lines if line[:8].strip().isdigit()]
    assert len(found) == 4
    for line in found:
        assert tuple(cell.strip() for cell in line if cell.strip()) == shown[line[0]]
    played = {row[0]: row for row in simulate_service(job, rate=8).rows()}
    for name in ("time to first token", "time per token"):
        assert " ".join(played[name]) in " ".join(text.split())


def test_readme_states_the_error_of_published_memory() -> None:
    from llmhw.validation import validate

    found = validate(None, "training-memory")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"over {len(found.groups)} configurations ({len(found.rows)} rows of" in text
    assert f"median error is {100 * found.median_abs_error:.1f} %" in text
    assert f"90th percentile {100 * found.p90_abs_error:.1f} %" in text
