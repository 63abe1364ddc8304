"""What data-parallel ranks hold and send: DDP, ZeRO 1 to 3 (FSDP) and tensor parallelism side by side."""

from __future__ import annotations

from dataclasses import replace

from llmhw.job import Parallelism, TrainingJob
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.charts import bars
from llmhw.live.jobs import COUNTS, MICRO_BATCH, SEQ_LEN, cluster_of, job_call, job_command
from llmhw.live.models import Chosen, chosen, device_of
from llmhw.live.step import GROUPS, bytes_told
from llmhw.messages import collectives
from llmhw.sharding import rank_states
from llmhw.training import memory as training_memory
from llmhw.units import LLMHWError

WAYS = {
    "ddp": "DDP: nothing is split",
    "zero-1": "ZeRO 1: optimizer states",
    "zero-2": "ZeRO 2: gradients too",
    "zero-3": "ZeRO 3, FSDP: weights too",
    "tp": "tensor parallel: every layer",
}


def _layout(way: str, n: int) -> Parallelism:
    if way == "tp":
        return Parallelism(tp=n, sequence_parallel=n > 1)
    return Parallelism(dp=n, zero=0 if way == "ddp" else int(way[-1]))


def _job(model: Chosen, settings: Settings, way: str) -> TrainingJob:
    n = int(settings["count"])
    c, _ = cluster_of(device_of(settings), n, joined=False)
    sizes = {"micro_batch": settings["micro_batch"], "seq_len": int(settings["seq_len"])}
    layout = _layout(way, n)
    batch = settings["micro_batch"] * layout.dp * settings["micro_batches"]
    job = TrainingJob(model=model.spec, cluster=c, parallelism=layout, global_batch=batch, recompute="full", **sizes)
    job.check_effects()
    return job


def _shards(settings: Settings) -> Answer:
    model, way = chosen(settings), settings["way"]
    job = _job(model, settings, way)
    held: dict[str, dict[str, float]] = {}
    sent: dict[str, dict[str, float]] = {}
    for name, label in WAYS.items():
        try:
            other = _job(model, settings, name)
        except LLMHWError:  # heads that so many ranks do not share
            continue
        states = rank_states(model.spec, other.parallelism).grouped(GROUPS)
        held[said(label)] = {part.name: float(part.value) for part in states}
        wire: dict[str, float] = {}
        for message in collectives(other):
            wire[message.kind] = wire.get(message.kind, 0.0) + message.wire_bytes
        sent[said(label)] = wire
    states, wires = rank_states(model.spec, job.parallelism), collectives(job)
    memory = training_memory(job)
    total, wire_bytes = float(states.total), float(wires.wire_bytes)
    return Answer(
        verdict=said(
            "A rank holds {held} of weights, gradients and optimizer, and sends {sent} a step",
            held=bytes_told(total),
            sent=bytes_told(wire_bytes),
        ),
        good=None,
        figures=[
            Figure(said("weights, gradients and optimizer states of a rank"), bytes_told(total), total, states.explain),
            Figure(said("sent by a rank in a step"), bytes_told(wire_bytes), wire_bytes, lambda: str(wires)),
            Figure(
                said("memory of the device"),
                bytes_told(memory.device_bytes),
                memory.device_bytes,
                lambda: memory.explain("nvidia-smi"),
            ),
        ],
        pictures=[
            bars(
                held,
                bytes_told,
                said("Weights, gradients and optimizer states that a rank holds."),
                names=said,
                room=(said("a device has"), memory.capacity_bytes),
            ),
            bars(sent, bytes_told, said("Bytes that a rank sends in a step, with ring algorithms."), names=said),
        ],
        tables=[wires.tables()[0]._replace(title=said("Messages of a step: {way}", way=said(WAYS[way])))],
        notes=[said("Every layer runs again in the backward pass (recompute), as is usual with FSDP.")],
        python="from llmhw.messages import collectives\nfrom llmhw.sharding import rank_states\n"
        f"{job_call(job, model, None)}"
        "float(rank_states(job.model, job.parallelism).total), float(collectives(job).wire_bytes), "
        "llmhw.training_memory(job).device_bytes",
        command=job_command("memory", job, model, None),
    )


SHARDS = Calculator(
    name="shards",
    title="What does each rank hold, and what does it send?",
    controls=[
        Control("model", "model", "llama-3-8b", "Model"),
        Control("device", "device", "H100 SXM5 80GB", "Device"),
        Control("count", "choice", "8", "Devices", choices=COUNTS),
        Control("way", "choice", "zero-3", "Split", choices=tuple(WAYS.items())),
        MICRO_BATCH,
        Control("micro_batches", "number", 1, "Micro-batches a rank in a step", least=1, most=128, logarithmic=True),
        replace(SEQ_LEN, more=True),
    ],
    function=_shards,
)
