"""How often a run should save itself: Young's and Daly's interval, and the share of time that failures leave."""

from __future__ import annotations

from llmhw.catalog import read_table
from llmhw.cost import checkpoint_write_seconds, daly_interval_seconds, goodput_fraction, job_mtbf_seconds
from llmhw.formula import term
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.charts import curve
from llmhw.live.models import chosen
from llmhw.live.step import bytes_told
from llmhw.live.typed import Code, call, command
from llmhw.memory import training_states
from llmhw.units import GB, format_quantity


def _runs() -> dict[str, str]:
    """Published runs that say how often they failed: device-hours between two interruptions, by name."""
    return {
        row["run"]: row["device_hours_per_interruption"]
        for row in read_table("failures")
        if row["device_hours_per_interruption"]
    }


def _seconds(value: float) -> str:
    return format_quantity(value, "seconds")


_STEPS = 33  # points of the curve


def _interval(settings: Settings) -> Answer:
    model = chosen(settings)
    states = training_states(model.spec)
    size = float(states.total) - float(states["gradients"])
    hours = float(_runs()[settings["failures"]])
    rate, restart = settings["storage"] * GB, settings["restart"]
    write = term(
        checkpoint_write_seconds, said("a checkpoint holds training up"), checkpoint_bytes=size, bytes_per_second=rate
    )
    mtbf = term(job_mtbf_seconds, said("time between failures"), mtbf_device_hours=hours, devices=settings["devices"])
    times = {"write_seconds": write.value, "mtbf_seconds": mtbf.value}
    best = term(daly_interval_seconds, said("best interval"), **times)
    every = settings["minutes"] * 60 if settings["minutes"] else best.value
    sizes = {"interval_seconds": every, **times, "restart_seconds": restart}
    good = term(goodput_fraction, said("goodput"), **sizes)
    at = [best.value * 4.0 ** (i / 8 - 2) for i in range(_STEPS)]
    line = [(t, 100 * float(goodput_fraction(**{**sizes, "interval_seconds": t}))) for t in at]
    share = format_quantity(good.value, "fraction")
    figures = [
        Figure(said("best interval (Daly)"), _seconds(best.value), float(best.value), best.explain),
        Figure(said("goodput"), share, float(good.value), good.explain),
        Figure(said("time between failures"), _seconds(mtbf.value), float(mtbf.value), mtbf.explain),
        Figure(said("a checkpoint holds training up"), _seconds(write.value), float(write.value), write.explain),
        Figure(
            said("size of a checkpoint"),
            bytes_told(size),
            size,
            lambda: "\n".join(states.explain(part.name) for part in states if part.name != "gradients"),
        ),
    ]
    words = said("Goodput against the time between two checkpoints.")
    drawn = curve(
        {said("goodput"): line},
        words,
        said("time between two checkpoints"),
        "%",
        told=_seconds,
        mark=(every, 100 * float(good.value), share),
    )
    keys = ("interval_seconds", "write_seconds", "mtbf_seconds", "restart_seconds")
    named = {name: Code(short) for name, short in zip(keys, ("every", "write", "mtbf", repr(restart)), strict=True)}
    return Answer(
        verdict=said("Save every {time}: {share} of the time makes progress", time=_seconds(every), share=share),
        good=None,
        figures=figures,
        pictures=[drawn],
        notes=[
            said("A checkpoint holds weights in 16 bit and the optimizer's states, once for all ranks."),
            said("{run}: {hours} device-hours between interruptions.", run=settings["failures"], hours=f"{hours:,.0f}"),
        ],
        python="import llmhw\nfrom llmhw.cost import checkpoint_write_seconds, daly_interval_seconds\n"
        "from llmhw.cost import goodput_fraction, job_mtbf_seconds\n"
        f"states = llmhw.training_states({model.python})\n"
        "size = float(states.total) - float(states['gradients'])\n"
        f"write = {call('checkpoint_write_seconds', checkpoint_bytes=Code('size'), bytes_per_second=rate)}\n"
        f"mtbf = {call('job_mtbf_seconds', mtbf_device_hours=hours, devices=settings['devices'])}\n"
        "best = daly_interval_seconds(write_seconds=write, mtbf_seconds=mtbf)\n"
        f"every = {settings['minutes'] * 60 or 'best'}\n"
        f"goodput = {call('goodput_fraction', **named)}\n"
        "best, goodput, mtbf, write, size",
        command=command(
            "explain", "goodput_fraction", *(f"{key}={value!r}" for key, value in sizes.items()), options={}
        ),
    )


CHECKPOINT = Calculator(
    name="checkpoint",
    title="How often should a run save itself?",
    controls=[
        Control("model", "model", "llama-3.1-405b", "Model"),
        Control("devices", "number", 16384, "Devices", least=1, most=131072, logarithmic=True),
        Control("failures", "choice", "Llama 3 405B", "Failures as in", choices=[(name, name) for name in _runs()]),
        Control(
            "storage",
            "number",
            200,
            "Into storage, from all devices",
            least=1,
            most=10000,
            logarithmic=True,
            unit="GB/s",
        ),
        Control(
            "restart", "number", 600, "From a failure until training goes on", least=0, most=7200, step=60, unit="s"
        ),
        Control(
            "minutes", "number", 0, "Save every", least=0, most=1440, unit="min", help="0: the best interval", more=True
        ),
    ],
    function=_interval,
)
