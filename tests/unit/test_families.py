"""A new architecture is one entry of the table; everything else asks its tensors and its facts."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.activations import activations
from llmhw.families import FAMILIES, Body, Builder, Config, Family, Style, key_of
from llmhw.fit import fit
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.memory import lora_tensors
from llmhw.model import Attention, ModelSpec
from llmhw.peak import step_peak
from llmhw.units import LLMHWError

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def _toy(c: Config) -> Body:
    """Llama, with the names of nobody's modules."""
    a = Attention(c.heads, c.kv_heads, c.head_dim, c.head_dim)
    b = Builder()
    b.linear("mix.ask", "q", a.heads * a.head_dim, c.hidden)
    b.linear("mix.key", "k", a.kv_heads * a.head_dim, c.hidden)
    b.linear("mix.value", "v", a.kv_heads * a.head_dim, c.hidden)
    b.linear("mix.answer", "o", c.hidden, a.heads * a.head_dim)
    b.linear("think.open", "gate", c.intermediate, c.hidden)
    b.linear("think.wide", "up", c.intermediate, c.hidden)
    b.linear("think.narrow", "down", c.hidden, c.intermediate)
    b.norm("first", c.hidden, "norm_in")
    b.norm("second", c.hidden)
    outer = Builder()
    outer.plain("words.weight", "tokens", (c.vocab, c.hidden))
    outer.norm("last", c.hidden)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setitem(FAMILIES, "toy", Family(_toy, "Toy", synonyms=("toy_text",), style=Style()))
    return ModelSpec.from_config({**SIZES, "model_type": "toy"}, name="twin")


@pytest.fixture
def llama() -> ModelSpec:
    return ModelSpec.from_config({**SIZES, "model_type": "llama"}, name="twin")


def _training(spec: ModelSpec, **options: Any) -> TrainingJob:
    layout = Parallelism(dp=2, tp=2, pp=2, zero=1, sequence_parallel=True)
    return TrainingJob(model=spec, cluster=llmhw.Cluster("h100", 8), parallelism=layout, seq_len=128, **options)


def test_model(toy: ModelSpec, llama: ModelSpec) -> None:
    assert toy.parameters == llama.parameters
    assert ModelSpec.from_config({**SIZES, "model_type": "toy_text"}).parameters == llama.parameters
    assert llmhw.forward_flops(toy, seq_len=64).total == llmhw.forward_flops(llama, seq_len=64).total
    assert key_of("toy_text") == "toy"


def test_fit(toy: ModelSpec, llama: ModelSpec) -> None:
    formats = ("bf16", "fp8", "Q4_K_M")
    assert fit(toy, "h100", formats=formats).to_dict() == fit(llama, "h100", formats=formats).to_dict()


@pytest.mark.parametrize("kernels", ["torch", "megatron"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_memory(toy: ModelSpec, llama: ModelSpec, kernels: str, recompute: str) -> None:
    ours, theirs = (llmhw.training_memory(_training(s, kernels=kernels, recompute=recompute)) for s in (toy, llama))
    assert [stage.total for stage in ours.stages] == [stage.total for stage in theirs.stages]


@pytest.mark.parametrize("kernels", ["torch", "megatron"])
def test_train(toy: ModelSpec, llama: ModelSpec, kernels: str) -> None:
    assert (
        llmhw.train(_training(toy, kernels=kernels)).to_row() == llmhw.train(_training(llama, kernels=kernels)).to_row()
    )


def test_serve(toy: ModelSpec, llama: ModelSpec) -> None:
    def answer(spec: ModelSpec) -> dict[str, Any]:
        job = ServingJob(model=spec, cluster=llmhw.Cluster("h100", 2), tp=2, max_model_len=128)
        return llmhw.serve(job, input_tokens=64, output_tokens=32, concurrency=4).to_dict()

    # the two differ in what the model is called
    ours, theirs = (str(answer(spec)).replace("'toy'", "'llama'") for spec in (toy, llama))
    assert ours == theirs


def test_measure(toy: ModelSpec) -> None:
    """transformers builds what it knows; of anything else the module itself is measured."""
    pytest.importorskip("torch", reason="needs the extra torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmhw.measure import measure_flops, measure_params

    class ToyConfig(LlamaConfig):
        model_type = "toy"

    with pytest.raises(LLMHWError, match=r"model_type='toy' is not one that the installed transformers knows; pass a"):
        measure_params(toy)
    module = LlamaForCausalLM(ToyConfig(**SIZES))
    assert measure_params(module).ratio == 1
    assert measure_flops(module, seq_len=32).ratio == 1


def test_what_a_family_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a style PyTorch's op-by-op profile is missing: the formulas stand in for it, and the answers say so."""
    monkeypatch.setitem(FAMILIES, "toy", Family(_toy, "Toy"))
    spec = ModelSpec.from_config({**SIZES, "model_type": "toy"})
    formulas = (
        "activations are those of fused kernels, by the published formulas: how transformers computes Toy op by op"
    )
    for answer in (llmhw.training_memory(_training(spec, kernels="torch")), llmhw.train(_training(spec))):
        assert any(formulas in warning for warning in answer.warnings())
    case = {"batch": 2, "seq_len": 64, "precision": "bf16"}
    assert activations(spec, **case).total == activations(spec, kernels="megatron", **case).total
    with pytest.raises(LLMHWError, match="model='toy' has no profile of the moments of a step"):
        step_peak(spec, seq_len=64)
    assert llmhw.train(_training(spec, kernels="megatron")).to_row()["tokens_per_second"]
    with pytest.raises(LLMHWError, match=r"model_type='toi' is not supported.*the nearest are toy"):
        ModelSpec.from_config({**SIZES, "model_type": "toi"})


def test_facts_that_a_config_states() -> None:
    def spec(model_type: str, **keys: Any) -> ModelSpec:
        return ModelSpec.from_config({**SIZES, "model_type": model_type, **keys})

    assert spec("falcon").rotary == 1
    assert spec("falcon", alibi=True).rotary == 0
    assert spec("phi", partial_rotary_factor=0.4).rotary == 0.4
    assert spec("opt", ffn_dim=256).dropout
    assert not spec("opt", ffn_dim=256, dropout=0.0).dropout
    assert spec("starcoder2", residual_dropout=0.1).dropout
    assert not spec("starcoder2").dropout


def test_dropout_is_counted_where_the_model_was_trained_with_it() -> None:
    """BLOOM, GPT-J and GPT-Neo were not, by their published configs; GPT-2, StarCoder 1 and OPT were."""
    for name, trained in (("gpt2", 1), ("opt-125m", 1), ("bloom-560m", 0), ("gpt-j-6b", 0), ("gpt-neo-125m", 0)):
        spec = llmhw.model(name)
        found, stated, other = (
            activations(spec, seq_len=256, kernels="megatron", dropout=dropout).total
            for dropout in (None, bool(trained), not trained)
        )
        assert found == stated != other


def test_a_family_is_one_entry() -> None:
    """A spelling is of one family only, and the share that is turned is said once: not in the style, too."""
    spellings = [name for key, family in FAMILIES.items() for name in (key, *family.synonyms)]
    assert len(spellings) == len(set(spellings))
    assert all(family.style is None or family.style.rotary == Style().rotary for family in FAMILIES.values())


def test_adapters_have_the_sides_of_their_matrix() -> None:
    """GPT-2 stores (inputs, outputs); an adapter's first factor reads the inputs all the same."""
    spec = llmhw.model("gpt2")
    added = {t.name: (t.shape, t.split) for t, _ in lora_tensors(spec, rank=4, targets=["c_attn", "c_proj"])}
    assert added["attn.c_attn.lora_A.weight"] == ((4, 768), "whole")
    assert added["attn.c_attn.lora_B.weight"] == ((3 * 768, 4), "column")
    assert added["mlp.c_proj.lora_A.weight"] == ((4, 4 * 768), "row")
    assert added["mlp.c_proj.lora_B.weight"] == ((768, 4), "whole")
