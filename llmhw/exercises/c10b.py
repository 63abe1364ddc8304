"""Exercises of chapter 10b, batching and queues."""

from functools import cache

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.job import ServingJob
from llmhw.queueing import StepModel, littles_law
from llmhw.service import simulation_engine
from llmhw.simulation import SLO, Engine, LogNormal, Poisson, Request, simulate

# The six requests and the engine of the chapter's strips.
_STEP = StepModel(0.010, prefill_token_seconds=20e-6, sequence_seconds=0.5e-3)
_SIX = (
    Request(0.00, 1000, 12), Request(0.02, 1500, 6), Request(0.05, 800, 25),
    Request(0.09, 2500, 8), Request(0.13, 600, 14), Request(0.20, 1200, 5),
)  # fmt: skip


@cache
def _stays(mode: str) -> tuple[float, ...]:
    engine = Engine(_STEP, max_sequences=3, mode=mode, early_return=mode != "continuous")
    run = simulate(engine, _SIX, trace_requests=6)
    return tuple(t.finish_seconds - t.arrival_seconds for t in sorted(run.requests_trace, key=lambda t: t.number))


def _gains_most(mode: str) -> str:
    lost = [a - b for a, b in zip(_stays(mode), _stays("continuous"), strict=True)]
    return "ABCDEF"[lost.index(max(lost))]


def _load(waits: float, share: float) -> float:
    """Load at which the mean wait is so many service times; share: 1/2 for constant service, 1 for exponential."""
    return 100 * waits / (waits + share)


def _first_ms(service: float, rate: float) -> float:
    load = rate * service / 1000
    return service * (1 + load / (2 * (1 - load)))


@cache
def _requests(cards: int, tpot: float) -> float:
    job = ServingJob(model=llmhw.model("llama-3.1-8b"), cluster=llmhw.Cluster("H100 SXM5 80GB", 1), max_sequences=1024)
    found = llmhw.serve(job, input_tokens=1000, output_tokens=250, slo_ttft=0.5, slo_tpot=tpot / 1000)
    assert found.within_slo is not None
    return cards * found.within_slo.tokens_per_second / 250


@cache
def _copies() -> int:
    job = ServingJob(model=llmhw.model("llama-3.1-8b"), cluster=llmhw.Cluster("H100 SXM5 80GB", 1))
    copy = simulation_engine(job, input_tokens=1000, output_tokens=300)
    prompts, answers = LogNormal(800, 0.7, most=4000), LogNormal(250, 0.7, most=2000)
    slo = SLO(ttft_seconds=0.5, tpot_seconds=1 / 25)
    for copies in range(1, 20):
        load = Poisson(rate=60 / copies, requests=2000, seed=9, input_tokens=prompts, output_tokens=answers)
        goodput = simulate(copy, load, slo=slo).goodput
        if goodput is not None and goodput >= 0.99:
            return copies
    raise AssertionError


def _accept_law(answer: float) -> str:
    if not 0 < answer < 10:
        return "the ratio of a count to rate times time is wanted, and it is not far from 1"
    if abs(answer - 1) > 0.15:
        return "more than 15 % off: count over the whole run, and take the time from arrival to the end of the answer"
    return ""


EXERCISES = (
    Exercise(
        "10b.1",
        "by hand",
        1,
        "{rate} requests/s come, and each stays {seconds} s. How many are at work?",
        unit="requests",
        given={"rate": (4, 2.5, 7, 12), "seconds": (12, 8, 20)},
        answer=lambda rate, seconds: littles_law(arrivals_per_second=rate, seconds=seconds),
        slips={"requests that come while one is answered, over the seconds": lambda rate, seconds: seconds / rate},
        hints=("Each second of a stay is counted once.", "n = rate times time."),
    ),
    Exercise(
        "10b.2",
        "compute",
        2,
        "Which of the chapter's six requests loses most by {mode} batching, in seconds of its stay over continuous "
        "batching?",
        given={"mode": ("static", "dynamic")},
        choices=tuple("ABCDEF"),
        answer=_gains_most,
        slips={"its answer is the longest, and its batch ends with it: others wait for it": "C"},
        hints=("Who comes just after a batch has started?", "`requests_trace` has when each came and was done."),
    ),
    Exercise(
        "10b.3",
        "derive",
        2,
        "One machine reads prompts of equal length one after another; they come at random. Up to which load is the "
        "mean wait at most {waits} times the reading of a prompt?",
        unit="%",
        given={"waits": (1, 0.5, 2, 3, 4, 5, 0.25, 1.5, 2.5, 6, 8)},
        answer=lambda waits: _load(waits, 1 / 2),
        slips={"M/M/1: all prompts are equally long here": lambda waits: _load(waits, 1)},
        hints=("Which of the two formulas holds for equal lengths?", "Solve load / (2 (1 - load)) = waits."),
        tolerance=0.01,
    ),
    Exercise(
        "10b.4",
        "find the mistake",
        2,
        "'A prompt takes {service} ms to read and {rate} come a second, so the machine is not full and the first token "
        "takes {service} ms.' What does it take on average, if prompts are equally long and come at random?",
        unit="ms",
        given={"service": (100, 80, 50), "rate": (9, 5, 8, 11)},
        answer=_first_ms,
        slips={
            "the sentence's own": lambda service, rate: service,
            "the wait alone, without the reading": lambda service, rate: _first_ms(service, rate) - service,
            "M/M/1: all prompts are equally long here": lambda service, rate: service / (1 - rate * service / 1000),
        },
        hints=("How busy is the machine?", "First the wait, then the reading itself."),
    ),
    Exercise(
        "10b.5",
        "compute",
        2,
        "{cards} H100 SXM5, a copy of Llama-3.1-8B on each; prompts of 1,000 tokens, answers of 250; a first token "
        "within half a second, then {tpot} ms a token. How many requests a second does `serve` allow, all together?",
        unit="requests/s",
        given={"cards": (4, 2, 6, 8), "tpot": (25, 15, 20)},
        answer=_requests,
        slips={
            "tokens, not requests": lambda cards, tpot: 250 * _requests(cards, tpot),
            "of one card": lambda cards, tpot: _requests(1, tpot),
        },
        hints=("`serve(job, ..., slo_ttft=, slo_tpot=).within_slo` has tokens per second.",),
    ),
    Exercise(
        "10b.6",
        "measure",
        2,
        "Does Little's law hold on your machine? Let 200 jobs of 20 ms come at random to 4 threads, 100 a second, "
        "count who is there, and give the count over rate times time.",
        unit="times",
        answer=lambda: 1.0,
        accept=_accept_law,
        form="one number, the mean count over rate times mean stay",
        hints=("The mean count is the sum of all stays over the length of the run.",),
    ),
    Exercise(
        "10b.7",
        "design",
        3,
        "Plan a service. 60 requests/s come in the busiest minute, half of the prompts below 800 tokens and half of "
        "the answers below 250, as in the chapter. How many copies of Llama-3.1-8B on one H100 SXM5 each keep half a "
        "second to the first token and 40 ms a token for 99 % of requests?",
        unit="copies",
        answer=_copies,
        form="one whole number, of copies",
        hints=(
            "Give each copy an equal share of the requests, and simulate one.",
            "Play the same requests at a speed of one over the copies, and take the fewest that keep 99 %.",
        ),
        tolerance=0,
    ),
)
