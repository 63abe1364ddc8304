"""What fewer bits save: a model's weights with all scales, beside bits / 8 and 16 bit, and the card that holds them."""

from __future__ import annotations

from functools import partial

import llmhw
from llmhw.fit import smallest_card
from llmhw.formula import Table, term
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.choices import MODEL
from llmhw.live.models import Chosen, chosen
from llmhw.live.typed import command
from llmhw.memory import weights
from llmhw.model import ModelSpec
from llmhw.precision import (
    mean_bits_per_weight,
    model_bits_per_weight,
    number_format,
    stored_weight_bytes,
    weight_bytes,
)
from llmhw.units import format_quantity

# To choose from, and as rows of the table.
_FORMATS = (
    ("fp32", "fp32"), ("bf16", "bf16"), ("fp8", "fp8"), ("int8", "int8 (W8A8)"), ("gptq-8bit", "int8, GPTQ"),
    ("int4-gptq", "int4, GPTQ"), ("int4-awq", "int4, AWQ"), ("nf4", "NF4"), ("nf4-dq", "NF4, double quantization"),
    ("mxfp4", "MXFP4"), ("nvfp4", "NVFP4"), ("Q8_0", "GGUF Q8_0"), ("Q6_K", "GGUF Q6_K"), ("Q5_K_M", "GGUF Q5_K_M"),
    ("Q4_K_M", "GGUF Q4_K_M"), ("Q3_K_M", "GGUF Q3_K_M"), ("Q2_K", "GGUF Q2_K"), ("IQ2_XXS", "GGUF IQ2_XXS"),
)  # fmt: skip
_BESIDE = ("fp32", "bf16", "fp8", "int4-awq", "Q4_K_M", "IQ2_XXS")

_show = partial(format_quantity, unit="bytes")


def _table(spec: ModelSpec, name: str) -> Table:
    """The chosen format among others: what the weights take, as files say it and as memory is counted."""
    rows = []
    for other in dict.fromkeys((*_BESIDE, name)):
        total, bits = weight_bytes(spec, other), model_bits_per_weight(spec, other)
        rows.append((other, format_quantity(total, "file_bytes"), _show(total), f"{bits:.3f}"))
    columns = said("format"), said("file"), said("memory"), said("bits of a weight")
    return Table(said("{model} in other formats", model=spec.name), columns, rows)


def _smallest(own: Chosen, name: str) -> tuple[list[Figure], str, list[str], list[str]]:
    """The smallest card: figures, what it is called, and what one types for them."""
    card = smallest_card(own.spec, name)
    if card is None:
        none = said("No card of NVIDIA holds it alone with a sequence of 4,096 tokens.")
        return [], none, [], []
    row = llmhw.fit(own.spec, card, formats=[name], uses=["inference"]).rows[0]
    needed = f"{_show(row.needed_bytes)} ({card.name})"
    figure = Figure(said("needed of the smallest card"), needed, row.needed_bytes, row.explain)
    python = f"llmhw.fit(spec, {card.name!r}, formats=[name], uses=['inference']).rows[0].needed_bytes"
    typed = command("fit", own.word, options={"gpu": card.name, "weights": name, "use": "inference"})
    note = said(
        "Smallest card of NVIDIA: one sequence of 4,096 tokens, by memory alone; not the cheapest, nor the best."
    )
    return [figure], note, [python], [typed]


def _quantization(settings: Settings) -> Answer:
    own, name = chosen(settings), settings["format"]
    spec, fmt = own.spec, number_format(name)
    held, wide = weights(spec, name), weights(spec, "bf16")
    alone = term(stored_weight_bytes, "bits alone", elements=spec.parameters.text, bits_per_weight=fmt.bits)
    total, mean = float(held.total), model_bits_per_weight(spec, name)
    over = term(mean_bits_per_weight, "a weight", weight_bytes=total, weights=spec.parameters.text)
    card, note, python, typed = _smallest(own, name)
    figures = [
        Figure(said("weights in {name}", name=name), _show(total), total, held.explain),
        Figure(said("bits / 8 alone"), _show(alone.value), float(alone.value), alone.explain),
        Figure(said("bits of a weight, mean of the model"), f"{mean:.3f}", mean, over.explain),
        *card,
    ]
    if name != "bf16":
        in_bf16 = said("weights in {name}", name="bf16")
        figures.insert(3, Figure(in_bf16, _show(float(wide.total)), float(wide.total), wide.explain))
    parts = {label: {p.name: float(p.value) for p in e} for label, e in ((name, held), ("bf16", wide))}
    lines = (
        "float(llmhw.weights(spec, name).total)",
        f"stored_weight_bytes(elements=spec.parameters.text, bits_per_weight={fmt.bits})",
        "model_bits_per_weight(spec, name)",
        *(["float(llmhw.weights(spec, 'bf16').total)"] if name != "bf16" else []),
        *python,
    )
    inside = "".join(f"    {line},\n" for line in lines)
    weighed = [command("model", own.word, options={"weights": w}) for w in dict.fromkeys((name, "bf16"))]
    naive = command("explain", "stored_weight_bytes", f"elements={spec.parameters.text}",
                    f"bits_per_weight={fmt.bits}", options={})  # fmt: skip
    size, share = _show(total), f"{total / float(wide.total):.2f}"
    return Answer(
        verdict=said("{model} in {name}: {size}, {share} of its size in bf16", model=spec.name, name=name, size=size,
                     share=share),
        figures=figures,
        python="import llmhw\nfrom llmhw.precision import model_bits_per_weight, stored_weight_bytes\n\n"
        f"spec, name = {own.python}, {name!r}\n(\n{inside})",
        command="\n".join((*weighed, naive, *typed)),
        tables=[_table(spec, name)],
        pictures=[charts.bars(parts, _show, said("The same weights in two formats, by part of the model"), names=said)],
        notes=[note, *([fmt.note] if fmt.note else [])],
    )  # fmt: skip


QUANTIZATION = Calculator(
    name="quantization",
    title="What do fewer bits save?",
    controls=[
        MODEL,
        Control(name="format", kind="choice", default="int4-gptq", label="Format of the weights", choices=_FORMATS),
    ],
    function=_quantization,
)  # fmt: skip
