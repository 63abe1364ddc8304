"""What ranks send: sums that do not depend on how PyTorch counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from llmhw.communication import AXES, Communication, collectives, ddp_buckets, group_ranks

from llmhw import Cluster, model
from llmhw.job import Parallelism, TrainingJob
from llmhw.model import ModelSpec
from llmhw.sharding import place_of
from llmhw.units import LLMHWError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 8,
    "vocab_size": 128,
}


def job(config: dict[str, Any] | None = None, *, micro_batches: int = 4, **options: Any) -> TrainingJob:
    names = set(Parallelism.__slots__)
    p = Parallelism(**{k: v for k, v in options.items() if k in names})
    rest = {k: v for k, v in options.items() if k not in names}
    spec = ModelSpec.from_config(LLAMA | (config or {}))
    cluster = Cluster("h100", p.devices, devices_per_node=p.devices)
    return TrainingJob(
        model=spec, cluster=cluster, parallelism=p, global_batch=micro_batches * p.dp, seq_len=32, **rest
    )


def calls(found: Communication, kind: str, axis: str) -> int:
    return sum(c.calls for c in found if c.kind == kind and c.axis == axis)


def test_one_device_sends_nothing() -> None:
    for zero in range(4):
        assert list(collectives(job(zero=zero))) == []


def test_data_parallel_reduces_every_gradient_once_a_step() -> None:
    j = job(dp=4, micro_batches=8)
    found = collectives(j)
    assert found.bytes == 2 * j.model.parameters.total
    assert found.wire_bytes == 2 * 3 / 4 * found.bytes
    assert calls(found, "all-reduce", "dp") == 1


def test_ddp_buckets_of_a_real_model() -> None:
    """GPT-2's 124 M fp32 gradients: a first bucket of 1 MiB or more, the others of 25 MiB or more."""
    spec = model("gpt2")
    cluster = Cluster("h100", 8, devices_per_node=8)
    j = TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(dp=8), precision="fp32", seq_len=1024)
    found = collectives(j)
    sizes = [c.bytes_per_call for c in found for _ in range(c.calls)]
    assert sum(sizes) == 4 * spec.parameters.total
    assert min(sizes) >= 2**20
    assert sum(size >= 25 * 2**20 for size in sizes) >= len(sizes) - 2
    assert ddp_buckets([]) == []
    assert ddp_buckets([10, 10, 10], bucket_cap_mb=10 / 2**20) == [10, 10, 10]


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_reduces_and_gathers_what_ddp_reduces(zero: int) -> None:
    j = job(dp=4, zero=zero)
    found = {c.kind: c for c in collectives(j)}
    assert found["reduce-scatter"].calls == (j.micro_batches if zero == 2 else 1)
    assert found["reduce-scatter"].bytes_per_call == 2 * j.model.parameters.total
    assert found["all-gather"].bytes == 2 * j.model.parameters.total / 4
    # on the wire, one of each is one all-reduce
    wire = (c.wire_bytes / c.calls for c in found.values())
    assert sum(wire) == collectives(job(dp=4)).wire_bytes


def test_zero_3_sends_half_as_much_again() -> None:
    """ZeRO, section 7: 3 times the parameters instead of 2 (here of the blocks; the root group is gathered once)."""
    j = job({"vocab_size": 8}, dp=4, zero=3, micro_batches=1)
    ratio = collectives(j).wire_bytes / collectives(job({"vocab_size": 8}, dp=4)).wire_bytes
    assert ratio == pytest.approx(1.5, rel=0.01)


def test_hsdp_reduces_shards_over_the_copies() -> None:
    found = collectives(job(dp=8, zero=3, replicas=2))
    scattered = sum(c.bytes for c in found if c.kind == "reduce-scatter")
    assert sum(c.bytes for c in found if c.axis == "replica") == scattered / 4


def test_sequence_parallel_sends_the_same_bytes_as_tensor_parallel() -> None:
    """Korthikanti et al. 2022, section 4.2.2: an all-reduce is a reduce-scatter and an all-gather."""
    plain, split = (collectives(job(tp=4, sequence_parallel=on, kernels="megatron")) for on in (False, True))
    drop = ("gradients of norms", "inputs once more, for the weights' gradients", "loss over the vocabulary")
    wire = [sum(c.wire_bytes for c in found if c.what not in drop) for found in (plain, split)]
    assert wire[0] == wire[1]
    assert calls(plain, "all-reduce", "tp") == 4 * (4 * 8 + 2 + 3)
    assert calls(split, "all-gather", "tp") == 4 * (4 * 8 + 2 + 2 * 8)


def test_every_send_is_received() -> None:
    for options in ({"pp": 4}, {"pp": 4, "vpp": 2}, {"pp": 2, "schedule": "gpipe", "tp": 2, "sequence_parallel": True}):
        j = job(**options)
        totals = Counter[str]()
        for stage in range(j.parallelism.pp):
            for c in collectives(j, pp_rank=stage):
                if c.axis == "pp":
                    totals[c.kind] += c.bytes
                    assert c.bytes_per_call == 32 * 64 * 2 // (2 if j.parallelism.sequence_parallel else 1)
        assert totals["send"] == totals["recv"] > 0


def test_tied_embeddings_are_reduced_between_the_ends() -> None:
    j = job({"tie_word_embeddings": True}, pp=4)
    assert [calls(collectives(j, pp_rank=r), "all-reduce", "embedding") for r in range(4)] == [1, 0, 0, 1]


def test_context_parallel() -> None:
    ring, gather = (collectives(job(cp=4, cp_kind=kind)) for kind in ("ring", "all-gather"))
    layers = 4 * 8
    assert calls(ring, "all-to-all", "cp") == layers * (3 + 3 + 4)
    assert calls(gather, "all-gather", "cp") == layers * 2
    kv = 32 // 4 * 4 * (8 + 8) * 2
    assert {c.bytes_per_call for c in ring if c.what.startswith("keys")} == {kv}
    # a ring of four passes on what an all-gather sends
    forward = [sum(c.bytes for c in ring if c.phase == "forward")]
    assert forward == [sum(c.wire_bytes for c in gather if c.phase == "forward")]


def test_experts() -> None:
    config = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    found = collectives(job(config, dp=4, ep=4))
    assert calls(found, "all-to-all", "ep") == 4 * 8 * 5
    rows = {c.bytes_per_call for c in found if c.what.startswith("rows to")}
    assert rows == {32 * 2 * 64 * 2}
    spread = collectives(job(config, dp=8, ep=2, expert_tp=2))
    assert {c.axis for c in spread} == {"dp", "ep", "expert_tp", "expert_dp"}
    # each kind of gradient over its own ranks
    p = job(config, dp=8, ep=2, expert_tp=2)
    experts = sum(t.numel * n for t, n in p.model.all_tensors() if t.component == "experts")
    assert sum(c.bytes for c in spread if c.axis == "expert_dp") == 2 * experts / 4
    assert sum(c.bytes for c in spread if c.axis == "dp") == 2 * (p.model.parameters.total - experts)


def test_recompute_repeats_the_forward_pass() -> None:
    def tp(mode: str, **options: Any) -> int:
        return calls(collectives(job(tp=2, recompute=mode, **options)), "all-reduce", "tp")

    assert tp("full", kernels="megatron") - tp("none", kernels="megatron") == 4 * 8 * 2
    assert tp("full") - tp("none") == 4 * 8  # checkpoint stops before a layer's last sum
    assert tp("block", recompute_layers=3) - tp("none") == 4 * 3
    assert tp("selective") == tp("none")


def test_groups() -> None:
    p = Parallelism(dp=4, tp=2, cp=2, pp=2, ep=4, expert_tp=2, zero=3, replicas=2)
    sizes = {axis: len(group_ranks(p, 5, axis)) for axis in AXES}
    assert sizes == {
        "dp": 8,
        "fsdp": 4,
        "replica": 2,
        "tp": 2,
        "cp": 2,
        "pp": 2,
        "ep": 4,
        "expert_tp": 2,
        "expert_dp": 2,
        "expert_fsdp": 1,
        "expert_replica": 2,
        "embedding": 2,
    }
    for axis in AXES:
        for rank in range(p.devices):
            group = group_ranks(p, rank, axis)
            assert rank in group
            assert all(group_ranks(p, other, axis) == group for other in group)
    assert group_ranks(p, 21, "ep") == (17, 19, 21, 23)
    assert group_ranks(p, place_of(p, 0), "tp") == (0, 1)
    with pytest.raises(LLMHWError, match="axis='dq' is not known"):
        group_ranks(p, 0, "dq")


def test_report() -> None:
    found = collectives(job(dp=2, tp=2), pp_rank=0)
    lines = str(found).splitlines()
    assert lines[1].split() == ["what", "kind", "ranks", "phase", "calls", "each", "in", "a", "step"]
    assert found.to_dict()["bytes"] == found.bytes
    assert found.to_frame()["calls"].sum() == sum(c.calls for c in found)
    with pytest.raises(LLMHWError, match="pp_rank=1 is not one of the 1 stages"):
        collectives(job(), pp_rank=1)
