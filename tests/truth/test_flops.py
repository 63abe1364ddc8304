"""Forward and backward FLOPs against `torch.utils.flop_counter` over transformers' models, run for real."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmhw.flops import (
    backward_flops,
    depthwise_conv_flops,
    forward_flops,
    linear_attention_flops,
    matmul_flops,
    training_flops,
)
from llmhw.model import LinearAttention, ModelSpec
from tests.truth.cases import DECODE_FAMILIES, FLOPS_FAMILIES, FLOPS_VARIANTS, RECOMPUTE_FAMILIES, RECURRENT_FAMILIES
from tests.truth.families import causal, config_of, published, sized


def count(model: torch.nn.Module, batch: int, seq_len: int, vocab: int, *, backward: bool) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass, as torch counts them.

    Of a depthwise convolution's backward pass, which torch takes for a dense one, nothing.
    """
    ids = torch.randint(3, vocab, (batch, seq_len))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
    forward = counter.get_total_flops()
    if not backward:
        return forward, 0
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    convolutions = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution_backward, 0)
    return forward, counter.get_total_flops() - convolutions


def build(model_type: str, variant: int) -> tuple[torch.nn.Module, ModelSpec]:
    config = config_of(model_type, sized(model_type, variant))
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = causal(config, attn_implementation="eager").train()
    return model, ModelSpec.from_config(published(config))


@pytest.mark.parametrize("variant", FLOPS_VARIANTS)
@pytest.mark.parametrize("model_type", FLOPS_FAMILIES)
def test_forward_and_backward(model_type: str, variant: int) -> None:
    batch, seq_len = (2, 12) if variant else (1, 7)
    model, spec = build(model_type, variant)
    forward, backward = count(model, batch, seq_len, spec.vocab_size, backward=True)
    # transformers' convolutions are padded behind a sequence, too, and compute what comes out there
    forward -= sum(batch * conv_flops(s, s.conv_kernel - 1) for s in states(spec))
    backward += sum(2 * batch * conv_flops(s, seq_len) for s in states(spec))
    assert forward_flops(spec, batch=batch, seq_len=seq_len).total == forward
    assert backward_flops(spec, batch=batch, seq_len=seq_len).total == backward
    assert training_flops(spec, batch=batch, seq_len=seq_len).total == forward + backward


def states(spec: ModelSpec) -> list[LinearAttention]:
    return [layer.linear_attention for layer in spec.layers if layer.linear_attention]


def conv_flops(state: LinearAttention, tokens: int) -> int:
    flops = depthwise_conv_flops(tokens=tokens, channels=state.conv_channels, kernel=state.conv_kernel)
    return int(flops) if state.conv_kernel else 0


# Of the products with the state, those that transformers' own step takes as matrix products, not element by element.
PRODUCTS = {"lightning": 2, "mamba": 1, "mamba-2": 1}


@pytest.mark.parametrize("model_type", RECURRENT_FAMILIES)
def test_recurrent_step(model_type: str) -> None:
    """One token after a prompt: states take their recurrent form, whatever form the prompt took."""
    model, spec = build(model_type, 1)
    prompt, vocab = 9, spec.vocab_size
    assert states(spec)
    with torch.no_grad():
        made = model(input_ids=torch.randint(3, vocab, (1, prompt)), use_cache=True)
        key = next(key for key in ("past_key_values", "cache_params") if key in made)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.randint(3, vocab, (1, 1)), use_cache=True, **{key: made[key]})
    predicted = forward_flops(spec, seq_len=1, past=prompt, causal=True).total
    for s in states(spec):
        sizes = {"heads": s.heads, "key_dim": s.key_dim, "value_dim": s.value_dim}
        predicted -= linear_attention_flops(tokens=1, products=s.products - PRODUCTS.get(s.kind, 0), **sizes)
        predicted += conv_flops(s, 1)  # it convolves the inputs that it kept, one more than a kernel needs
    # cached latents become keys and values again
    again = (t.numel for layer in spec.layers for t in layer.tensors if t.part == "kv_b" and t.matmul)
    predicted += sum(matmul_flops(tokens=prompt, weights=numel) for numel in again)
    assert predicted == counter.get_total_flops()


@pytest.mark.parametrize("model_type", DECODE_FAMILIES)
def test_decode_step(model_type: str) -> None:
    """One new token after a cached prompt; sliding layers meet only what their window kept."""
    model, spec = build(model_type, 0)
    prompt, vocab = 9, spec.vocab_size
    with torch.no_grad():
        cache = model(input_ids=torch.randint(3, vocab, (1, prompt)), use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.randint(3, vocab, (1, 1)), past_key_values=cache, use_cache=True)
    assert forward_flops(spec, seq_len=1, past=prompt, causal=True).total == counter.get_total_flops()


@pytest.mark.parametrize("model_type", RECOMPUTE_FAMILIES)
def test_full_recompute(model_type: str) -> None:
    """Gradient checkpointing runs every block's forward once more, and not the output head's."""
    model, spec = build(model_type, 0)
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    forward, backward = count(model, 1, 7, spec.vocab_size, backward=True)
    assert training_flops(spec, seq_len=7, recompute="full").total == forward + backward


@pytest.mark.parametrize("kind", ["sliding", "compressed_sparse", "heavily_compressed"])
@pytest.mark.parametrize("seq_len", [4, 14, 17])
def test_compressed_attention(kind: str, seq_len: int) -> None:
    """DeepSeek V4 to the last operation but the mixing of its streams, a product of small matrices in every half."""
    options = sized("deepseek_v4", 0) | {"layer_types": [f"{kind}_attention"] * 2, "num_hidden_layers": 2}
    config = config_of("deepseek_v4", options | {"mlp_layer_types": None})
    config._experts_implementation = "eager"
    spec = ModelSpec.from_config(published(config))
    model = causal(config, attn_implementation="eager")
    forward, _ = count(model, 2, seq_len, spec.vocab_size, backward=False)
    mixing = 2 * 2 * (2 * 2 * seq_len) * options["hc_mult"] ** 2 * spec.hidden
    assert forward_flops(spec, batch=2, seq_len=seq_len).total + mixing == forward


def test_causal_pairs_against_a_mask() -> None:
    """Pairs that are left by real masks, counted one by one."""
    from llmhw.flops import causal_pairs, chunked_pairs, compressed_pairs

    for past in (0, 3, 8):
        for new in (1, 5, 12):
            query = torch.arange(past, past + new)[:, None]
            key = torch.arange(past + new)[None, :]
            for size in (1, 4, 6, 50):
                window = int(((key <= query) & (key > query - size)).sum())
                chunk = int(((key <= query) & (key // size == query // size)).sum())
                assert causal_pairs(seq_len=new, past=past, window=size) == window
                assert chunked_pairs(seq_len=new, past=past, chunk=size) == chunk
                entries = ((query + 1) // size).clamp(max=2).sum()
                assert compressed_pairs(seq_len=new, past=past, compression=size, most=2) == int(entries)
