"""The highest memory of one training step on one device, in plain PyTorch and transformers.

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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.activations import STYLES, activations, layer_activations, saved_bytes, score_matrix_bytes
from llmhw.formula import Estimate, Part, Term, term
from llmhw.memory import state_bytes, training_states
from llmhw.model import ModelSpec
from llmhw.units import check_choice, check_count, unknown_name

OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "adafactor")
PRECISIONS = ("fp32", "bf16")
RECOMPUTE = ("none", "full")
ATTENTION = ("flash", "eager")
PARTS = ("weights", "gradients", "optimizer states", "activations", "logits and loss", "temporaries")


@dataclass(frozen=True, slots=True)
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
    e: int
    attention: str
    recompute: str
    precision: str

    # terms

    def rows(self, label: str, width: int, size: int, times: float = 1) -> Term:
        """A tensor with a row for each token."""
        return term(
            saved_bytes,
            label,
            times,
            batch=self.batch,
            seq_len=self.seq_len,
            width=width,
            bytes_per_element=size,
        )

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
        found = [self.elements("head and final norm", outside), self.elements("layers behind", behind)]
        if self.tied:
            found.append(self.elements("the tied embedding's, from the head", self.tied))
        return [t for t in found if t.value]

    # activations

    def kept(self, loss: bool, layers: int | None = None) -> tuple[list[Term], list[Term]]:
        """Activations of the first `layers` layers (None: of the whole model), and those of head and loss."""
        spec = self.spec if layers is None else replace(self.spec, layers=self.spec.layers[:layers])
        found = activations(
            spec,
            batch=self.batch,
            seq_len=self.seq_len,
            precision=self.precision,
            attention=self.attention,
            recompute=self.recompute,
            loss=loss,
        )
        behind = ("final norm", "head", "loss")
        if layers is not None:
            return [t for p in found for t in p.terms if p.name not in behind], []
        return (
            [t for p in found for t in p.terms if p.name != "loss"],
            [t for p in found for t in p.terms if p.name == "loss"],
        )


def _layer_moments(step: _Step, i: int) -> Iterable[tuple[str, dict[str, list[Term]]]]:
    """The high moments of the backward pass of layer `i`."""
    spec, e = step.spec, step.e
    layer, style, h = spec.layers[i], STYLES[spec.model_type], spec.hidden
    own = layer_activations(
        spec, layer, batch=step.batch, seq_len=step.seq_len, dtype_bytes=e, attention=step.attention
    )
    below, _ = step.kept(False, i + 1)
    if step.recompute == "full":
        # everything else of this layer has just been computed again
        saves_input = style.norm.startswith("layer") or style.block == "post" or e == 4
        below = _without_one(below, "input of a recomputed layer") if saves_input else below
        whole = {p.name: list(p.terms) for p in own}
    else:
        below = _subtract(below, [t for p in own for t in p.terms])
        whole = {p.name: list(p.terms) for p in own}

    incoming = step.rows("gradient of the residual stream", h, e)
    gradients = step.gradients_after(i)
    norms = whole.get("norms", [])
    count = {"sandwich": 4, "post": 2}.get(style.block, 0)
    last_norm = norms[len(norms) - len(norms) // count :] if count else []

    def moment(dropped: list[Term], temporaries: list[Term], more: int = 0) -> dict[str, list[Term]]:
        gone = {id(t) for t in dropped}
        kept = [*below, *(t for terms in whole.values() for t in terms if id(t) not in gone)]
        grown = [*gradients, step.elements("this layer so far", more)] if more else gradients
        return {"gradients": grown, "activations": kept, "temporaries": temporaries}

    if last_norm:
        fp32 = step.rows("gradients inside the norm, in fp32", h, 4, 4)
        yield f"norm behind layer {i}", moment([], [incoming, fp32])

    down = [t for t in layer.tensors if t.component == "mlp" and t.matmul]
    experts = [t for t in layer.tensors if t.component == "experts" and t.matmul]
    if experts:
        weight = next((dict(t.inputs)["bytes_per_element"] for t in whole["experts"] if "weight of" in t.label), e)
        rows = step.rows("gradients of the weighted expert outputs", experts[0].used * h, weight, 3)
        yield f"experts of layer {i}", moment(last_norm, [incoming, rows])
    elif down:
        inner = down[-1].numel // h
        inside = [t.label for t in whole.get("activation function", [])]
        gated = len(down) > 2 or "activated gate" in [t.label for t in whole.get("mlp", [])]
        # a plain feed-forward part with a one-kernel activation frees its result as that one's gradient comes
        twice = gated or inside not in (["input of gelu"], ["input of silu"])
        rows = step.rows("gradients inside the feed-forward part", inner, e, 2 if twice else 1)
        yield f"feed-forward part of layer {i}", moment(last_norm, [incoming, rows], down[-1].numel)

    a = layer.attention
    if a is not None:
        passed = [t for name in ("mlp", "activation function", "experts", "routing") for t in whole.get(name, [])]
        if style.block == "parallel":
            passed_norms: list[Term] = []
        else:
            passed_norms = norms[len(norms) // 2 :]
        done = sum(t.numel for t in layer.tensors if t.component in ("mlp", "experts", "router"))
        probabilities = [t for t in whole.get("attention", []) if t.label.startswith("probabilities")]
        if probabilities:
            softmax = max(probabilities, key=lambda t: float(t.value))
            halves = [t for t in probabilities if t is not softmax]
            made = term(score_matrix_bytes, "gradients around the softmax", 2, **dict(softmax.inputs))
            yield (
                f"softmax of layer {i}",
                moment([*passed, *passed_norms, *halves], [incoming, made], done),
            )
        else:
            width = 2 * a.heads * (a.head_dim + a.v_head_dim) // 2 + a.kv_heads * (a.head_dim + a.v_head_dim)
            made = step.rows("gradients of queries, keys, values and output", width, e)
            yield f"attention of layer {i}", moment([*passed, *passed_norms], [incoming, made], done)


def _without_one(terms: list[Term], label: str) -> list[Term]:
    """The terms less one of what carries this label."""
    for k in range(len(terms) - 1, -1, -1):
        t = terms[k]
        if t.label == label:
            left = t.times - 1
            rest = [replace(t, times=left, value=t.value / t.times * left)] if left else []
            return [*terms[:k], *rest, *terms[k + 1 :]]
    return terms


def _subtract(terms: list[Term], taken: list[Term]) -> list[Term]:
    """The terms of several equal layers, less those of one of them."""
    for one in taken:
        for k in range(len(terms) - 1, -1, -1):
            t = terms[k]
            if (t.label, t.formula, t.inputs) == (one.label, one.formula, one.inputs):
                left = t.times - one.times
                rest = [replace(t, times=left, value=t.value / t.times * left)] if left else []
                terms = [*terms[:k], *rest, *terms[k + 1 :]]
                break
    return terms


def _ends(spec: ModelSpec) -> list[int]:
    """The first and the last layer of each kind: what is alive changes evenly in between."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, layer in enumerate(spec.layers):
        first.setdefault(id(layer), i)
        last[id(layer)] = i
    return sorted({*first.values(), *last.values()})


def step_peak(
    spec: ModelSpec,
    *,
    batch: int = 1,
    seq_len: int,
    optimizer: str = "adamw",
    precision: str = "bf16",
    recompute: str = "none",
    attention: str = "flash",
) -> StepPeak:
    """Highest memory of a training step of plain PyTorch and transformers on one device.

    batch, seq_len   sequences of the micro-batch, tokens of each
    optimizer        adamw, sgd, sgd-momentum or adafactor of torch.optim; foreach, as CUDA has it by default
    precision        fp32 or bf16: of weights, gradients and states (no autocast, no master copy)
    recompute        none, or full: every layer is checkpointed
    attention        flash (PyTorch's scaled_dot_product_attention) or eager

    The step is one of many: optimizer states exist, gradients are freed after each update (`zero_grad()`), and
    nothing but the loss outlives the forward pass. Parts: weights, gradients, optimizer states, activations,
    logits and loss, temporaries. `.phases` has the highest moment of the forward and backward pass and of the
    optimizer's step; in the very first step, forward and backward lack the optimizer states.

    Raises `LLMHWError` for a family without an op-by-op profile; see `llmhw.activations`.

    >>> from llmhw import model
    >>> peak = step_peak(model("llama-3-8b"), batch=1, seq_len=4096, recompute="full")
    >>> peak.moment, round(peak.total / 2**30, 1)
    ('optimizer step', 74.8)
    """
    batch, seq_len = check_count("batch", batch), check_count("seq_len", seq_len)
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    check_choice("precision", precision, PRECISIONS)
    check_choice("recompute", recompute, RECOMPUTE)
    check_choice("attention", attention, ATTENTION)
    states = training_states(spec, optimizer=optimizer, precision=precision)
    e = 4 if precision == "fp32" else 2
    step = _Step(spec, batch, seq_len, e, attention, recompute, precision)
    fixed = {
        "weights": list(states.part("weights").terms),
        "optimizer states": [t for p in states if p.name not in ("weights", "gradients") for t in p.terms],
    }
    all_gradients = list(states.part("gradients").terms)
    vocab = spec.vocab_size
    kept, loss = step.kept(True)

    def made(phase: str, moment: str, parts: Mapping[str, list[Term]], note: str = "") -> StepPeak:
        alive = {**fixed, **parts}
        title = f"peak of a training step of {spec.name}: {moment}"
        return StepPeak(
            title,
            "bytes",
            tuple(Part(name, tuple(alive.get(name, ()))) for name in PARTS),
            note or f"batch {batch}, {seq_len} tokens, {optimizer}, {precision}, recompute {recompute}",
            moment,
            phase,
        )

    copies = [step.rows("logits", vocab, e)]
    if e != 4:
        copies.append(step.rows("logits in fp32", vocab, 4))
    moments = [
        made("forward", "loss", {"activations": kept, "logits and loss": [*loss, *copies]}),
        made(
            "backward",
            "begin of the backward pass",
            {
                "activations": kept,
                "logits and loss": [
                    *loss,
                    step.rows("gradient of the log-probabilities, in fp32", vocab, 4),
                    step.rows("gradient of the logits, in fp32", vocab, 4),
                ],
            },
        ),
    ]
    for i in _ends(spec):
        moments += [made("backward", moment, parts) for moment, parts in _layer_moments(step, i)]
    incoming = [step.rows("gradient of the embeddings", spec.hidden, e)]
    if step.tied:
        # autograd adds the two out of place: the one from the head is counted as a gradient already
        incoming = [step.elements("the embedding's gradient, and the sum with the head's", 2 * step.tied)]
    moments.append(made("backward", "embedding", {"gradients": all_gradients, "temporaries": incoming}))
    moments.append(
        made(
            "optimizer",
            "optimizer step",
            {"gradients": all_gradients, "temporaries": _update(step, optimizer)},
        )
    )
    phases = {
        phase: max((m for m in moments if m.phase == phase), key=lambda m: float(m.total))
        for phase in ("forward", "backward", "optimizer")
    }
    highest = max(phases.values(), key=lambda m: float(m.total))
    return replace(highest, phases=phases)


def _update(step: _Step, optimizer: str) -> list[Term]:
    """Temporary tensors of torch.optim's update."""
    if optimizer == "adamw":
        return [step.elements("square roots of the variance, for all weights at once", step.spec.parameters.total)]
    if optimizer == "adafactor":
        largest = max(t.numel for t, _ in step.spec.all_tensors())
        return [step.elements("update of the largest tensor", largest)]
    return []
