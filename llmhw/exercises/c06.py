"""Exercises of chapter 6, many devices."""

from math import ceil
from typing import Any

from llmhw import training_memory
from llmhw.binding import FSDP_BACKWARD, RAILS, binding
from llmhw.exercises.base import Exercise
from llmhw.hardware import Cluster, accelerator
from llmhw.job import Parallelism, TrainingJob
from llmhw.messages import collectives, hiding_tokens
from llmhw.model import ModelSpec, model
from llmhw.schedule import bubble_seconds
from llmhw.training import train

NDR = "InfiniBand NDR 4x"


def _micro_batches(stages: int, share: float, chunks: int = 1) -> int:
    """The fewest micro-batches whose bubble is at most that share of the step."""
    # A micro-batch takes 1 + 2 on each stage, and all stages are alike.
    bubble: float = bubble_seconds(forward=stages - 1, backward=2 * (stages - 1), chunks=chunks)
    return ceil(bubble / 3 * (1 - share) / share - 1e-9)


def _holds(answer: str) -> str:
    """Whether eight of the named card hold a step of 70B under tp=8."""
    p = Parallelism(tp=8, sequence_parallel=True)
    job = TrainingJob(
        model=model("llama-3-70b"), cluster=Cluster(answer, 8), parallelism=p, seq_len=4096, global_batch=64,
        recompute="full", kernels="megatron",
    )  # fmt: skip
    found = training_memory(job)
    return "" if found.fits else f"8 x {job.cluster.accelerator.name}: {found.way_out.split(';')[0]}"


def _sent(spec: str, ranks: int, micro_batches: int, zero: int) -> float:
    """Bytes that a rank sends in a step."""
    p = Parallelism(dp=ranks, zero=zero)
    cluster = Cluster("h100", ranks, devices_per_node=ranks)
    job = TrainingJob(
        model=model(spec), cluster=cluster, parallelism=p, seq_len=4096, global_batch=ranks * micro_batches
    )
    return float(collectives(job).wire_bytes)


def _fp32_tokens(device: str, grads: int = 4, gathered: int = 2) -> float:
    card = accelerator(device)
    rails = next(each for each in binding("llama-3-8b", card, NDR) if each.place == RAILS)
    rates = {"flops_per_second": card.peak(card.half_format), "bandwidth_bytes_per_second": rails.bytes_per_second}
    return float(hiding_tokens(bytes_per_param=gathered + grads, flops_per_param=FSDP_BACKWARD[1], **rates))


def _even_tokens(name: str) -> float:
    """Tokens at which gradients once and activations in every layer are as many bytes."""
    spec = model(name)
    return spec.parameters.total / (4 * spec.num_layers * spec.hidden)


def _laid_out(answer: Parallelism) -> str:
    """Whether the layout fits, and is fast enough."""
    if answer.devices != 64:
        return f"it takes {answer.devices} cards, and there are 64"
    found = train(_job_of_64(answer))
    if not found.memory.fits:
        return f"it does not fit: {found.memory.way_out.split(';')[0]}"
    return "" if found.mfu >= 0.4 else f"it fits, and reaches an MFU of {found.mfu:.0%}"


def _job_of_64(p: Parallelism) -> TrainingJob:
    return TrainingJob(
        model=model("llama-3-70b"), cluster=Cluster("h100", 64, inter_link=NDR), parallelism=p, seq_len=4096,
        global_batch=128, recompute="selective", software="megatron-lm",
    )  # fmt: skip


def _all_reduces(ranks: int = 8) -> int:
    """All-reduces of rank 0 in a step of `llmhw.measure.distributed`'s small Llama in three dimensions."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 67}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False}
    p = Parallelism(tp=2, pp=2, dp=ranks // 4, zero=3, schedule="1f1b")
    job = TrainingJob(
        model=ModelSpec.from_config({"model_type": "llama", **sizes, **heads}, name="small llama"),
        cluster=Cluster("h100", ranks, devices_per_node=ranks), parallelism=p, seq_len=16, global_batch=ranks,
        precision="fp32",
    )  # fmt: skip
    return sum(c.calls for c in collectives(job, 0) if c.kind == "all-reduce")


EXERCISES = (
    Exercise(
        "6.1",
        "compute",
        1,
        "You have {stages} pipeline stages and want the bubble to take at most {share:.0%} of the step. How many "
        "micro-batches do you need with 1F1B?",
        unit="micro-batches",
        given={"stages": (8, 4, 6, 12, 16), "share": (0.05, 0.1, 0.2)},
        answer=_micro_batches,
        slips={
            "a share of the useful time, where one of the step is asked": lambda stages, share: ceil(
                (stages - 1) / share - 1e-9
            ),
            "p slots of bubble; the first micro-batch is not idle on its own stage": lambda stages, share: (
                _micro_batches(stages + 1, share)
            ),
        },
        hints=(
            "Draw 3 stages and 4 micro-batches: how many slots does the last stage wait?",
            "The step is m + p - 1 slots long, and p - 1 of them are the bubble.",
        ),
        tolerance=0,
    ),
    Exercise(
        "6.2",
        "design",
        1,
        "Eight H100 cannot hold the states of Llama-3-70B. Name a card of the catalog of which eight train it with "
        "tp=8 (4,096 tokens, all layers recomputed, Megatron-LM's kernels).",
        form='the name of a card, as in "H100 SXM5"',
        accept=_holds,
        answer=lambda: "B300 SXM",
        hints=("Each card holds 16 N / 8 bytes of states, and some GiB more.",),
    ),
    Exercise(
        "6.3",
        "find the mistake",
        2,
        "A tutorial says that ZeRO-2 has no real overhead over ZeRO-1. You train {spec} on {ranks} ranks with "
        "{micro_batches} micro-batches a step. How many times as much as under ZeRO-1 does a rank send?",
        unit="times",
        given={"spec": ("llama-3-8b",), "ranks": (8, 16, 64), "micro_batches": (16, 4, 12, 32, 64)},
        answer=lambda **given: _sent(zero=2, **given) / _sent(zero=1, **given),
        slips={
            "scatters alone: the new weights are gathered, too": lambda micro_batches, **_: micro_batches / 2,
            "in units of a gather, where ZeRO-1 sends two": lambda micro_batches, **_: micro_batches + 1,
            "once a step: ZeRO-2 keeps no whole gradients from one micro-batch to the next": lambda **_: 1.0,
        },
        hints=("What happens to the gradients of the first micro-batch when the second begins?",),
    ),
    Exercise(
        "6.4",
        "derive",
        2,
        "Under FSDP gradients are often reduced in fp32, while weights are gathered in bf16. Below how many tokens of "
        "a micro-batch on a rank does a dense model then wait for messages, on nodes of 8 {device} with InfiniBand NDR "
        "4x?",
        unit="tokens",
        given={"device": ("H100", "A100 80GB SXM4", "H200 SXM5", "B200", "MI300X", "H800 SXM5")},
        answer=_fp32_tokens,
        slips={
            "gradients in bf16": lambda device: _fp32_tokens(device, grads=2),
            "the weights are gathered in bf16": lambda device: _fp32_tokens(device, gathered=4),
            "one adapter, where 8 ranks of a node have 8": 8.0,
        },
        hints=(
            "Which pass sends most, and how many bytes a parameter in it?",
            "Put its bytes over W beside 4 N T over P.",
        ),
    ),
    Exercise(
        "6.5",
        "by hand",
        2,
        "TP sends activations, DDP gradients. For {name} on 8 ranks: above how many tokens in a step does DDP send "
        "less than TP?",
        unit="tokens",
        given={"name": ("llama-3-8b", "llama-3-70b", "llama-2-7b", "llama-2-13b", "qwen3-32b", "llama-3.1-405b")},
        answer=_even_tokens,
        slips={
            "half of TP's messages: two all-reduces a layer forward, two backward, each sent twice": 2.0,
            "gradients sent once": 0.5,
        },
        hints=("Write both as bytes; (n - 1) / n is in both.", "DDP: 4 N. TP: 4 L all-reduces of 2 T h bytes."),
    ),
    Exercise(
        "6.6",
        "design",
        3,
        "Lay out Llama-3-70B on 64 H100 with InfiniBand NDR 4x: 128 sequences of 4,096 tokens a step, Megatron-LM, "
        "only attention's core recomputed. It must fit, and reach an MFU of 40 %.",
        form="a llmhw.Parallelism",
        accept=_laid_out,
        answer=lambda: Parallelism(dp=4, tp=8, pp=2, vpp=5, zero=1, sequence_parallel=True),
        hints=("TP may fill a node, and no more.", "What takes memory is split by ZeRO-1 and by sequence parallelism."),
    ),
    Exercise(
        "6.7",
        "measure",
        3,
        'Run tp=2, pp=2 and dp=2 with FSDP at once, on eight processes of your machine: measure_distributed("3d", 8, '
        'device="cpu"). In how many all-reduces does rank 0 take part in a step?',
        unit="all-reduces of rank 0",
        answer=_all_reduces,
        slips={"one pass only": 0.5, "of all 4 ranks of a stage": 4.0},
        hints=("They are the TP neighbor's: two a layer and pass, and the embedding's, in each of 4 micro-batches.",),
        tolerance=0,
    ),
)
