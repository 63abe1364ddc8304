"""What to type: a job as the file or script of the software that runs it, and such files read back.

`training` and `serving` write one form of a program each, `wraps` what a cluster's scheduler takes around one of them,
`reading` reads files of trainers, `served` those of engines, out of scripts that `shell` reads. A form that cannot say
what a job asks for refuses it by name: nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib import import_module
from os import PathLike
from typing import Any

from llmhw.checks import check_items, check_text
from llmhw.frozen import frozen
from llmhw.hardware import Accelerator, Cluster, cluster_of
from llmhw.job import Assumed, Parallelism, ServingJob, TrainingJob, data_parallel
from llmhw.model import ModelSpec, model_of
from llmhw.speculation import draft_of
from llmhw.units import LLMHWError, check_number, shown, unknown_name

Job = TrainingJob | ServingJob

TRAINING, SERVING, BOTH = "training", "serving", "both"


class CannotSayError(LLMHWError):
    """A job asks for what a form has no words for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a writer is given.

    job        what is to run
    model_id   what the software loads the model by: an id of the Hugging Face Hub, or a folder
    tokens     of the whole training run; None: not said
    notes      lines for the head of the file
    around     a scheduler's form: the form of the program inside; None otherwise
    draft      what proposes tokens, as `llmhw.serve` takes it: a model's id, or one of `llmhw.speculation.HEADS`
    draft_tokens   proposed before each pass
    """

    job: Any
    model_id: str
    tokens: float | None = None
    notes: tuple[str, ...] = ()
    around: Form | None = None
    draft: str | None = None
    draft_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a writer makes.

    text       the file, complete
    said       fields of the job, and of its `Parallelism`, that the text says
    command    what runs it, on every node alike; NODE_RANK, MASTER_ADDR and MASTER_PORT are the node's number, the
               first node's name and a free port there, where there are several nodes
    packages   what `pip install` is given
    image      the container that has all of it, if there is a usual one
    """

    text: str
    said: frozenset[str]
    command: str = ""
    packages: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form that a job can be written in.

    name      of the program
    of        training, serving or both
    meaning   in words
    file      what the file is called
    comment   what a comment begins with; "" where the form has none
    writer    module of this package and function: from `Asked` to `Written`
    reader    the same, from a text to `Launched`; "": it is not read
    """

    name: str
    of: str
    meaning: str
    file: str
    comment: str
    writer: str
    reader: str = ""

    @property
    def write(self) -> Callable[[Asked], Written]:
        """The function that writes it."""
        return _function(self.writer)  # type: ignore[no-any-return]

    @property
    def read(self) -> Callable[[str], Launched]:
        """The function that reads it."""
        if not self.reader:
            raise LLMHWError(f"form={self.name!r} is written, not read; give the file of the program inside")
        return _function(self.reader)  # type: ignore[no-any-return]


def _function(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"llmhw.launch.{module}"), name)


def _forms(of: str, module: str, reading: str, rows: Iterable[tuple[str, ...]]) -> dict[str, Form]:
    found = {}
    for name, file, comment, meaning in rows:
        function = name.replace(".", "").replace("-", "_")
        reader = f"{reading}:read_{function}" if reading else ""
        found[name] = Form(
            name=name,
            of=of,
            meaning=meaning,
            file=file,
            comment=comment,
            writer=f"{module}:{function}",
            reader=reader,
        )
    return found


# The writer of llama.cpp is `serving:llamacpp`, its reader `serving:read_llamacpp`.
FORMS: Mapping[str, Form] = {
    **_forms(
        TRAINING,
        "training",
        "reading",
        (
            ("torchrun", "train.sh", "#", "a script that starts plain PyTorch (FSDP2 or DDP) under torchrun"),
            ("torchtitan", "train_config.py", "#", "torchtitan's config, a Python module since 0.3"),
            ("megatron", "train.sh", "#", "a script that starts Megatron-LM's pretrain_gpt.py"),
            ("accelerate", "accelerate.yaml", "#", "the config that `accelerate launch` takes"),
            ("deepspeed", "ds_config.json", "", "DeepSpeed's config"),
            ("axolotl", "axolotl.yaml", "#", "axolotl's config"),
            ("llamafactory", "llamafactory.yaml", "#", "LLaMA-Factory's config"),
        ),
    ),
    **_forms(
        SERVING,
        "serving",
        "served",
        (
            ("vllm", "serve.sh", "#", "`vllm serve`"),
            ("sglang", "serve.sh", "#", "`python -m sglang.launch_server`"),
            ("trtllm-serve", "serve.sh", "#", "`trtllm-serve`, with its extra options"),
            ("llama.cpp", "serve.sh", "#", "`llama-server`"),
            ("ollama", "serve.sh", "#", "Ollama's Modelfile, and the server with its settings"),
            ("triton", "serve.sh", "#", "a model repository of Triton's inference server"),
        ),
    ),
    **_forms(
        BOTH,
        "wraps",
        "wraps",
        (
            ("slurm", "job.sbatch", "#", "a batch script of Slurm"),
            ("skypilot", "task.yaml", "#", "a task of SkyPilot"),
            ("kubernetes", "job.yaml", "#", "a job or a deployment of Kubernetes"),
        ),
    ),
}
# What is usual for a job's software: the form inside a scheduler's, where nobody says another.
_USUAL = {
    "megatron-bridge": "megatron",
    "megatron-lm": "megatron",
    "torchtitan": "torchtitan",
    "fsdp": "accelerate",
    "deepspeed": "deepspeed",
    "axolotl": "axolotl",
    "llama-factory": "llamafactory",
    "eager": "torchrun",
}
# Fields that say how a job goes, or by what it is predicted; no software has a setting for them.
_CIRCUMSTANCES = frozenset(
    """model cluster parallelism dp expert_imbalance host_memory kernels software engine split host prefix_tokens
    prefix_hit all_reduce""".split()
)


def form_of(name: str, argument: str = "form") -> Form:
    """The form of that name; an unknown one raises `LLMHWError` with the nearest names.

    >>> form_of("megatron").file
    'train.sh'
    >>> form_of("axolotle")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: form='axolotle' is not known; did you mean axolotl?
    """
    if check_text(argument, name) not in FORMS:
        raise unknown_name(argument, name, FORMS)
    return FORMS[name]


def usual_form(job: Job) -> str:
    """The form of the program that is usual for a job: its engine, or its trainer; else torchrun or vllm."""
    if isinstance(job, ServingJob):
        name = job.engine.partition(":")[0]
        return name if name in FORMS else "trtllm-serve" if name.startswith("tensorrt") else "vllm"
    return _USUAL.get(job.software.partition(":")[0], "torchrun")


def software_of(form: str) -> str:
    """The trainer by which a job of this form is predicted; "" for engines and schedulers.

    >>> software_of("accelerate"), software_of("vllm")
    ('fsdp', '')
    """
    return {made: software for software, made in _USUAL.items()}.get(form, "")


def hub_id(spec: ModelSpec) -> str:
    """What software loads the model by: its id of the Hugging Face Hub where the catalog has one, else its name.

    >>> from llmhw import model
    >>> hub_id(model("llama-3-8b"))
    'meta-llama/Meta-Llama-3-8B'
    """
    from llmhw.catalog import model_index

    ids = (row["hf_id"] for row in model_index() if row["name"] == spec.name)
    return next(filter(None, ids), str(spec.config.get("_name_or_path") or spec.name))


# -- write ------------------------------------------------------------------------------------


def emit(
    job: Job,
    form: str,
    *,
    model_id: str | None = None,
    tokens: float | None = None,
    notes: Iterable[str] = (),
    around: str | None = None,
    draft: str | None = None,
    draft_tokens: int | None = None,
) -> str:
    """A job as the complete, commented text of a form.

    job        a `TrainingJob` or a `ServingJob`
    form       one of `FORMS`
    model_id   what the software loads the model by; default: the model's id of the Hugging Face Hub
    tokens     of a whole training run: its number of steps follows
    notes      lines for the head of the file, where the form has comments
    around     for slurm, skypilot and kubernetes: the form of the program inside; default: as the job's software
    draft, draft_tokens   of speculative decoding, as `llmhw.serve` takes them

    Raises `LLMHWError` for an unknown form, for one that is not for this kind of job, and for a job that asks for what
    the form cannot say.
    """
    return written(
        job, form, model_id=model_id, tokens=tokens, notes=notes, around=around, draft=draft, draft_tokens=draft_tokens
    ).text


def written(
    job: Job,
    form: str,
    *,
    model_id: str | None = None,
    tokens: float | None = None,
    notes: Iterable[str] = (),
    around: str | None = None,
    draft: str | None = None,
    draft_tokens: int | None = None,
) -> Written:
    """As `emit`, with the command that runs the text and what it needs."""
    if not isinstance(job, (TrainingJob, ServingJob)):
        raise LLMHWError(f"job={shown(job)} must be a TrainingJob or a ServingJob")
    found = _fitting(form_of(form), job, "form")
    if tokens is not None:
        tokens = check_number("tokens", tokens, above=True)
    if around is not None and found.of != BOTH:
        raise LLMHWError(f"around={around!r} is for {', '.join(_names(BOTH))}; {form} is a program itself")
    inside = None
    if found.of == BOTH:
        inside = _fitting(form_of(usual_form(job) if around is None else around, "around"), job, "around")
        if inside.of == BOTH:
            raise LLMHWError(f"around={around!r} must be the form of a program: {', '.join(_names(_kind(job)))}")
    asked = Asked(
        job=job,
        model_id=check_text("model_id", model_id) if model_id is not None else hub_id(job.model),
        tokens=tokens,
        notes=check_items("notes", notes, partial(check_text)),
        around=inside,
        draft=draft,
        draft_tokens=_drafted(job, draft, draft_tokens),
    )
    try:
        return _written(found, asked)
    except CannotSayError as error:
        others = [name for name in _names(_kind(job)) if name != form and _can(FORMS[name], asked)]
        raise LLMHWError(f"{error}; " + (f"{', '.join(others)} can" if others else "no form has it")) from None


def _drafted(job: Job, draft: str | None, tokens: int | None) -> int | None:
    """Tokens that a draft proposes before each pass: as asked, or as is usual; None without one."""
    if isinstance(job, TrainingJob):
        if draft is not None or tokens is not None:
            raise LLMHWError(f"draft={shown(draft)} is for serving, and this is a job of training; leave it out")
        return None
    guess = draft_of(job.model, draft, tokens)
    return guess.tokens if guess else None


def _written(form: Form, asked: Asked) -> Written:
    made = form.write(asked)
    for name, value in changed(asked.job).items():
        if name not in made.said:
            raise CannotSayError(f"{form.name} cannot say {name}={shown(value)}")
    return made


def _can(form: Form, asked: Asked) -> bool:
    try:
        _written(form, asked)
    except (LLMHWError, ImportError, AttributeError):
        return False
    return True


def _kind(job: Job) -> str:
    return TRAINING if isinstance(job, TrainingJob) else SERVING


def _names(of: str) -> list[str]:
    return [form.name for form in FORMS.values() if form.of == of]


def _fitting(form: Form, job: Job, argument: str) -> Form:
    kind = _kind(job)
    if form.of not in (kind, BOTH):
        names = ", ".join([*_names(kind), *_names(BOTH)])
        raise LLMHWError(f"{argument}={form.name!r} is for {form.of}, and this is a job of {kind}; use {names}")
    return form


def changed(job: Job) -> dict[str, Any]:
    """What a job, and its `Parallelism`, ask for otherwise than by default, less what is no setting of software.

    >>> changed(TrainingJob(model="llama-3-8b", cluster=("h100", 8), recompute="full"))
    {'recompute': 'full'}
    """
    holders: list[Any] = [job, job.parallelism] if isinstance(job, TrainingJob) else [job]
    found = {}
    for holder in holders:
        for f in fields(holder):
            value = getattr(holder, f.name)
            if f.name not in _CIRCUMSTANCES and value != f.default and not isinstance(value, Assumed):
                found[f.name] = value
    return found


def cannot_say(form: str, what: str) -> CannotSayError:
    """The error of a writer whose form has no words for this: "schedule='gpipe'"."""
    return CannotSayError(f"{form} cannot say {what}")


def commented(rows: Iterable[tuple[str, str] | str], comment: str = "#", most: int = 60) -> str:
    """Lines with the reasons behind them, one under the other where lines are at most `most` letters long.

    >>> print(commented([("a: 1", "why"), "b: 22", ("long: 3", "")]))
    a: 1     # why
    b: 22
    long: 3
    """
    pairs = [(row, "") if isinstance(row, str) else row for row in rows]
    wide = max((len(line) for line, _ in pairs if len(line) <= most), default=0)
    return "\n".join(f"{line.ljust(wide)}  {comment} {why}" if why else line for line, why in pairs)


def heading(asked: Asked, form: Form, *more: str) -> list[str]:
    """The comments at the head of a file: what it is, for what it was made, and notes."""
    from llmhw import __version__

    job = asked.job
    cluster = job.cluster
    nodes = f" in {cluster.nodes} nodes" if cluster.nodes > 1 else ""
    said = [
        f"Written by llmhw {__version__}: {form.meaning}.",
        f"{asked.model_id} on {cluster.devices} x {cluster.accelerator.name}{nodes}.",
        *asked.notes,
        *more,
    ]
    return [f"{form.comment} {line}".rstrip() for line in said]


# -- read -------------------------------------------------------------------------------------

# What a file says beside a job's fields.
_BESIDE = frozenset(("gpus", "devices_per_node", "tokens", "draft", "draft_tokens"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What a file of a trainer or an engine says.

    form           that it is of
    model          what the software loads the model by; None: it does not say
    config         the model's config, where the file holds its sizes
    options        fields of `TrainingJob` and `Parallelism`, or of `ServingJob`, and gpus, devices_per_node, tokens,
                   draft, draft_tokens
    accumulation   micro-batches of a rank in a step, where the batch is said so; None otherwise
    beside         file of DeepSpeed's config that it names, whose settings count too where it lies there
    notes          what it says that is not used, and why
    """

    form: str
    model: str | None = None
    config: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    accumulation: int | None = None
    beside: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {f.name for kind in (TrainingJob, Parallelism, ServingJob) for f in fields(kind)}
        known |= _BESIDE
        for name in self.options:
            if name not in known:
                raise LLMHWError(f"options={shown(name)} is no field of a job")
        object.__setattr__(self, "options", frozen(dict(self.options)))

    @property
    def of(self) -> str:
        """training or serving."""
        return FORMS[self.form].of

    @property
    def spec(self) -> ModelSpec:
        """The model that the file names, or whose sizes it holds; `LLMHWError` where it says none, or none is known."""
        if self.config is not None:
            return ModelSpec.from_config(self.config, self.model or self.form)
        if self.model is None:
            raise LLMHWError(f"the file of {self.form} does not say the model; name it too")
        return model_of(self.model, "model")

    def job(
        self,
        cluster: Cluster | Accelerator | str | tuple[Any, int],
        model: ModelSpec | str | None = None,
        **options: Any,
    ) -> Job:
        """The job on devices of a kind; `options` are fields over those of the file, `model` stands in for its own.

        >>> made = TrainingJob(model="llama-3-8b", cluster=("h100", 8), parallelism=Parallelism(dp=8, zero=3))
        >>> read(emit(made, "torchrun")).job(("h100", 16)).parallelism.dp
        16
        """
        where, spec = cluster_of(cluster), self.spec if model is None else model_of(model, "model")
        found = self.over({**options, "gpus": where.devices})
        for name in _BESIDE:
            found.pop(name, None)
        if self.of == SERVING:
            return ServingJob(model=spec, cluster=where, **found)
        layout = {f.name: found.pop(f.name) for f in fields(Parallelism) if f.name in found}
        ranks = data_parallel(devices=where.devices, **{name: layout.get(name, 1) for name in ("tp", "pp", "cp")})
        return TrainingJob(model=spec, cluster=where, parallelism=Parallelism(dp=ranks, **layout), **found)

    def over(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with these over them; the global batch follows from the accumulation once the devices are known.

        >>> Launched(form="deepspeed", options={"micro_batch": 2}, accumulation=4).over({"gpus": 8})
        {'micro_batch': 2, 'gpus': 8, 'global_batch': 64}
        """
        found = {**self.options, **options}
        known = "gpus" in found or "global_batch" not in found
        if self.accumulation is not None and "global_batch" not in options and known:
            taken = found.get("tp", 1) * found.get("pp", 1) * found.get("cp", 1)
            ranks = int(found.get("gpus", 1)) // taken
            found["global_batch"] = found.get("micro_batch", 1) * self.accumulation * max(ranks, 1)
        return found


def read(path_or_text: str | PathLike[str], form: str | None = None) -> Launched:
    """What a launch file says, of the trainer or engine that it is for.

    path_or_text   the path of a file, "-" for standard input, or its text, which has more than one line
    form           one of `FORMS`; default: what it looks like

    Raises `LLMHWError` for what no form is, and for values that no job can have.
    """
    from os import fspath

    from llmhw.launch.reading import found_form, text_of

    if not isinstance(path_or_text, (str, PathLike)) or not isinstance(fspath(path_or_text), str):
        raise LLMHWError(f"path_or_text={shown(path_or_text)} must be a path or a text")
    text, what = text_of(fspath(path_or_text))
    name = form_of(form).name if form is not None else found_form(text, what)
    found = FORMS[name].read(text)
    given = "\n" in fspath(path_or_text)  # a text lies nowhere
    return found if found.beside is None or given else _with_beside(found, found.beside, what)


def _with_beside(found: Launched, beside: str, path: str) -> Launched:
    """What a file says with the config of DeepSpeed that it names, where that lies beside it or in this folder."""
    from os.path import dirname, isfile, join

    place = next((one for one in (join(dirname(path), beside), beside) if isfile(one)), None)
    if place is None:
        return found
    more = read(place, "deepspeed")
    told = {name: value for name, value in more.options.items() if name in ("zero", "offload", "tp", "precision")}
    if found.options.get("frozen"):
        told.pop("precision", None)
    notes = [note for note in found.notes if not note.startswith("deepspeed=")]
    accumulation = more.accumulation if found.accumulation is None else found.accumulation
    return replace(found, options={**found.options, **told}, accumulation=accumulation, notes=tuple(notes))
