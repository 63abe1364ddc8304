"""--from FILE and --emit FORM: questions out of files that start a trainer or an engine, and such files as answers."""

from __future__ import annotations

import re
from os.path import exists
from typing import Any

import click
from click.core import ParameterSource

import llmhw
from llmhw import TrainingJob
from llmhw.cli.options import Choices, Option, option
from llmhw.cli.terminal import say
from llmhw.launch import BOTH, FORMS, Job, emit, form_of, read, software_of
from llmhw.units import format_quantity


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


def emit_options(of: str) -> list[Option]:
    """The same, with the model's id in that file."""
    text = "With --emit: what the program loads the model by; default: its id of the Hugging Face Hub."
    return [emit_option(of), option("--model-id", "model_id", metavar="ID", group="Answer", many=False, help=text)]


def filled(options: dict[str, Any], of: str) -> None:
    """With --from: put what the file says in the place of all that the line leaves out; notes go to standard error."""
    path, context = options.pop("path_or_text", None), click.get_current_context()
    _keep_id(options.pop("model_id", None), options.get("model"), context)
    if path is None:
        return
    launched = read(path)
    if launched.of != of:
        raise llmhw.LLMHWError(f"path_or_text={path!r} is of {launched.form}, for {launched.of}; this asks for {of}")
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
        _keep_id(None, launched.model, context)


def _keep_id(given: str | None, named: Any, context: click.Context) -> None:
    """Keep the model's id for the file that --emit writes: as it is given, or as a model of the Hub is named."""
    if given is not None:
        if context.params.get("emit") is None:
            raise llmhw.LLMHWError(f"model_id={given!r} has no effect without --emit; add --emit vllm, or leave it out")
        context.meta["model_id"] = given
    elif isinstance(named, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", named) and not exists(named):
        context.meta.setdefault("model_id", named)


def take_engine(options: dict[str, Any]) -> None:
    """With --emit: ask for the engine that the form starts, where the line asks for none; a file's gives way."""
    context = click.get_current_context()
    emit, source = context.params.get("emit"), context.get_parameter_source("engine")
    if emit is None or source is ParameterSource.COMMANDLINE:
        return
    from llmhw.launch.serving import ENGINES

    name, _, inside = emit.partition(":")
    engines = ENGINES.get(inside or name)
    if engines and str(options.get("engine")).partition(":")[0] not in engines:
        options["engine"] = engines[0]


def take_trainer(options: dict[str, Any], usual: str) -> str:
    """With --emit: ask for the trainer that the form starts, where the line asks for none; its form, or "".

    usual   the form inside a scheduler's, where the line names none
    """
    context = click.get_current_context()
    name, _, inside = str(context.params.get("emit") or "").partition(":")
    form = inside or (usual if name and form_of(name, "emit").of == BOTH else name)
    if form and context.get_parameter_source("software") is not ParameterSource.COMMANDLINE:
        options["software"] = software_of(form) or options["software"]
        if form == "megatron":
            options["kernels"] = "megatron"
    return form


def check_emit(form: str) -> None:
    """Refuse a form that is not known before anything is computed."""
    name, _, inside = form.partition(":")
    form_of(name, "emit")
    if inside:
        form_of(inside, "emit")


def emitted(job: Job, form: str, verdict: str, **more: Any) -> str:
    """A job in a form, as `form` or `form:inside` names it, with the verdict at its head; one that it still keeps."""
    name, _, inside = form.partition(":")
    model_id = click.get_current_context().meta.get("model_id")
    text = emit(job, name, around=inside or None, notes=(verdict,), model_id=model_id, **more)
    if isinstance(job, TrainingJob):
        _check_room(job, text, form)
    return text


def _check_room(job: TrainingJob, text: str, form: str) -> None:
    """Refuse a file whose program keeps more than the job that was planned, where that is too much.

    Some programs have ways of their own: FSDP's mixed precision keeps fp32 weights, and logits in fp32.
    """
    try:
        back = read(text).job(job.cluster, model=job.model)
    except llmhw.LLMHWError:  # what is not read back is not known either
        return
    assert isinstance(back, TrainingJob)
    asked, made = llmhw.training_memory(job), llmhw.training_memory(back)
    if not asked.fits or made.fits:
        return
    short = format_quantity(made.device_bytes - made.capacity_bytes, "bytes")
    other = back.precision != job.precision
    out = f"ask for precision={back.precision!r}" if other else "give a smaller micro_batch, or another form"
    raise llmhw.LLMHWError(f"emit={form!r} is short by {short} a device as that program runs it; {out}")
