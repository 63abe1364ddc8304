"""Fine-tuning on fake tensors: LoRA as peft runs it, losses of DPO and GRPO as TRL has them, optimizer in backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llmhw import model
from llmhw.activations import activations
from llmhw.job import TrainingJob
from llmhw.measure.modules import fake, made, quiet, spec_of
from llmhw.measure.steps import MemoryTracker, StepMemory, run_step
from llmhw.memory import lora_modules
from llmhw.training import label_log_probs_bytes, memory
from tests.truth.test_step_memory import small

# What peft is asked for: a published model with two of its layers, or a small one; targets, format of the adapters
ADAPTED = (
    ("llama-3.2-1b", "all-linear", "fp32"),
    ("llama-3.2-1b", "all-linear", "bf16"),
    ("qwen2", "q_proj,v_proj", "fp32"),
    ("mistral", "attention", "fp32"),
    ("qwen3", "mlp", "bf16"),
)


class Autocast(torch.nn.Module):
    """A module as transformers' Trainer calls it with bf16=True."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(**inputs)


def config(name: str, layers: int) -> dict[str, Any]:
    """A published model with so many layers, or a small one of three."""
    return {**model(name).config, "num_hidden_layers": layers} if "-" in name else small(name)


def adapted(of: dict[str, Any], targets: str, adapters: str, monkeypatch: pytest.MonkeyPatch) -> Autocast:
    """The model with peft's adapters of rank 16, on tensors of the active mode."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)  # fake parameters cannot be swapped
    names = list(lora_modules(spec_of(of), targets))
    found = get_peft_model(made(of, "bf16", None), LoraConfig(r=16, target_modules=names), autocast_adapter_dtype=False)
    for module in list(found.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            if p.requires_grad and adapters == "bf16":
                module.register_parameter(name, torch.nn.Parameter(p.detach().bfloat16()))
    found.enable_input_require_grads()  # as peft itself asks for where layers are checkpointed
    return Autocast(found)


def inputs(batch: int, seq_len: int) -> dict[str, Any]:
    ids = torch.zeros((batch, seq_len), dtype=torch.long)
    return {"input_ids": ids, "labels": ids, "use_cache": False}


@pytest.mark.parametrize(("name", "targets", "adapters"), ADAPTED)
def test_what_is_kept(name: str, targets: str, adapters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte that saved-tensor hooks see beside the weights."""
    of, batch, seq_len = config(name, 2), 2, 64
    kept: dict[int, int] = {}
    with quiet(), fake():
        module = adapted(of, targets, adapters, monkeypatch)
        own = {p.untyped_storage()._cdata for p in module.parameters()}

        def pack(t: torch.Tensor) -> torch.Tensor:
            kept[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
            alive.append(t)
            return t

        alive: list[torch.Tensor] = []  # no storage takes the place of one that is gone
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = module(**inputs(batch, seq_len)).loss
        del loss
        measured = sum(size for key, size in kept.items() if key not in own)
    case: dict[str, Any] = {"adapted": lora_modules(spec_of(of), targets), "adapters": adapters, "rank": 16}
    assert activations(spec_of(of), batch=batch, seq_len=seq_len, precision="bf16", **case).total == measured


def step(
    of: dict[str, Any], targets: str, adapters: str, recompute: str, monkeypatch: pytest.MonkeyPatch
) -> StepMemory:
    with quiet(), fake():
        module = adapted(of, targets, adapters, monkeypatch)
        if recompute == "full":
            module.inner.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        return run_step(module, inputs(2, 512))


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize(("name", "targets", "adapters"), [ADAPTED[0], ADAPTED[2]])
def test_peak_of_a_step(
    name: str, targets: str, adapters: str, recompute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, but for the frequencies of the rotary embedding, which are buffers of the module."""
    of = config(name, 2)
    spec, tokens = spec_of(of), 2 * 512
    measured = step(of, targets, adapters, recompute, monkeypatch)
    asked: dict[str, Any] = {"frozen": True, "targets": targets, "adapters": adapters, "precision": "bf16"}
    job = TrainingJob(model=spec, cluster=("h100", 1), micro_batch=2, seq_len=512, recompute=recompute, **asked)
    # asked for gradients, the embedding's result is a leaf of the graph, which a layer's input is in any case
    leaf = 0 if recompute == "full" else tokens * spec.hidden * 2
    assert 0 <= measured.peak - leaf - memory(job).stages[0].total <= 1024


# -- log-probabilities of answers ---------------------------------------------------------------


def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """TRL's selective_log_softmax."""
    if logits.dtype == torch.float32:
        chosen = torch.gather(logits, -1, labels.unsqueeze(-1)).squeeze(-1)
        return chosen - torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
    rows = (torch.log_softmax(row, dim=-1) for row in logits)
    return torch.stack(
        [torch.gather(r, -1, ids.unsqueeze(-1)).squeeze(-1) for r, ids in zip(rows, labels, strict=True)]
    )


def dpo(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The sigmoid loss of chosen and rejected answers, which lie behind one another in the batch."""
    summed = log_probs(logits[:, :-1], ids[:, 1:]).sum(-1)
    chosen, rejected = summed.chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def grpo(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The surrogate of the first update, at a temperature."""
    logits = logits[:, :-1] / 0.9
    found = log_probs(logits, ids[:, 1:])
    return torch.exp(found - found.detach()).mean()


@pytest.mark.parametrize("loss", [dpo, grpo])
@pytest.mark.parametrize(("dtype", "element"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_log_probabilities(loss: Callable[..., torch.Tensor], dtype: torch.dtype, element: int) -> None:
    batch, tokens, vocab, hidden = 4, 256, 50000, 8
    with fake():
        rows = torch.zeros(batch, tokens + 1, hidden, dtype=torch.bfloat16, requires_grad=True)
        head, ids = torch.zeros(vocab, hidden, dtype=torch.bfloat16), torch.zeros(batch, tokens + 1, dtype=torch.long)
        with MemoryTracker() as tracker:
            value = loss((rows @ head.T).to(dtype), ids)
            value.backward()
    expected = label_log_probs_bytes(batch=batch, seq_len=tokens, vocab=vocab, element=element)
    assert tracker.peak == pytest.approx(expected, rel=0.01)


# -- the optimizer in the backward pass -----------------------------------------------------------


@pytest.mark.parametrize(("name", "recompute"), [("llama-3.2-1b", "full"), ("qwen2", "none"), ("mistral", "full")])
def test_optimizer_in_backward(name: str, recompute: str) -> None:
    """A gradient goes as soon as its weight has been updated: torchtune's hooks."""
    of = config(name, 4)
    with quiet(), fake():
        module = made(of, "bf16", None)
        if recompute == "full":
            module.gradient_checkpointing_enable({"use_reentrant": False})
        weights = [*module.parameters()]
        steppers = {p: torch.optim.AdamW([p], foreach=True) for p in weights}

        def update(p: torch.nn.Parameter) -> None:
            steppers[p].step()
            steppers[p].zero_grad()

        for p in weights:
            p.grad = torch.zeros_like(p)
            update(p)
            p.register_post_accumulate_grad_hook(update)
        tracker = MemoryTracker()
        for p in weights:
            for held in (p, *(v for k, v in steppers[p].state[p].items() if k != "step")):
                tracker.add(held)
        given = inputs(2, 512)
        with tracker:
            module(**given).loss.backward()
    asked: dict[str, Any] = {"precision": "bf16", "recompute": recompute, "optimizer_in_backward": True}
    job = TrainingJob(model=spec_of(of), cluster=("h100", 1), micro_batch=2, seq_len=512, **asked)
    assert memory(job).stages[0].total == pytest.approx(tracker.peak, rel=0.001)
