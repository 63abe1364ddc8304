"""What a row of training ran: its cluster, its recipe, and its layout, searched where the source leaves it open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llmhw.hardware import Accelerator, Cluster, Link
from llmhw.job import MODULES, Parallelism, TrainingJob, limits_of
from llmhw.margin import known_error
from llmhw.names import split_format
from llmhw.step_time import time_step
from llmhw.trainers import trainer
from llmhw.training import memory
from llmhw.units import GB, LLMHWError
from llmhw.validation.columns import OF_KIND
from llmhw.validation.table import Row, without_remark

# GB per second and direction of a device's network adapter where nobody states it: 400 Gb/s.
_USUAL_ADAPTER = 50.0
# A layout is usual if it is no slower than this times the fastest that fits.
_NEAR = 1.1
# Nobody runs chunks and micro-batches that take more than this times the fastest; the prediction of memory is off then.
_WORSE = 1.25
# Layouts near the fastest that are looked at.
_MOST = 400


@dataclass(frozen=True, slots=True)
class Described:
    """What a row ran.

    job        as the row says it, with what it leaves open chosen
    searched   sizes of the layout that the source does not state, and that were searched
    """

    job: TrainingJob
    searched: tuple[str, ...] = ()


def described(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Described:
    """What a row ran. Raises `LLMHWError` with the first reason why it does not say enough.

    Sizes of model parallelism that the source leaves open are the usual ones: of the layouts that fit in memory and
    take at most a tenth longer than the fastest, one with the least model parallelism, tensor parallelism inside a
    node. Of micro-batches and chunks of a pipeline stage that are open, the fastest that fit. Layers whose recompute is
    not known are recomputed only as far as the job would not fit.
    """
    if calibration is not None:
        return _described(row, calibration)
    cells = tuple((name, row[name]) for name in _READ if row[name])
    return _known(cells, row.name, row.folder)


# What a job is made of: all but what was measured, and where.
_ABOUT = ("id", "source", "measured_value", "measured_kind", "source_opened", "not_predicted", "cluster", "fitted")
_READ = tuple(name for name in OF_KIND["training-throughput"] if name not in _ABOUT)


@lru_cache(maxsize=4096)
def _known(cells: tuple[tuple[str, str], ...], name: str, folder: str) -> Described:
    return _described(Row.of_text(cells, name).of_table({}, folder), None)


def _described(row: Row, calibration: Mapping[str, Any] | None) -> Described:
    cluster, recipe = cluster_of(row), _recipe(row)
    said = _Said.of(row, cluster, recipe)
    if said.open:
        return _sought(row, said)
    candidates = list(_candidates(row, said))
    if len(candidates) > 1:
        timed = [(time_step(job, calibration=calibration).total, job) for job in candidates]
        timed.sort(key=lambda one: one[0])
        near = [job for seconds, job in timed if seconds <= _WORSE * timed[0][0]]
        chosen = next((job for job in near if fits(job)), near[0])
        if recompute_of(row) == "as needed" and not fits(chosen):
            needed = [_as_needed(job) for job in near]
            return Described(min(needed, key=lambda job: time_step(job, calibration=calibration).total))
    else:
        chosen = candidates[0]
    return Described(_as_needed(chosen) if recompute_of(row) == "as needed" else chosen)


def _as_needed(job: TrainingJob) -> TrainingJob:
    """The job with as few layers computed again as make it fit; with all of them if nothing does."""
    if fits(job):
        return job
    whole = replace(job, recompute="full", recompute_layers=0)
    least, most = 1, job.model.num_layers // job.parallelism.pp
    if not fits(whole):
        return whole
    while least < most:
        middle = (least + most) // 2
        if fits(replace(job, recompute="block", recompute_layers=middle)):
            most = middle
        else:
            least = middle + 1
    part = replace(job, recompute="block", recompute_layers=most)
    return part if most < job.model.num_layers // job.parallelism.pp and fits(part) else whole


def fits(job: TrainingJob) -> bool:
    """Whether a job fits in memory, as far as that is known: it ran. One whose memory is not modelled does."""
    try:
        found = memory(job)
    except LLMHWError:
        return True
    return found.device_bytes <= found.capacity_bytes * (1 + known_error("training"))


# -- the cluster ------------------------------------------------------------------------------


def cluster_of(row: Row) -> Cluster:
    """The devices of a row, and what joins them."""
    device, count = row.device(usual=True), row.count("n_gpus", None)
    domain = device.scale_up_devices
    per_node = row.count("gpus_per_node", domain if domain > 2 else 8)
    if count > per_node:
        # jobs fill racks of 72 in eights
        per_node = next(n for n in (per_node, 64, 32, 16, 8, 4, 2, 1) if n <= per_node and count % n == 0)
    return Cluster(device, count, per_node, inter_link=_adapter(row, per_node))


def _adapter(row: Row, per_node: int) -> Link:
    """The network between nodes as a device sees it: "EFA 400 Gb/s", "InfiniBand 8x400 Gb/s per node"."""
    text = row["network"]
    rate = row.positive("adapter_gb_per_s", _USUAL_ADAPTER)
    found = re.search(r"(?:(\d+) ?x ?)?(\d+(?:\.\d+)?) ?(G(?:b(?:it)?|B)/?p?s)(?: ?per (node))?", text)
    if found and not row["adapter_gb_per_s"]:
        rate = float(found[1] or 1) * float(found[2]) / (1 if "B" in found[3] else 8)
        rate /= per_node if found[4] or (found[1] and int(found[1]) == per_node) else 1
    kinds = {
        "efa": "EFA",
        "roce": "RoCE",
        "ethernet": "RoCE",
        "tcpx": "TCPX",
        r"infiniband|\bib\b|[hn]dr": "InfiniBand",
    }
    name = next((kind for word, kind in kinds.items() if re.search(word, text.casefold())), "adapter")
    return Link(name, "scale-out", rate * GB)


# -- the recipe -------------------------------------------------------------------------------

# What a run switched otherwise than its software does, by column; see `llmhw.trainers`.
FLAGS = ("compiled", "tp_overlap", "grad_overlap", "a2a_overlap")
WORDS = ("cuda_graph", "dispatcher", "grad_reduce", "attention_kernel")
_RECOMPUTE = ("none", "selective", "per-op", "block", "full", "as needed")


def recompute_of(row: Row) -> str:
    """What a row says of recompute, as `TrainingJob.recompute`; "as needed" where it says nothing."""
    found = row["recompute_mode"] or row["recompute"].replace("unknown", "") or "as needed"
    if found not in _RECOMPUTE:
        raise row.error("recompute", "none, selective, full or unknown")
    if modules_of(row) and found in ("as needed", "selective"):
        return "none"
    return found


def modules_of(row: Row) -> str:
    """Modules that run again, of those that `llmhw.job.MODULES` has."""
    return ",".join(word for word in re.findall(r"\w+", row["recompute_modules"]) if word in MODULES)


# What nearly everybody trains with on a vendor's devices.
_OF_VENDOR = {"Google": "maxtext", "AWS": "neuron"}


def trainer_of(row: Row) -> str:
    """The trainer's name; of software that is not known, the class that its columns make it of.

    >>> trainer_of(Row({"software": "NeMo 25.04"})), trainer_of(Row({"software": "ours", "zero_stage": "3"}))
    ('megatron-bridge', 'eager')
    """
    words = row["software"].replace("_", "-").split()
    for part in (words[:n] for n in range(len(words), 0, -1)):
        try:
            return trainer(" ".join(part)).name
        except LLMHWError:
            continue
    own = _OF_VENDOR.get(row.device(usual=True).vendor if row["gpu"] or row["device"] else "")
    if own and not words and row["kernels"] != "megatron":
        return own
    stage, split = row["zero_stage"].lower(), any(row.count(name) > 1 for name in ("tp", "pp", "cp", "ep"))
    alone = row["n_gpus"] == "1" or (stage in ("0", "2") and not split)
    plain = "torch" if stage in ("3", "fsdp") or alone or row["compiled"] or row["fsdp"] else "megatron"
    if (row["kernels"] or plain) == "megatron":
        return "megatron-lm" if words else "megatron-bridge"
    return "compiled" if row.flag("compiled") else "eager"


_FP8 = {"tensor": "fp8", "row": "fp8", "block": "fp8-block", "mx": "mxfp8", "nvfp4": "nvfp4"}
_SUFFIXES = {"cs": "tensor", "ds": "tensor", "sc": "block", "mx": "mx", "blockwise": "block", "rowwise": "row"}


def compute_format(row: Row, device: Accelerator) -> str | None:
    """The format of the matrix products: of a cell such as "fp8 (most submissions)" or "FP8-CS", and its recipe.

    Hopper scales blocks of 32 in software, as it does those of 128.
    """
    if row["compute"]:
        return row["compute"]
    text = without_remark(row["precision"]).casefold().replace("_", "-").removesuffix(" mixed").removesuffix("-mixed")
    text = text.removeprefix("mixed ")
    head, _, tail = text.partition("-")
    scaled = row["fp8_recipe"] or (_SUFFIXES.get(tail, "") if head == "fp8" else "")
    if scaled and head in ("fp8", "mxfp8", "nvfp4", "fp4", ""):
        found = _FP8[scaled]
    else:
        left, stated = split_format(text)
        found = text if left or not stated else stated
    return "fp8-block" if found == "mxfp8" and "Hopper" in device.architecture else found or None


def _kernels(row: Row) -> str:
    return row["kernels"] or trainer(trainer_of(row)).kernels


def _recipe(row: Row) -> dict[str, Any]:
    """Everything of a job but its cluster, its layout and its batch."""
    kernels, recompute, spec = _kernels(row), recompute_of(row), row.spec()
    method = row["method"].casefold()
    found: dict[str, Any] = {
        "model": spec,
        "seq_len": row.count("seq_len", None),
        "precision": row["recipe"] or ("fp32-bf16" if kernels == "torch" else "bf16-mixed-fp32-grads"),
        "compute": compute_format(row, row.device(usual=True)),
        "recompute": "none" if recompute == "as needed" else recompute,
        "recompute_modules": modules_of(row),
        "attention": "eager" if row["flash_attention"] == "false" else "flash",
        "kernels": kernels,
        "software": trainer_of(row),
        "frozen": bool(row.flag("adapters_only")) or method in ("lora", "qlora"),
        "dropout": bool(row.flag("dropout")),
        "packed": row.count("packed", 0, least=0) or None,
    }
    found |= {name: row.flag(name) for name in FLAGS} | {name: row[name] or None for name in WORDS}
    if found["frozen"]:
        found |= {"rank": row.count("rank", 16), "base": row["base"] or ("nf4-dq" if method == "qlora" else None)}
        found |= {"targets": row["targets"]} if row["targets"] else {}
    if row.count("mtp", 0, least=0) and spec.mtp_tensors:
        found["mtp"] = True
    if method in ("dpo", "grpo"):
        found["method"] = method
    if row["loss"]:
        found["loss"] = row["loss"]
    if row["optimizer"]:
        found["optimizer"] = row["optimizer"]
    for name in ("checkpoint_offload", "optimizer_in_backward"):
        found[name] = bool(row.flag(name))
    return found


# -- the layout -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """Sizes of the layout that a row states, in ranks of one device each; None where it does not."""

    cluster: Cluster
    recipe: dict[str, Any]
    tp: int | None
    pp: int | None
    cp: int | None
    ep: int | None
    vpp: int | None
    expert_tp: int
    micro: int | None
    batch: int
    zero: int
    shards: int

    @property
    def open(self) -> tuple[str, ...]:
        """What is to be searched; a single device leaves nothing open."""
        if self.cluster.devices == 1:
            return ()
        return tuple(name for name in ("tp", "pp") if getattr(self, name) is None)

    @classmethod
    def of(cls, row: Row, cluster: Cluster, recipe: dict[str, Any]) -> _Said:
        stage, each = row["zero_stage"].lower(), row.count("ranks_per_device")

        def stated(name: str) -> int | None:
            return row.count(name) if row[name] else None

        tp, pp, cp, ep = (stated(name) for name in ("tp", "pp", "cp", "ep"))
        zero = 3 if stage == "fsdp" else int(stage) if stage in ("0", "1", "2", "3") else 1
        if cluster.devices == 1 or zero == 3:  # who names FSDP, and nothing beside it, has nothing beside it
            tp, pp, cp = tp or 1, pp or 1, cp or 1
        if tp and each > 1:
            tp = max(1, tp // each)
        micro = stated("micro_batch")
        copies = 0
        if zero == 3 and row["dp"] and not row["fsdp"] and tp and pp:
            # some count the copies of what FSDP shards
            ranks, dp = cluster.devices // (tp * pp * (cp or 1)), row.count("dp")
            copies = ranks // dp if 1 < dp < ranks and ranks % dp == 0 else 0
        said = cls(
            cluster,
            recipe,
            tp,
            pp,
            cp,
            ep,
            stated("vpp"),
            row.count("expert_tp", _usual_expert_tp(recipe, cluster.devices // (pp or 1), tp or 1, ep or 1)),
            micro,
            row.count("global_batch", 0, least=0),
            zero,
            copies or row.count("fsdp", 0, least=0),
        )
        said.check(row, each)
        return said

    def check(self, row: Row, each: int) -> None:
        """Refuse sizes that contradict each other."""
        if self.tp is None or self.pp is None:
            return
        n, inside = self.cluster.devices, self.tp * self.pp * (self.cp or 1)
        if n % inside:
            raise LLMHWError(f"tp x pp x cp = {inside} does not divide n_gpus={n}; mend one of them")
        if row["dp"]:
            dp = row.count("dp")
            # some sources count copies of the experts, or of the model, and not ranks
            meant = {dp, dp * (self.ep or 1), dp * (self.shards or 1), dp // each}
            if self.zero == 3 and dp == 1:  # no copies
                meant.add(n // inside)
            if n // inside not in meant:
                raise LLMHWError(
                    f"tp x pp x cp x dp = {inside} x {dp} = {inside * dp} is not n_gpus={n}; mend one of them, or "
                    "leave dp empty"
                )

    def replicas(self, dp: int) -> int:
        """Copies of the sharded model."""
        sharded = self.zero == 3 and self.shards and dp % self.shards == 0
        return dp // self.shards if sharded else 1


def _usual_expert_tp(recipe: dict[str, Any], ranks: int, tp: int, ep: int) -> int:
    """Megatron-Core splits experts as it splits the rest, unless a recipe says otherwise; all others do not.

    ranks   of a pipeline stage, which must hold them
    """
    spec = recipe["model"]
    mixture = any(t.experts > 1 for layer, _ in spec.layer_kinds for t in layer.tensors)
    return tp if mixture and recipe["kernels"] == "megatron" and ranks % (tp * ep) == 0 else 1


def _candidates(row: Row, said: _Said) -> Iterator[TrainingJob]:
    """Jobs of every micro-batch and number of chunks that the row leaves open."""
    spec, tp, pp, cp = said.recipe["model"], said.tp or 1, said.pp or 1, said.cp or 1
    dp = said.cluster.devices // (tp * pp * cp)
    closed = said.vpp or pp == 1 or row["interleaving"] == "none"
    chunks: Sequence[int] = [said.vpp or 1 if pp > 1 else 1]
    if not closed:
        chunks = range(1, -(-(spec.num_layers + 2) // pp) + 1)
    block = {"recompute_layers": spec.num_layers // 2 // pp} if said.recipe["recompute"] == "block" else {}
    micros = [said.micro] if said.micro else [1, 2, 4, 8, 16]
    first: LLMHWError | None = None
    made = 0
    for micro in micros:
        batch = said.batch or micro * dp
        if batch < micro * dp:
            first = first or LLMHWError(
                f"global_batch={batch} is less than micro_batch x dp = {micro} x {dp}, with dp = n_gpus / "
                f"(tp x pp x cp) = {said.cluster.devices} / ({tp} x {pp} x {cp}); mend one of them"
            )
            continue
        # the last accumulation of a step may be a smaller one
        steps = round(batch / (micro * dp))
        for vpp in chunks:
            try:
                layout = Parallelism(
                    dp=dp,
                    tp=tp,
                    pp=pp,
                    cp=cp,
                    ep=said.ep or 1,
                    expert_tp=said.expert_tp,
                    vpp=vpp,
                    zero=said.zero,
                    replicas=said.replicas(dp),
                    sequence_parallel=tp > 1 and row["sequence_parallel"] != "false",
                    uneven=pp > 1,
                    cp_kind=row["cp_kind"] or "ring" if cp > 1 else "ring",
                    offload=row["offload"] or "none",
                )
                job = TrainingJob(
                    cluster=said.cluster,
                    parallelism=layout,
                    micro_batch=micro,
                    global_batch=steps * micro * dp,
                    **said.recipe,
                    **block,
                )
                yield job.effective()
                made += 1
            except LLMHWError as error:
                first = first or error
                if closed and vpp > 1:
                    # the schedule asks for whole rounds; what the source ran is taken as one chunk a stage
                    chunks = [1]
        if not made and chunks == [1] and closed and said.vpp and said.vpp > 1:
            yield from _candidates(row, replace(said, vpp=1))
            made = 1
    if not made:
        raise first or LLMHWError("no layout fits these sizes")


def _powers(most: int, of: int) -> tuple[int, ...]:
    """Powers of two up to `most` that divide `of`."""
    return tuple(n for n in (2**i for i in range(24)) if n <= most and of % n == 0)


def _sought(row: Row, said: _Said) -> Described:
    """The usual layout of those that fit, where the row states no model parallelism."""
    from llmhw.search import search

    spec, n, seq = said.recipe["model"], said.cluster.devices, said.recipe["seq_len"]
    torch = said.recipe["kernels"] == "torch"
    experts = limits_of(spec, said.cluster).experts
    recompute = ("none", "full") if recompute_of(row) == "as needed" else (said.recipe["recompute"],)
    if "block" in recompute:
        recompute = ("full",)
    micros = (said.micro,) if said.micro else (1, 2, 4, 8)
    alone = Cluster(said.cluster.accelerator, 1)
    batch = said.batch or n * micros[0]
    recipe = {**said.recipe, "recompute": recompute[0]}
    base = TrainingJob(cluster=alone, micro_batch=1, global_batch=batch, **recipe).effective()
    axes: dict[str, Any] = {
        "tp": (said.tp,) if said.tp else _powers(said.cluster.devices_per_node, n),
        "pp": (said.pp,) if said.pp else (1,) if torch else _powers(min(n, spec.num_layers), n),
        "cp": (said.cp,) if said.cp else _powers(min(16, max(1, seq // 2048)), n),
        "vpp": (said.vpp,) if said.vpp else (1,) if row["interleaving"] == "none" else (1, 2, 4, 8),
        "ep": (said.ep,) if said.ep else _powers(experts, experts),
        "expert_tp": (said.expert_tp,) if said.tp or row["expert_tp"] else (1,),
        "micro_batch": micros,
        "sequence_parallel": (False,) if row["sequence_parallel"] == "false" else (False, True),
        "sharding": ((said.zero, 1),),
        "recompute": recompute,
    }
    # who states one size and not the other has none of that
    first = {"pp": (1,)} if said.tp and not said.pp else {"tp": (1,)} if said.pp and not said.tp else {}
    found = search(base, said.cluster, best=_MOST, **axes | first)
    if first and not found.best:
        found = search(base, said.cluster, best=_MOST, **axes)
    if not found.best and not found.closest:
        why = max(found.refused, key=lambda rule: found.refused[rule], default="no layout fits these sizes")
        raise LLMHWError(f"{' and '.join(said.open)} not stated, and no layout that was searched keeps a rule: {why}")
    if not found.best:
        assert found.closest is not None
        return Described(found.closest.job.effective(), said.open)
    near = (one.job for one in found.best if one.seconds <= _NEAR * found.best[0].seconds)
    chosen = _usual(near)
    layout = replace(chosen.parallelism, replicas=said.replicas(chosen.parallelism.dp))
    if layout.cp > 1 and row["cp_kind"]:
        layout = replace(layout, cp_kind=row["cp_kind"])
    made = replace(chosen, parallelism=layout).effective()
    if len(recompute) > 1 and made.recompute == "full":
        made = _as_needed(replace(made, recompute="none"))
    return Described(made, said.open)


def _usual(jobs: Iterable[TrainingJob]) -> TrainingJob:
    """Of jobs from the fastest on, the first with least model parallelism."""

    def split(job: TrainingJob) -> int:
        p = job.parallelism
        return p.tp * p.pp * p.cp

    return min(jobs, key=split)
