"""What the library knows about an architecture beside its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from llmhw.families.builder import Body
from llmhw.families.config import Config
from llmhw.frozen import frozen


@dataclass(frozen=True)
class Style:
    """How transformers computes a family's blocks; what is not here is read from the tensors.

    block        pre: norm, attention, sum, norm, feed-forward, sum (Llama)
                 sandwich: a norm before and after each (Gemma 2)
                 post: norms behind (OLMo 2)
                 behind: norms behind the sums (the first OPT models)
                 parallel: attention and feed-forward of the same input (GPT-NeoX)
    norm         see `llmhw.activations`
    activation   default of hidden_act
    rotary       share of the head size that the rotary embedding turns, as `ModelSpec.rotary` has it for a model
    rotary_once  the tables hold every angle once, not for both halves of what is turned (gpt-oss)
    rotary_fp32  the tables stay in fp32
    rotary_own   every layer repeats the tables' entries anew
    rotary_by_kind   sliding layers have tables of their own
    rotary_batch   the tables have rows for every sequence
    rotary_cat   turned and plain parts of the queries are joined, also where the plain part is empty
    query_scale  queries are multiplied by a number for each position (Llama 4, Ministral 3)
    softcap      tanh on the attention scores
    logit_softcap   tanh on the logits
    softmax_fp32 eager attention takes the softmax in fp32
    sdpa         transformers runs the family with PyTorch's SDPA
    rotary_complex   one table of complex numbers (DeepSeek V2)
    router       softmax over all experts (weights stay in fp32: Mixtral), softmax-cast (weights in the model's format),
                 softmax-fp32 (scores in fp32, too), sigmoid (in fp32), sigmoid-late (of scores in the model's format),
                 or of the chosen experts only: chosen, chosen-fp32
    router_groups    experts of groups that are not chosen are masked (DeepSeek V2)
    clamped      experts clamp gate and up (gpt-oss)
    sinks        a learned score beside the others takes part in the softmax (gpt-oss)
    registry     attention goes through transformers' registry of functions, where its core can be recomputed
    state        kind of the linear attention whose operations are known; "" for none
    gated        the output of attention is multiplied by a sigmoid (Qwen 3.5)
    alibi        positions are biases of the scores, one row for each head (BLOOM); layers are handed no position ids
    upcast       queries and keys are multiplied in fp32 (GPT-Neo)
    norm_topk    the chosen experts' weights are divided by their sum
    learned      rows of learned positions that the embedding looks up: one for the batch, or one a sequence
    """

    block: str = "pre"
    norm: str = "rms"
    activation: str = "silu"
    rotary: float = 1
    rotary_once: bool = False
    rotary_fp32: bool = False
    rotary_own: bool = False
    rotary_by_kind: bool = False
    rotary_batch: bool = False
    rotary_cat: bool = False
    query_scale: bool = False
    softcap: bool = False
    logit_softcap: bool = False
    softmax_fp32: bool = True
    sdpa: bool = True
    learned: str = ""
    rotary_complex: bool = False
    router: str = "softmax-cast"
    router_groups: bool = False
    norm_topk: bool = False
    clamped: bool = False
    sinks: bool = False
    upcast: bool = False
    registry: bool = True
    alibi: bool = False
    state: str = ""
    gated: bool = False


@dataclass(frozen=True)
class Family:
    """All that the library knows about an architecture.

    read         makes the tensors from a config
    name         what people call it
    defaults     what transformers applies for keys that a config leaves out
    synonyms     other spellings of the same text architecture; multimodal wrappers hold theirs in `text_config`
    style        how transformers computes its blocks, op by op; None: only kernels="megatron" covers it
    rotary       share of the head size that the rotary embedding turns, where a config does not say; 0 without one
    dropout      trained with dropout behind attention and feed-forward part, where a config does not say
    gguf         what llama.cpp's rules know it by: falcon; 70b with 80 layers; 70b-gqa with 80 layers and grouped heads
    arithmetic   what transformers multiplies otherwise than the model is meant to run; empty if nothing
    """

    read: Callable[[Config], Body]
    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    synonyms: tuple[str, ...] = ()
    style: Style | None = None
    rotary: float = 1
    dropout: bool = False
    gguf: str = ""
    arithmetic: str = ""


def family(read: Callable[[Config], Body], name: str, **facts: Any) -> Family:
    """A `Family`; facts that are no fields of it are defaults of config keys."""
    own = {f.name: facts.pop(f.name) for f in fields(Family) if f.name in facts}
    return Family(read, name, frozen(facts), **own)
