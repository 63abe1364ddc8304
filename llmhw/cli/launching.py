"""--from FILE and --emit FORM: questions out of files that start a trainer or an engine, and such files as answers."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

import llmhw
from llmhw.cli.options import Choices, Option, option
from llmhw.cli.terminal import say
from llmhw.launch import FORMS, Job, emit, form_of, read


def _forms(of: str) -> Choices:
    return Choices("form", lambda: [form.name for form in FORMS.values() if form.of in (of, "both")])


def from_option() -> Option:
    """--from, whose file says what the line leaves out."""
    text = "What the line leaves out, as the file of a trainer or an engine says it: a script, YAML, TOML, JSON."
    return option("--from", "path_or_text", metavar="FILE", group="Question", many=False, help=text)


def emit_option(of: str) -> Option:
    """--emit, for jobs of training or serving."""
    text = "The file that starts it, instead of the answer; slurm:FORM puts FORM inside."
    return option("--emit", "emit", type=_forms(of), group="Answer", many=False, help=text)


def filled(options: dict[str, Any], of: str) -> None:
    """With --from: put what the file says in the place of all that the line leaves out; notes go to standard error."""
    path = options.pop("path_or_text", None)
    if path is None:
        return
    launched = read(path)
    if launched.of != of:
        raise llmhw.LLMHWError(f"path_or_text={path!r} is of {launched.form}, for {launched.of}; this asks for {of}")
    context = click.get_current_context()
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    said = launched.over({name: options[name] for name in given})
    notes = list(launched.notes)
    notes += [f"{name}={value!r} is not asked here" for name, value in said.items() if name not in options]
    options |= {name: value for name, value in said.items() if name in options}
    if not context.meta.get("told"):
        context.meta["told"] = True
        for note in notes:
            say(f"llmhw: {path} ({launched.form}): {note}\n", err=True)
    if options.get("model") is None:
        options["model"] = launched.spec


def check_emit(form: str) -> None:
    """Refuse a form that is not known before anything is computed."""
    name, _, inside = form.partition(":")
    form_of(name, "emit")
    if inside:
        form_of(inside, "emit")


def emitted(job: Job, form: str, verdict: str, **more: Any) -> str:
    """A job in a form, as `form` or `form:inside` names it, with the verdict at its head."""
    name, _, inside = form.partition(":")
    return emit(job, name, around=inside or None, notes=(verdict,), **more)
