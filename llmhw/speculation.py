"""Speculative decoding: what drafts, how many of its tokens are accepted, what it holds beside the model.

A draft is a smaller model; or a head that reads the model's hidden states: EAGLE, EAGLE-3, or the model's own layers
for multi-token prediction (MTP). Heads share the model's embedding, and but for EAGLE-3 its output head.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llmhw.formula import formula
from llmhw.memory import weights
from llmhw.model import Layer, ModelSpec, Tensor, model_of
from llmhw.units import LLMHWError, check_count, shown


@formula(source="Leviathan, Kalman and Matias 2023, equation 1", unit="tokens", acceptance=1)
def tokens_per_verification(*, acceptance: Any, drafted: Any) -> Any:
    """Tokens that one pass of speculative decoding yields on average.

    acceptance   chance that a drafted token is accepted
    drafted      tokens that the draft model proposes before each pass

    >>> round(tokens_per_verification(acceptance=0.8, drafted=4), 2)
    3.36
    """
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


# What drafts -> tokens before each pass, chance that one is accepted, and where that is from: the chance with which
# equation 1 gives the accepted length that was measured, on MT-Bench without sampling unless said otherwise.
METHODS: dict[str, tuple[int, float, str]] = {
    "model": (4, 0.7, "Leviathan et al. 2023, table 3: 0.5 to 0.9 for drafts of a tenth of the size or less"),
    "eagle": (2, 0.64, "vLLM's test of Llama 3.1 8B: 2.30 tokens a pass with 3 drafted"),
    "eagle3": (3, 0.7, "vLLM's tests (#32030, spec_decode.py): 2.26 to 2.81 tokens a pass with 3 drafted, median 2.58"),
    "mtp": (1, 0.8, "DeepSeek-V3's report: 0.85 to 0.9; GLM-5.2 0.81 (vllm-ascend), DeepSeek-V4 0.77 (vLLM #41044)"),
}
HEADS = tuple(name for name in METHODS if name != "model")
_MOST_DRAFTED = 1000
# [inferred] sizes of published heads where the model's own say nothing: 32,000 entries of the vocabulary (EAGLE-3 for
# Llama 3.1 8B, Qwen3 8B), heads of 128, a feed-forward part four times as wide beside models with experts.
_DRAFT_VOCABULARY, _HEAD_DIM, _WIDER = 32_000, 128, 4


@dataclass(frozen=True)
class Draft:
    """What proposes tokens, and how well.

    method       one of `METHODS`
    spec         its layers and its output head, as they are timed
    held         its tensors on a device, less those that it shares with the model, and how many there are of each
    tokens       that it proposes before each pass
    acceptance   chance that one is accepted
    asked        whether that chance was asked for
    """

    method: str
    spec: ModelSpec
    held: tuple[tuple[Tensor, int], ...]
    tokens: int
    acceptance: float
    asked: bool

    def bytes(self, number_format: str) -> float:
        """Its weights."""
        return float(weights(self.spec, number_format, tensors=self.held).total)

    @property
    def note(self) -> str:
        """Where the chance is from, in words; "" if it was asked for."""
        if self.asked:
            return ""
        return f"acceptance={self.acceptance:g} assumed for draft={self.method!r}: {METHODS[self.method][2]}"


def draft_of(
    target: ModelSpec, draft: ModelSpec | str | None, tokens: int | None = None, acceptance: float | None = None
) -> Draft | None:
    """The draft that was asked for: a model or its name, or one of `HEADS`; None for none.

    >>> from llmhw import model
    >>> found = draft_of(model("deepseek-v3"), "mtp")
    >>> found.tokens, found.acceptance, round(found.bytes("fp8-block") / 2**30, 1)
    (1, 0.8, 10.8)
    """
    if tokens is not None:
        check_count("draft_tokens", tokens)
    for name, value in (("draft_tokens", tokens), ("acceptance", acceptance)):
        if draft is None and value is not None:
            raise LLMHWError(f"{name}={value!r} has no effect without a draft; give draft, or leave {name} out")
    if draft is None:
        return None
    method, spec, held = _found(target, draft)
    usual, chance, _ = METHODS[method]
    drafted = usual if tokens is None else tokens
    if drafted > _MOST_DRAFTED:
        raise LLMHWError(f"draft_tokens={drafted} must be at most {_MOST_DRAFTED}")
    accepted = chance if acceptance is None else acceptance
    if isinstance(accepted, bool) or not isinstance(accepted, (int, float)) or not 0 <= accepted < 1:
        raise LLMHWError(f"acceptance={acceptance!r} must be at least 0 and below 1")
    return Draft(method, spec, held, drafted, float(accepted), acceptance is not None)


def _found(target: ModelSpec, draft: ModelSpec | str) -> tuple[str, ModelSpec, tuple[tuple[Tensor, int], ...]]:
    """The method, what is timed, and what is held."""
    word = draft.strip().lower().replace("-", "").replace("_", "") if isinstance(draft, str) else ""
    if word in HEADS:
        return (word, *{"mtp": _mtp, "eagle": _eagle, "eagle3": _eagle3}[word](target))
    try:
        spec = model_of(draft, "draft")
    except LLMHWError as error:
        raise LLMHWError(f"draft={shown(draft)} is none of {', '.join(HEADS)}, and no model: {error}") from None
    if spec.makes not in ("tokens", "draft tokens"):
        raise LLMHWError(
            f"draft={spec.name!r} makes {spec.makes}: only drafts that make tokens one by one are modelled"
        )
    held = tuple(spec.all_tensors())
    return ("model", spec, held) if spec.makes == "tokens" else ("eagle3", _timed(spec), held)


def _timed(spec: ModelSpec) -> ModelSpec:
    """The same with what stands before its first layer in that layer, where a pass counts it."""
    before = tuple(t for t in spec.tensors if t.matmul and t.part in ("project_in", "project_out"))
    first, *others = spec.layers
    rest = tuple(t for t in spec.tensors if t not in before)
    return replace(spec, layers=(replace(first, tensors=(*before, *first.tensors)), *others), tensors=rest)


@lru_cache(maxsize=64)
def _mtp(target: ModelSpec) -> tuple[ModelSpec, tuple[tuple[Tensor, int], ...]]:
    """The model's own layers for it: one is run for each token, embedding and head are the model's."""
    if not target.mtp_tensors:
        raise LLMHWError(
            f"draft='mtp': {target.name} has no layers for multi-token prediction; use draft='eagle3', or a smaller "
            "model"
        )
    held = tuple(Counter(target.mtp_tensors).items())
    caching = [layer.attention for layer in target.layers if layer.attention]
    whole = [a for a in caching if not a.span]
    attention = next(reversed(whole or caching), None)
    layer = Layer(tuple({t.name: t for t, _ in held}.values()), attention)
    spec = replace(target, name=f"MTP of {target.name}", layers=(layer,), mtp_tensors=(), towers=(), left_out=())
    return replace(spec, makes="draft tokens"), held


def _sizes(target: ModelSpec) -> dict[str, Any]:
    """The config of one block of Llama with the model's width."""
    hidden, dense = target.hidden, all(t.experts == 1 for t, _ in target.all_tensors())
    plain = next((a for layer in target.layers if (a := layer.attention) and not a.latent), None)
    head_dim = plain.head_dim if plain else _HEAD_DIM
    heads = plain.heads if plain else max(1, hidden // head_dim)
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": plain.kv_heads if plain else heads,
        "head_dim": head_dim,
        "intermediate_size": target.intermediate if dense and target.intermediate else _WIDER * hidden,
        "vocab_size": target.vocab_size,
        "max_position_embeddings": target.max_seq_len or 4096,
        "tie_word_embeddings": False,
    }


@lru_cache(maxsize=64)
def _eagle(target: ModelSpec) -> tuple[ModelSpec, tuple[tuple[Tensor, int], ...]]:
    """EAGLE (Li et al. 2024): the token's embedding and the hidden state into one, a block, the model's head."""
    made = ModelSpec.from_config(_sizes(target), f"EAGLE head of {target.name}")
    join = Tensor("fc.weight", (target.hidden, 2 * target.hidden), "embedding", True, part="project_in")
    shared = tuple(t for t in made.tensors if t.part in ("tokens", "head"))
    spec = replace(made, tensors=(join, *shared), makes="draft tokens")
    return _timed(spec), tuple((t, n) for t, n in spec.all_tensors() if t not in shared)


@lru_cache(maxsize=64)
def _eagle3(target: ModelSpec) -> tuple[ModelSpec, tuple[tuple[Tensor, int], ...]]:
    """EAGLE-3 (Li et al. 2025): three hidden states into one, a block, a head of its own for the usual tokens."""
    own = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": min(_DRAFT_VOCABULARY, target.vocab_size)}
    spec = ModelSpec.from_config(_sizes(target) | own, f"EAGLE-3 head of {target.name}")
    return _timed(spec), tuple(spec.all_tensors())


def draft_format(method: str, model_format: str, default: str, asked: bool) -> str:
    """The format of a draft's weights.

    model_format   of the model, which its own layers (MTP) have; `asked`: whether it was asked for
    default        of the draft's checkpoint

    >>> draft_format("eagle3", "fp8", "bf16", True), draft_format("mtp", "fp8", "bf16", True)
    ('bf16', 'fp8')
    """
    if method == "model":
        return model_format if asked else default
    return model_format if method == "mtp" else "bf16"
