"""Memory that a model's weights, training states and key-value cache hold.

Bytes of tensors, exactly; what an allocator adds and what a framework's context takes are not in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llmhw.checks import check_items, check_text, checked
from llmhw.formula import Estimate, Term, formula, term
from llmhw.language import said
from llmhw.model import Layer, ModelSpec, Tensor, model_of
from llmhw.precision import (
    CHECKPOINT,
    NumberFormat,
    format_label,
    formats_in,
    number_format,
    stored_weight_bytes,
    weight_groups,
)
from llmhw.units import (
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    format_quantity,
    minimum,
    share,
    shown,
    unknown_name,
)

# -- formulas ---------------------------------------------------------------------------------


@formula(source="definition: one number for each element", unit="bytes")
def state_bytes(*, elements: Any, bytes_per_element: Any, shards: Any = 1) -> Any:
    """Bytes of gradients, of a master copy or of one optimizer state, on one rank.

    elements           parameters it is kept for
    bytes_per_element  4 for fp32, 2 for bf16
    shards             ranks it is split over (ZeRO, FSDP)

    >>> state_bytes(elements=70e9, bytes_per_element=12)
    840000000000.0
    """
    return elements * bytes_per_element / shards


@formula(source="block-wise 8-bit optimizers (Dettmers et al. 2022): one fp32 maximum a block", unit="bytes")
def blockwise_8bit_bytes(*, elements: Any, block: Any = 256) -> Any:
    """Bytes of one optimizer state quantized to 8 bits in blocks.

    >>> blockwise_8bit_bytes(elements=4096)
    4160
    """
    return elements + 4 * ceil_div(elements, block)


@formula(source="Adafactor (Shazeer and Stern 2018): a row and a column vector for a matrix", unit="bytes")
def factored_state_bytes(*, matrices: Any = 1, rows: Any, columns: Any, bytes_per_element: Any = 4) -> Any:
    """Bytes of Adafactor's second moment of a stack of matrices.

    >>> factored_state_bytes(rows=4096, columns=11008)
    60416
    """
    return matrices * (rows + columns) * bytes_per_element


@formula(source="LoRA (Hu et al. 2021): two factors of rank r beside each matrix", unit="count")
def lora_params(*, rank: Any, in_features: Any, out_features: Any) -> Any:
    """Trainable parameters that LoRA adds to one matrix.

    >>> lora_params(rank=8, in_features=4096, out_features=4096)
    65536
    """
    return rank * (in_features + out_features)


@formula(source="a key and a value vector per token and KV head; min(tokens, window) for sliding layers", unit="bytes")
def kv_cache_bytes(
    *, batch: Any, tokens: Any, kv_heads: Any, head_dim: Any, v_head_dim: Any, bits_per_element: Any
) -> Any:
    """Key-value cache of one layer.

    batch               sequences
    tokens              tokens kept for each: the sequence length, or the window if that is shorter
    kv_heads            heads that keys and values have (GQA: fewer than query heads)
    head_dim, v_head_dim   length of a key and of a value
    bits_per_element    16 for bf16, 8 for fp8

    >>> one = kv_cache_bytes(batch=1, tokens=4096, kv_heads=32, head_dim=128, v_head_dim=128, bits_per_element=16)
    >>> 32 * one / 2**30
    2.0
    """
    return batch * tokens * kv_heads * (head_dim + v_head_dim) * bits_per_element / 8


@formula(source="DeepSeek-V2 (2024), section 2.1: one latent and one rotary key per token", unit="bytes")
def latent_cache_bytes(*, batch: Any, tokens: Any, latent: Any, index_dim: Any = 0, bits_per_element: Any) -> Any:
    """Cache of one layer of multi-head latent attention, shared by all heads.

    latent      elements per token: kv_lora_rank + qk_rope_head_dim
    index_dim   elements of the sparse-attention indexer's key (DeepSeek-V3.2), else 0

    >>> 61 * latent_cache_bytes(batch=1, tokens=1, latent=576, bits_per_element=16)
    70272.0
    """
    return batch * tokens * (latent + index_dim) * bits_per_element / 8


@formula(source="DeepSeek-V4 (2026): an entry, and its indexer's key, for every few tokens", unit="bytes")
def compressed_cache_bytes(
    *, batch: Any, tokens: Any, compression: Any, latent: Any, index_dim: Any = 0, bits_per_element: Any
) -> Any:
    """Cache of one layer's compressed entries, which are keys and values at once.

    compression        tokens that one entry stands for
    latent, index_dim  elements of an entry and of its key for the indexer

    >>> compressed_cache_bytes(batch=1, tokens=4096, compression=128, latent=512, bits_per_element=16)
    32768.0
    """
    return batch * (tokens // compression) * (latent + index_dim) * bits_per_element / 8


@formula(source="DeepSeek-V4 (2026): what tokens give to an entry waits until it is whole", unit="bytes")
def waiting_bytes(*, batch: Any, tokens: Any, compression: Any, each: Any, last: Any = 0, bits_per_element: Any) -> Any:
    """What one layer keeps of tokens that are in no compressed entry yet.

    each   elements of each of them
    last   elements of the last one that is in one

    >>> waiting_bytes(batch=1, tokens=130, compression=128, each=1024, bits_per_element=16)
    4096.0
    """
    return batch * (tokens % compression * each + minimum(tokens // compression, 1) * last) * bits_per_element / 8


@formula(source="Gated DeltaNet (Yang et al. 2024): a matrix per head, and the convolution's last inputs", unit="bytes")
def linear_state_bytes(
    *,
    batch: Any,
    heads: Any,
    key_dim: Any,
    value_dim: Any,
    channels: Any,
    kernel: Any,
    wide: Any = 0,
    narrow: Any = 0,
    bits_per_element: Any,
) -> Any:
    """State of one layer of linear attention or of a state-space model; it does not grow with the sequence.

    wide, narrow   further elements, such as a normalizer's, in fp32 and in the cache's format

    The recurrent matrix is kept in fp32, the convolution's inputs in the cache's format. Of Mamba every channel is a
    head, of Mamba-2 and of linear attention a head has a matrix of keys and values.

    >>> linear_state_bytes(batch=1, heads=32, key_dim=128, value_dim=128, channels=8192, kernel=4, bits_per_element=16)
    2162688.0
    """
    return batch * ((heads * key_dim * value_dim + wide) * 4 + (channels * kernel + narrow) * bits_per_element / 8)


# -- weights ----------------------------------------------------------------------------------


def weights(
    spec: ModelSpec | str,
    number_format: str | NumberFormat = CHECKPOINT,
    *,
    tensors: Iterable[tuple[Tensor, int]] | None = None,
) -> Estimate:
    """Bytes of the weights in a number format, by component.

    spec            a model or its name
    number_format   "checkpoint", as its files have it; or bf16, fp8, int4-gptq, nf4, q4_k_m, ...: see
                    `llmhw.number_formats()`. Quantized formats keep embeddings, head and norms as their format really
                    does, and count scales and zero points.
    tensors         a rank's part of the text model's tensors, each with how many there are; default: the whole model,
                    with its towers, which quantized formats leave in 16 bit

    >>> from llmhw import model
    >>> round(weights(model("llama-3-70b")).total / 2**30, 1)
    131.4
    >>> round(weights(model("gpt-oss-20b")).total / 1e9, 2), round(weights(model("gpt-oss-20b"), "bf16").total / 1e9, 2)
    (13.76, 41.83)
    """
    spec = model_of(spec)
    parts: dict[str, list[Term]] = {}
    for group in weight_groups(spec, number_format, tensors):
        stored: dict[str, Any] = {"elements": group.elements, "bits_per_weight": group.bits_per_weight}
        parts.setdefault(group.component, []).append(term(stored_weight_bytes, f"in {group.stored_as}", **stored))
    if tensors is None:
        parts |= tower_terms(spec, formats_in(spec, number_format)[0].bits / 8)
    called = format_label(spec, number_format) if isinstance(number_format, str) else number_format.name
    return Estimate.of(said("weights of {name} in {called}", name=spec.name, called=called), "bytes", parts)


def tower_terms(spec: ModelSpec, width: float = 2) -> dict[str, list[Term]]:
    """Bytes of vision and audio towers, by kind; `width`: bytes of an element, at least 2."""
    return {
        tower.kind: [term(state_bytes, f"{tower.kind} tower", elements=tower.params, bytes_per_element=max(width, 2))]
        for tower in spec.towers
    }


def whole_towers(spec: ModelSpec, width: float = 2) -> dict[str, list[Term]]:
    """The same as parts of what a device holds: every rank of the first pipeline stage has them whole."""
    return {f"{kind} tower": terms for kind, terms in tower_terms(spec, width).items()}


def told_towers(spec: ModelSpec, width: float = 2, how: str = "whole on every device of the first stage") -> list[str]:
    """In words, which towers an answer counts and which parts it leaves out."""
    sizes = {kind: sum(float(t.value) for t in terms) for kind, terms in tower_terms(spec, width).items()}
    named = [
        said("{kind} tower {size}", kind=said(kind), size=format_quantity(size, "bytes"))
        for kind, size in sizes.items()
    ]
    found = [said("with {towers}, {how}", towers=said(" and ").join(named), how=said(how))] if named else []
    if spec.left_out:
        left = ", ".join(spec.left_out)
        found.append(
            said("not counted: {parts} part of this model, whose tensors its config does not tell", parts=left)
        )
    return found


# -- key-value cache --------------------------------------------------------------------------


@lru_cache(maxsize=64)
def kept_by(spec: ModelSpec, windows: str = "all", latent: str = "one") -> ModelSpec:
    """The model with the cache that an engine keeps of it: `windows` and `latent` of `llmhw.engines.ServingEngine`.

    Where every layer has a window (Mistral 7B v0.1, Phi-3 mini), llama.cpp and MLX attend to everything and keep it.

    >>> from llmhw import model
    >>> kv_cache(kept_by(model("mistral-7b"), "mixed"), seq_len=32768).total / 2**30
    4.0
    """
    kinds = [layer.attention for layer, _ in spec.layer_kinds if layer.attention]
    whole = windows == "none" or (windows == "mixed" and all(a.span for a in kinds))
    if not whole and (latent != "heads" or not any(a.latent for a in kinds)):
        return spec
    made: dict[int, Layer] = {}
    for layer, _ in spec.layer_kinds:
        a = layer.attention
        if a and whole and a.kind != "compressed":
            a = replace(a, evicts=False)
        if a and latent == "heads" and a.kind == "mla":
            a = replace(a, latent=0, kv_heads=a.heads)
        made[id(layer)] = replace(layer, attention=a)
    return replace(spec, layers=tuple(made[id(layer)] for layer in spec.layers))


@checked(layers=None)
def kv_cache(
    spec: ModelSpec | str,
    *,
    batch: int = 1,
    seq_len: int,
    kv_format: str | NumberFormat = "bf16",
    tp: int = 1,
    layers: Iterable[int] | None = None,
) -> Estimate:
    """Bytes of the key-value cache, one part for each kind of attention.

    spec       a model or its name
    batch      sequences
    seq_len    tokens of each
    kv_format  bf16, fp16, fp8, int8, ...
    tp         tensor-parallel ranks that heads are split over: one rank's part. Heads that are fewer than ranks are
               copied, and so is the latent of multi-head latent attention
    layers     numbers of the layers that are counted; default: all

    Sliding-window and chunked layers keep at most their window; multi-head latent attention keeps its latent;
    linear attention keeps a state of fixed size. Page rounding of a serving engine is not counted.

    >>> from llmhw import model
    >>> kv_cache(model("llama-2-7b"), seq_len=4096).total / 2**30
    2.0
    """
    spec, stored = model_of(spec), number_format(kv_format)
    _check_tp(spec, tp)
    bits = stored.bits_per_weight
    parts: dict[str, list[Term]] = {}
    for layer, count in spec.layer_kinds if layers is None else spec.kinds_of(_numbers(spec, layers)):
        a, linear = layer.attention, layer.linear_attention
        if a and a.causal and not a.shared:
            sizes: dict[str, Any] = {"batch": batch, "tokens": seq_len if a.span is None else minimum(seq_len, a.span)}
            if a.latent:
                sizes |= {"latent": a.latent, "index_dim": a.index_dim if a.index_pool == 1 else 0}
                kept = term(latent_cache_bytes, "latent and rotary key", count, **sizes, bits_per_element=bits)
            else:
                sizes |= {"kv_heads": ceil_div(a.kv_heads, tp), "head_dim": a.head_dim, "v_head_dim": a.v_head_dim}
                kept = term(kv_cache_bytes, "keys and values", count, **sizes, bits_per_element=bits)
            parts.setdefault(a.kind, []).append(kept)
            if a.compression:
                sizes = {"batch": batch, "tokens": seq_len, "compression": a.compression, "bits_per_element": bits}
                entry = sizes | {"latent": a.latent, "index_dim": a.index_dim}
                parts[a.kind].append(term(compressed_cache_bytes, "compressed entries", count, **entry))
                sizes |= {"each": a.waiting[0], "last": a.waiting[1]}
                parts.setdefault("state", []).append(term(waiting_bytes, "tokens of the next entry", count, **sizes))
            elif a.index_dim and (a.index_pool > 1 or not a.latent):
                sizes = {"batch": batch, "tokens": seq_len, "compression": a.index_pool, "latent": a.index_dim}
                kept = term(compressed_cache_bytes, "keys of the indexer", count, **sizes, bits_per_element=bits)
                parts[a.kind].append(kept)
        if linear:
            sizes = {"batch": batch, **linear.kept(tp), "bits_per_element": bits}
            kept = term(linear_state_bytes, linear.kind, count, **sizes)
            parts.setdefault("state", []).append(kept)
    called = kv_format if isinstance(kv_format, str) else stored.name
    return Estimate.of(
        said(
            "KV cache of {name} in {called}, batch {batch}, {seq_len} tokens",
            name=spec.name,
            called=called,
            batch=batch,
            seq_len=seq_len,
        ),
        "bytes",
        parts,
    )


def _numbers(spec: ModelSpec, layers: Iterable[int]) -> list[int]:
    """Numbers of layers that the model has."""
    return [check_count("layers", layer, 0, spec.num_layers - 1) for layer in check_items("layers", layers)]


def _check_tp(spec: ModelSpec, tp: int) -> None:
    """Heads are split over tensor-parallel ranks, or copied, evenly."""
    for heads in {layer.attention.kv_heads for layer, _ in spec.layer_kinds if layer.attention}:
        if heads % tp and tp % heads:
            raise LLMHWError(
                f"tp={tp} neither divides kv_heads={heads} of {spec.name} nor is a multiple of it, so KV heads can be "
                "neither split nor copied evenly"
            )


def kv_cache_bytes_per_token(
    spec: ModelSpec | str, kv_format: str | NumberFormat = "bf16", *, tp: int = 1, layers: Iterable[int] | None = None
) -> float:
    """Bytes that one more token adds to the cache of one sequence, while it is within every window.

    tp, layers   of one rank: see `kv_cache`

    The state of linear attention does not grow and is not counted.

    >>> from llmhw import model
    >>> kv_cache_bytes_per_token(model("deepseek-v3"))
    70272.0
    """
    cache = kv_cache(spec, seq_len=1, kv_format=kv_format, tp=tp, layers=layers)
    return float(sum(part.value for part in cache if part.name != "state"))


# -- training ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Precision:
    """Bytes per parameter of a training recipe, without the optimizer's states; `compute`: of an activation."""

    name: str
    weights: int
    gradients: int
    master: int
    summary: str
    compute: int = 2

    @property
    def state(self) -> int:
        """Bytes of an element of optimizer state: states follow the copy that the optimizer updates."""
        return self.master or self.weights


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", 4, 4, 0, "everything in fp32", 4),
        Precision("fp32-bf16", 4, 4, 0, "fp32 weights, computed with in bf16 (FSDP's mixed precision, autocast)"),
        Precision("bf16-mixed", 2, 2, 4, "bf16 weights and gradients, fp32 master copy (DeepSpeed, ZeRO)"),
        Precision("bf16-mixed-fp32-grads", 2, 4, 4, "the same with fp32 gradients (Megatron-LM)"),
        Precision("bf16", 2, 2, 0, "everything in bf16, no master copy; states in bf16"),
    )
}


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer keeps for a parameter.

    states      names of its full-sized states
    element     bytes of an element; None: as the training recipe has it
    scheme      plain, 8bit, factored, or muon (momentum for matrices, Adam for the rest)
    fused       one kernel updates all: no temporary copies
    paged       states move to host memory where the device has no room, page by page as the update meets them
    """

    name: str
    states: tuple[str, ...]
    summary: str
    element: int | None = None
    scheme: str = "plain"
    step: bool = True
    fused: bool = False
    paged: bool = False

    def uniform(self, state: int) -> float | None:
        """Bytes of state that an update reads and writes for each element; None where matrices differ from the rest.

        state   bytes of an element of state, as the training recipe has it
        """
        if self.scheme == "8bit":
            return float(len(self.states) * blockwise_8bit_bytes(elements=256) / 256)
        return None if self.scheme in ("factored", "muon") else len(self.states) * (self.element or state)

    def widths(self, tensors: Iterable[tuple[Tensor, Any]], state: int) -> dict[float, Any]:
        """Elements by the bytes of state that an update reads and writes for each, where these differ.

        The row and column of a factored state are no traffic beside the matrix; Muon keeps one state of a matrix.
        """
        width, found = self.element or state, dict[float, Any]()
        for t, count in tensors:
            if self.scheme == "muon":
                each = float(width if t.is_block_matrix else 2 * width)
            else:
                each = 0.0 if len(t.shape) > 1 else float(width)
            found[each] = found.get(each, 0) + count * t.numel
        return found


OPTIMIZERS: dict[str, Optimizer] = {
    o.name: o
    for o in (
        Optimizer("adamw", ("momentum", "variance"), "AdamW, states as wide as the copy it updates"),
        Optimizer("adamw-fp32", ("momentum", "variance"), "AdamW, states in fp32 always", element=4),
        Optimizer("adamw-bf16", ("momentum", "variance"), "AdamW, states in bf16 always", element=2),
        Optimizer("adamw-fused", ("momentum", "variance"), "AdamW in one kernel, without temporary copies", fused=True),
        Optimizer("adamw-8bit", ("momentum", "variance"), "AdamW with block-wise 8-bit states", scheme="8bit"),
        Optimizer(
            "paged-adamw", ("momentum", "variance"), "AdamW in fp32, paged (bitsandbytes)", 4, fused=True, paged=True
        ),
        Optimizer("paged-adamw-8bit", ("momentum", "variance"), "the same in 8 bit", scheme="8bit", paged=True),
        Optimizer("adafactor", ("variance",), "second moment factored into a row and a column", scheme="factored"),
        Optimizer("sgd", (), "plain SGD, no state", step=False),
        Optimizer("sgd-momentum", ("momentum",), "SGD with momentum", step=False),
        Optimizer("lion", ("momentum",), "Lion, sign of a momentum", step=False),
        Optimizer("muon", ("momentum",), "Muon for the blocks' matrices, AdamW for the rest", scheme="muon"),
    )
}


def optimizer_named(name: str) -> Optimizer:
    """The optimizer of that name; a misspelt one raises `LLMHWError` with the nearest."""
    return OPTIMIZERS[check_choice("optimizer", name, OPTIMIZERS)]


def precision_named(name: str) -> Precision:
    """The training recipe of that name; a misspelt one raises `LLMHWError` with the nearest."""
    return PRECISIONS[check_choice("precision", name, PRECISIONS)]


def optimizer_parts(tensors: Iterable[tuple[Tensor, int]], optimizer: Optimizer, state: int) -> dict[str, list[Term]]:
    """The optimizer's states over these tensors, as terms by state."""
    held, muon, width = list(tensors), optimizer.scheme == "muon", optimizer.element or state

    def plain(label: str, elements: Any) -> Term:
        return term(state_bytes, label, elements=elements, bytes_per_element=width)

    parts: dict[str, list[Term]] = {}
    if optimizer.scheme == "factored":
        parts["variance"] = [
            factored_state(t, n, width) if len(t.shape) > 1 else plain(t.name, t.numel).scaled(n) for t, n in held
        ]
    elif optimizer.scheme == "8bit":
        each = [term(blockwise_8bit_bytes, t.name, n, elements=t.numel) for t, n in held]
        parts = {name: list(each) for name in optimizer.states}
    elif muon:
        matrices, others = (sum(n * t.numel for t, n in held if t.is_block_matrix == block) for block in (True, False))
        rest = plain("AdamW momentum of the rest", others)
        parts["momentum"] = [plain("Muon momentum of the matrices", matrices), rest]
        parts["variance"] = [replace(rest, label="AdamW variance of the rest")]
    else:
        elements = sum(n * t.numel for t, n in held)
        parts = {name: [plain(name, elements)] for name in optimizer.states}
    stepped = sum(n for t, n in held if not (muon and t.is_block_matrix))
    if optimizer.step and not (isinstance(stepped, int) and stepped == 0):
        # torch.optim keeps a step counter, one fp32 number, for every parameter tensor
        counters = term(state_bytes, "a step counter for each tensor", elements=stepped, bytes_per_element=4)
        parts["step counters"] = [counters]
    return parts


def factored_state(tensor: Tensor, count: Any, width: int) -> Term:
    """Adafactor's second moment of a tensor, a stack of matrices, as often as it occurs."""
    rows, columns = tensor.shape[-2:]
    sizes: dict[str, Any] = {"matrices": tensor.numel // (rows * columns), "rows": rows, "columns": columns}
    return term(factored_state_bytes, tensor.name, count, **sizes, bytes_per_element=width)


def _trained(tensors: Iterable[tuple[Tensor, int]], optimizer: str, precision: str) -> dict[str, list[Term]]:
    """Weights, gradients, master copy and optimizer states of tensors that are trained whole."""
    held, recipe = list(tensors), precision_named(precision)
    elements = sum(n * t.numel for t, n in held)
    widths = {"weights": recipe.weights, "gradients": recipe.gradients, "master copy": recipe.master}
    found = {
        name: [term(state_bytes, name, elements=elements, bytes_per_element=width)]
        for name, width in widths.items()
        if width
    }
    return found | optimizer_parts(held, optimizer_named(optimizer), recipe.state)


def training_states(spec: ModelSpec | str, *, optimizer: str = "adamw", precision: str = "bf16-mixed") -> Estimate:
    """Bytes of weights, gradients, master copy and optimizer states of full training on one device.

    optimizer   adamw, adamw-fused, adamw-fp32, adamw-bf16, adamw-8bit, ...: `OPTIMIZERS`
    precision   fp32, bf16-mixed, bf16-mixed-fp32-grads, bf16

    Counts what persists from step to step. Activations, the temporary copies of the update step and the
    framework's context come on top. Towers are frozen, in the format of the weights.

    >>> from llmhw import model
    >>> estimate = training_states(model("llama-2-7b"))
    >>> [part.name for part in estimate]
    ['weights', 'gradients', 'master copy', 'momentum', 'variance', 'step counters']
    >>> round(estimate.total / model("llama-2-7b").parameters.total, 3)
    16.0
    """
    spec = model_of(spec)
    held = _trained(spec.all_tensors(), optimizer, precision)
    held |= whole_towers(spec, precision_named(precision).weights)
    return Estimate.of(
        said(
            "training states of {name}: {optimizer}, {precision}",
            name=spec.name,
            optimizer=optimizer,
            precision=precision,
        ),
        "bytes",
        held,
    )


LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "all-linear": ("attention", "mlp"),
    "attention": ("attention",),
    "mlp": ("mlp",),
}


def lora_tensors(
    spec: ModelSpec | str, *, rank: int, targets: str | Iterable[str] = "all-linear"
) -> list[tuple[Tensor, int]]:
    """The adapter matrices that LoRA adds, each with the number of layers that hold it.

    rank      inner size r of the two factors
    targets   all-linear (every linear layer of the blocks but routers and stacked experts), attention, mlp,
              or module names such as ["q_proj", "v_proj"] or "q_proj v_proj"

    >>> from llmhw import model
    >>> added = lora_tensors(model("llama-2-7b"), rank=8, targets=["q_proj", "v_proj"])
    >>> sum(count * tensor.numel for tensor, count in added)
    4194304
    """
    spec, rank = model_of(spec), check_count("rank", rank)
    linear = [(t, count) for layer, count in spec.layer_kinds for t in layer.tensors if t.matmul and len(t.shape) == 2]
    if isinstance(targets, str) and targets in LORA_TARGETS:
        chosen = [(t, n) for t, n in linear if t.component in LORA_TARGETS[targets]]
    else:
        names = (
            targets.replace(",", " ").split()
            if isinstance(targets, str)
            else check_items("targets", targets, check_text)
        )
        known = sorted({t.module for t, _ in linear})
        for name in names:
            if name not in known:
                raise unknown_name("targets", name, [*LORA_TARGETS, *known])
        chosen = [(t, n) for t, n in linear if t.module in names]
    added = []
    for t, n in chosen:
        stem = t.name.removesuffix(".weight")
        # the factor on the uncut side of a matrix is whole, the other is cut with it
        for name, shape, split in (("lora_A", (rank, t.into), "row"), ("lora_B", (t.out, rank), "column")):
            cut = split if t.split == split else "whole"
            added.append((Tensor(f"{stem}.{name}.weight", shape, t.component, True, part=t.part, split=cut), n))
    if not added:
        raise LLMHWError(
            f"targets={shown(targets)} selects no linear layer of {spec.name}; name modules such as q_proj"
        )
    return added


def lora_modules(spec: ModelSpec | str, targets: str | Iterable[str] = "all-linear") -> tuple[str, ...]:
    """Names of the modules that LoRA's targets mean in this model.

    >>> lora_modules("mistral-7b", "attention")
    ('k_proj', 'o_proj', 'q_proj', 'v_proj')
    """
    added = lora_tensors(spec, rank=1, targets=targets)
    return tuple(sorted({t.name.split(".lora_")[0].rsplit(".", 1)[-1] for t, _ in added}))


def lora_terms(added: Sequence[tuple[Tensor, int]], width: int, *, tp: int = 1) -> list[Term]:
    """Bytes of `lora_tensors` on one of tp ranks, a term for each matrix; `width`: bytes of an element."""
    return [
        term(
            lora_params_bytes,
            a.name.removesuffix(".lora_A.weight"),
            count,
            rank=a.shape[0],
            in_features=share(a.shape[1], tp if a.split == "row" else 1),
            out_features=share(b.shape[0], tp if b.split == "column" else 1),
            bytes_per_element=width,
        )
        for (a, count), (b, _) in zip(added[::2], added[1::2], strict=True)
    ]


def lora_states(
    spec: ModelSpec | str,
    *,
    rank: int = 16,
    targets: str | Iterable[str] = "all-linear",
    base_format: str | NumberFormat = "bf16",
    optimizer: str = "adamw",
    precision: str = "fp32",
) -> Estimate:
    """Bytes that persist while LoRA (or QLoRA: `base_format="nf4-dq"`) trains adapters on a frozen model.

    rank, targets   see `lora_tensors`
    base_format     format of the frozen weights: bf16 for LoRA, nf4-dq for QLoRA, ...
    optimizer       as in `training_states`
    precision       of the adapters: fp32 (the usual choice), bf16, bf16-mixed, ...

    Activations come on top: the frozen model's are needed to train the adapters.

    >>> from llmhw import model
    >>> round(lora_states(model("llama-3-8b"), base_format="nf4-dq").total / 2**30, 1)
    5.9
    """
    spec, base = model_of(spec), base_format
    added = lora_tensors(spec, rank=rank, targets=targets)
    adapters = lora_terms(added, precision_named(precision).weights)
    frozen = [t for part in weights(spec, base) for t in part.terms]
    trained = _trained(added, optimizer, precision)
    del trained["weights"]  # the adapters, counted factor by factor
    kind = "LoRA" if all(fmt.bits >= 16 for fmt in formats_in(spec, base)) else "QLoRA"
    title = said(
        "{kind} states of {name}: rank {rank}, {optimizer}", kind=kind, name=spec.name, rank=rank, optimizer=optimizer
    )
    return Estimate.of(title, "bytes", {"frozen weights": frozen, "adapters": adapters, **trained})


@formula(source="LoRA (Hu et al. 2021)", unit="bytes")
def lora_params_bytes(*, rank: Any, in_features: Any, out_features: Any, bytes_per_element: Any) -> Any:
    """Bytes of the two factors beside one matrix.

    >>> lora_params_bytes(rank=8, in_features=4096, out_features=4096, bytes_per_element=4)
    262144
    """
    return lora_params(rank=rank, in_features=in_features, out_features=out_features) * bytes_per_element
