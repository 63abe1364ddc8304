"""What a million tokens cost, by how busy the service is: few users pay for idle devices, many wait for each other."""

from __future__ import annotations

from math import inf
from typing import Any

from llmhw.hardware import old_price
from llmhw.job import ServingJob
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.charts import curve
from llmhw.live.jobs import AUTO, PRICE, cluster_call, cluster_of
from llmhw.live.models import Chosen, chosen, device_of
from llmhw.live.typed import Code, call, command
from llmhw.service import ServingEstimate, serve
from llmhw.units import LLMHWError, format_quantity

WEIGHTS = ((AUTO, "as the engine has them"), ("bf16", "bf16"), ("fp8", "fp8"), ("int4-awq", "int4-awq"))
# Devices of a service: what tensor-parallel ranks are had of.
FEW = tuple((str(n), str(n)) for n in (1, 2, 4, 8, 16))


def lengths_of(settings: Settings, model: Chosen) -> dict[str, Any]:
    """Tokens of a prompt and of an answer: what is asked, or what the model takes."""
    prompt, answer = settings["input_tokens"], settings["output_tokens"]
    most = model.spec.max_seq_len or prompt + answer
    answer = min(answer, max(1, most - 1))
    return {"input_tokens": min(prompt, max(1, most - answer)), "output_tokens": answer}


def service_of(settings: Settings, model: Chosen, **load: Any) -> tuple[ServingEstimate, str, dict[str, Any]]:
    """The service that settings describe, all devices as tensor-parallel ranks; Python that makes it, and options."""
    count = int(settings["count"])
    c, network = cluster_of(device_of(settings), count)
    asked: dict[str, Any] = {"tp": count} | ({} if settings["weights"] == AUTO else {"weights": settings["weights"]})
    job = ServingJob(model=model.spec, cluster=c, **asked)
    lengths = lengths_of(settings, model)
    found = serve(job, **lengths, **load)
    where = cluster_call(c, network)
    uses = "from llmhw.hardware import usual_network\n" if "usual_network(" in where else ""
    made = call("llmhw.ServingJob", model=model.python, cluster=where, **asked)
    told = call("llmhw.serve", Code("job"), **lengths, **load)
    options = {"gpu": c.accelerator.name, "gpus": count, **asked, **lengths, **load}
    return found, f"import llmhw\n{uses}job = {made}\nfound = {told}\n", options


def dollars(value: float) -> str:
    """Dollars, or what is printed in their place, as text."""
    return format_quantity(value, "dollars")


def price_by_load(found: ServingEstimate) -> Picture:
    """What a million output tokens cost, from one user at work to all that fit."""
    points = [(p.concurrency, found.dollars_at(p) or 0.0) for p in found.curve]
    each = found.dollars_per_million_tokens or 0.0
    caption = said("What a million output tokens cost, by users at work.")
    mark = (found.point.concurrency, each, dollars(each))
    return curve(
        {said("a million output tokens"): points},
        caption,
        said("users at work"),
        said("a million tokens"),
        mark=mark,
        told=lambda n: f"{n:,.0f}",
        said_up=dollars,
    )


def not_fitting(found: ServingEstimate, python: str, model: Chosen, options: dict[str, Any]) -> Answer:
    """The answer where no request fits; what would help is searched when it is asked for."""
    needed = found.memory.needed_bytes(min(found.tokens, found.job.context_limit))
    tried = Figure(said("needed for one request"), format_quantity(needed, "bytes"), needed,
                   lambda: "\n".join(found.next_steps()) or found.verdict)  # fmt: skip
    text = f"{python}found.memory.needed_bytes(min(found.tokens, found.job.context_limit))"
    return Answer(found.verdict, [tried], text, command("serve", model.word, options=options), good=False)


def _load(settings: Settings) -> Answer:
    model = chosen(settings)
    paid = {"price": settings["price"]} if settings["price"] else {}
    found, python, options = service_of(settings, model, concurrency=settings["users"], **paid)
    if not found.fits:
        return not_fitting(found, python, model, options)
    if found.price is None:
        raise LLMHWError(f"price of {found.job.cluster.accelerator.name} is not known: {found.no_price}")
    each, speed = found.dollars_per_million_tokens or 0.0, found.point.tokens_per_second
    least = min(found.dollars_at(point) or inf for point in found.curve)
    busy = found.point.concurrency
    told = said("{price} a million tokens", price=dollars(each))
    rate = found.requests_per_second
    figures = [
        Figure(said("a million output tokens"), dollars(each), each, lambda: found.explain("a million tokens")),
        Figure(said("tokens/s in all"), format_quantity(speed, "tokens/s"), speed, lambda: found.explain("all users")),
        Figure(
            said("requests a second"),
            f"{rate:,.3g}",
            rate,
            lambda: f"{speed:,.6g} tokens/s / {found.output_tokens:,} tokens = {rate:,.3g}",
        ),
        Figure(
            said("tokens/s a user"),
            format_quantity(found.point.tokens_per_second_per_user, "tokens/s"),
            found.point.tokens_per_second_per_user,
            lambda: found.explain("next token"),
        ),
    ]
    notes = [said("Price: {price}", price=str(found.price)), *found.warnings()]
    full = {"users": f"{found.capacity:,}", "least": dollars(least)}
    notes.insert(1, said("Full, with {users} users, a million cost {least}.", **full))
    if old := old_price(found.price):
        notes.append(f"{old}")
    return Answer(
        verdict=said("{told}, {users} users at work", told=told, users=f"{busy:,}"),
        figures=figures,
        pictures=[price_by_load(found)],
        notes=notes,
        python=f"{python}found.dollars_per_million_tokens, found.point.tokens_per_second, found.requests_per_second, "
        "found.point.tokens_per_second_per_user",
        command=command("serve", model.word, options=options),
    )


LENGTHS = (
    Control("input_tokens", "number", 1000, "Tokens of a prompt", least=1, most=131072, logarithmic=True),
    Control("output_tokens", "number", 500, "Tokens of an answer", least=1, most=32768, logarithmic=True),
)

LOAD = Calculator(
    name="load",
    title="What does a million tokens cost when few ask?",
    controls=[
        Control("model", "model", "llama-3-70b", "Model"),
        Control("device", "device", "H100 SXM5 80GB", "Device"),
        Control("count", "choice", "4", "Devices", choices=FEW),
        Control("users", "number", 8, "Users at work", least=1, most=2048, logarithmic=True),
        Control("weights", "choice", AUTO, "Format of the weights", choices=WEIGHTS),
        *LENGTHS,
        PRICE,
    ],
    function=_load,
)
