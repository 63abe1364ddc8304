"""Exercises of chapter 2, memory at rest."""

from __future__ import annotations

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.memory import kv_cache_bytes
from llmhw.units import GIB, ceil_div

_CARDS = ("RTX 4090", "RTX A6000", "A100 40GB SXM4", "A10G", "H100", "L4", "A100 80GB SXM4", "H200 SXM5", "B200")
_RECIPES = {
    "8-bit AdamW in bf16": ("adamw-8bit", "bf16"),
    "mixed-precision AdamW": ("adamw", "bf16-mixed"),
    "mixed-precision Lion": ("lion", "bf16-mixed"),
}
_LATENT = ("deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "kimi-k2", "glm-4.7-flash", "moonlight-16b-a3b")


def _states(model: str, *parts: str) -> float:
    """Bytes of mixed-precision AdamW, or of some parts of it."""
    states = llmhw.training_states(llmhw.model(model))
    return float(sum(states[part] for part in parts) if parts else states.total)


def _cards(model: str, card: str, *parts: str) -> int:
    return int(ceil_div(_states(model, *parts), llmhw.accelerator(card).memory_bytes))


def _trainable(card: str, recipe: str) -> float:
    optimizer, precision = _RECIPES[recipe]
    spec = llmhw.model("llama-2-7b")
    each = llmhw.training_states(spec, optimizer=optimizer, precision=precision).total / spec.parameters.total
    return float(llmhw.accelerator(card).memory_bytes / each / 1e9)


def _ratio(model: str, values: bool = True) -> float:
    """Ordinary attention's cache over the latent one."""
    spec = llmhw.model(model)
    attention = spec.layers[0].attention
    assert attention is not None
    sizes = {"kv_heads": attention.heads, "head_dim": attention.head_dim}
    layer = kv_cache_bytes(
        batch=1, tokens=1, **sizes, v_head_dim=attention.v_head_dim if values else 0, bits_per_element=16
    )
    return float(spec.num_layers * layer / llmhw.kv_cache_bytes_per_token(spec))


def _measured(answer: float) -> str:
    if 4 <= answer < 4.01:
        return ""
    if 8 <= answer < 8.02:
        return "that is an fp32 parameter; make it bf16"
    return "sum numel() times element_size() of the tensors in optimizer.state, and divide by the parameters"


EXERCISES = (
    Exercise(
        "2.1",
        "compute",
        1,
        "The article says that the optimizer state of 70B is 840 GB. In which recipe is that right? How many {card} "
        "hold *all* states of {model} in it, if they can be split evenly over all that is usable?",
        unit="cards",
        given={
            "card": ("H100", "A100 40GB SXM4", "H200 SXM5"),
            "model": ("llama-3-70b", "llama-3.1-405b", "mistral-large-2407", "qwen2.5-72b"),
        },
        answer=lambda card, model: _cards(model, card),
        slips={
            "the optimizer alone; weights and gradients are states, too": lambda card, model: _cards(
                model, card, "master copy", "momentum", "variance"
            ),
            "no gradients": lambda card, model: _cards(model, card, "weights", "master copy", "momentum", "variance"),
        },
        hints=("Five numbers belong to each parameter.", "Bytes over bytes; only whole cards can be bought."),
        tolerance=0,
    ),
    Exercise(
        "2.2",
        "compute",
        1,
        "How many billion parameters can one {card} train with {recipe}, before activations? Guess first.",
        unit="billion",
        given={"card": _CARDS, "recipe": tuple(_RECIPES)},
        answer=_trainable,
        slips={
            "the optimizer alone": lambda card, recipe: (
                _trainable(card, recipe)
                * (lambda e: e.total / (e.total - e["weights"] - e["gradients"]))(
                    llmhw.training_states(
                        llmhw.model("llama-2-7b"), optimizer=_RECIPES[recipe][0], precision=_RECIPES[recipe][1]
                    )
                )
            ),
        },
        hints=("Usable bytes over bytes a parameter.",),
    ),
    Exercise(
        "2.3",
        "find the mistake",
        1,
        '"{model} uses only a part of its parameters for a token, so only that part must be in memory." What is '
        "wrong, and what do its weights need in bf16?",
        unit="GiB",
        given={"model": ("mixtral-8x7b", "mixtral-8x22b", "qwen3-30b-a3b", "deepseek-v2-lite", "olmoe-1b-7b")},
        answer=lambda model: llmhw.weights(llmhw.model(model), "bf16").total / GIB,
        slips={
            "the active parameters": lambda model: 2 * llmhw.model(model).parameters.active / GIB,
            "one byte a parameter": 0.5,
        },
        hints=("The next token may visit other experts.",),
    ),
    Exercise(
        "2.4",
        "by hand",
        1,
        "A smaller group makes 4-bit weights more exact. How many bits a weight are 4 bits with a scale of 16 bits and "
        "a zero point of 4 for every {group} weights?",
        unit="bits a weight",
        given={"group": (32, 64, 16, 256, 96)},
        answer=lambda group: 4 + 20 / group,
        slips={"no zero point": lambda group: 4 + 16 / group, "no scale": lambda group: 4 + 4 / group},
        hints=("What a group shares is divided by the group.",),
        tolerance=0.001,
    ),
    Exercise(
        "2.5",
        "derive",
        2,
        "{model} caches one latent vector a token and layer, with a rotary part. Write down what ordinary attention "
        "would cache, in which every head keeps its own key and value. By what factor is that more?",
        unit="",
        given={"model": _LATENT},
        answer=_ratio,
        slips={"keys without values": lambda model: _ratio(model, values=False)},
        hints=("Keys and values have different widths here: `spec.layers[0].attention`.",),
    ),
    Exercise(
        "2.6",
        "by hand",
        2,
        "A recipe keeps weights and gradients in bf16 and the master copy in 16 bits. Momentum and variance are "
        "in fp8, each with an fp32 scale for every {block} numbers. How many bytes does it keep of a parameter?",
        unit="bytes",
        given={"block": (128, 64, 32, 256, 16)},
        answer=lambda block: 2 + 2 + 2 + 2 * (1 + 4 / block),
        slips={
            "a scale for one average only": lambda block: 2 + 2 + 2 + 2 + 4 / block,
            "the gradients forgotten": lambda block: 2 + 2 + 2 * (1 + 4 / block),
        },
        hints=("Five numbers; the last two have scales.",),
        tolerance=0.001,
    ),
    Exercise(
        "2.7",
        "measure",
        2,
        "On your machine, let PyTorch's AdamW take one step with a 512 × 512 `torch.nn.Linear` without bias in bf16. "
        "Weigh all tensors in `optimizer.state`. How many bytes a parameter?",
        answer=lambda: 4.0,
        accept=_measured,
        form="one number: bytes of the optimizer's tensors over parameters",
        hints=("`optimizer.state` is empty before the first step.",),
    ),
)
