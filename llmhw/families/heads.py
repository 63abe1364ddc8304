"""What stands on a model's blocks, by its config's `architectures`: an output head, a score, nothing; or a draft.

A config of an embedder, a reward model or a draft has the `model_type` of the language model that it was made from.
Each is read as what it is, or refused by its name; none is taken for that language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of
from llmhw.families.config import Config, check_keys
from llmhw.model import Layer
from llmhw.units import LLMHWError, shown

# -- heads ------------------------------------------------------------------------------------


def _labels(c: Config) -> int:
    """transformers' rule: as many as are named, two without names."""
    named = c.data.get("id2label")
    return len(named) if isinstance(named, Mapping) and named else c.count("num_labels", default=2)


def _language(c: Config, body: Body, tied: bool) -> None:
    if not tied:
        body.outer.linear(body.head, "head", c.vocab, body.head_in or c.hidden)
    if body.head_bias:
        body.outer.plain(f"{body.head}.bias", "head", (c.vocab,))


def _classes(c: Config, body: Body, tied: bool) -> None:
    body.outer.linear("score", "head", _labels(c), body.head_in or c.hidden)


def _token_classes(c: Config, body: Body, tied: bool) -> None:
    body.outer.linear("score", "head", _labels(c), c.hidden, bias=True)


def _spans(c: Config, body: Body, tied: bool) -> None:
    body.outer.linear("qa_outputs", "head", 2, c.hidden, bias=True)


def _reward(c: Config, body: Body, tied: bool) -> None:
    """Qwen's reward models: two layers with a ReLU between."""
    body.outer.linear("score.0", "head", c.hidden, c.hidden, bias=True)
    body.outer.linear("score.2", "head", c.count("num_labels", default=1), c.hidden, bias=True)


def _none(c: Config, body: Body, tied: bool) -> None:
    """The last hidden state is the answer: an embedder."""


_TOKENS = "tokens"

# What an architecture ends with -> what it makes, and its head.
_ENDINGS: dict[str, tuple[str, Callable[[Config, Body, bool], None]]] = {
    "ForSequenceClassification": ("scores", _classes),
    "ForTokenClassification": ("scores", _token_classes),
    "ForQuestionAnswering": ("spans of the text", _spans),
    "ForRewardModel": ("rewards", _reward),
    # these have a language head in spite of their names
    "LMHeadModel": (_TOKENS, _language),
    "ChatModel": (_TOKENS, _language),
    "ChatGLMModel": (_TOKENS, _language),
    "Model": ("embeddings", _none),
}


# What an encoder makes, by the end of its architecture's name.
MAKES = {"ForMaskedLM": "masked tokens", **{name: made for name, (made, _) in _ENDINGS.items() if name[:3] == "For"}}


def architecture_of(data: Mapping[str, Any]) -> str:
    """The first of a config's `architectures`; "" without any."""
    named = data.get("architectures")
    if named is None or named == []:
        return ""
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise LLMHWError(f"config key architectures={shown(named)} must be a list of names")
    return str(named[0])


def head_of(architecture: str) -> tuple[str, Callable[[Config, Body, bool], None]]:
    """What a model makes, and what adds its head.

    >>> head_of("Qwen3ForCausalLM")[0], head_of("Qwen3Model")[0], head_of("Qwen2ForRewardModel")[0]
    ('tokens', 'embeddings', 'rewards')
    """
    found = next((head for ending, head in _ENDINGS.items() if architecture.endswith(ending)), (_TOKENS, _language))
    if architecture and found[1] in (_language, _none) and _OTHERS.search(architecture):
        raise LLMHWError(
            f"config key architectures={shown([architecture])} is a draft model, not the language model of its "
            f"model_type; those that are known are {', '.join(sorted(DRAFTS))}"
        )
    return found


# -- drafts -----------------------------------------------------------------------------------

# Names of drafts, whichever model_type they borrow.
_OTHERS = re.compile("Eagle|EAGLE|Draft|Medusa|Speculator|MTP|NextN|Assistant")


def _eagle_layer(c: Config, *, first: bool) -> Layer:
    """A block of EAGLE-3; the first reads the token's embedding and the target's state side by side."""
    a = attention_of(c)
    b = Builder()
    into = 2 * c.hidden if first else c.hidden
    b.linear("self_attn.q_proj", "q", a.heads * a.head_dim, into)
    b.linear("self_attn.k_proj", "k", a.kv_heads * a.head_dim, into)
    b.linear("self_attn.v_proj", "v", a.kv_heads * a.head_dim, into)
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.head_dim)
    b.gated_mlp("mlp", c.hidden, c.intermediate)
    b.norm("input_layernorm", c.hidden, "norm_in")
    if first:
        b.norm("hidden_norm", c.hidden)
    b.norm("post_attention_layernorm", c.hidden)
    return b.layer(a)


def _eagle3(c: Config) -> Body:
    """EAGLE-3 (Li et al. 2025), as SpecForge has it: three states of the target into one, a block, few tokens.

    The embedding is the target's own and is not in the checkpoint.
    """
    target = c.count("target_hidden_size", default=c.hidden)
    outer = Builder()
    outer.linear("fc", "project_in", c.hidden, 3 * target)
    if c.flag("fc_norm"):
        for i in range(3):
            outer.norm(f"fc_norm.{i}", target)
    outer.norm("norm", c.hidden)
    outer.linear("lm_head", "head", c.count("draft_vocab_size", default=c.vocab), c.hidden)
    if c.layers != 1:
        raise LLMHWError(f"config key num_hidden_layers={c.layers} must be 1: a LlamaForCausalLMEagle3 has one block")
    return Body([_eagle_layer(c, first=True)], outer, c.intermediate)


def _p_eagle(c: Config) -> Body:
    """P-EAGLE: further blocks behind EAGLE-3's first, and a learned state for the tokens that are drafted at once."""
    target = c.count("target_hidden_size", default=c.hidden)
    outer = Builder()
    outer.linear("fc", "project_in", c.hidden, 3 * target)
    outer.plain("mask_hidden", "project_in", (1, 1, 3 * target))
    outer.norm("norm", c.hidden)
    outer.linear("lm_head", "head", c.count("draft_vocab_size", default=c.vocab), c.hidden)
    rest = _eagle_layer(c, first=False)
    return Body([_eagle_layer(c, first=True), *[rest] * (c.layers - 1)], outer, c.intermediate)


def _dflash(c: Config) -> Body:
    """DFlash: a few blocks of Qwen 3 that draft a block of tokens at once; embedding and head are the target's."""
    from llmhw.families import FAMILIES

    qwen = FAMILIES["qwen3"]
    body = qwen.read(Config(c.data, qwen.defaults, "qwen3"))
    more = c.get("dflash_config", default={})
    if not isinstance(more, Mapping):
        raise LLMHWError(f"config key dflash_config={shown(more)} must be an object")
    modes = {str(mode) for mode in (more.get("attention_mode") or "gqa", *(more.get("attention_modes") or ()))}
    if modes - {"gqa", "mha"}:
        raise LLMHWError(f"config key dflash_config has attention {', '.join(sorted(modes))}; gqa and mha are covered")
    listed = more.get("target_layer_ids")
    states = len(listed) if isinstance(listed, list) else c.layers
    outer = Builder()
    outer.linear("fc", "project_in", c.hidden, states * c.hidden)
    outer.norm("hidden_norm", c.hidden)
    outer.norm("norm", c.hidden)
    check_keys(more)
    inner = Config(more, {}, c.model_type)
    if more.get("projector_type") == "domino":
        gru, size = inner.count("gru_hidden_dim"), inner.count("emb_dim")
        outer.linear("prefix_gru.weight_ih_l0", "project_in", 3 * gru, c.hidden)
        outer.linear("prefix_gru.weight_hh_l0", "project_in", 3 * gru, gru)
        outer.linear("embed_proj.0", "project_out", size, c.hidden + gru)
        outer.linear("embed_proj.2", "head", c.vocab, size)
    elif more.get("projector_type") == "dspark":
        _markov(outer, c, inner)
    elif more.get("projector_type"):
        raise LLMHWError(f"config key dflash_config.projector_type={shown(more['projector_type'])} is not known")
    return replace(body, outer=outer)


def _markov(outer: Builder, c: Config, inner: Config) -> None:
    """DSpark's correction by the token before, and its guess of how many will be accepted."""
    rank = inner.count("markov_rank", default=0, least=0)
    if rank:
        if inner.get("markov_head_type", default="vanilla") != "vanilla":
            raise LLMHWError("config key dflash_config.markov_head_type must be vanilla; other heads are not covered")
        outer.plain("markov_head.markov_w1.weight", "project_in", (c.vocab, rank))
        outer.linear("markov_head.markov_w2", "head", c.vocab, rank)
    if inner.flag("enable_confidence_head"):
        width = c.hidden + (rank if inner.flag("confidence_head_with_markov") else 0)
        outer.linear("confidence_head.proj", "project_out", 1, width, bias=True)


def _gemma4_assistant(c: Config) -> Body:
    """Gemma 4's drafts: blocks that read the caches of the target, between projections from its width and back."""
    from llmhw.families import FAMILIES

    width = c.count("backbone_hidden_size")
    body = FAMILIES[c.model_type].read(c.changed(num_kv_shared_layers=c.layers))
    body.outer.linear("pre_projection", "project_in", c.hidden, 2 * width)
    body.outer.linear("post_projection", "project_out", width, c.hidden)
    if c.flag("use_ordered_embeddings"):  # the head looks at tokens of the best clusters only
        body.outer.linear("masked_embedding.centroids", "project_out", c.count("num_centroids"), c.hidden)
    return replace(body, tied=c.flag("tie_word_embeddings", True))


_ONE, _BLOCK = "draft tokens", "blocks of draft tokens"

# An architecture -> what it makes, and its reader.
DRAFTS: dict[str, tuple[str, Callable[[Config], Body]]] = {
    "LlamaForCausalLMEagle3": (_ONE, _eagle3),
    "PEagleDraftModel": (_BLOCK, _p_eagle),
    "DFlashDraftModel": (_BLOCK, _dflash),
    "DSparkDraftModel": (_BLOCK, _dflash),
    "DominoDraftModel": (_BLOCK, _dflash),
    "Gemma4AssistantForCausalLM": (_ONE, _gemma4_assistant),
    "Gemma4UnifiedAssistantForCausalLM": (_ONE, _gemma4_assistant),
}


def complete(c: Config, family_reader: Callable[[Config], Body], tied: bool) -> tuple[str, Body, bool]:
    """What a config's model makes, its blocks with their head, and whether the head is the embedding table."""
    architecture = architecture_of(c.data)
    if architecture in DRAFTS:
        makes, read = DRAFTS[architecture]
        draft = read(c)
        return makes, draft, draft.tied
    body = family_reader(c)
    if body.makes:  # an encoder, which has its own heads
        return body.makes, body, tied and body.makes == MAKES["ForMaskedLM"]
    makes, add = head_of(architecture)
    tied = tied and body.ties
    add(c, body, tied)
    return makes, body, tied and add is _language
