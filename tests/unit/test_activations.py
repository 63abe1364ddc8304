"""Activations: the published formulas, what sharding does to them, and clear refusals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw.activations import activations, layer_activations
from llmhw.families import FAMILIES
from llmhw.model import ModelSpec, model
from llmhw.units import LLMHWError


def gpt(heads: int, hidden: int, layers: int = 1, vocab: int = 51200) -> ModelSpec:
    """A GPT as in Korthikanti et al. 2022: feed-forward of 4 x hidden, dropout, LayerNorm."""
    config = {"model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers, "vocab_size": vocab}
    return ModelSpec.from_config(config | {"n_positions": 2048})


def megatron(spec: ModelSpec, **options: Any) -> Any:
    return layer_activations(spec, 0, kernels="megatron", **({"attention": "eager"} | options)).total


# -- Korthikanti et al. 2022, table 2: 22B, 175B (GPT-3), 530B (MT-NLG), 1T ------------------------

SIZES = {"22B": (64, 6144, 4), "175B": (96, 12288, 1), "530B": (128, 20480, 1), "1T": (160, 25600, 1)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("t", [1, 2, 4, 8])
def test_published_layer_formulas(name: str, t: int) -> None:
    a, h, b = SIZES[name]
    s, spec = 2048, gpt(a, h)
    # fractions: the published divisions do not all come out even
    sbh, scores = s * b * h, Fraction(5 * a * s, h)
    job: dict[str, Any] = {"batch": b, "seq_len": s, "tp": t}
    assert megatron(spec, batch=b, seq_len=s) == sbh * (34 + scores)
    assert megatron(spec, **job) == sbh * (10 + Fraction(24, t) + scores / t)
    assert megatron(spec, **job, sequence_parallel=True) == sbh * (34 + scores) / t
    assert megatron(spec, **job, recompute="selective") == sbh * (10 + Fraction(24, t))
    assert megatron(spec, **job, recompute="selective", sequence_parallel=True) == sbh * Fraction(34, t)
    assert megatron(spec, **job, recompute="full") == sbh * 2


def test_published_total_of_the_first_stage() -> None:
    """Equation 5 with its extra terms for p = 1: s b h L / t (34 + 5 a s / h + 4 / L (1 + v / h)) + s b h / t."""
    s, b, h, a, v, layers, t = 2048, 4, 6144, 64, 51200, 48, 8
    spec = gpt(a, h, layers, v)
    found = activations(
        spec, batch=b, seq_len=s, attention="eager", kernels="megatron", tp=t, sequence_parallel=True
    ).total
    sbh, scores = Fraction(s * b * h, t), Fraction(5 * a * s, h)
    assert found == sbh * layers * (34 + scores) + 4 * sbh * (1 + Fraction(v, h)) + sbh


def test_published_total_of_full_recompute() -> None:
    spec = gpt(64, 6144, 48)
    options: dict[str, Any] = {"batch": 4, "seq_len": 2048, "kernels": "megatron", "dropout": False, "head": False}
    found = activations(spec, recompute="full", **options)
    assert found.total == 2 * 4 * 2048 * 6144 * 48


def test_selective_recompute_of_gpt_3_saves_70_per_cent() -> None:
    """Section 5: the attention core is 70 % of GPT-3's activations, 65 % of MT-NLG's."""
    for name, published in (("175B", 70), ("530B", 65)):
        a, h, b = SIZES[name]
        spec = gpt(a, h)
        all_of_it = megatron(spec, batch=b, seq_len=2048)
        kept = megatron(spec, batch=b, seq_len=2048, recompute="selective")
        assert round(100 * (1 - kept / all_of_it)) == published


# -- where other models differ --------------------------------------------------------------------


def test_llama_by_hand() -> None:
    """Norms 4, qkv input 2, q 2, k and v 2 x 2/4, output projection 2, MLP 2 and 6 f/h; no dropout: in s b h."""
    spec = model("llama-3-8b")
    s, h, f = 4096, 4096, 14336
    found = layer_activations(spec, 0, seq_len=s, kernels="megatron")
    assert found.total == s * h * (4 + 2 + 2 + 1 + 2 + 2) + 6 * s * f + 4 * 32 * s
    assert layer_activations(spec, 0, seq_len=s, kernels="megatron", dropout=True).total == found.total + 2 * s * h


def test_experts_hold_what_is_routed_to_them() -> None:
    spec = model("mixtral-8x7b")
    even = layer_activations(spec, 0, seq_len=1024, kernels="megatron")
    busy = layer_activations(spec, 0, seq_len=1024, kernels="megatron", imbalance=1.5)
    assert busy["experts"] == 1.5 * even["experts"]
    assert even["experts"] == 2 * 1024 * 2 * (4096 + 3 * 14336 + 4096)
    split = layer_activations(spec, 0, seq_len=1024, kernels="megatron", expert_tp=2)
    assert split["experts"] == 2 * 1024 * 2 * (2 * 4096 + 3 * 14336 + 2 * 4096)


def test_latent_attention_keeps_its_low_rank_results() -> None:
    names = [
        t.label for t in layer_activations(model("deepseek-v3"), 3, seq_len=64, kernels="megatron").part("qkv").terms
    ]
    assert "result of kv_a_proj_with_mqa, before and after its norm" in names


# -- what sharding and recompute do ---------------------------------------------------------------

LAYOUTS = st.fixed_dictionaries(
    {
        "kernels": st.sampled_from(["torch", "megatron"]),
        "attention": st.sampled_from(["flash", "eager"]),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "sequence_parallel": st.booleans(),
    }
)
NAMES = st.sampled_from(["llama-3-8b", "gpt2-xl", "qwen3-8b", "mixtral-8x7b", "olmo-2-7b", "phi-2"])


@settings(max_examples=60, deadline=None)
@given(name=NAMES, layout=LAYOUTS, tp=st.sampled_from([1, 2, 4]), cp=st.sampled_from([1, 2]))
def test_more_ranks_never_hold_more(name: str, layout: dict[str, Any], tp: int, cp: int) -> None:
    spec = model(name)
    here = activations(spec, seq_len=512, tp=tp, cp=cp, **layout).total
    assert activations(spec, seq_len=512, tp=2 * tp, cp=cp, **layout).total <= here
    assert activations(spec, seq_len=512, tp=tp, cp=2 * cp, **layout).total <= here


@settings(max_examples=30, deadline=None)
@given(name=NAMES, layout=LAYOUTS, batch=st.integers(1, 4))
def test_stages_add_up_to_the_model(name: str, layout: dict[str, Any], batch: int) -> None:
    spec = model(name)
    half = spec.num_layers // 2
    whole = activations(spec, batch=batch, seq_len=256, **layout)
    first = activations(spec, batch=batch, seq_len=256, layers=range(half), head=False, **layout)
    last = activations(spec, batch=batch, seq_len=256, layers=range(half, spec.num_layers), embedding=False, **layout)
    # rotary tables, masks and positions lie on both stages
    twice = first.total + last.total - whole.total
    tables = [t for part in first for t in part.terms if "table" in t.label or "mask" in t.label or "ids" in t.label]
    assert 0 <= twice <= sum(t.value for t in tables)
    if layout["kernels"] == "megatron":
        assert twice == 0


@pytest.mark.parametrize("kernels", ["torch", "megatron"])
def test_block_recompute_lies_between(kernels: str) -> None:
    spec = model("llama-3-8b")
    totals = [
        activations(spec, seq_len=512, kernels=kernels, recompute="block", recompute_layers=n).total
        for n in (1, 16, 32)
    ]
    none, full = (activations(spec, seq_len=512, kernels=kernels, recompute=r).total for r in ("none", "full"))
    assert none > totals[0] > totals[1] > totals[2] == full


def test_unfused_attention_grows_with_the_square() -> None:
    spec = model("llama-3-8b")
    one, two = (layer_activations(spec, 0, seq_len=s, attention="eager") for s in (1024, 2048))
    scores = [t.value for t in one.part("attention").terms if t.formula == "score_matrix_bytes"]
    assert [t.value for t in two.part("attention").terms if t.formula == "score_matrix_bytes"] == [
        4 * v for v in scores
    ]


def test_a_window_costs_a_mask_and_copies_under_sdpa() -> None:
    """Within the window the kernel masks by itself; beyond it transformers hands over a mask."""
    spec = model("mistral-7b")
    inside, beyond = (layer_activations(spec, 0, seq_len=s)["attention"] / s for s in (4095, 8192))
    assert beyond > inside


def test_every_number_explains_itself() -> None:
    text = activations(model("llama-3-8b"), seq_len=4096).explain("activation function")
    assert "32 x saved_bytes(batch=1, seq_len=4096, width=14336, bytes_per_element=2)" in text
    assert "input of silu" in text


# -- refusals -------------------------------------------------------------------------------------


def test_refusals_name_the_way_out() -> None:
    llama = model("llama-3-8b")
    with pytest.raises(LLMHWError, match=r"attention='flash': transformers does not run model_type='gemma2' with SDPA"):
        activations(model("gemma-2-9b"), seq_len=64, attention="flash")
    with pytest.raises(LLMHWError, match=r"attention of model_type='bloom' cannot be run again by itself"):
        activations(model("bloom-560m"), seq_len=64, attention="eager", recompute="selective")
    with pytest.raises(LLMHWError, match=r"recompute='selectiv' is not known; did you mean selective"):
        activations(llama, seq_len=64, recompute="selectiv")
    with pytest.raises(LLMHWError, match=r"recompute_layers=33 must be between 1 and the 32 layers"):
        activations(llama, seq_len=64, recompute="block", recompute_layers=33)
    with pytest.raises(LLMHWError, match=r"precision='bf17' is not known; did you mean bf16"):
        activations(llama, seq_len=64, precision="bf17")
    with pytest.raises(LLMHWError, match=r"layers=32 must be a whole number of at least 0 and at most 31"):
        activations(llama, seq_len=64, layers=[32])
    with pytest.raises(LLMHWError, match=r"layer=32 is not one of the 32 layers"):
        layer_activations(llama, 32, seq_len=64)
    with pytest.raises(LLMHWError, match=r"imbalance=0.5 is the busiest rank's load over the mean; use 1 or more"):
        activations(llama, seq_len=64, kernels="megatron", imbalance=0.5)


def test_the_profile_covers_most_of_the_catalog() -> None:
    assert sum(family.style is not None for family in FAMILIES.values()) >= 30
