"""The registry, and estimates that explain themselves."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np
import pytest

import llmhw
from llmhw import units
from llmhw.formula import Estimate, Part, Term, formulas, term
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


def drawn(r: Random, parameters: Mapping[str, inspect.Parameter]) -> dict[str, float]:
    """Sizes from 1 to 300, small ones as often as large ones, some of them multiples of 8, and now and then nothing."""
    sizes = {name: r.choice([0, 1, 8, 64, *(round(300 ** r.random()) for _ in range(8))]) for name in parameters}
    return sizes | ({"acceptance": r.random()} if "acceptance" in sizes else {})  # a chance, raised to a power


class Branches:
    """Stands for `where`, `maximum` or `minimum`, and notes which side was taken at each place of the code."""

    def __init__(self, take: Callable[..., Any], first: Callable[..., Any]) -> None:
        self.take, self.first = take, first
        self.seen: dict[tuple[str, int], set[bool]] = {}

    def __call__(self, *values: Any) -> Any:
        caller = sys._getframe(1)
        if not any(isinstance(v, np.ndarray) for v in values) and 0 not in map(guards, values[:2]):
            place = (caller.f_code.co_name, caller.f_lasti)
            self.seen.setdefault(place, set()).add(bool(self.first(*values)))
        return self.take(*values)


def guards(value: Any) -> int:
    """0 of a constant that only keeps a division from failing."""
    return 0 if isinstance(value, float) and 0 < value < 1e-9 else 1


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_every_formula_takes_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line of code serves one answer and a search over millions: on both sides of every condition."""
    function, r = FORMULAS[name].function, Random(name)
    noted = {
        "where": Branches(units.where, lambda condition, *_: condition),
        "maximum": Branches(units.maximum, lambda a, b: a >= b),
        "minimum": Branches(units.minimum, lambda a, b: a <= b),
    }
    for used in noted.keys() & function.__globals__.keys():
        monkeypatch.setitem(function.__globals__, used, noted[used])
    parameters = inspect.signature(function).parameters
    optional = [key for key, p in parameters.items() if p.default is None]
    for left_out in itertools.product(*((False, True) for _ in optional)):
        given = {key: None for key, out in zip(optional, left_out, strict=True) if out}
        rows, told = [], []
        for _ in range(400):
            row = drawn(r, parameters)
            with contextlib.suppress(ArithmeticError):  # nothing may divide
                told.append(float(function(**row | given)))
                rows.append(row)
        arrays = {key: np.array([row[key] for row in rows]) for key in parameters}
        found = np.broadcast_to(function(**arrays | given), (len(rows),))
        assert len(rows) > 40
        assert found.tolist() == pytest.approx(told, nan_ok=True)
    for branch, noted_ in noted.items():
        assert [place for place, sides in noted_.seen.items() if len(sides) < 2] == [], branch


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


def _answers() -> list[Any]:
    """Numbers that are made by looking for terms of one kind; "labels" where a model's terms have several."""
    from llmhw.peak import step_peak
    from llmhw.training import memory
    from llmhw.validation.training_memory import frozen_layer_activations

    small = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16}
    small |= {"hidden_size": 64, "intermediate_size": 512, "head_dim": 16, "moe_intermediate_size": 32}
    found: list[Any] = []
    for kind in ("llama", "gpt2", "gemma2", "qwen3", "qwen3_moe", "mixtral", "opt", "cohere", "starcoder2"):
        spec = llmhw.ModelSpec.from_config(
            small
            | {"model_type": kind, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 4, "ffn_dim": 128}
        )
        sizes: dict[str, Any] = {"batch": 3, "seq_len": 1024}
        for recompute, precision in (("none", "bf16"), ("full", "bf16"), ("none", "fp32"), ("full", "fp32")):
            for attention in ("eager",) if kind == "gemma2" else ("eager", "flash"):
                options = {"recompute": recompute, "attention": attention, "precision": precision, "optimizer": "sgd"}
                peak = step_peak(spec, **options, **sizes)
                found += [peak.moment, peak.to_dict()]
        found += ["labels"] * (len({t.label for part in peak for t in part.terms}) > 1)
        found.append(llmhw.training_flops(spec, recompute="full", **sizes).to_dict())
        for kernels in ("torch", "megatron"):
            job = llmhw.TrainingJob(
                model=spec,
                cluster=llmhw.Cluster("h100", 2),
                parallelism=llmhw.Parallelism(tp=2),
                seq_len=1024,
                global_batch=1,
                attention="eager",
                kernels=kernels,
                compute="bf16" if kernels == "torch" else "fp8",
            )
            found.append(memory(job).to_dict())
        if kind != "gemma2":
            for inputs in (False, True):
                kept = frozen_layer_activations(spec, 0, **sizes, saves_inputs=inputs)
                found.append(kept)
    return found


def test_rewording_every_label_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _answers()
    monkeypatch.setattr("llmhw.formula.Term", lambda label, *rest: Term("one label for all", *rest))
    after = _answers()
    assert "labels" in before
    assert "labels" not in after
    assert [x for x in before if x != "labels"] == after


# -- whatever is put in -----------------------------------------------------------------------

ANY_NUMBERS = (0, 1, -1, 0.0, -0.5, 0.5, 1e-320, 1e30, 1e308, float("nan"), float("inf"), -float("inf"), 10**18, 10**30)
ANY_WRONG = (*ANY_NUMBERS, 10**5000, "7B", "", None, True, [1], {}, 1j, b"x", np.zeros(2), object())


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_no_numbers_break_an_explanation(name: str) -> None:
    """Each alone in the place of a sensible input, and in the place of all of them."""
    parameters = list(inspect.signature(FORMULAS[name].function).parameters)
    whole = dict.fromkeys(parameters, 1)
    random = Random(name)
    cases = [whole | {key: value} for key in parameters for value in ANY_WRONG]
    cases += [dict.fromkeys(parameters, value) for value in ANY_WRONG]
    cases += [{key: random.choice(ANY_NUMBERS) for key in parameters} for _ in range(100)]
    for numbers in cases:
        refusal = ""
        try:
            text = llmhw.explain(name, **numbers)
            assert not re.search(r"= -\d|\b(nan|inf)\b", text.splitlines()[-1]), text
            assert all(value >= 0 for value in numbers.values())
        except LLMHWError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert len(refusal) < 1000


def test_what_a_formula_refuses_is_said() -> None:
    def refusal(name: str, **numbers: Any) -> str:
        with pytest.raises(LLMHWError) as raised:
            llmhw.explain(name, **numbers)
        return str(raised.value)

    assert refusal("matmul_flops", tokens=-1, weights=5) == "tokens=-1 must be a number of at least 0"
    assert refusal("tokens_per_verification", acceptance=1e308, drafted=2).startswith(
        "acceptance=1e+308 must be a number"
    )
    assert refusal("tokens_per_verification", acceptance=2, drafted=2).endswith("of at least 0 and at most 1")
    assert refusal("tokens_per_verification", acceptance=1, drafted=1).endswith("give numbers that go together")
    zero = refusal("utilization", flops=1, seconds=0, devices=1, peak_flops_per_second=1)
    assert zero.startswith("utilization(flops=1, seconds=0, devices=1, peak_flops_per_second=1) has no value (")
    assert refusal("cache_budget_bytes", budget=1, held=2) == (
        "cache_budget_bytes(budget=1, held=2) would be -1 bytes; give numbers that go together"
    )


@pytest.mark.parametrize("name", ["kv-cache", "kv_cache", "KV CACHE", "kv_cache_byte"])
def test_a_formula_that_is_not_known(name: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        llmhw.explain(name)
    assert str(raised.value).startswith(f"formula={name!r} is not known; did you mean kv_cache_bytes")
    assert f"? `llmhw explain` lists all {len(FORMULAS)}" in str(raised.value)


@pytest.mark.parametrize("name", ["", "x" * 10_000, None, 3, "\ud800", b"x"])
def test_what_is_no_name_of_a_formula(name: Any) -> None:
    with pytest.raises(LLMHWError, match="is not known"):
        llmhw.explain(name)
