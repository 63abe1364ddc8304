"""Problems for marked work: two sets and an exam. A seed chooses their numbers; the library computes their answers.

They are exercises like those of the book, but stand in no notebook. Every one can be done with a pocket calculator:
what it needs from a config or a data sheet is in its text.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor, sqrt
from typing import Any

import llmhw
from llmhw.cost import job_mtbf_seconds, run_device_hours, run_dollars
from llmhw.exercises import Exercise
from llmhw.flops import training_flops_6n
from llmhw.memory import lora_params, training_states
from llmhw.messages import all_reduce_wire_bytes
from llmhw.ownership import rent_dollars
from llmhw.queueing import littles_law
from llmhw.schedule import bubble_seconds
from llmhw.units import GB, GIB

MODELS = tuple(
    map(llmhw.model, ("llama-3-8b", "llama-3-70b", "llama-2-13b", "mistral-7b-v0.3", "llama-3.2-3b", "codellama-34b"))
)
GROUPED = tuple(spec for spec in MODELS if spec.heads > spec.kv_heads)
CARDS = tuple(map(llmhw.accelerator, ("a100-80gb-sxm4", "h100", "h200", "b200", "mi300x", "l40s", "b300", "mi325x")))
_SHAPE = "{model.name} ({model.num_layers} layers, {model.kv_heads} KV heads of {model.head_dim})"


def cache_bytes(model: Any, tokens: int, batch: int = 1) -> float:
    return float(llmhw.kv_cache(model, seq_len=tokens, batch=batch).total)


def days(model: Any, tokens: float, cards: int, card: Any, mfu: float) -> float:
    flops = training_flops_6n(params=model.parameters.total, tokens=tokens)
    return float(flops / (cards * mfu * card.peak("bf16")) / 86400)


def sequences(model: Any, card: Any, tokens: int, share: float) -> int:
    free = share * card.memory_bytes - llmhw.weights(model, "bf16").total
    return floor(free / cache_bytes(model, tokens))


SET_1 = (
    Exercise(
        "set1.1",
        "by hand",
        1,
        "{model.name} has {model.parameters.total:,} parameters. How much memory do its weights take in {format}?",
        lambda model, format: llmhw.weights(model, format).total / GIB,
        unit="GiB",
        given={"model": MODELS, "format": ("bf16", "fp32")},
        slips={"one byte a parameter": lambda model, format: model.parameters.total / GIB},
    ),
    Exercise(
        "set1.2",
        "by hand",
        1,
        f"What does the KV cache of {_SHAPE} take for {{batch}} sequences of {{tokens:,}} tokens in BF16?",
        lambda model, batch, tokens: cache_bytes(model, tokens, batch) / GIB,
        unit="GiB",
        given={"model": GROUPED, "batch": (8, 16, 32, 48), "tokens": (2048, 4096, 6144)},
        slips={
            "all query heads in place of the KV heads": lambda model, batch, tokens: (
                cache_bytes(model, tokens, batch) / GIB * model.heads / model.kv_heads
            )
        },
    ),
    Exercise(
        "set1.3",
        "find the mistake",
        2,
        "A blog computes the KV cache of {model.name} as 2 x layers x hidden x 2 bytes a token, with "
        "{model.num_layers} layers and a hidden size of {model.hidden}; it has {model.heads} query heads and "
        "{model.kv_heads} KV heads of {model.head_dim}. By which factor is the figure for {tokens:,} tokens too large?",
        lambda model, tokens: 4 * model.num_layers * model.hidden * tokens / cache_bytes(model, tokens),
        given={"model": GROUPED, "tokens": (1000, 4000, 32000)},
        slips={"grouped queries overlooked": lambda model, tokens: 1.0},
    ),
    Exercise(
        "set1.4",
        "by hand",
        2,
        "{model.name} ({model.parameters.total:,} parameters) is to be trained with AdamW in BF16 mixed precision (16 "
        "bytes a parameter). What do the states take on each of {cards} cards if everything is sharded (ZeRO-3)?",
        lambda model, cards: training_states(model).total / cards / GIB,
        unit="GiB",
        given={"model": MODELS, "cards": (8, 16, 24, 32, 64)},
        slips={
            "weights and gradients alone, without the optimizer": 4 / 16,
            "gradients forgotten": 14 / 16,
            "weights and gradients whole on each card (ZeRO-1)": lambda model, cards: (
                training_states(model).total * (4 + 12 / cards) / 16 / GIB
            ),
        },
    ),
    Exercise(
        "set1.5",
        "compute",
        2,
        "How many days do {cards} cards {card.name} take to train a model of {model.parameters.total:,} parameters on "
        "{tokens:.1e} tokens at an MFU of {mfu:.0%}? Take 6ND and a dense peak of {card.peaks[bf16]:.3g} FLOP/s.",
        days,
        unit="days",
        given={
            "model": MODELS,
            "tokens": (1e12, 2e12, 5e11),
            "cards": (256, 512, 1024),
            "card": CARDS,
            "mfu": (0.4, 0.35, 0.45),
        },
        slips={
            "2ND: the forward pass alone": 1 / 3,
            "4ND: the backward pass alone": 2 / 3,
            "an MFU of 100 %": lambda model, tokens, cards, card, mfu: days(model, tokens, cards, card, 1),
        },
    ),
    Exercise(
        "set1.6",
        "derive",
        3,
        "A decode step reads every weight once (BF16, 2 bytes) and does 2 FLOPs with it for each sequence. Leave the "
        "cache aside. From which batch on is the {card.name} bound by its peak in BF16, "
        "{card.peaks[bf16]:.3g} FLOP/s, not by its bandwidth, {card.memory_bandwidth_bytes_per_second:.3g} bytes/s?",
        lambda card: card.peak("bf16") / card.memory_bandwidth_bytes_per_second,
        unit="sequences",
        given={"card": CARDS},
        slips={"2 bytes forgotten: FLOPs a byte, where FLOPs a weight count": 2},
    ),
)

SET_2 = (
    Exercise(
        "set2.1",
        "by hand",
        1,
        "A pipeline of {stages} stages runs {micro} micro-batches with 1F1B. Which share of the step is the bubble?",
        lambda stages, micro: 100 * bubble_seconds(forward=stages - 1, backward=0) / (micro + stages - 1),
        unit="%",
        given={"stages": (4, 8, 16, 6), "micro": (16, 32, 64, 24)},
        slips={
            "a share of the useful time": lambda stages, micro: 100 * (stages - 1) / micro,
            "p slots in place of p - 1": lambda stages, micro: 100 * stages / (micro + stages - 1),
        },
    ),
    Exercise(
        "set2.2",
        "by hand",
        2,
        "Data parallelism adds up the BF16 gradients of {model.name} ({model.parameters.total:,} parameters) over "
        "{ranks} ranks with a ring. How many bytes does each rank send?",
        lambda model, ranks: all_reduce_wire_bytes(size=2 * model.parameters.total, ranks=ranks) / GB,
        unit="GB",
        given={"model": MODELS, "ranks": (8, 16, 4, 32)},
        slips={"FP32 gradients": 2, "(n - 1)/n forgotten": lambda model, ranks: 4 * model.parameters.total / GB},
    ),
    Exercise(
        "set2.3",
        "derive",
        3,
        "Under FSDP a rank gathers the weights for the forward and the backward pass and scatters the gradients: "
        "3 x 2N bytes at {link:.0f} GB/s, while it computes 6NT FLOPs on its T tokens at {rate:.0f} TFLOP/s. From how "
        "many tokens a rank on can computing hide the messages?",
        lambda link, rate: rate * 1e12 / (link * 1e9),
        unit="tokens",
        given={"link": (50, 25, 100, 400, 200), "rate": (400, 300, 500, 600)},
        slips={"bytes taken for parameters: a factor of 2 from BF16": 1 / 2, "the backward pass has 4NT": 3 / 2},
    ),
    Exercise(
        "set2.4",
        "by hand",
        2,
        f"{_SHAPE} lies in BF16 ({{model.parameters.total:,}} parameters) on one {{card.name}} with "
        "{card.memory_bytes:,} bytes, of which the engine takes {share:.0%}. How many sequences of {tokens:,} tokens "
        "fit beside the weights?",
        sequences,
        unit="sequences",
        tolerance=0.03,
        given={
            "model": tuple(m for m in GROUPED if m.parameters.total < 3e10),
            "card": CARDS,
            "tokens": (2048, 4096, 8192),
            "share": (0.9, 0.85),
        },
        slips={
            "weights forgotten": lambda model, card, tokens, share: floor(
                share * card.memory_bytes / cache_bytes(model, tokens)
            )
        },
    ),
    Exercise(
        "set2.5",
        "by hand",
        2,
        "A machine of 8 cards rents for {price:.2f} dollars a card and hour and generates {rate:,} tokens/s when it is "
        "full; over the day it is at {load:.0%} of that. What does a million tokens cost?",
        lambda price, rate, load: run_dollars(
            device_hours=run_device_hours(wall_seconds=1e6 / (rate * load), devices=8), dollars_per_device_hour=price
        ),
        unit="dollars",
        given={"price": (2.5, 3.2, 1.9, 4.1), "rate": (6000, 9000, 12000, 4500), "load": (0.4, 0.3, 0.6)},
        slips={"always full": lambda price, rate, load: 8 * price * 1e6 / rate / 3600, "one card's price": 1 / 8},
    ),
    Exercise(
        "set2.6",
        "design",
        3,
        "{rate} requests arrive in a second, each stays {seconds} s, and one replica holds {each} at a time. How many "
        "replicas do you buy if one more must be there for a failure? Say why a load of 100 % would not do.",
        lambda rate, seconds, each: ceil(littles_law(arrivals_per_second=rate, seconds=seconds) / each - 1e-9) + 1,
        unit="replicas",
        tolerance=0,
        given={"rate": (20, 35, 50, 12), "seconds": (8, 12, 15), "each": (64, 48, 96)},
        slips={"no spare": lambda rate, seconds, each: ceil(rate * seconds / each - 1e-9)},
    ),
)

EXAM = (
    replace(SET_1[0], id="exam.1"),
    Exercise(
        "exam.2",
        "by hand",
        1,
        f"What does one more token of one sequence add to the KV cache of {_SHAPE} in {{format}}?",
        lambda model, format: llmhw.kv_cache_bytes_per_token(model, format) / 1024,
        unit="KiB",
        given={"model": GROUPED, "format": ("bf16", "fp8")},
        slips={
            "all query heads": lambda model, format: (
                llmhw.kv_cache_bytes_per_token(model, format) / 1024 * model.heads / model.kv_heads
            )
        },
    ),
    Exercise(
        "exam.3",
        "find the mistake",
        1,
        'A rental page says: "{cards} cards of {memory} GB train a {billions}B model with AdamW in mixed precision: '
        'the weights in BF16 need only {billions} x 2 GB." What do weights, gradients and optimizer need in all?',
        lambda cards, memory, billions: 16 * billions,
        unit="GB",
        given={"cards": (2, 4), "memory": (24, 40, 48), "billions": (7, 13, 8, 3, 32)},
        slips={"the optimizer forgotten": 4 / 16, "no FP32 master copy": 12 / 16, "gradients forgotten": 14 / 16},
    ),
    Exercise(
        "exam.4",
        "derive",
        2,
        "Show that one user of a dense model in BF16 gets at most bandwidth / (2N) tokens/s, and compute it for "
        "{model.name} ({model.parameters.total:,} parameters) on {cards} cards of "
        "{card.memory_bandwidth_bytes_per_second:.3g} bytes/s each, the weights cut over them.",
        lambda model, card, cards: cards * card.memory_bandwidth_bytes_per_second / (2 * model.parameters.total),
        unit="tokens/s",
        given={"model": MODELS, "card": CARDS, "cards": (8, 4, 2)},
        slips={
            "one card's bandwidth": lambda model, card, cards: (
                card.memory_bandwidth_bytes_per_second / (2 * model.parameters.total)
            )
        },
    ),
    Exercise(
        "exam.5",
        "by hand",
        2,
        "LoRA of rank {rank} at a matrix of {rows:,} x {columns:,}: how many parameters does it train, in percent of "
        "the matrix?",
        lambda rank, rows, columns: (
            100 * lora_params(rank=rank, in_features=rows, out_features=columns) / (rows * columns)
        ),
        unit="%",
        given={"rank": (16, 8, 32, 64), "rows": (4096, 8192, 5120), "columns": (4096, 14336, 1024)},
        slips={"one of the two factors": lambda rank, rows, columns: 100 * rank * rows / (rows * columns)},
    ),
    Exercise(
        "exam.6",
        "by hand",
        2,
        "Tensor parallelism over {ranks} ranks adds up {size} MB of activations with a ring at {link} GB/s. How long "
        "does an all-reduce take, latency left out?",
        lambda ranks, size, link: 1e6 * all_reduce_wire_bytes(size=size * 1e6, ranks=ranks) / (link * 1e9),
        unit="microseconds",
        given={"ranks": (8, 4, 2), "size": (64, 32, 128), "link": (450, 300, 25, 50)},
        slips={"(n - 1)/n forgotten": lambda ranks, size, link: 2e3 * size / link},
    ),
    Exercise(
        "exam.7",
        "compute",
        2,
        "A device fails once in {hours:,} hours. A run has {cards:,} of them, and a checkpoint takes {write} s. After "
        "how many minutes of training should it write the next one (Young: the square root of twice the write times "
        "the mean time between failures)?",
        lambda hours, cards, write: sqrt(2 * write * job_mtbf_seconds(mtbf_device_hours=hours, devices=cards)) / 60,
        unit="minutes",
        given={"hours": (50_000, 30_000, 80_000), "cards": (1024, 4096, 16384, 2048), "write": (30, 60, 120)},
        slips={
            "the factor 2 forgotten": 1 / sqrt(2),
            "one device's time between failures": lambda hours, cards, write: sqrt(2 * write * 3600 * hours) / 60,
        },
    ),
    Exercise(
        "exam.8",
        "design",
        3,
        "Owning costs {owned:,} dollars over {months} months whatever it is used for, renting the same {cards} cards "
        "{price:.2f} dollars a card and hour. From which share of the hours on is owning cheaper? Name two things that "
        "this leaves out and say which way each moves the answer.",
        lambda owned, months, cards, price: (
            100 * owned / rent_dollars(devices=cards, months=months, dollars_per_device_hour=price)
        ),
        unit="%",
        given={"owned": (300_000, 250_000, 360_000), "months": (36, 48), "cards": (8,), "price": (2.5, 3.3, 4.2)},
        slips={"one card's rent": 8},
    ),
)

PAPERS = {"problem_set_1": SET_1, "problem_set_2": SET_2, "exam": EXAM}
TITLES = {
    "problem_set_1": "Problem set 1: one device (chapters 0 to 5)",
    "problem_set_2": "Problem set 2: many devices, many users, money (chapters 6 to 12)",
    "exam": "Exam: two hours, a pocket calculator, one sheet of your own notes",
}
