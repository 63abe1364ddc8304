"""What a training step holds on one device, and what computing activations again buys and costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmhw.formula import Table
from llmhw.hardware import Cluster
from llmhw.job import TrainingJob
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.charts import bars
from llmhw.live.jobs import MICRO_BATCH, SEQ_LEN, job_call, job_command
from llmhw.live.models import chosen, device_of
from llmhw.memory import OPTIMIZERS, PRECISIONS
from llmhw.training import JobMemory
from llmhw.training import memory as training_memory
from llmhw.units import format_quantity

RECOMPUTE = {"none": "nothing", "selective": "attention's core", "full": "every layer"}
GROUPS = {
    "optimizer states": ("master copy", "momentum", "variance", "step counters"),
    "logits and loss": ("embedding and final norm", "logits and loss", "temporaries"),
}


def bytes_told(value: float) -> str:
    """Bytes as text."""
    return format_quantity(value, "bytes")


def held_parts(held: JobMemory, stage: int) -> Mapping[str, float]:
    """What a device of a stage holds, by part, as nvidia-smi shows it."""
    parts = {part.name: float(part.value) for part in held.stages[stage].grouped(GROUPS)}
    return {**parts, "allocator and context": held.stage_device_bytes[stage] - sum(parts.values())}


def activations_of(held: JobMemory) -> float:
    """Bytes of activations on the fullest stage."""
    return sum(float(part.value) for part in held.stages[held.worst] if part.name == "activations")


def _step(settings: Settings) -> Answer:
    model = chosen(settings)
    asked: dict[str, Any] = {
        name: settings[name] for name in ("micro_batch", "seq_len", "recompute", "precision", "optimizer")
    }
    if settings["accumulation"] > 1:
        asked["global_batch"] = settings["micro_batch"] * settings["accumulation"]
    job = TrainingJob(model=model.spec, cluster=Cluster(device_of(settings)), **asked)
    modes = {mode: training_memory(replace(job, recompute=mode)) for mode in RECOMPUTE}
    held = modes[job.recompute]
    rows = {said(RECOMPUTE[mode]): held_parts(found, 0) for mode, found in modes.items()}
    caption = said("The fullest moment of a step on one device, by what runs again in the backward pass.")
    kept = activations_of(held)
    figures = [
        Figure(
            said("memory of the device"),
            bytes_told(held.device_bytes),
            held.device_bytes,
            lambda: held.explain("nvidia-smi"),
        ),
        Figure(
            said("all tensors"),
            bytes_told(held.allocated_bytes),
            held.allocated_bytes,
            lambda: held.explain("allocated"),
        ),
        Figure(said("activations"), bytes_told(kept), kept, (lambda: held.explain("activations")) if kept else None),
    ]
    rows_of_parts = [(said(part.name), bytes_told(float(part.value))) for part in held.stages[0]]
    title = said("At the fullest moment: {moment}", moment=said(held.stages[0].note))
    return Answer(
        verdict=held.verdict,
        good=None if held.fits_barely else held.fits,
        figures=figures,
        pictures=[bars(rows, bytes_told, caption, room=(said("the device has"), held.capacity_bytes), names=said)],
        tables=[Table(title, (said("part"), said("size")), rows_of_parts)],
        notes=[*held.footer()[1:], *held.warnings()],
        python=f"{job_call(job, model, None)}held = llmhw.training_memory(job)\n{_PYTHON}",
        command=job_command("memory", job, model, None),
    )


_PYTHON = (
    "held.device_bytes, held.allocated_bytes, "
    "sum(float(part.value) for part in held.stages[0] if part.name == 'activations')"
)

STEP = Calculator(
    name="step",
    title="What does a training step hold, and what does recompute buy?",
    controls=[
        Control("model", "model", "llama-3.2-3b", "Model"),
        Control("device", "device", "H100 SXM5 80GB", "Device"),
        replace(MICRO_BATCH, default=2),
        SEQ_LEN,
        Control("recompute", "choice", "none", "Run again in the backward pass", choices=tuple(RECOMPUTE.items())),
        Control("accumulation", "number", 8, "Micro-batches of a step", least=1, most=128, logarithmic=True, more=True),
        Control("optimizer", "choice", "adamw-fused", "Optimizer", choices=[(n, n) for n in OPTIMIZERS], more=True),
        Control(
            "precision",
            "choice",
            "bf16-mixed",
            "Formats of weights, gradients and optimizer",
            choices=[(n, n) for n in PRECISIONS],
            more=True,
        ),
    ],
    function=_step,
)
