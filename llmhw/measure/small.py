"""A small real language model, trained in seconds: something to quantize, with a text that no file holds.

Its text are the names of the characters of Unicode 3.2, a name a line. Every Python carries that table, frozen: it
stands in the rules of internationalized domain names. Nothing is downloaded, and the text is the same everywhere.

>>> len(text().names), text().letters[:4]
(12771, '\\n -0')
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import torch

from llmhw.checks import checked, whole

# Named by a rule, "HANGUL SYLLABLE GAG" and so on: 99,000 lines that teach nothing
_BY_RULE = ("CJK", "HANGUL SYLLABLE")
_HELD_OUT = 400  # names

# Rows of a batch: long enough for two or three names, so that a name is read after others
ROW = 64


@dataclass(frozen=True)
class Text:
    """The names, shuffled; those that a model learns from and those held out, as numbers of letters."""

    names: tuple[str, ...]
    letters: str
    train: torch.Tensor
    test: torch.Tensor

    def rows(self, count: int) -> torch.Tensor:
        """The first rows of what is learnt from, [count, 64]: enough to calibrate with."""
        return self.train[: count * ROW].view(count, ROW)


@cache
def text() -> Text:
    """The text: it is read once."""
    table = unicodedata.ucd_3_2_0
    found = (table.name(chr(code), "") for code in range(0x110000))
    names = [name for name in found if name and not name.startswith(_BY_RULE)]
    Random(0).shuffle(names)
    letters = "".join(sorted({*"\n", *"".join(names)}))
    number = {letter: i for i, letter in enumerate(letters)}
    held, learnt = (
        torch.tensor([number[letter] for name in part for letter in name + "\n"])
        for part in (names[:_HELD_OUT], names[_HELD_OUT:])
    )
    return Text(tuple(names), letters, learnt, held)


def config() -> dict[str, Any]:
    """Its `config.json`: a Llama of four layers, whose matrices are whole groups of 128."""
    sizes = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"} | sizes | heads | {
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "initializer_range": 0.06, "torch_dtype": "float32",
    }  # fmt: skip


def _orthogonal(moment: torch.Tensor) -> torch.Tensor:
    """Three of Muon's Newton-Schulz steps, of equal matrices at once: they bring singular values near 1.

    In FP32, where torch.optim.Muon takes BF16, which a processor without its instructions emulates ten times slower.
    """
    x = moment.mT if moment.shape[-2] > moment.shape[-1] else moment
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(3):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if moment.shape[-2] > moment.shape[-1] else x


@checked(steps=whole(1, 100_000))
def trained(steps: int = 160) -> Any:
    """A `LlamaForCausalLM` of 0.8 million parameters, after so many steps of 512 letters: some ten seconds.

    Matrices of the layers are trained by Muon, the rest by AdamW: one AdamW for all needs three times the steps.
    The same numbers come out with the same PyTorch on the same processor; on another they differ in the third digit.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config().items() if k != "architectures"}))
    kinds: dict[torch.Size, list[torch.nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if "layers" in name and p.ndim == 2:
            kinds.setdefault(p.shape, []).append(p)
    groups = list(kinds.values())
    mine = {id(p) for group in groups for p in group}
    adam = torch.optim.AdamW([p for p in model.parameters() if id(p) not in mine], weight_decay=0.0, betas=(0.9, 0.95))
    moments = [torch.zeros(len(group), *group[0].shape) for group in groups]
    learnt, starts = text().train, torch.Generator().manual_seed(0)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 5) * (1 - step / steps)
        places = torch.randint(len(learnt) - ROW, (8,), generator=starts)
        batch = learnt[places[:, None] + torch.arange(ROW)]
        model(input_ids=batch, labels=batch).loss.backward()
        adam.param_groups[0]["lr"] = 0.015 * rate
        adam.step()
        with torch.no_grad():
            for group, moment in zip(groups, moments, strict=True):
                slope = torch.stack([p.grad for p in group if p.grad is not None])
                moment.lerp_(slope, 0.15)
                turned = _orthogonal(slope.lerp(moment, 0.85))
                wide = 0.04 * rate * max(1.0, moment.shape[1] / moment.shape[2]) ** 0.5
                for p, move in zip(group, turned, strict=True):
                    p.sub_(move, alpha=wide)
        model.zero_grad()
    return model.eval()


def perplexity(model: Any) -> float:
    """exp of the mean loss a letter over the names held out: 1 is certain, 39 knows nothing.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> bool(perplexity(LlamaForCausalLM(LlamaConfig(**config()))) > 39)
    True
    """
    rows = text().test[: len(text().test) // ROW * ROW].view(-1, ROW)
    with torch.no_grad():
        loss = model(input_ids=rows).logits[:, :-1].float()
    return math.exp(torch.nn.functional.cross_entropy(loss.flatten(0, 1), rows[:, 1:].flatten()))


def channel_peaks(model: Any, layer: int = 0) -> dict[str, list[float]]:
    """The largest input of each channel over the text held out, loudest first, of three matrices of a layer."""
    found: dict[str, list[float]] = {}
    block = model.model.layers[layer]
    modules = {"q_proj": block.self_attn.q_proj, "gate_proj": block.mlp.gate_proj, "down_proj": block.mlp.down_proj}

    def look(kind: str) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[kind] = inputs[0].flatten(0, -2).abs().amax(0).sort(descending=True).values.tolist()

        return hook

    hooks = [module.register_forward_pre_hook(look(kind)) for kind, module in modules.items()]
    perplexity(model)
    for hook in hooks:
        hook.remove()
    return found


def fine_tuned(model: Any, steps: int) -> list[float]:
    """Losses of so many steps of AdamW on 16 rows of what was held out; the model is trained in place."""
    rows = text().test[: 16 * ROW].view(-1, ROW)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    return losses


def told(loss: float) -> str:
    """A loss of perplexity as another processor would print it too: one figure, two where it is about 1 %.

    >>> told(0.0002), told(0.0066), told(0.0112), told(0.0485), told(0.604)
    ('below 0.1%', '0.7%', '1%', '5%', '60%')
    """
    if loss < 0.001:
        return "below 0.1%"
    digits = -math.floor(math.log10(loss * 100))
    return f"{round(loss * 100, digits):g}%"


def of_rounding(loss: float, rounded: float) -> str:
    """A loss beside that of plain rounding, in words: the two are too close for a figure.

    >>> of_rounding(0.0070, 0.0066)
    'as rounding'
    """
    return "below rounding" if loss < 0.75 * rounded else "as rounding" if loss < 1.33 * rounded else "above rounding"
