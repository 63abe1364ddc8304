"""The exact profile of `llmhw.training_memory` for one device: a step of plain PyTorch and transformers.

A step passes a few moments that can be the highest; we add up what is alive at each of them and take the largest:

- in the forward pass, when the loss has been computed: logits, their fp32 copy and the log-probabilities;
- in the backward pass, when it begins: all activations, and three fp32 matrices of the size of the logits;
- in the backward pass of a layer: its activations (run again, if they are recomputed), gradients on their way, and
  the weight gradients of the layers behind it;
- when a tied embedding adds up its two gradients;
- in the optimizer's step: all gradients, and the temporary copies of its arithmetic.

Counted are tensors that PyTorch's operations return. Not counted: what a kernel allocates inside itself, the
allocator's rounding and fragmentation, the context of the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.activations import activations, by_op, layer_activations, style_of
from llmhw.block import saved_bytes, score_matrix_bytes
from llmhw.checks import checked
from llmhw.formula import Estimate, Part, Term, term
from llmhw.job import ATTENTION, TrainingJob, usual_attention
from llmhw.memory import state_bytes, training_states
from llmhw.model import Layer, ModelSpec
from llmhw.units import LLMHWError, check_choice, check_count

OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "adafactor")
PRECISIONS = ("fp32", "bf16")
RECOMPUTE = ("none", "full")
PARTS = ("weights", "gradients", "optimizer states", "activations", "logits and loss", "temporaries")


@dataclass(frozen=True, slots=True, repr=False)
class StepPeak(Estimate):
    """The parts of the highest moment of a step, and the highest moment of each phase.

    moment   which moment it is, in words
    phase    forward, backward or optimizer
    phases   the highest moment of every phase, by the name of the phase
    """

    moment: str = ""
    phase: str = ""
    phases: Mapping[str, StepPeak] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in bytes; `phases` holds the highest total of each phase."""
        return {
            # not super(): a dataclass with slots is made anew, and super() would look for the class it replaced
            **Estimate.to_dict(self),
            "moment": self.moment,
            "phase": self.phase,
            "phases": {name: peak.total for name, peak in self.phases.items()},
        }


@dataclass(frozen=True)
class _Step:
    """What every moment of a step needs."""

    spec: ModelSpec
    batch: int
    seq_len: int
    optimizer: str
    precision: str
    recompute: str
    attention: str

    def __post_init__(self) -> None:
        for name in ("batch", "seq_len"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        known = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "recompute": RECOMPUTE, "attention": ATTENTION}
        for name, names in known.items():
            check_choice(name, getattr(self, name), names)

    @property
    def e(self) -> int:
        """Bytes of an element of weights, gradients and activations."""
        return 4 if self.precision == "fp32" else 2

    @property
    def case(self) -> dict[str, Any]:
        """The same for `llmhw.activations`."""
        return {name: getattr(self, name) for name in ("batch", "seq_len", "precision", "attention")}

    # terms

    def rows(self, label: str, width: int, size: int, times: float = 1) -> Term:
        """A tensor with a row for each token."""
        tokens: dict[str, Any] = {"batch": self.batch, "seq_len": self.seq_len}
        return term(saved_bytes, label, times, **tokens, width=width, bytes_per_element=size)

    def elements(self, label: str, elements: int) -> Term:
        return term(state_bytes, label, elements=elements, bytes_per_element=self.e)

    # gradients

    @property
    def tied(self) -> int:
        """Elements of an embedding table that is also the output head; 0 if it is not."""
        vocab, width = self.spec.head_shape
        return vocab * width if self.spec.tied else 0

    def gradients_after(self, layer: int) -> list[Term]:
        """Gradients of what the backward pass has met before it comes to this layer."""
        outside = sum(t.numel for t in self.spec.tensors if t.component != "embedding")
        behind = sum(block.params for block in self.spec.layers[layer + 1 :])
        found = [
            self.elements("head and final norm", outside),
            self.elements("layers behind", behind),
            self.elements("the tied embedding's, from the head", self.tied),
        ]
        return [t for t in found if t.value]

    # activations

    def kept(self, layers: int | None = None) -> tuple[list[Term], list[Term]]:
        """Activations of the first `layers` layers (None: of the whole model and its head), and those of the loss."""
        held = None if layers is None else range(layers)
        found = activations(self.spec, layers=held, head=held is None, recompute=self.recompute, **self.case)
        kept, loss = ([t for p in found for t in p.terms if (p.name == "loss") == is_loss] for is_loss in (False, True))
        return kept, loss


@dataclass(frozen=True)
class _Stage:
    """A stretch of a layer's backward pass.

    name          what it is the backward pass of
    terms         activations that it alone needs: gone when it is through
    temporaries   gradients that are alive at its highest moment
    freed         which of its terms are gone by then
    params        elements whose gradients exist once it is through
    so_far        elements of them whose gradients exist at its highest moment
    """

    name: str
    terms: list[Term]
    temporaries: list[Term]
    freed: list[Term]
    params: int = 0
    so_far: int = 0


# What a norm's weight multiplies and what it is multiplied with.
_SCALED = ("normalized", "norm weight")


def _norm_groups(terms: list[Term]) -> list[list[Term]]:
    """The terms of several norms, one list a norm: each begins with its input and has one scale."""
    groups: list[list[Term]] = []
    for t in terms:
        begins = t.key in ("norm input", "LayerNorm input", "norm mean", "norm scale")
        if not groups or (begins and any(o.key == "norm scale" for o in groups[-1])):
            groups.append([])
        groups[-1].append(t)
    return groups


def _norm_stage(step: _Step, group: list[Term]) -> _Stage:
    """A norm of the residual stream; where it is written out in fp32, matrices of its size are alive near its end."""
    if any(t.key == "LayerNorm input" for t in group):
        return _Stage("norm", group, [step.rows("gradient of the norm's input", step.spec.hidden, step.e)], [])
    inside = step.rows("gradients inside the norm, in fp32", step.spec.hidden, 4, _matrices(step))
    return _Stage("norm", group, [inside], [t for t in group if t.key in _SCALED])


def _matrices(step: _Step) -> int:
    """fp32 matrices that the backward pass of a norm holds at its highest moment."""
    return 4 if style_of(step.spec).norm == "cohere" else 5


def _feed_forward_stage(step: _Step, layer: Layer, parts: Mapping[str, list[Term]]) -> _Stage:
    """At the product of gate and up: the product's own gradient, and those of its two sides."""
    h, e = step.spec.hidden, step.e
    terms = [t for name in ("mlp", "activation function", "experts", "routing") for t in parts.get(name, [])]
    params = sum(t.numel for t in layer.tensors if t.component in ("mlp", "experts", "router"))
    experts = [t for t in layer.tensors if t.component == "experts" and t.matmul]
    if experts:
        weight = next((dict(t.inputs)["bytes_per_element"] for t in terms if t.key == "row weight"), e)
        rows = step.rows("gradients of the weighted expert outputs", experts[0].used * h, weight, 3)
        return _Stage("experts", terms, [rows], [], params)
    matrices = [t for t in layer.tensors if t.component == "mlp" and t.matmul]
    if not matrices:
        return _Stage("feed-forward part", terms, [], [], params)
    down = matrices[-1]
    # a plain feed-forward part with a one-kernel activation: its result is freed when that one's gradient comes
    one_kernel = [t.key for t in parts.get("activation function", [])] == ["activation input"]
    gated = any(t.key == "activated gate" for t in terms)
    rows = step.rows("gradients inside the feed-forward part", down.numel // h, e, 1 if one_kernel and not gated else 2)
    return _Stage("feed-forward part", terms, [rows], [], params, down.numel)


def _attention_stages(step: _Step, layer: Layer, parts: Mapping[str, list[Term]]) -> list[_Stage]:
    """The attention core, then the norms of queries and keys."""
    a, e = layer.attention, step.e
    assert a is not None
    terms = [t for name in ("output projection", "attention", "rotary") for t in parts.get(name, [])]
    rest = [t for name in ("qk norms", "qkv") for t in parts.get(name, [])]
    params = sum(t.numel for t in layer.tensors if t.component == "attention")
    query, key, value = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim
    probabilities = [t for t in terms if t.key == "probabilities"]
    if probabilities:
        softmax = max(probabilities, key=lambda t: float(t.value))
        made = term(score_matrix_bytes, "gradients around the softmax", 2, **dict(softmax.inputs))
        core = _Stage("softmax", terms, [made], [t for t in probabilities if t is not softmax])
    else:
        width = query + a.heads * a.v_head_dim + key + value
        core = _Stage("attention", terms, [step.rows("gradients of queries, keys, values and output", width, e)], [])
    if not parts.get("qk norms"):
        return [replace(core, terms=[*terms, *rest], params=params)]
    # the norm of the keys is through when that of the queries is at its highest
    first, *others = _norm_groups(parts["qk norms"])
    freed = [*(t for t in first if t.key in _SCALED), *(t for group in others for t in group)]
    fp32 = step.rows("gradients inside the norm of the queries, in fp32", query, 4, _matrices(step))
    waiting = step.rows("gradients of keys and values", 2 * key + value, e)
    return [core, _Stage("norms of queries and keys", rest, [fp32, waiting], freed, params)]


def _layer_moments(step: _Step, i: int) -> Iterable[tuple[str, dict[str, list[Term]]]]:
    """The high moments of the backward pass of layer `i`."""
    spec, e = step.spec, step.e
    layer, style, h = spec.layers[i], style_of(spec), spec.hidden
    own = layer_activations(spec, layer, **step.case)
    below, _ = step.kept(i + 1)
    if step.recompute == "full":
        # everything else of this layer has just been computed again
        saves_input = style.norm.startswith("layer") or style.block in ("post", "behind") or e == 4
        below = _less(below, 1, key="layer input") if saves_input else below
    else:
        below = _subtract(below, [t for p in own for t in p.terms])
    parts = {p.name: list(p.terms) for p in own}
    norms = [_norm_stage(step, group) for group in _norm_groups(parts.get("norms", []))]
    core, mlp = _attention_stages(step, layer, parts), _feed_forward_stage(step, layer, parts)
    if style.block == "sandwich":
        stages = [norms[3], mlp, norms[2], norms[1], *core, norms[0]]
    elif style.block in ("post", "behind"):
        stages = [norms[1], mlp, norms[0], *core]
    elif style.block == "parallel":
        stages = [mlp, *core, *norms[::-1]]
    else:
        stages = [mlp, norms[1], *core, norms[0]]

    incoming = step.rows("gradient of the residual stream", h, e)
    # in fp32 the gradient of a norm's input is added to the residual stream's at once: there is no cast in between
    merged = {"sandwich": norms[::2], "post": [], "behind": []}.get(style.block, norms) if e == 4 else []
    gradients, through = step.gradients_after(i), 0
    for k, stage in enumerate(stages):
        gone = {id(t) for t in stage.freed}
        kept = [t for later in stages[k:] for t in later.terms if id(t) not in gone]
        done = through + stage.so_far
        yield (
            f"{stage.name} of layer {i}",
            {
                "gradients": [*gradients, step.elements("this layer so far", done)] if done else gradients,
                "activations": [*below, *kept],
                "temporaries": [*([] if any(stage is norm for norm in merged) else [incoming]), *stage.temporaries],
            },
        )
        through += stage.params


def _subtract(terms: list[Term], taken: list[Term]) -> list[Term]:
    """The terms of several equal layers, less those of one of them."""
    for one in taken:
        terms = _less(terms, one.times, key=one.key, formula=one.formula, inputs=one.inputs)
    return terms


def _less(terms: list[Term], times: float, **wanted: Any) -> list[Term]:
    """The terms with so many less of the last one that has these fields."""
    for k in range(len(terms) - 1, -1, -1):
        t = terms[k]
        if all(getattr(t, name) == value for name, value in wanted.items()):
            left = t.times - times
            rest = [replace(t, times=left, value=t.value / t.times * left)] if left else []
            return [*terms[:k], *rest, *terms[k + 1 :]]
    return terms


def _ends(spec: ModelSpec) -> list[int]:
    """The first and the last layer of each kind: what is alive changes evenly in between."""
    kinds = spec.kind_numbers
    last = {kind: i for i, kind in enumerate(kinds)}
    return sorted({*(kinds.index(kind) for kind in last), *last.values()})


@checked
def step_moments(
    spec: ModelSpec,
    *,
    batch: int = 1,
    seq_len: int,
    optimizer: str = "adamw",
    precision: str = "bf16",
    recompute: str = "none",
    attention: str | None = None,
) -> tuple[StepPeak, ...]:
    """What lives at each high moment of a training step, in the order of time: see `step_peak`.

    Of the layers' backward passes the last and the first of each kind are told: in between the sum changes evenly.

    >>> from llmhw import model
    >>> [m.moment for m in step_moments(model("llama-3-8b"), seq_len=4096)][:4]
    ['loss', 'start of the backward pass', 'final norm', 'feed-forward part of layer 31']
    """
    plain = all(layer.attention and not layer.attention.latent for layer, _ in spec.layer_kinds)
    if not by_op(spec) or not plain or style_of(spec).gated:
        raise LLMHWError(
            f"model={spec.name!r} has no profile of the moments of a step: it is known for plain attention; ask "
            "llmhw.training_memory, which adds up the largest parts"
        )
    step = _Step(spec, batch, seq_len, optimizer, precision, recompute, attention or usual_attention(spec, "torch"))
    states = training_states(spec, optimizer=optimizer, precision=precision)
    fixed = {
        "weights": list(states.part("weights").terms),
        "optimizer states": [t for p in states if p.name not in ("weights", "gradients") for t in p.terms],
    }
    note = f"batch {batch}, {seq_len} tokens, {optimizer}, {precision}, recompute {recompute}"
    made = []
    for phase, moment, parts in _moments(step, list(states.part("gradients").terms)):
        alive = {**fixed, **parts}
        title = f"peak of a training step of {spec.name}: {moment}"
        terms = tuple(Part(name, tuple(alive.get(name, ()))) for name in PARTS)
        made.append(StepPeak(title, "bytes", terms, note, moment, phase))
    return tuple(made)


@checked
def step_peak(
    spec: ModelSpec,
    *,
    batch: int = 1,
    seq_len: int,
    optimizer: str = "adamw",
    precision: str = "bf16",
    recompute: str = "none",
    attention: str | None = None,
) -> StepPeak:
    """Highest memory of a training step of plain PyTorch and transformers on one device.

    batch, seq_len   sequences of the micro-batch, tokens of each
    optimizer        adamw, sgd, sgd-momentum or adafactor of torch.optim; foreach, as CUDA has it by default
    precision        fp32 or bf16: of weights, gradients and states (no autocast, no master copy)
    recompute        none, or full: every layer is checkpointed
    attention        flash (PyTorch's scaled_dot_product_attention) or eager; None: as transformers runs the family

    The step is one of many: optimizer states exist, gradients are freed after each update (`zero_grad()`), and
    nothing but the loss outlives the forward pass. Parts: weights, gradients, optimizer states, activations,
    logits and loss, temporaries. `.phases` has the highest moment of the forward and backward pass and of the
    optimizer's step; in the very first step, forward and backward lack the optimizer states.

    Raises `LLMHWError` for a model without an op-by-op profile (`llmhw.activations.by_op`), or with other attention
    than the plain one.

    >>> from llmhw import model
    >>> peak = step_peak(model("llama-3-8b"), batch=1, seq_len=4096, recompute="full")
    >>> peak.moment, round(peak.total / 2**30, 1)
    ('optimizer step', 74.8)
    """
    recipe: dict[str, Any] = {"optimizer": optimizer, "precision": precision, "recompute": recompute}
    phases: dict[str, StepPeak] = {}
    for made in step_moments(spec, batch=batch, seq_len=seq_len, attention=attention, **recipe):
        if made.phase not in phases or made.total > phases[made.phase].total:
            phases[made.phase] = made
    highest = max(phases.values(), key=lambda m: float(m.total))
    return replace(highest, phases=phases)


@checked
def peak_of(job: TrainingJob) -> StepPeak:
    """`step_peak` of a job of one micro-batch on one device; `LLMHWError` for what it does not cover."""
    p = job.parallelism
    covers = {"devices": 1, "micro_batches": 1, "kernels": "torch", "offload": "none", "frozen": False}
    for name, covered in covers.items():
        value = getattr(p if hasattr(p, name) else job, name)
        if value != covered:
            raise LLMHWError(f"{name}={value!r} has no exact profile, only {name}={covered!r}; read the stages instead")
    recipe = {name: getattr(job, name) for name in ("seq_len", "optimizer", "precision", "recompute", "attention")}
    return step_peak(job.model, batch=job.micro_batch, **recipe)


def _moments(step: _Step, all_gradients: list[Term]) -> Iterator[tuple[str, str, dict[str, list[Term]]]]:
    """The phase of each moment that may be the highest, its name, and what is alive beside weights and states."""
    spec, e, vocab = step.spec, step.e, step.spec.vocab_size
    kept, loss = step.kept()
    copies = [step.rows("logits", vocab, e), *([step.rows("logits in fp32", vocab, 4)] if e != 4 else [])]
    yield "forward", "loss", {"activations": kept, "logits and loss": [*loss, *copies]}
    names = ("gradient of the log-probabilities, in fp32", "gradient of the logits, in fp32")
    fp32 = [step.rows(name, vocab, 4) for name in names]
    yield "backward", "start of the backward pass", {"activations": kept, "logits and loss": [*loss, *fp32]}
    # what the final norm keeps when it is written out in fp32, which a LayerNorm is not
    norm = [t for t in kept if t.key == "normalized"]
    if norm:
        behind = {id(t) for t in kept if t.key == "head input"} | {id(norm[-1])}
        fp32 = [step.rows("gradients inside the norm, in fp32", spec.hidden, 4, _matrices(step))]
        alive = {"activations": [t for t in kept if id(t) not in behind], "temporaries": fp32}
        yield "backward", "final norm", {"gradients": step.gradients_after(spec.num_layers), **alive}
    for i in reversed(_ends(spec)):
        yield from (("backward", *moment) for moment in _layer_moments(step, i))
    incoming = [step.rows("gradient of the embeddings", spec.hidden, e)]
    if step.tied:
        # autograd adds the two out of place: the one from the head is counted as a gradient already
        incoming = [step.elements("the embedding's gradient, and the sum with the head's", 2 * step.tied)]
    yield "backward", "embedding", {"gradients": all_gradients, "temporaries": incoming}
    yield "optimizer", "optimizer step", {"gradients": all_gradients, "temporaries": _update(step)}


def _update(step: _Step) -> list[Term]:
    """Temporary tensors of torch.optim's update."""
    if step.optimizer == "adamw":
        return [step.elements("square roots of the variance, for all weights at once", step.spec.parameters.text)]
    if step.optimizer == "adafactor":
        largest = max(t.numel for t, _ in step.spec.all_tensors())
        return [step.elements("update of the largest tensor", largest)]
    return []
