"""Exercises of chapter 10, throughput and latency."""

import llmhw
from llmhw.engine import experts_touched
from llmhw.exercises.base import Exercise
from llmhw.job import ServingJob
from llmhw.speculation import tokens_per_verification

_EIGHT = llmhw.Cluster("H100 SXM5 80GB", 8)


def _bound(card: str, billion: float) -> float:
    return llmhw.accelerator(card).memory_bandwidth_bytes_per_second / (2e9 * billion)


def _read(model: str, sequences: int) -> float:
    """Billion parameters that a decoding step reads."""
    spec = llmhw.model(model)
    count = spec.parameters
    experts, used = next((t.experts, t.used) for layer in spec.layers for t in layer.tensors if t.experts > 1)
    touched = experts_touched(experts=experts, used=used, tokens=sequences)
    spread = (touched - used) / (experts - used)
    return float(count.active + (count.total - count.active) * spread) / 1e9


def _sequences(once: float, each: float, share: float) -> float:
    return ((1e-3 * once + 1e-6 * each) / share - 1e-3 * once) / (1e-6 * each)


def _guesses(acceptance: float, cost: float) -> int:
    gains = {k: tokens_per_verification(acceptance=acceptance, drafted=k) / (1 + k * cost) for k in range(1, 60)}
    return max(gains, key=lambda k: float(gains[k]))


def _accept_layout(job: ServingJob) -> str:
    if not isinstance(job, ServingJob):
        raise TypeError
    if job.model.name != llmhw.model("llama-3-70b").name or job.cluster != _EIGHT:
        return "it must serve llama-3-70b on 8 x H100 SXM5 80GB"
    if "fp8" not in (job.weights, job.kv) or job.weights != job.kv:
        return "weights and cache must both be in fp8"
    for users, least in ((1, 60), (512, 20)):
        found = llmhw.serve(job, input_tokens=1000, output_tokens=1000, concurrency=users)
        speed = found.point.tokens_per_second_per_user
        if found.point.concurrency < users:
            return f"it has no room for {users} users at once"
        if speed < least:
            return f"with {users} users each has {speed:.0f} tokens/s, and {least} are wanted"
    return ""


def _accept_sharing(answer: float) -> str:
    if not 0 < answer < 200:
        return "a ratio of two times is wanted"
    if answer > 24:
        return "more than 24: something else took time; take the least of several runs"
    return ""


EXERCISES = (
    Exercise(
        "10.1",
        "by hand",
        1,
        "A model of {billion} billion parameters lies in bf16 on one {card}. How many tokens per second can one user "
        "have at most?",
        unit="tokens/s",
        given={
            "billion": (8, 3, 7, 14),
            "card": ("H100 SXM5 80GB", "A100 80GB SXM4", "RTX 4090", "L40S"),
        },
        answer=lambda billion, card: _bound(card, billion),
        slips={"one byte a parameter": 2.0},
        hints=("What does a step read, whoever waits for it?", "Bandwidth over the bytes of the weights."),
    ),
    Exercise(
        "10.2",
        "compute",
        2,
        "How many billion parameters does a decoding step of {model} read, on average, with {sequences} sequences, if "
        "the router spreads tokens evenly?",
        unit="billion",
        given={"model": ("mixtral-8x7b", "qwen3-30b-a3b", "mixtral-8x22b"), "sequences": (16, 4, 8, 64)},
        answer=_read,
        slips={
            "as if there were one sequence": lambda model, sequences: _read(model, 1),
            "as if each sequence had experts of its own": lambda model, sequences: (
                llmhw.model(model).parameters.active * sequences / 1e9
            ),
        },
        hints=(
            "How many experts of a layer does at least one token visit?",
            "An expert is missed by all with (1 - used / experts) to the power of the sequences.",
        ),
        tolerance=0.01,
    ),
    Exercise(
        "10.3",
        "find the mistake",
        2,
        "Somebody divides the peak of a {card} in {number_format} by the FLOPs of a token and calls that one user's "
        "speed. From how many sequences on does arithmetic bind at all, if the cache weighs nothing?",
        unit="sequences",
        given={
            "card": ("H100 SXM5 80GB", "A100 80GB SXM4", "L40S", "B200 SXM 180GB", "RTX 4090", "H200 SXM5 141GB"),
            "number_format": ("bf16", "fp16"),
        },
        answer=lambda card, number_format: llmhw.accelerator(card).ridge(number_format),
        slips={"a multiplication and an addition are 2 FLOP": 2.0},
        hints=("How many FLOPs for each byte of weights does a step of b sequences do?", "The ridge is in FLOP/byte."),
    ),
    Exercise(
        "10.4",
        "derive",
        2,
        "A step takes {once} ms once and {each} microseconds for each sequence. How many may be at work if each user "
        "shall have {share:.0%} of the speed that it has alone?",
        unit="sequences",
        given={"once": (16, 12, 10, 24), "each": (125, 80, 220), "share": (0.25, 0.4, 0.8)},
        answer=_sequences,
        slips={
            "the knee, where the share is a half": lambda once, each, share: 1000 * once / each,
            "the step may be longer by the share, not by its inverse": lambda once, each, share: (
                1000 * once / each * share
            ),
        },
        hints=("How long may a step take then?", "Solve t0 + b t1 = (t0 + t1) / share for b."),
    ),
    Exercise(
        "10.5",
        "compute",
        2,
        "A draft model takes {cost:.0%} of the large one's time for each token, and guesses are accepted with "
        "{acceptance:.0%}. How many tokens should it propose at a time?",
        unit="tokens",
        given={"acceptance": (0.8, 0.6, 0.95, 0.9, 0.7), "cost": (0.1, 0.05, 0.2)},
        answer=_guesses,
        slips={
            "as if the draft cost nothing, more is always better": lambda acceptance, cost: _guesses(
                acceptance, cost / 4
            )
        },
        hints=(
            "Tokens of a pass over its cost: which number of guesses makes that largest?",
            "A pass yields (1 - q^(k+1)) / (1 - q) tokens and costs 1 + k times the draft's share.",
        ),
        tolerance=0,
    ),
    Exercise(
        "10.6",
        "measure",
        2,
        "Multiply a float32 matrix of 4,096 by 4,096 with one vector and with 16 vectors at once. What is the ratio of "
        "the times on your machine?",
        unit="times",
        answer=lambda: 4.0,
        accept=_accept_sharing,
        form="one number, the time for 16 vectors over the time for one",
        hints=("Take the least of several runs of each: the first one pays for other things.",),
    ),
    Exercise(
        "10.7",
        "design",
        3,
        "Llama-3-70B in fp8, cache too, on eight H100 SXM5, prompts and answers of 1,000 tokens. One user alone shall "
        "have 60 tokens/s, and 512 at once 20 each. Give a job that keeps both.",
        answer=lambda: ServingJob(
            model=llmhw.model("llama-3-70b"), cluster=_EIGHT, tp=4, weights="fp8", kv="fp8", max_sequences=1024
        ),
        accept=_accept_layout,
        form="a llmhw.ServingJob",
        hints=(
            "Which tp makes a user alone fast, and which serves most?",
            "Replicas fill what a small tp leaves of the eight cards.",
        ),
    ),
)
