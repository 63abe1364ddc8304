"""What one rank computes in a layer, operation by operation, with the shapes that decide how fast it runs.

Sizes are those of one micro-batch on one rank, after tensor, context and expert parallelism have cut them. Nothing
here knows a device: `llmhw.roofline` turns operations into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.flops import causal_pairs, chunked_pairs
from llmhw.formula import formula
from llmhw.job import Parallelism
from llmhw.model import Attention, Layer, ModelSpec
from llmhw.sharding import local_tensor

# Parts that fused kernels multiply at once.
_FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}


@formula(source="every element read and written once by each fused pass; 16-bit activations", unit="bytes")
def pass_bytes(*, tokens: Any, width: Any, passes: Any, bytes_per_element: Any = 2) -> Any:
    """Memory traffic of elementwise passes over vectors.

    passes   reads plus writes of one element: a norm reads one and writes one, a sum of two reads two and writes one

    >>> pass_bytes(tokens=4096, width=8192, passes=2)
    134217728
    """
    return tokens * width * passes * bytes_per_element


@dataclass(frozen=True, slots=True)
class Matmul:
    """A matrix product of the forward pass: (m x k) times (k x n), `groups` of them at once.

    m        rows: tokens of the micro-batch; of a mixture of experts, those of one expert
    n, k     outputs and inputs on this rank
    groups   experts on this rank, or 1
    """

    name: str
    m: float
    n: int
    k: int
    groups: int = 1

    @property
    def flops(self) -> float:
        """FLOPs of one pass; a backward pass of a trained matrix has two."""
        return 2.0 * self.groups * self.m * self.n * self.k

    @property
    def weights(self) -> int:
        """Elements of the matrices."""
        return self.groups * self.n * self.k


@dataclass(frozen=True, slots=True)
class Core:
    """Attention's core on one rank.

    batch, heads, kv_heads   sequences and heads on this rank
    queries, keys            tokens on this rank, and tokens that they may see
    pairs                    query-key pairs of a head that the masks leave
    head_dim, v_head_dim     lengths of keys and of values
    """

    batch: int
    heads: float
    kv_heads: float
    queries: float
    keys: float
    pairs: float
    head_dim: int
    v_head_dim: int

    @property
    def flops(self) -> float:
        """FLOPs of one forward pass over the pairs that the masks leave."""
        return 2.0 * self.batch * self.heads * self.pairs * (self.head_dim + self.v_head_dim)


@dataclass(frozen=True, slots=True)
class Work:
    """What one rank does for one micro-batch in one layer, or outside the layers.

    matmuls, core    see there; core is None where there is no attention
    state_flops      FLOPs of linear attention's state
    forward_bytes, backward_bytes   memory traffic of norms, activation functions, sums, rotary embeddings, softmax,
                     routing and dropout; matrix products and attention's core move their own
    kernels          kernels launched in a forward pass
    """

    matmuls: tuple[Matmul, ...] = ()
    core: Core | None = None
    state_flops: float = 0.0
    forward_bytes: float = 0.0
    backward_bytes: float = 0.0
    kernels: int = 0

    @property
    def flops(self) -> float:
        """FLOPs of one forward pass."""
        return sum(m.flops for m in self.matmuls) + (self.core.flops if self.core else 0.0) + self.state_flops


def _pairs(a: Attention, seq_len: int) -> float:
    if a.chunk:
        return float(chunked_pairs(seq_len=seq_len, chunk=a.chunk))
    return float(causal_pairs(seq_len=seq_len, window=a.window or a.index_topk or seq_len))


def layer_work(
    spec: ModelSpec,
    layer: Layer,
    parallelism: Parallelism,
    *,
    micro_batch: int,
    seq_len: int,
    attention: str = "flash",
    fused: bool = True,
    dropout: bool = False,
    imbalance: float = 1.0,
) -> Work:
    """The work of one layer for one micro-batch on one rank.

    attention   flash, or eager: the score matrix is written and read
    fused       queries, keys and values come from one product, gate and up too (Megatron-LM)
    dropout     masks are drawn, written and read
    imbalance   tokens of the busiest expert rank over the mean

    >>> from llmhw import model
    >>> spec = model("llama-3-8b")
    >>> work = layer_work(spec, spec.layers[0], Parallelism(tp=8), micro_batch=1, seq_len=8192)
    >>> [(m.name, m.m, m.n, m.k) for m in work.matmuls][:2]
    [('qkv', 8192, 768, 4096), ('o_proj', 8192, 4096, 512)]
    """
    p = parallelism
    tokens = micro_batch * seq_len // p.cp  # of the tensor-parallel group: what its matrix products see
    own: float = tokens / p.tp if p.sequence_parallel else tokens  # of this rank between them
    sizes: dict[str, list[float]] = {}
    downs: list[str] = []  # the second matrix of each feed-forward part; its input is what the activation makes
    gated: set[str] = set()
    forward = backward = 0.0
    kernels = 2  # sums onto the residual
    for tensor in layer.tensors:
        if not tensor.matmul:
            if tensor.component == "norms" and tensor.name.endswith("weight"):
                kernels += 1
                width, rows = tensor.shape[0], own
                a = layer.attention
                if a and tensor.part in ("q_norm", "k_norm") and width == a.head_dim:
                    rows = float(tokens)
                    width *= max(1, (a.heads if tensor.part == "q_norm" else a.kv_heads) // p.tp)
                forward += pass_bytes(tokens=rows, width=width, passes=2)
                backward += pass_bytes(tokens=rows, width=width, passes=3)
            continue
        local = local_tensor(spec, p, tensor, layer)
        n, k = local.out, local.into
        prefix = {"experts": "expert ", "mlp": "shared " if tensor.shared else "mlp "}.get(tensor.component, "")
        if tensor.part in ("gate", "gate_up"):
            gated.add(prefix)
        # the first matrix of a plain feed-forward part has no gate beside it
        joined = fused and (tensor.part != "up" or prefix in gated)
        name = prefix + (_FUSED.get(tensor.part, tensor.module) if joined else tensor.module)
        if tensor.split == "experts":
            each = own * tensor.used * p.ep * p.expert_tp * imbalance / tensor.experts
            sizes[name] = [each, n, k, max(1, local.shape[0])]
            if tensor.part == "down":
                downs.append(name)
            continue
        if tensor.part == "down":
            downs.append(name)
        if name in sizes:
            sizes[name][1] += n
        else:
            sizes[name] = [own if tensor.split == "whole" else tokens, n, k, 1]
    matmuls = tuple(Matmul(name, m, int(n), int(k), int(g)) for name, (m, n, k, g) in sizes.items())
    kernels += len(matmuls)
    for m in matmuls:
        if m.name in downs:
            many = m.name.startswith(tuple(gated)) if gated else False
            forward += pass_bytes(tokens=m.m * m.groups, width=m.k, passes=3 if many else 2)
            backward += pass_bytes(tokens=m.m * m.groups, width=m.k, passes=5 if many else 3)
            kernels += 1
    # two sums onto the residual
    forward += pass_bytes(tokens=own, width=spec.hidden, passes=2 * 3)
    backward += pass_bytes(tokens=own, width=spec.hidden, passes=2 * 3)
    if dropout:
        forward += pass_bytes(tokens=own, width=spec.hidden, passes=2, bytes_per_element=1)
        backward += pass_bytes(tokens=own, width=spec.hidden, passes=2 * 3)
    routed = next((t for t in layer.tensors if t.component == "experts"), None)
    if routed is not None:
        # rows are sorted by expert, sent, and weighted and added up again
        forward += pass_bytes(tokens=own * routed.used * imbalance, width=spec.hidden, passes=6)
        backward += pass_bytes(tokens=own * routed.used * imbalance, width=spec.hidden, passes=6)
        kernels += 60
    core, state = None, 0.0
    a, linear = layer.attention, layer.linear_attention
    if a is not None:
        heads, kv_heads = a.heads / p.tp, max(1.0, a.kv_heads / p.tp)
        core = Core(
            batch=micro_batch,
            heads=heads,
            kv_heads=kv_heads,
            queries=seq_len / p.cp,
            keys=float(min(a.window or a.chunk or seq_len, seq_len)),
            pairs=_pairs(a, seq_len) / p.cp,
            head_dim=a.head_dim,
            v_head_dim=a.v_head_dim,
        )
        kernels += 1
        if spec.rotary:
            rotated = (heads + kv_heads) * a.head_dim
            forward += pass_bytes(tokens=tokens, width=rotated, passes=2)
            backward += pass_bytes(tokens=tokens, width=rotated, passes=2)
            kernels += 1
        if attention == "eager":
            scores = micro_batch * heads * core.queries * seq_len
            # scale, mask and softmax in one kernel; dropout apart, with a mask of one byte
            forward += scores * (4 + (5 if dropout else 0))
            backward += scores * (6 + (5 if dropout else 0))
            kernels += 15  # masks, transposes and biases apart
    if linear is not None:
        state = 6.0 * tokens * linear.heads / p.tp * linear.key_dim * linear.value_dim
        kernels += 6
    return Work(matmuls, core, state, float(forward), float(backward), kernels)


def head_work(
    spec: ModelSpec, parallelism: Parallelism, *, micro_batch: int, seq_len: int, loss_passes: float = 6
) -> Work:
    """Final norm, output head and loss of one micro-batch on one rank of the last stage.

    loss_passes   reads plus writes of a logit in fp32, in forward and backward pass together

    >>> from llmhw import model
    >>> head_work(model("llama-3-8b"), Parallelism(), micro_batch=1, seq_len=8192).flops / 1e12
    8.607...
    """
    p = parallelism
    tokens = micro_batch * seq_len // p.cp
    vocab, width = spec.head_shape
    rows = tokens / p.tp if p.sequence_parallel else tokens
    head = Matmul("head", tokens, -(-vocab // p.tp), width)
    logits = tokens * head.n * 4.0 * loss_passes / 2
    return Work(
        (head,),
        None,
        0.0,
        pass_bytes(tokens=rows, width=width, passes=2) + logits,
        pass_bytes(tokens=rows, width=width, passes=3) + logits,
        8,
    )
