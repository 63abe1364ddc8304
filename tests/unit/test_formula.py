"""The registry, and estimates that explain themselves."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import llmhw
from llmhw.formula import Estimate, Part, formulas, term
from llmhw.memory import state_bytes
from llmhw.units import LLMHWError

FORMULAS = formulas()


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_every_formula_is_documented(name: str) -> None:
    formula = FORMULAS[name]
    doc = inspect.getdoc(formula.function) or ""
    assert formula.source, "a formula names its source"
    assert formula.unit, "a formula names its unit"
    assert ">>> " in doc, "a formula has an example, which runs as a doctest"
    assert formula.expression
    parameters = inspect.signature(formula.function).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters), "a formula takes keywords only"


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_every_formula_takes_arrays(name: str) -> None:
    """The same line of code serves one answer and a search over millions."""
    function = FORMULAS[name].function
    keys = list(inspect.signature(function).parameters)
    scalars = {key: 2 + i for i, key in enumerate(keys)}
    arrays = {key: np.array([value, value * 3], dtype=np.int64) for key, value in scalars.items()}
    tripled = {key: value * 3 for key, value in scalars.items()}
    result = np.broadcast_to(function(**arrays), (2,))
    assert result[0] == pytest.approx(function(**scalars))
    assert result[1] == pytest.approx(function(**tripled))


def estimate() -> Estimate:
    return Estimate(
        "states",
        "bytes",
        (
            Part("weights", (term(state_bytes, "w", elements=1000, bytes_per_element=2),)),
            Part("momentum", (term(state_bytes, "m", 2, elements=1000, bytes_per_element=4),), "two of them"),
        ),
    )


def test_parts_add_up() -> None:
    e = estimate()
    assert e.total == 2000 + 8000
    assert e["momentum"] == 8000
    assert e.to_dict() == {
        "title": "states",
        "unit": "bytes",
        "parts": {"weights": 2000.0, "momentum": 8000.0},
        "total": 10000.0,
    }
    frame = e.to_frame()
    assert frame.loc["total", "bytes"] == 10000
    assert frame["share"].iloc[:-1].sum() == pytest.approx(1)


def test_explain_puts_the_numbers_in() -> None:
    text = estimate().explain("momentum")
    assert "elements * bytes_per_element / shards" in text
    assert "1000 * 4 / 1 = 4000" in text
    assert "times 2 = 8000" in text
    assert "(two of them)" in text
    assert "weights" in estimate().explain()


def test_a_misspelt_part_suggests_the_nearest() -> None:
    with pytest.raises(LLMHWError, match=r"part='weight' is not known; did you mean weights\?"):
        estimate()["weight"]


def test_explain_by_name() -> None:
    assert "= 90.2 MFLOP" in llmhw.explain("matmul_flops", tokens=1, weights=4096 * 11008)
    assert "source: " in llmhw.explain("matmul_flops")
    with pytest.raises(LLMHWError, match="its arguments are tokens, weights"):
        llmhw.explain("matmul_flops", token=1)
    with pytest.raises(LLMHWError, match="did you mean matmul_flops"):
        llmhw.explain("matmul_flop")


def test_only_registered_formulas_make_terms() -> None:
    with pytest.raises(LLMHWError, match="not a registered formula"):
        term(lambda: 1)
