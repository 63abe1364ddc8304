"""A calculator and its answer as HTML. All text passes through `escape` here: what a reader pastes stays text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from llmhw.formula import Table
from llmhw.language import LANGUAGE, said
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


def _number(control: Control, value: Any, common: Mapping[str, Any]) -> str:
    """A field, and a slider; the page's script gives it the same limits, or a thousand places if they are ratios."""
    limits = {"min": f"{control.least:.12g}", "max": f"{control.most:.12g}", "step": f"{control.step:.12g}"}
    field = tag("input", type="number", inputmode="decimal", value=f"{value:.12g}", **limits, **common)
    unit = tag("span", escape(said(control.unit)), class_="unit") if control.unit else ""
    slider = tag("input", type="range", aria_hidden="true", tabindex=-1, data_whole=control.whole,
                 data_ratio=control.logarithmic)  # fmt: skip
    return field + unit + slider


def _field(control: Control, values: Mapping[str, Any], prefix: str) -> str:
    """The label and the form element of a control; hidden where another control's value leaves it without effect."""
    value = values[control.name]
    own = f"{prefix}-{control.name}"
    help_ = f"{own}-help" if control.help else None
    common = {"id": own, "name": control.name, "aria_describedby": help_}
    if control.kind == "choice":
        options = (
            tag("option", escape(said(label)), value=None if said(label) == key else key, selected=key == value)
            for key, label in control.choices
        )
        element = tag("select", *options, **common)
    elif control.kind == "switch":
        element = tag("input", type="checkbox", checked=value, **common)
    elif control.kind == "number":
        element = _number(control, value, common)
    else:
        element = tag("input", type="text", value=value, data_names=control.kind, autocapitalize="off",
                      spellcheck="false", **common)  # fmt: skip
    label = tag("label", escape(said(control.label)), for_=own)
    note = tag("small", escape(said(control.help)), id=help_) if control.help else ""
    when = " ".join(f"{name}={'|'.join(these)}" for name, these in control.when.items())
    idle = any(_typed(values[name]) not in these for name, these in control.when.items())
    kind = f"control {control.kind}"
    return tag("div", label, element, note, class_=kind, data_when=when or None, hidden=idle)


def _typed(value: Any) -> str:
    """A setting as a form says it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _button(text: str, kind: str) -> str:
    return tag("button", escape(text), type="button", class_=kind)


def _own_model(own: str) -> str:
    """Where a reader puts a model of theirs."""
    return tag("details",
        tag("summary", escape(said("Your own model: a config.json or a GGUF file"))),
        tag("label", escape(said("Paste a config.json")), for_=f"{own}-config"),
        tag("textarea", id=f"{own}-config", rows=3, spellcheck="false"),
        tag("label", escape(said("Or open a file; it stays on this machine")), for_=f"{own}-file"),
        tag("input", id=f"{own}-file", type="file", accept=".json,.gguf"),
        _button(said("Forget it"), "forget"),
        class_="own",
    )  # fmt: skip


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
    return tag("div", table.html().replace(" style='text-align:right'", " class=r"), class_="scroll")


def _list(lines: Iterable[str]) -> str:
    """Notes; those that only the catalog has, in English, say so on a Chinese page."""
    chinese = LANGUAGE.get() != "en"
    items = (tag("li", escape(line), lang="en" if chinese and line.isascii() else None) for line in lines)
    return tag("ul", *items, class_="notes")


def _same(head: str, text: str) -> str:
    """Lines to copy."""
    copy = tag("button", escape(said("Copy")), type="button", class_="copy", aria_label=f"{said('Copy')}: {head}")
    return tag("div", tag("h4", escape(head)), copy, tag("pre", escape(text)), class_="same")


def answer_html(answer: Answer) -> str:
    """An answer: verdict, figures, pictures, tables, notes, and how to ask the same in Python and on a command line."""
    mood = {True: "good", False: "bad", None: "plain"}[answer.good]
    code = [("Python", answer.python), (said("Command"), answer.command)]
    return "".join((
        tag("p", escape(answer.verdict), class_=f"verdict {mood}"),
        tag("dl", *map(_figure, answer.figures), class_="figures") if answer.figures else "",
        *map(_picture, answer.pictures),
        *map(_table, answer.tables),
        _list(answer.notes) if answer.notes else "",
        tag("details", tag("summary", escape(said("The same in Python and as a command"))),
            *(_same(head, text) for head, text in code if text)),
    ))  # fmt: skip


def calculator_html(calculator: Calculator, settings: Mapping[str, Any] | None = None) -> str:
    """A calculator with its first answer in it, as a page holds it before any script runs.

    settings   other first values than the calculator's own

    Beside form and answer there are two places where the page speaks: `.progress` is seen, `.heard` only heard.
    """
    values = calculator.settings(settings or {})
    first = calculator.function(values)
    own = f"calculator-{calculator.name}"
    fields, more = (
        "".join(_field(one, values, own) for one in calculator.controls if one.more is later) for later in (False, True)
    )
    if more:
        fields += tag("details", tag("summary", escape(said("More settings"))), more, class_="more")
    if any(control.kind == "model" for control in calculator.controls):
        fields += _own_model(own)
    tools = _button(said("Copy link"), "link") + _button(said("As at first"), "again")
    return tag("section",
        tag("h3", escape(said(calculator.title)), id=f"{own}-title"),
        tag("form", fields, tag("div", tools, class_="tools"), autocomplete="off"),
        tag("noscript", tag("p", escape(said("Without scripts this is the first answer only.")))),
        tag("p", escape(said(
            "This page was opened as a file, from which browsers start no Python. {command} in its folder serves it.",
            command="python -m http.server")), class_="served", hidden=True),
        tag("p", class_="progress", role="status"),
        tag("div", answer_html(first), class_="answer"),
        tag("p", class_="heard visually-hidden", role="status"),
        class_="calculator", id=own, data_calculator=calculator.name, aria_labelledby=f"{own}-title",
    )  # fmt: skip
