"""Real steps under every kind of parallelism, beside what the library predicts.

    torchrun --nproc-per-node 2 -m llmhw.measure.distributed --scheme fsdp
    python -m llmhw.measure.distributed --scheme pp --ranks 4 --schedule zero-bubble --json

A small Llama (or Mixtral, for experts) is trained for a few steps with PyTorch's own wrappers, on gloo and CPU, or
NCCL where there are GPUs. Every rank reports the bytes of its parameters, gradients and optimizer states and each
collective that passed PyTorch's dispatcher; pipelines report the order of their actions too.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmhw.formula import Report, Table
from llmhw.hardware import Cluster
from llmhw.job import SCHEDULES, Parallelism, TrainingJob
from llmhw.measure.launch import Case, run_cases
from llmhw.messages import collectives, group_ranks
from llmhw.model import ModelSpec
from llmhw.schedule import Slot, idle_slots, pipeline_actions, time_slots
from llmhw.sharding import place_of, rank_states
from llmhw.units import LLMHWError, check_choice, check_count, plain_fields

SCHEMES = ("ddp", "fsdp", "hsdp", "tp", "sp", "pp", "cp", "ep", "3d")
BYTES = ("parameters", "gradients", "optimizer")
AXES = ("dp", "tp", "pp", "cp", "ep", "vpp", "zero", "replicas")

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 67,  # odd, so that shards of it are unequal
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def layout_of(scheme: str, ranks: int, schedule: str = "1f1b") -> Parallelism:
    """The layout that a scheme stands for.

    scheme     ddp, fsdp, hsdp (two copies), tp, sp (tensor with sequence parallel), pp, cp, ep, or 3d (2 x 2 of
               tp and pp, the rest FSDP)
    ranks      how many processes
    schedule   of pp and 3d: gpipe, 1f1b, interleaved (two chunks a rank) or zero-bubble

    >>> layout_of("3d", 8).dp
    2
    """
    check_choice("scheme", scheme, SCHEMES)
    check_choice("schedule", schedule, SCHEDULES)
    n = check_count("ranks", ranks)
    pipeline: dict[str, Any] = {"schedule": schedule, "vpp": 2 if schedule == "interleaved" else 1}
    if scheme in ("hsdp", "sp") and n % 2:
        raise LLMHWError(f"scheme={scheme!r} needs an even number of ranks, not {n}")
    if scheme == "pp" and n == 1:
        raise LLMHWError("scheme='pp' needs at least 2 ranks, not 1")
    if scheme == "3d" and n % 4:
        raise LLMHWError(f"scheme='3d' is 2 x 2 of tp and pp, and needs ranks in multiples of 4, not {n}")
    options: dict[str, dict[str, Any]] = {
        "ddp": {"dp": n},
        "fsdp": {"dp": n, "zero": 3},
        "hsdp": {"dp": n, "zero": 3, "replicas": 2},
        "tp": {"tp": n},
        "sp": {"tp": n, "sequence_parallel": True},
        "pp": {"pp": n, **pipeline},
        "cp": {"cp": n},
        "ep": {"dp": n, "ep": n},
        "3d": {"dp": n // 4, "tp": 2, "pp": 2, "zero": 3 if n > 4 else 0, **pipeline},
    }
    return Parallelism(**options[scheme])


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one rank: measured and predicted."""

    rank: int
    what: str
    measured: int
    predicted: int

    @property
    def equal(self) -> bool:
        return self.measured == self.predicted


@dataclass(frozen=True, slots=True, repr=False)
class DistributedMeasurement(Report):
    """What the ranks of one real step held and sent, beside the prediction.

    job          the job that was predicted and run
    rows         bytes of every rank, and calls of every collective ("all-reduce of 4,096 B over ranks 0 1, calls")
    actions      of a pipeline: what each stage ran, in order ("F0.2": forward of chunk 0, micro-batch 2; B backward,
                 I and W its two halves), as recorded
    predicted_actions   the same, predicted
    events       of a pipeline: (rank, action, start, end) in seconds, from the first one on
    loss         mean over all ranks and micro-batches
    """

    title: str
    job: TrainingJob
    rows: tuple[Row, ...]
    actions: tuple[tuple[str, ...], ...]
    predicted_actions: tuple[tuple[str, ...], ...]
    events: tuple[tuple[int, str, float, float], ...]
    loss: float

    @property
    def equal(self) -> bool:
        """True if every number and the order of the pipeline are as predicted."""
        return all(row.equal for row in self.rows) and self.actions == self.predicted_actions

    @property
    def slots(self) -> tuple[tuple[Slot, ...], ...]:
        """The recorded order on a clock where a forward takes one slot and a backward two (or one for each half)."""
        return time_slots(self.actions)

    @property
    def idle(self) -> tuple[int, ...]:
        """Slots in which each rank of the pipeline waits."""
        return idle_slots(self.slots)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "title": self.title,
            "equal": self.equal,
            "loss": self.loss,
            "rows": self.records(),
            "actions": [list(order) for order in self.actions],
            "predicted_actions": [list(order) for order in self.predicted_actions],
            "idle_slots": list(self.idle),
        }

    def records(self) -> list[dict[str, Any]]:
        """Every number of every rank."""
        return [plain_fields(row) | {"equal": row.equal} for row in self.rows]

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Ranks with the same numbers share a line."""
        lines: dict[tuple[str, int, int], list[int]] = {}
        for row in self.rows:
            lines.setdefault((row.what, row.measured, row.predicted), []).append(row.rank)
        return [
            (_span(ranks), what, f"{measured:,}", f"{predicted:,}", "yes" if measured == predicted else "no")
            for (what, measured, predicted), ranks in lines.items()
        ]

    def tables(self) -> list[Table]:
        return [Table(self.title, ("ranks", "what", "measured", "predicted", "equal"), self.table(), 2, prose=True)]

    def footer(self) -> list[str]:
        lines = [f"stage {i}: {' '.join(order)}; {self.idle[i]} idle slots" for i, order in enumerate(self.actions)]
        verdict = "yes" if self.actions == self.predicted_actions else "no"
        return [*lines, f"order of the pipeline equal: {verdict}"] if lines else []


def _span(ranks: list[int]) -> str:
    """0-3 for 0, 1, 2, 3."""
    whole = len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1))
    return f"{ranks[0]}-{ranks[-1]}" if whole else " ".join(map(str, ranks))


# -- cases ------------------------------------------------------------------------------------


def make_case(
    scheme: str,
    ranks: int = 2,
    *,
    schedule: str = "1f1b",
    micro_batch: int = 1,
    micro_batches: int = 0,
    seq_len: int = 16,
    recompute: str = "none",
    bucket_cap_mb: float | None = None,
    config: Mapping[str, Any] | None = None,
    **layout: Any,
) -> tuple[TrainingJob, Case]:
    """The job that a scheme stands for, and what the processes are told.

    layout   fields of `Parallelism` that replace the scheme's: dp, tp, pp, ep, zero, cp_kind, ...
    """
    p = layout_of(scheme, ranks, schedule)
    if layout:
        given = {name: getattr(p, name) for name in Parallelism.__slots__} | {"schedule": schedule} | layout
        p = Parallelism(**given)
    if p.devices != ranks:
        raise LLMHWError(f"the layout dp x tp x pp x cp has {p.devices} ranks, and ranks={ranks}")
    _check_runs(p)
    chosen = {**_LLAMA, **(_EXPERTS if p.ep > 1 else {}), "num_hidden_layers": max(2, p.pp * p.vpp), **(config or {})}
    if chosen.get("tie_word_embeddings") and p.tp * p.pp > 1:
        raise LLMHWError("tied embeddings are measured with tp=1 and pp=1: PyTorch's wrappers untie them")
    micro_batches = micro_batches or (2 * p.pp if p.pp > 1 else 2)
    job = TrainingJob(
        model=ModelSpec.from_config(chosen, name=f"small {chosen['model_type']}"),
        # bytes do not depend on the device; any one does
        cluster=Cluster("h100", ranks, devices_per_node=ranks),
        parallelism=p,
        micro_batch=micro_batch,
        global_batch=micro_batch * micro_batches * p.dp,
        seq_len=seq_len,
        precision="fp32",
        recompute=recompute,
    )
    if chosen["num_key_value_heads"] % p.tp:
        raise LLMHWError(f"tp={p.tp} must divide kv_heads={chosen['num_key_value_heads']}: DTensor copies no KV heads")
    return job, Case(
        ranks=ranks,
        parallelism={name: getattr(p, name) for name in Parallelism.__slots__},
        config=chosen,
        seq_len=seq_len,
        global_batch=job.batch,
        micro_batches=job.micro_batches,
        bucket_cap_mb=bucket_cap_mb,
        recompute=recompute,
    )


def _check_runs(p: Parallelism) -> None:
    """What PyTorch's wrappers do not combine is refused by name."""
    copies, order = p.dp * p.cp > 1 and p.pp > 1, p.pipeline_schedule
    for wrong, text in (
        (copies and order == "zero-bubble", "PyTorch does not combine zero-bubble with DDP or FSDP; use 1f1b"),
        (copies and p.zero == 0 and order != "1f1b", f"DDP fails under {order}; use 1f1b, or zero=3"),
        (p.zero in (1, 2), f"zero={p.zero} is DeepSpeed's; PyTorch has 0 (DDP) and 3 (fully_shard)"),
        (p.zero == 0 and p.dp * p.cp > 1 and p.tp > 1, "DDP does not take tensor-parallel modules; use zero=3"),
        (p.expert_tp > 1, "expert_tp is not measured; use expert_tp=1"),
        (p.ep > 1 and p.tp > 1, "ep with tp is not measured; use tp=1"),
        (p.ep > 1 and p.zero == 0 and p.expert_shards > 1, "copies of experts are measured with zero=3 only"),
        (p.cp > 1 and p.tp > 1, "cp with tp is not measured; use tp=1"),
    ):
        if wrong:
            raise LLMHWError(text)


def _predicted(job: TrainingJob, rank: int, bucket_cap_mb: float | None) -> tuple[dict[str, int], Counter[Any]]:
    p = job.parallelism
    states = rank_states(job.model, p, rank, optimizer=job.optimizer, precision=job.precision, kernels=job.kernels)
    held = {
        "parameters": int(states["weights"]),
        "gradients": int(states["gradients"]),
        "optimizer": int(sum(part.value for part in states if part.name not in ("weights", "gradients"))),
    }
    calls: Counter[Any] = Counter()
    for c in collectives(job, rank, bucket_cap_mb=bucket_cap_mb):
        calls[c.kind, group_ranks(p, rank, c.axis), c.bytes_per_call] += c.calls
    return held, calls


def compare(title: str, job: TrainingJob, case: Case, results: Iterable[dict[str, Any]]) -> DistributedMeasurement:
    """Put what the ranks reported beside the prediction."""
    p = job.parallelism
    results = sorted(results, key=lambda result: int(result["rank"]))
    rows: list[Row] = []
    for result in results:
        rank = result["rank"]
        held, predicted = _predicted(job, rank, case.bucket_cap_mb)
        rows += [Row(rank, f"{name}, bytes", result[name], held[name]) for name in BYTES]
        measured = Counter({(kind, tuple(group), size): n for kind, group, size, n in result["collectives"]})
        for key in sorted({*measured, *predicted}):
            kind, group, size = key
            text = f"{kind} of {size:,} B over ranks {_span(list(group))}, calls"
            rows.append(Row(rank, text, measured[key], predicted[key]))
    stages = [r for r in results if r["events"] and _first_of_stage(p, r["rank"])]
    begin = min((event[3] for result in stages for event in result["events"]), default=0.0)
    events = tuple(
        (place_of(p, r["rank"]).pp, f"{kind}{chunk}.{number}", start - begin, end - begin)
        for r in stages
        for kind, chunk, number, start, end in r["events"]
    )
    losses = [r["loss"] for r in results if r["loss"] is not None]
    expected = pipeline_actions(p.pipeline_schedule, p.pp, p.vpp, job.micro_batches) if p.pp > 1 else ()
    return DistributedMeasurement(
        title,
        job,
        tuple(rows),
        tuple(tuple(f"{e[0]}{e[1]}.{e[2]}" for e in r["events"]) for r in stages),
        expected,
        events,
        sum(losses) / len(losses),
    )


def _first_of_stage(p: Parallelism, rank: int) -> bool:
    return rank % (p.devices // p.pp) == 0


def measure_layouts(
    cases: Iterable[Mapping[str, Any]], *, device: str = "auto", timeout: float = 120
) -> list[DistributedMeasurement]:
    """Several measurements in one go: PyTorch is started once for all of them.

    cases   keyword arguments of `measure_distributed`, one mapping each
    """
    made = [(dict(case), *make_case(**case)) for case in cases]
    if device != "cpu" and any(job.parallelism.cp > 1 for _, job, _ in made):
        if device == "cuda":
            raise LLMHWError("cp is measured with PyTorch's ring attention over its CPU kernel; use device='cpu'")
        device = "cpu"
    results = run_cases([case for _, _, case in made], device=device, timeout=timeout)
    return [
        compare(_title(options["scheme"], job), job, case, result)
        for (options, job, case), result in zip(made, results, strict=True)
    ]


def _title(scheme: str, job: TrainingJob) -> str:
    p, none = job.parallelism, Parallelism()
    split = [f"{name}={getattr(p, name)}" for name in AXES if getattr(p, name) != getattr(none, name)]
    how = [p.pipeline_schedule] if p.pp > 1 else []
    batch = f"{job.micro_batches} micro-batches of {job.micro_batch} x {job.seq_len}"
    return f"{scheme} on {p.devices} ranks ({', '.join([*split, *how])}): {batch}"


def measure_distributed(
    scheme: str, ranks: int = 2, *, device: str = "auto", timeout: float = 120, **options: Any
) -> DistributedMeasurement:
    """Run a real step of a small model on `ranks` processes of this machine, and count.

    scheme    ddp, fsdp, hsdp, tp, sp, pp, cp, ep, 3d
    ranks     processes; on CPU any number, on GPUs at most as many as there are
    device    auto (GPUs if there are enough, else CPU), cpu or cuda
    timeout   seconds after which all processes are ended
    options   schedule, micro_batch, micro_batches, seq_len, recompute, bucket_cap_mb, and fields of `Parallelism`
              that replace the scheme's (tp=2, zero=3, cp_kind="all-gather", ...)

    If a rank fails, or at Ctrl-C, all processes are ended; the error names the rank and the reason.
    """
    return measure_layouts([{"scheme": scheme, "ranks": ranks, **options}], device=device, timeout=timeout)[0]


# -- command ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """`python -m llmhw.measure.distributed`, alone or under torchrun."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m llmhw.measure.distributed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--scheme", required=True, help=", ".join(SCHEMES))
    parser.add_argument("--ranks", type=int, default=2, help="processes to start; under torchrun its own number counts")
    parser.add_argument("--schedule", default="1f1b", help=", ".join(SCHEDULES))
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=0)
    parser.add_argument("--seq-len", type=int, default=16)
    parser.add_argument("--recompute", default="none", choices=("none", "full"))
    parser.add_argument("--cp-kind", default=None, choices=("ring", "all-gather"))
    for axis in AXES:
        parser.add_argument(f"--{axis}", type=int, default=None)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args(arguments))
    as_json, device, timeout = given.pop("json"), given.pop("device"), given.pop("timeout")
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)
    options = {name: value for name, value in given.items() if value is not None}
    try:
        if under_torchrun:
            from llmhw.measure.launch import run_here

            options["ranks"] = int(os.environ["WORLD_SIZE"])
            job, case = make_case(**options)
            results = run_here(case, device)
            if results is None:
                return 0
            found = compare(_title(options["scheme"], job), job, case, results)
        else:
            found = measure_distributed(**options, device=device, timeout=timeout)
    except LLMHWError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; all ranks were ended", file=sys.stderr)
        return 130
    print(json.dumps(found.to_dict(), indent=2) if as_json else found)
    return 0 if found.equal else 1


if __name__ == "__main__":
    sys.exit(main())
