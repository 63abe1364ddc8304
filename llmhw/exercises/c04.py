"""Exercises of chapter 4, memory in flight."""

from __future__ import annotations

from functools import cache

import llmhw
from llmhw.activations import activations, layer_activations
from llmhw.exercises.base import Exercise
from llmhw.peak import step_peak
from llmhw.units import GIB, MIB


def _layer(model: str, seq_len: int = 1024, **case: str) -> float:
    """Bytes that one layer keeps of a sequence."""
    return float(layer_activations(llmhw.model(model), 0, seq_len=seq_len, **case).total)


def _equal(model: str) -> float:
    """Tokens at which scores of eager attention weigh as much as the rest of a layer."""
    scores = 6 * llmhw.model(model).heads
    return (_layer(model, attention="eager") / 1024 - scores * 1024) / scores


def _again(model: str) -> float:
    """Percent of a layer's step that selective recompute runs again, by the appendix' own terms."""
    s, h = 2048, llmhw.model(model).hidden
    return 100 * 4 * s**2 * h / (72 * s * h**2 + 12 * s**2 * h)


@cache
def _recomputed(model: str, room: int, seq_len: int = 8192) -> int:
    """The fewest layers that must be recomputed so that activations take that many GiB."""
    spec = llmhw.model(model)
    for count in range(spec.num_layers + 1):
        mode = {"recompute": "block", "recompute_layers": count} if count else {}
        if activations(spec, seq_len=seq_len, **mode).total <= room * GIB:  # type: ignore[arg-type]
            return count
    return spec.num_layers


# Llama, as the chapter's last exercise builds it.
SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 1000, "hidden_size": 1024,
    "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4, "num_hidden_layers": 4,
    "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip


@cache
def _peak(batch: int, seq_len: int) -> float:
    return float(step_peak(llmhw.ModelSpec.from_config(SMALL), batch=batch, seq_len=seq_len).total) / MIB


EXERCISES = (
    Exercise(
        "4.1",
        "by hand",
        1,
        "How many bytes does a layer of {model} keep for a token, in bf16, plain PyTorch, flash attention?",
        unit="bytes",
        given={"model": ("llama-2-7b", "llama-3-8b", "llama-2-13b", "mistral-7b")},
        answer=lambda model: _layer(model) / 1024,
        slips={
            "norms in 16 bits: they keep their input in fp32": lambda model: (
                _layer(model) / 1024 - 4 * llmhw.model(model).hidden
            ),
            "without the output of the attention": lambda model: _layer(model) / 1024 - 2 * llmhw.model(model).hidden,
            "all layers": lambda model: llmhw.model(model).num_layers * _layer(model) / 1024,
        },
        hints=("20 h + 8 f + 4 a_kv d + 4 a + 8.",),
        tolerance=0.001,
    ),
    Exercise(
        "4.2",
        "derive",
        2,
        "From which sequence length on do the scores of eager attention outweigh the rest of a layer of {model}?",
        unit="tokens",
        given={"model": ("llama-3-8b", "llama-2-7b", "llama-3-70b")},
        answer=_equal,
        slips={
            "scores kept once, in 2 bytes": 3,
            "the fp32 copy alone, 4 bytes a score": 6 / 4,
            "one head, and each has its own matrix": lambda model: _equal(model) * llmhw.model(model).heads,
        },
        hints=("A token has a row of s scores in each head, 6 bytes a score.",),
    ),
    Exercise(
        "4.3",
        "find the mistake",
        1,
        "One layer of {model}, with Megatron-LM's kernels, 2,048 tokens: 34 sbh + 5 as²b. How many GiB?",
        unit="GiB",
        given={"model": ("gpt3-175b", "mt-nlg-530b", "megatron-gpt-22b")},
        answer=lambda model: _layer(model, 2048, kernels="megatron", attention="eager") / GIB,
        slips={
            "2 bytes an element once more: 34 and 5 are bytes": 2,
            "all layers": lambda model: (
                llmhw.model(model).num_layers * _layer(model, 2048, kernels="megatron", attention="eager") / GIB
            ),
        },
        hints=("What unit do the 34 and the 5 have?",),
    ),
    Exercise(
        "4.4",
        "find the mistake",
        3,
        "What runs again is 2bs²h for the scores and 2bs²h for the values: which share of the step of {model}?",
        unit="%",
        given={"model": ("gpt3-175b", "mt-nlg-530b", "megatron-gpt-22b")},
        answer=_again,
        slips={
            "the paper's own: three times what its text lists": 3,
            "the scores alone": 1 / 2,
        },
        hints=("Divide the two sums as they stand; s is 2,048, and h the model's hidden size.",),
        tolerance=0.03,
    ),
    Exercise(
        "4.5",
        "design",
        2,
        "{model}, one sequence of 8,192 tokens, {room} GiB for activations: how many layers must be recomputed?",
        unit="layers",
        given={"model": ("llama-3-8b", "llama-2-7b"), "room": (24, 16, 32, 40)},
        answer=_recomputed,
        slips={
            "the layers that are not recomputed": lambda model, room: (
                llmhw.model(model).num_layers - _recomputed(model, room)
            ),
        },
        hints=("A recomputed layer still keeps its input, 2 s h bytes.", "Do not forget the loss: it is no layer."),
        tolerance=0,
    ),
    Exercise(
        "4.6",
        "compute",
        2,
        "How many times the activations of a layer of {dense} does a layer of {sparse} keep, at 4,096 tokens?",
        unit="times",
        given={"dense": ("mistral-7b",), "sparse": ("mixtral-8x7b",)},
        answer=lambda dense, sparse: _layer(sparse, 4096) / _layer(dense, 4096),
        slips={
            "two experts, two of everything": lambda dense, sparse: 2.0,
            "all eight experts; a token visits two": lambda dense, sparse: 8.0,
            "the parameters": lambda dense, sparse: (
                llmhw.model(sparse).parameters.total / llmhw.model(dense).parameters.total
            ),
        },
        hints=("Norms and attention stay as they are.", "The rows of the tokens are copied, once for each expert."),
    ),
    Exercise(
        "4.7",
        "measure",
        3,
        "The small Llama with 4 layers of 1,024: the peak of a step of {batch} sequences of {seq_len:,} tokens?",
        unit="MiB",
        given={"batch": (4, 2, 8), "seq_len": (1024, 512, 2048)},
        answer=_peak,
        slips={
            "the first step, before the optimizer has states": lambda batch, seq_len: (
                _peak(batch, seq_len)
                - float(
                    sum(
                        part.value
                        for part in llmhw.training_states(llmhw.ModelSpec.from_config(SMALL), precision="bf16")
                        if part.name in ("momentum", "variance")
                    )
                )
                / MIB
            ),
            "one sequence": lambda batch, seq_len: _peak(1, seq_len),
        },
        hints=("Reset the statistics after the first step.", "torch.cuda.memory_reserved is another meter."),
        tolerance=0.12,
    ),
)
