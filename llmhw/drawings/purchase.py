"""Drawing of a purchase: the questions that a case must pass, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, Canvas, drawing
from llmhw.hardware import Cluster, accelerator
from llmhw.job import ServingJob
from llmhw.memory import weights
from llmhw.model import model
from llmhw.ownership import rent_or_buy
from llmhw.queueing import littles_law
from llmhw.service import serve
from llmhw.units import GIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Gate(NamedTuple):
    """A question of a case.

    asks     the question
    answer   what the case answers, with its number
    instead  what to change if the answer is no
    """

    asks: str
    answer: str
    instead: str


def _example() -> tuple[Gate, ...]:
    """The case of the book's chapter: a 32B model on four cards, 1.6 requests a second."""
    job = ServingJob(
        model=model("qwen3-32b"), cluster=Cluster("h100", 4), engine="vllm", weights="fp8", kv="bf16", tp=1
    )
    rate = 1.6
    point = serve(job, input_tokens=3000, output_tokens=500, rate=rate).point
    at_work = littles_law(arrivals_per_second=rate, seconds=500 * 0.05)  # of the longest that is allowed
    held = weights(job.model, job.weights).total
    owned = rent_or_buy(job.cluster, months=36)
    card = accelerator("h100")
    rent = owned.joined or owned.chosen
    rented = rent.price.dollars_per_device_hour if rent else 0.0
    return (
        Gate("Is it a question?", f"{rate:g} requests/s, {at_work:.0f} at work", "ask who uses it"),
        Gate(
            "Does it fit?", f"weights: {held / GIB:.0f} of {card.memory_bytes / GIB:.0f} GiB", "fewer bits, more cards"
        ),
        Gate("Is it fast enough?", f"{1e3 * point.tpot_seconds:.0f} ms a token", "faster, or more cards"),
        Gate("Is there money?", f"{owned.dollars / 1e3:.0f} thousand dollars", "smaller model"),
        Gate("Is buying cheaper?", f"{owned.dollars_per_device_hour:.2f} dollars an hour, rent {rented:.2f}", "rent"),
    )


@drawing
def purchase_gates(gates: Sequence[Gate] | None = None) -> Figure:
    """Five questions in order; a no leads back to the first."""
    listed = tuple(gates or _example())
    step, high = 3.4, 2.2
    paper = Canvas(37, 1.6 + step * len(listed) + 2.6)
    left, wide, right = 0.6, 11.0, 30.0
    for i, gate in enumerate(listed):
        y = 0.8 + step * i
        paper.box(left, y, wide, high, gate.asks, BLUE, bold=True, round=True)
        paper.text(left + wide + 0.7, y + 0.65, gate.answer, at="left")
        paper.text(left + wide + 0.7, y + 1.75, f"no: {gate.instead}", at="left", size=8.5, colour=ORANGE)
        paper.arrow((left + wide / 2, y + high), (left + wide / 2, y + step))
        paper.line((right, y + 1.75), (right + 1.2, y + 1.75), colour=ORANGE)
    end = 0.8 + step * len(listed)
    paper.box(left, end, wide, high, "the memo", GREEN, bold=True, round=True)
    paper.text(left + wide + 0.7, end + 1.1, "and what would turn each answer", at="left", colour=GREY)
    paper.line(
        (right + 1.2, 0.8 + step * (len(listed) - 1) + 1.75), (right + 1.2, 0.3), (left + wide / 2, 0.3), colour=ORANGE
    )
    paper.arrow((left + wide / 2, 0.3), (left + wide / 2, 0.8), colour=ORANGE)
    return paper.figure
