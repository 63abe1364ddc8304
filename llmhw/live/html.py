"""A calculator and its answer as HTML. All text passes through `escape` here: what a reader pastes stays text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from llmhw.formula import Table
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture


def tag(element: str, /, *inside: str, **attributes: Any) -> str:
    """An element around HTML; attributes are escaped, `_` in their names is a dash, None and False are left out."""
    said_so = "".join(
        f" {key.strip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value not in (None, False)
    )
    end = "" if element == "input" else f"{''.join(inside)}</{element}>"
    return f"<{element}{said_so}>{end}"


def _field(control: Control, prefix: str) -> str:
    """The label and the form element of a control."""
    own = f"{prefix}-{control.name}"
    help_ = f"{own}-help" if control.help else None
    common = {"id": own, "name": control.name, "aria_describedby": help_}
    if control.kind == "choice":
        options = (
            tag("option", escape(said(label)), value=key, selected=key == control.default)
            for key, label in control.choices
        )
        element = tag("select", *options, **common)
    elif control.kind == "switch":
        element = tag("input", type="checkbox", checked=control.default, **common)
    elif control.kind == "number":
        limits = {"min": f"{control.least:g}", "max": f"{control.most:g}", "step": f"{control.step:g}"}
        slider = tag(
            "input", type="range", aria_hidden="true", tabindex=-1, data_logarithmic=control.logarithmic, **limits
        )
        number = tag("input", type="number", inputmode="decimal", value=control.default, **limits, **common)
        element = number + (tag("span", escape(control.unit), class_="unit") if control.unit else "") + slider
    else:
        element = tag("input", type="text", value=control.default, data_names=control.kind, autocomplete="off",
                      spellcheck="false", **common)  # fmt: skip
    label = tag("label", escape(said(control.label)), for_=own)
    note = tag("small", escape(said(control.help)), id=help_) if control.help else ""
    when = " ".join(f"{name}={'|'.join(values)}" for name, values in control.when.items())
    return tag("div", label, element, note, class_=f"control {control.kind}", data_when=when or None)


def _figure(figure: Figure) -> str:
    button = ""
    if figure.explain:
        spoken = f"{said('Explain this number')}: {figure.label}"
        how = {"type": "button", "class_": "explain", "aria_label": spoken, "aria_expanded": "false"}
        button = tag("button", "?", data_figure=figure.label, **how)
    return tag("dt", escape(figure.label)) + tag("dd", escape(figure.text), button)


def _picture(picture: Picture) -> str:
    return tag("figure", picture.svg, tag("figcaption", escape(picture.caption)))


def _table(table: Table) -> str:
    return tag("div", table.html(), class_="scroll")


def _list(lines: Iterable[str]) -> str:
    return tag("ul", *(tag("li", escape(line)) for line in lines), class_="notes")


def answer_html(answer: Answer) -> str:
    """An answer: verdict, figures, pictures, tables, notes, and how to ask the same in Python and on a command line."""
    mood = {True: "good", False: "bad", None: "plain"}[answer.good]
    code = [("Python", answer.python), (said("Command"), answer.command)]
    return "".join((
        tag("p", escape(answer.verdict), class_=f"verdict {mood}", role="status"),
        tag("dl", *map(_figure, answer.figures), class_="figures") if answer.figures else "",
        *map(_picture, answer.pictures),
        *map(_table, answer.tables),
        _list(answer.notes) if answer.notes else "",
        tag("details", tag("summary", escape(said("The same in Python and as a command"))), *(
            tag("div", tag("h4", escape(head)), tag("pre", escape(text)), class_="same") for head, text in code if text
        )),
    ))  # fmt: skip


def calculator_html(calculator: Calculator, settings: Mapping[str, Any] | None = None) -> str:
    """A calculator with its first answer in it, as a page holds it before any script runs.

    settings   other first values than the calculator's own
    """
    first = calculator.answer(settings or {})
    own = f"calculator-{calculator.name}"
    fields, more = (
        "".join(_field(control, own) for control in calculator.controls if control.more is later)
        for later in (False, True)
    )
    if more:
        fields += tag("details", tag("summary", escape(said("More settings"))), more, class_="more")
    return tag("section",
        tag("h3", escape(said(calculator.title)), id=f"{own}-title"),
        tag("form", fields),
        tag("div", answer_html(first), class_="answer"),
        class_="calculator", id=own, data_calculator=calculator.name, aria_labelledby=f"{own}-title",
    )  # fmt: skip
