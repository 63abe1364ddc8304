"""Floating-point operations of a forward and a backward pass, matrix multiplication by matrix multiplication.

One multiply-add is 2 FLOPs. Counted: every matrix multiplication. Ignored: normalisation, activation
functions, softmax, rotary embedding, embedding look-up - under 1 % of the time-relevant arithmetic, and what
`torch.utils.flop_counter` ignores too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llmhw.checks import checked, whole
from llmhw.formula import Estimate, Part, Term, formula, term
from llmhw.language import said
from llmhw.model import Attention, Layer, ModelSpec, Tensor, model_of
from llmhw.units import LLMHWError, check_choice, maximum, minimum

RECOMPUTE = ("none", "selective", "full")
_PARTS = ("embedding", "attention", "attention_core", "mlp", "experts", "router", "head")


# -- formulas ---------------------------------------------------------------------------------


@formula(source="definition: one multiply and one add per weight", unit="FLOP")
def matmul_flops(*, tokens: Any, weights: Any) -> Any:
    """FLOPs of multiplying `tokens` vectors with a weight matrix.

    tokens    vectors that pass through it: batch x sequence length
    weights   elements of the matrix (in x out); for routed experts, those one token uses

    >>> matmul_flops(tokens=1, weights=4096 * 11008)
    90177536
    """
    return 2 * tokens * weights


@formula(source="every query meets every key; masked entries are computed too", unit="pairs")
def all_pairs(*, seq_len: Any, past: Any = 0) -> Any:
    """Query-key pairs when nothing is skipped, as unfused attention and torch's counter have it.

    seq_len   new tokens, each one a query
    past      tokens already in the cache

    >>> all_pairs(seq_len=4096)
    16777216
    """
    return seq_len * (past + seq_len)


@formula(source="sum over queries of min(position, window); FlashAttention (Dao 2023) skips the rest", unit="pairs")
def causal_pairs(*, seq_len: Any, past: Any = 0, window: Any) -> Any:
    """Query-key pairs that a causal mask with a sliding window leaves.

    seq_len   new tokens
    past      tokens before them
    window    most keys one query sees, itself included; past + seq_len for full attention

    >>> causal_pairs(seq_len=4, window=4), causal_pairs(seq_len=4, window=2)
    (10, 7)
    """
    growing = minimum(maximum(window - past, 0), seq_len)
    return growing * past + growing * (growing + 1) // 2 + (seq_len - growing) * window


@formula(
    source="lengths spread as those of chat data are: their mean of squares is twice their mean squared", unit="tokens"
)
def attended_tokens(*, mean: Any) -> Any:
    """Length of equal documents whose attention costs what that of documents of many lengths does.

    mean   tokens of a document. Attention grows with the square: documents that spread as an exponential distribution
           does, its deviation as large as its mean, cost as equal ones of twice their length do

    >>> attended_tokens(mean=500)
    1000
    """
    return 2 * mean


@formula(source="as causal_pairs, restarted at every chunk (Llama 4)", unit="pairs")
def chunked_pairs(*, seq_len: Any, past: Any = 0, chunk: Any) -> Any:
    """Query-key pairs when tokens see only the earlier part of their own chunk.

    >>> chunked_pairs(seq_len=4, chunk=2)
    6
    """
    end = past + seq_len
    upto_end = end // chunk * (chunk * (chunk + 1) // 2) + end % chunk * (end % chunk + 1) // 2
    upto_past = past // chunk * (chunk * (chunk + 1) // 2) + past % chunk * (past % chunk + 1) // 2
    return upto_end - upto_past


@formula(source="DeepSeek-V4 (2026): an entry for every few tokens, seen once they all are past", unit="pairs")
def compressed_pairs(*, seq_len: Any, past: Any = 0, compression: Any, most: Any) -> Any:
    """Pairs of queries and compressed entries of the past.

    compression   tokens that one entry stands for
    most          entries that one query sees at most

    >>> compressed_pairs(seq_len=8, compression=4, most=100), compressed_pairs(seq_len=8, compression=2, most=1)
    (6, 7)
    """
    upto = []
    for end in (past + seq_len, past):
        grown = minimum(end, compression * most)
        whole = grown // compression
        upto.append(compression * whole * (whole - 1) // 2 + whole * (grown - compression * whole + 1))
        upto[-1] += most * (end - grown)
    return upto[0] - upto[1]


@formula(source="Vaswani et al. 2017: Q times K transposed, then the probabilities times V", unit="FLOP")
def attention_core_flops(*, batch: Any, heads: Any, pairs: Any, head_dim: Any, v_head_dim: Any) -> Any:
    """FLOPs of attention itself: scores and weighted values, without the projections.

    batch        sequences
    heads        query heads (grouped-query attention saves cache, not these FLOPs)
    pairs        query-key pairs per head and sequence
    head_dim     length of queries and keys
    v_head_dim   length of values

    >>> attention_core_flops(batch=1, heads=32, pairs=4096 * 4096, head_dim=128, v_head_dim=128)
    274877906944
    """
    return 2 * batch * heads * pairs * (head_dim + v_head_dim)


@formula(source="Gated DeltaNet (Yang et al. 2024), recurrent form: read, update and query the state", unit="FLOP")
def linear_attention_flops(*, tokens: Any, heads: Any, key_dim: Any, value_dim: Any, products: Any = 3) -> Any:
    """FLOPs of a layer's state, in its recurrent form.

    products   multiply-adds of a token with the state: 3 with the delta rule (Gated DeltaNet, Kimi Delta Attention), 2
               where it is only updated and queried (Mamba, lightning attention, xLSTM: Dao and Gu 2024, section 3)

    Chunked kernels do more work to fill the tensor cores; this is the least. The decay, elementwise, is not counted.

    >>> linear_attention_flops(tokens=1, heads=32, key_dim=128, value_dim=128)
    3145728
    """
    return 2 * products * tokens * heads * key_dim * value_dim


@formula(
    source="products within a chunk: Mamba-2 (Dao and Gu 2024), section 6; DeltaNet (Yang et al. 2024)", unit="FLOP"
)
def chunk_flops(*, tokens: Any, heads: Any, widths: Any, chunk: Any) -> Any:
    """FLOPs that chunked kernels do beyond the recurrent form: the lower half of products between a chunk's tokens.

    widths   sizes of all such products of a head: keys and values once each; Mamba-2, whose heads share keys, values
             alone; the delta rule keys three times and values twice, as it solves for what each token adds
    chunk    tokens: 64 in flash-linear-attention, 256 in mamba-ssm

    >>> chunk_flops(tokens=1, heads=80, widths=64, chunk=256)
    1310720
    """
    return tokens * heads * widths * chunk


@formula(source="definition of a depthwise convolution", unit="FLOP")
def depthwise_conv_flops(*, tokens: Any, channels: Any, kernel: Any) -> Any:
    """FLOPs of the short causal convolution before linear attention.

    >>> depthwise_conv_flops(tokens=1, channels=8192, kernel=4)
    65536
    """
    return 2 * tokens * channels * kernel


@formula(source="Kaplan et al. 2020, section 2.1", unit="FLOP")
def training_flops_6n(*, params: Any, tokens: Any) -> Any:
    """The rule of thumb 6 N D: 2 N forward and 4 N backward for each token.

    params   parameters (of a mixture of experts: those active per token)
    tokens   training tokens

    Ignores attention and counts the embedding table as if it were multiplied.

    >>> training_flops_6n(params=70e9, tokens=15e12)
    6.3e+24
    """
    return 6 * params * tokens


@formula(source="PaLM (Chowdhery et al. 2022), appendix B", unit="FLOP")
def training_flops_palm(*, params: Any, tokens: Any, layers: Any, heads: Any, head_dim: Any, seq_len: Any) -> Any:
    """Model FLOPs as in PaLM's MFU: 6 N plus full (not causal) attention, 12 L H Q T, for each token.

    params, tokens          as in 6 N D
    layers, heads, head_dim, seq_len   L, H, Q and T of the paper

    >>> training_flops_palm(params=8e9, tokens=1, layers=32, heads=32, head_dim=128, seq_len=8192)
    60884901888.0
    """
    return tokens * (6 * params + 12 * layers * heads * head_dim * seq_len)


@formula(source="Narayanan et al. 2021 (Megatron-LM), section 5.1, equation 3", unit="FLOP")
def training_flops_megatron(*, batch: Any, seq_len: Any, layers: Any, hidden: Any, vocab: Any, passes: Any = 4) -> Any:
    """FLOPs of one iteration of a GPT with a 4h MLP, as Megatron-LM reports them.

    batch     sequences in the global batch
    passes    passes through the blocks: 4 counts the recomputed forward (the paper's 96), 3 does not (72);
              the logits are never recomputed

    Valid for GPT only: no gated MLP, no grouped-query attention.

    >>> round(training_flops_megatron(batch=1536, seq_len=2048, layers=96, hidden=12288, vocab=51200) / 1e18, 2)
    4.51
    """
    blocks = 24 * passes * batch * seq_len * layers * hidden**2 * (1 + seq_len / (6 * hidden))
    return blocks + 6 * batch * seq_len * hidden * vocab


@formula(source="PaLM (Chowdhery et al. 2022), section 4.1", unit="fraction")
def utilization(*, flops: Any, seconds: Any, devices: Any = 1, peak_flops_per_second: Any) -> Any:
    """Share of the peak that was used: MFU with model FLOPs, HFU with hardware FLOPs (recompute counted).

    flops                   FLOPs of one step, over all devices
    seconds                 time of that step
    devices                 how many
    peak_flops_per_second   dense peak of one device in the format that was used

    >>> round(utilization(flops=6 * 8e9 * 8192, seconds=1.0, peak_flops_per_second=989.4e12), 3)
    0.397
    """
    return flops / (seconds * devices * peak_flops_per_second)


# -- a model's passes -------------------------------------------------------------------------


def attended_pairs(a: Attention, *, seq_len: Any, past: Any = 0) -> Any:
    """Query-key pairs that the masks of a layer leave: causal, in a window, in a chunk, or of tokens an indexer chose.

    >>> attended_pairs(Attention(1, 1, 64, 64, index_topk=2), seq_len=4)
    7
    """
    if not a.causal:  # half of a window lies before a token, half behind, itself among them
        return seq_len * (seq_len if a.window is None else minimum(a.window + 1, seq_len))
    if a.chunk:
        return chunked_pairs(seq_len=seq_len, past=past, chunk=a.chunk)
    if a.compression:
        near = causal_pairs(seq_len=seq_len, past=past, window=a.window or past + seq_len)
        return near + compressed_pairs(
            seq_len=seq_len, past=past, compression=a.compression, most=a.index_topk or past + seq_len
        )
    return causal_pairs(seq_len=seq_len, past=past, window=a.window or a.index_topk or past + seq_len)


def indexed_pairs(a: Attention, *, seq_len: Any, past: Any = 0) -> Any:
    """Pairs that an indexer scores to choose among them: all that are past; keys may stand for several tokens."""
    together = a.index_pool * a.index_block
    return compressed_pairs(seq_len=seq_len, past=past, compression=together, most=past + seq_len)


@checked(past=whole(0))
def forward_flops(
    spec: ModelSpec | str,
    *,
    batch: int = 1,
    seq_len: int,
    past: int = 0,
    causal: bool = False,
    logits: str = "all",
) -> Estimate:
    """FLOPs of one forward pass, by component.

    spec      a model or its name
    batch     sequences
    seq_len   new tokens of each (1 for a decode step)
    past      tokens of each already in the cache
    causal    False: all query-key pairs, as unfused kernels and torch's counter have it, and as MFU is usually
              defined; True: only the pairs the masks leave, as flash kernels compute them
    logits    "all" tokens pass through the output head (training), or only the "last" of each sequence (serving)

    MLA is counted in its expanded form, which prefill and training use. Parts: the components of the
    parameters, and `attention_core`.

    >>> from llmhw import model
    >>> forward_flops(model("llama-2-7b"), seq_len=4096).total
    62921270886400
    """
    spec = model_of(spec)
    check_choice("logits", logits, ("all", "last"))
    tokens = batch * seq_len
    parts: dict[str, list[Term]] = {name: [] for name in _PARTS}
    for layer, count in spec.layer_kinds:
        for t in layer.used:
            if t.matmul:
                parts[t.component].append(term(matmul_flops, t.name, count, tokens=tokens, weights=t.active))
        parts["attention_core"] += _core_terms(layer, count, batch=batch, seq_len=seq_len, past=past, causal=causal)
    last = tokens if logits == "all" else batch
    for t in spec.tensors:
        if t.matmul:
            passed = last if t.component == "head" else tokens
            made = term(matmul_flops, t.name, key="outside the blocks", tokens=passed, weights=t.active)
            parts[t.component].append(made)
    if spec.tied:
        label = "output projection (tied to the embedding)"
        parts["head"].append(term(matmul_flops, label, tokens=last, weights=math.prod(spec.head_shape)))
    return Estimate(
        said(
            "forward FLOPs of {name}, batch {batch}, {tokens} tokens after {past}"
            if past
            else "forward FLOPs of {name}, batch {batch}, {tokens} tokens",
            name=spec.name,
            batch=batch,
            tokens=seq_len,
            past=past,
        ),
        "FLOP",
        tuple(Part(name, tuple(terms)) for name, terms in parts.items() if terms or name == "attention_core"),
        "only pairs under the causal mask" if causal else "all query-key pairs",
    )


def _core_terms(layer: Layer, count: int, *, batch: int, seq_len: int, past: int, causal: bool) -> Iterator[Term]:
    """What a layer computes without weights, or with those of a convolution: `count` such layers."""
    a, linear = layer.attention, layer.linear_attention
    lengths = {"seq_len": seq_len, "past": past}
    sizes: dict[str, Any]
    if a:
        entries = (past + seq_len) // a.compression if a.compression else 0
        pairs = attended_pairs(a, **lengths) if causal else int(all_pairs(**lengths)) + seq_len * entries
        sizes = {"batch": batch, "heads": a.heads, "pairs": pairs}
        sizes |= {"head_dim": a.head_dim, "v_head_dim": a.v_head_dim}
        yield term(attention_core_flops, f"{a.kind} attention", count, **sizes)
        if a.index_heads:
            every = seq_len * ((past + seq_len) // (a.index_pool * a.index_block))
            seen = indexed_pairs(a, **lengths) if causal else every
            sizes = {"batch": batch, "heads": a.index_heads, "pairs": seen, "head_dim": a.index_dim, "v_head_dim": 0}
            yield term(attention_core_flops, "sparse-attention indexer", count, **sizes)
    if linear:
        tokens = batch * seq_len
        if linear.heads and linear.products:
            sizes = {"heads": linear.heads, "key_dim": linear.key_dim, "value_dim": linear.value_dim}
            sizes |= {"tokens": tokens, "products": linear.products}
            yield term(linear_attention_flops, linear.kind, count, **sizes)
    for t in convolutions(layer):
        sizes = {"tokens": batch * seq_len, "channels": t.shape[0] * t.shape[1], "kernel": t.shape[2]}
        yield term(depthwise_conv_flops, "convolution", count, **sizes)


def convolutions(layer: Layer) -> Iterator[Tensor]:
    """The weights of its short convolutions: outputs, inputs of each, kernel."""
    return (t for t in layer.used if t.part == "conv" and len(t.shape) == 3)


def backward_flops(spec: ModelSpec | str, *, batch: int = 1, seq_len: int, causal: bool = False) -> Estimate:
    """FLOPs of one backward pass when every weight is trained: twice the forward, part by part.

    Each product Y = X W needs dX = dY W^T and dW = X^T dY; both products inside attention likewise.

    >>> from llmhw import model
    >>> spec = model("gpt2")
    >>> backward_flops(spec, seq_len=1024).total / forward_flops(spec, seq_len=1024).total
    2.0
    """
    forward = forward_flops(spec, batch=batch, seq_len=seq_len, causal=causal)
    parts = tuple(Part(p.name, tuple(t.scaled(2) for t in p.terms)) for p in forward)
    return replace(forward, title=forward.title.replace("forward", "backward", 1), parts=parts)


def training_flops(
    spec: ModelSpec | str, *, batch: int = 1, seq_len: int, causal: bool = False, recompute: str = "none"
) -> Estimate:
    """FLOPs of one training step: forward, backward and what is recomputed.

    recompute   none: total is model FLOPs (for MFU);
                selective: attention's core once more (Korthikanti et al. 2022);
                full: every block once more, not the output head; total is then hardware FLOPs (for HFU)

    >>> from llmhw import model
    >>> step = training_flops(model("gpt2"), seq_len=1024, recompute="full")
    >>> [part.name for part in step]
    ['forward', 'backward', 'recompute']
    """
    spec = model_of(spec)
    check_choice("recompute", recompute, RECOMPUTE)
    sizes: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "causal": causal}
    forward, backward = forward_flops(spec, **sizes), backward_flops(spec, **sizes)
    passes = {"forward": forward, "backward": backward}
    parts = [Part(name, tuple(t for p in found for t in p.terms)) for name, found in passes.items()]
    if recompute != "none":
        again = ("attention_core",) if recompute == "selective" else set(_PARTS) - {"head"}
        repeated = (t for p in forward if p.name in again for t in p.terms if t.key != "outside the blocks")
        parts.append(Part("recompute", tuple(repeated)))
    title = f"training FLOPs of {spec.name}, batch {batch}, {seq_len} tokens"
    return Estimate(title, "FLOP", tuple(parts), forward.note)


@checked
def convention_flops(spec: ModelSpec | str, convention: str, *, batch: int = 1, seq_len: int) -> Estimate:
    """FLOPs of one training step by a named convention, for comparing with published figures.

    convention   "6n": 6 x active parameters x tokens;
                 "palm": that plus full attention (PaLM's MFU);
                 "megatron": Narayanan et al. 2021 with the recomputed forward;
                 "megatron-model": the same without it

    >>> from llmhw import model
    >>> round(convention_flops(model("gpt2"), "6n", seq_len=1024).total / 1e9)
    765
    """
    check_choice("convention", convention, ("6n", "palm", "megatron", "megatron-model"))
    spec, tokens = model_of(spec), batch * seq_len
    active = spec.parameters.active
    sizes: dict[str, Any]
    if convention == "6n":
        made = term(training_flops_6n, "6 N D", params=active, tokens=tokens)
    elif convention == "palm":
        layers = sum(count for layer, count in spec.layer_kinds if layer.attention)
        sizes = {"layers": layers, "heads": spec.heads, "head_dim": spec.head_dim, "seq_len": seq_len}
        made = term(training_flops_palm, "PaLM", params=active, tokens=tokens, **sizes)
    else:
        blocks = {sum(t.numel for t in layer.tensors if t.matmul) for layer in spec.layers}
        gated = any(t.part in ("gate", "gate_up") for t, _ in spec.all_tensors())
        if gated or set(spec.attention_summary) != {"full"} or blocks != {12 * spec.hidden**2}:
            raise LLMHWError(
                f"convention={convention!r} is defined for GPT with a 4h MLP: layers of full attention and 12 h^2 "
                f"weights, which those of {spec.name} are not; use palm or training_flops()"
            )
        sizes = {"batch": batch, "seq_len": seq_len, "layers": spec.num_layers, "hidden": spec.hidden}
        passes = 4 if convention == "megatron" else 3
        made = term(training_flops_megatron, "Megatron-LM", **sizes, vocab=spec.vocab_size, passes=passes)
    return Estimate(f"training FLOPs of {spec.name} ({convention})", "FLOP", (Part(convention, (made,)),))
