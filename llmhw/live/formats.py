"""What a number format costs: bits of a weight with its scales, and what a model weighs in it."""

from __future__ import annotations

from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.precision import number_format, number_formats


def _formats(settings: Settings) -> Answer:
    wanted = number_format(settings["format"])
    bits = wanted.bits_per_weight
    return Answer(
        verdict=said("{name}: {bits} bits of a weight", name=wanted.name, bits=f"{bits:g}"),
        figures=[Figure(said("bits of a weight"), f"{bits:g}", bits)],
        python=f'import llmhw\nllmhw.number_format("{wanted.name}").bits_per_weight',
        command="llmhw formats",
    )


FORMATS = Calculator(
    name="formats",
    title="What does a number format cost?",
    controls=[
        Control(name="format", kind="choice", default="bf16", label="Number format",
                choices=[(name, name) for name in number_formats()]),
    ],
    function=_formats,
)  # fmt: skip
