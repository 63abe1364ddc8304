"""One question asked of many models on many devices: rows in one order, whoever computes them, as they come.

Pairs of one model stay together, since what depends on the model alone is worked out once by each process. Work goes
out in pieces to any executor of `concurrent.futures`; pieces come back in the order in which they were asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from inspect import isfunction, signature, unwrap
from itertools import islice, product
from os import PathLike
from typing import Any

from llmhw.checks import check_items
from llmhw.cost import RunOptions, newest_prices
from llmhw.formula import Report, Table, flat
from llmhw.hardware import PRICE_KINDS, Accelerator, Cluster, Price, accelerator_of, usual_network
from llmhw.job import Parallelism, ServingJob, TrainingJob, data_parallel
from llmhw.model import ModelSpec, model
from llmhw.price_files import price_list
from llmhw.units import LLMHWError, check_choice, check_count, check_number, format_quantity, nearest, plain, shown

# Pairs of a piece at most: about a second of work, so that Ctrl-C loses no more and a bar moves.
_PIECE = 200
MOST_DEVICES = 10**6
# Pieces that are out at a time, for each worker.
_AHEAD = 4

Row = dict[str, Any]
Ask = Callable[[ModelSpec, Accelerator, dict[str, Any]], Sequence[Mapping[str, Any]]]


# -- questions --------------------------------------------------------------------------------


def _taken(made: type, options: dict[str, Any]) -> dict[str, Any]:
    return {f.name: options.pop(f.name) for f in fields(made) if f.name in options}


def _cluster(device: Accelerator, options: dict[str, Any]) -> Cluster:
    count = options.pop("gpus", 1)
    return Cluster(device, count, inter_link=usual_network(device))


def _serving_job(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> ServingJob:
    return ServingJob(model=spec, cluster=_cluster(device, options), **_taken(ServingJob, options))


def _training_job(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> TrainingJob:
    layout, cluster = _taken(Parallelism, options), _cluster(device, options)
    layout.setdefault(
        "dp", data_parallel(devices=cluster.devices, **{n: layout[n] for n in ("tp", "pp", "cp") if n in layout})
    )
    options.setdefault("seq_len", min(4096, spec.max_seq_len or 4096))
    return TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(**layout), **_taken(TrainingJob, options))


def _fit(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.fit import fit

    options.setdefault("seq_len", min(4096, spec.max_seq_len or 4096))
    return fit(spec, device, devices=options.pop("gpus", 1), **options).records()


def _room(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.serving import serving_memory

    job = _serving_job(spec, device, options)
    return [serving_memory(job, **options).to_row()]


def _serve(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.service import serve

    job = _serving_job(spec, device, options)
    return [serve(job, **{"input_tokens": 1000, "output_tokens": 500, **options}).to_row()]


def _memory(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.training import memory

    job = _training_job(spec, device, options)
    return [memory(job, **options).to_row()]


def _train(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.training import train

    job = _training_job(spec, device, options)
    return [train(job, **options).to_row()]


# What a plan tries by itself, and what may be fixed instead.
_AXES_OF_SERVING = ("tp", "pp", "ep", "attention_dp")
_AXES_OF_TRAINING = ("tp", "pp", "vpp", "cp", "ep", "expert_tp", "schedule", "offload", "micro_batch", "recompute")
_TUNED: tuple[Row, ...] = ({}, {"frozen": True}, {"frozen": True, "base": "nf4-dq"})


def _planned(found: Any) -> list[Row]:
    """The best choice; without any, what is short."""
    if not found.choices:
        raise LLMHWError(found.verdict.rstrip("."))
    return [{name: value for name, value in found.to_row().items() if name != "title"}]


def _places(device: Accelerator, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of every plan: prices, machines for rent, how many devices."""
    from llmhw.planning.places import offers
    from llmhw.planning.result import Limits

    count, run = options.pop("gpus", None), RunOptions(**_taken(RunOptions, options))
    counts = () if count is None else (check_count("gpus", count),)
    limits = Limits(**_taken(Limits, options))
    return {"offers": offers(device, run)[0], "counts": counts, "limits": limits, "run": run, "best": 1}


def _plan_serve(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    from llmhw.planning.demand import Demand
    from llmhw.planning.serving import plan_serving

    asked = _places(device, options) | {name: options.pop(name) for name in _AXES_OF_SERVING if name in options}
    demand = Demand(**_taken(Demand, options))
    job = ServingJob(model=spec, cluster=Cluster(device), **_taken(ServingJob, options))
    return _planned(plan_serving(job, demand=demand, **asked, **options))


def _plan_train(
    spec: ModelSpec,
    device: Accelerator,
    options: dict[str, Any],
    ways: tuple[Row, ...] = ({},),
    *,
    tuning: bool = False,
) -> list[Row]:
    from llmhw.planning.training import plan_training

    asked = _places(device, options) | {name: (options.pop(name),) for name in _AXES_OF_TRAINING if name in options}
    options.setdefault("seq_len", min(4096, spec.max_seq_len or 4096))
    own = _taken(TrainingJob, options)
    jobs = [TrainingJob(model=spec, cluster=Cluster(device), **{**own, **way}) for way in ways]
    return _planned(plan_training(jobs, tuning=tuning, **asked, **options))


def _plan_finetune(spec: ModelSpec, device: Accelerator, options: dict[str, Any]) -> list[Row]:
    """All weights, LoRA, QLoRA: the first that fits, unless it is said which."""
    said = "frozen" in options or "base" in options
    ways: tuple[Row, ...] = ({"frozen": True} if options.get("base") else {},) if said else _TUNED
    return _plan_train(spec, device, options, ways, tuning=True)


@dataclass(frozen=True, slots=True)
class Question:
    """What can be asked of every pair.

    ask     from a model, a device and options, which are taken out of the mapping, to rows of plain numbers
    takes   whose fields and arguments the options are: dataclasses and functions as module:name; or their names
    piece   pairs that take about a second
    """

    ask: Ask
    takes: tuple[Any, ...]
    piece: int = _PIECE

    def options(self) -> list[str]:
        """Names of the options."""
        found = ["gpus"]
        for one in self.takes:
            name, _, what = one.partition(":") if isinstance(one, str) else ("", "", "")
            made = getattr(import_module(name), what) if what else one
            if name and not what:
                found.append(name)
            else:
                found += signature(made).parameters if isfunction(unwrap(made)) else [f.name for f in fields(made)]
        return sorted(set(found).difference(_NO_OPTIONS))


_NO_OPTIONS = (
    *("job", "spec", "device", "devices", "model", "cluster", "parallelism", "progress", "run"),
    "most_devices",  # of a pair: gpus
)
_TRAINING = (Parallelism, TrainingJob)
_LIMITS = (RunOptions, "llmhw.planning.result:Limits", "by")
_PLANNED = (*_LIMITS, TrainingJob, *_AXES_OF_TRAINING, "tokens")
QUESTIONS: Mapping[str, Question] = {
    "fit": Question(_fit, ("llmhw.fit:fit",), 20),
    "room": Question(_room, (ServingJob, "llmhw.serving:serving_memory")),
    "serve": Question(_serve, (ServingJob, "llmhw.service:serve")),
    "memory": Question(_memory, _TRAINING),
    "train": Question(_train, (*_TRAINING, RunOptions, "llmhw.training:train")),
    "plan-serve": Question(_plan_serve, (*_LIMITS, ServingJob, "llmhw.planning.demand:Demand"), 2),
    "plan-train": Question(_plan_train, _PLANNED, 1),
    "plan-finetune": Question(_plan_finetune, _PLANNED, 1),
}


# -- pieces of work ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one call of a worker does: one model, some pairs of it."""

    question: str | Callable[..., Any]
    model: str | ModelSpec
    pairs: tuple[tuple[str | Accelerator, tuple[tuple[str, Any], ...]], ...]


@cache
def _known() -> dict[ModelSpec, ModelSpec]:
    """The model that this process works on: an equal one that is sent again is this very one, and so are its caches."""
    return {}


def _model_of(wanted: str | ModelSpec) -> ModelSpec:
    spec = model(wanted) if isinstance(wanted, str) else wanted
    kept = _known()
    if spec not in kept:
        kept.clear()
    return kept.setdefault(spec, spec)


def _answers(piece: _Piece) -> list[list[Row]]:
    """Rows of each pair of a piece; a pair that is refused is one row that says why."""
    ask = QUESTIONS[piece.question].ask if isinstance(piece.question, str) else piece.question
    found = []
    for device, options in piece.pairs:
        told = _asked(piece.model, device, options)
        try:
            rows = ask(_model_of(piece.model), accelerator_of(device), dict(options))
            found.append([told | _flat(row) | told | {"refused": ""} for row in rows])
        except LLMHWError as error:
            found.append([told | {"refused": str(error)}])
    return found


def _asked(spec: str | ModelSpec, device: str | Accelerator, options: Iterable[tuple[str, Any]]) -> Row:
    """What a row was asked, in plain words and numbers."""
    told: Row = {"model": _name(spec), "device": _name(device)}
    return told | {name: _name(value) for name, value in options}


def _name(value: Any) -> Any:
    return str(value) if isinstance(value, Price) else plain(getattr(value, "name", value))


def _flat(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in flat(row) if name not in ("model", "device")}


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal: the one that asked ends the others."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment: a process that starts inherits it, and is not interrupted in its imports."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """Processes of this machine, started anew, so that no thread or lock of this one is copied."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupts)
    try:
        with _deaf():
            pool.submit(int)  # the first task starts all processes
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(pieces: Iterator[_Piece], executor: Any, ahead: int) -> Iterator[list[list[Row]]]:
    """What pieces answer, in their order; `ahead` of them are out at a time."""
    if executor is None:
        yield from map(_answers, pieces)
        return
    out = deque(executor.submit(_answers, piece) for piece in islice(pieces, ahead))
    try:
        while out:
            found = out.popleft().result()
            out.extend(executor.submit(_answers, piece) for piece in islice(pieces, 1))
            yield found
    finally:
        for future in out:
            future.cancel()


# -- the sweep --------------------------------------------------------------------------------


# Figures of the questions that a table for people has: title and unit.
_FIGURES = {
    "use": ("use", ""),
    "fits": ("fits", ""),
    "needed_bytes": ("needs", "bytes"),
    "memory_device_bytes": ("needs", "bytes"),
    "device_bytes": ("on the device", "bytes"),
    "capacity_bytes": ("it has", "bytes"),
    "max_seq_len": ("longest", "number"),
    "longest": ("longest", "number"),
    "concurrency": ("at work", "number"),
    "ttft_seconds": ("first token", "seconds"),
    "tokens_per_second_per_user": ("tokens/s a user", "number"),
    "step_seconds": ("step", "seconds"),
    "tokens_per_second": ("tokens/s", "number"),
    "place": ("take", ""),
    "layout": ("layout", ""),
    "days": ("days", "days"),
    "dollars_per_hour": ("an hour", "dollars"),
    "dollars_per_million": ("a million", "dollars"),
    "dollars": ("cost", "dollars"),
    "dollars_per_million_tokens": ("a million", "dollars"),
}


def _cell(name: str, value: Any) -> str:
    unit = _FIGURES.get(name, ("", ""))[1]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "" if name == "refused" else "-"
    if not unit or isinstance(value, str):
        return str(value)
    return (
        f"{value:,.4g}"
        if unit == "number" and isinstance(value, float)
        else (f"{value:,}" if unit == "number" else format_quantity(value, unit))
    )


@dataclass(frozen=True, repr=False)
class Swept(Report):
    """The answer of `sweep`.

    asked      columns that say what was asked
    rows       of every pair, in the order of models, devices and options; empty where they went to a file
    pairs      that were answered or refused
    refused    how many pairs were, by reason
    path       of the file that has the rows; "" without one
    complete   False: it was interrupted, and has the first `pairs` of `total`
    """

    title: str
    asked: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: int
    total: int
    refused: Mapping[str, int]
    path: str = ""
    complete: bool = True

    @property
    def verdict(self) -> str:
        """How many were answered, and where the rows are."""
        refused = sum(self.refused.values())
        told = f"{self.pairs - refused:,} of {self.total:,} pairs answered, {refused:,} refused"
        if not self.complete:
            told = f"interrupted after {self.pairs:,} of {self.total:,} pairs"
        return f"{told}; the rows are in {self.path}." if self.path else f"{told}."

    def warnings(self) -> list[str]:
        """The most frequent reasons of refusals."""
        order = sorted(self.refused.items(), key=lambda entry: -entry[1])
        return [f"{count:,} refused: {why}" for why, count in order[:3]]

    def tables(self) -> list[Table]:
        """What was asked, the figures that a person compares, and why there are none."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        own = not any(name in _FIGURES for name in names)
        kept = [name for name in names if own or name in (*self.asked, *_FIGURES, "refused")]
        if not self.refused:
            kept = [name for name in kept if name != "refused"]
        titles = [_FIGURES.get(name, (name, ""))[0] for name in kept]
        cells = [[_cell(name, row.get(name)) for name in kept] for row in self.rows]
        return [Table(self.title, titles, cells, len(self.asked), bool(self.refused))]

    def records(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    def to_dict(self) -> dict[str, Any]:
        """Counts, and the rows where they are in no file."""
        found = {name: getattr(self, name) for name in ("title", "pairs", "total", "path", "complete")}
        return found | {"refused": dict(self.refused), "rows": [dict(row) for row in self.rows]}


def _names(argument: str, given: Any, kinds: tuple[type, ...], every: Callable[[], Iterable[Any]]) -> list[Any]:
    if isinstance(given, str) and given.casefold() == "all":
        return list(every())
    found = [given] if isinstance(given, kinds) else list(check_items(argument, given, empty=False))
    for one in found:
        if not isinstance(one, kinds):
            raise LLMHWError(f"{argument} holds {shown(one)}, which is no name; give names, or 'all'")
    return found


def _pieces(
    question: str | Callable[..., Any], models: Sequence[Any], places: Sequence[Any], size: int, left_out: int
) -> Iterator[_Piece]:
    """Pairs from the one of that number on, models outermost."""
    for number, spec in enumerate(models):
        first = min(max(0, left_out - number * len(places)), len(places))
        for start in range(first, len(places), size):
            yield _Piece(question, spec, tuple(places[start : start + size]))


def sweep(
    question: str | Ask,
    models: Any = "all",
    devices: Any = "all",
    *,
    workers: int = 1,
    executor: Any = None,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Swept:
    """Ask one question of every model on every device, with every combination of options.

    question   fit, room (an engine's memory alone), serve, memory, train; plan-serve, plan-train, plan-finetune: the
               best choice on that device; or a function of a module, from a `ModelSpec`, an `Accelerator` and a dict
               of options to rows
    models, devices   names, specs and accelerators; "all": the catalog's
    options    of the question, each a value or a list of values: gpus (devices of one pair), provider, kind, prices
               (CSV files), tp, weights, ... price="all": the newest price of each machine with the device, each a pair
    workers    processes of this machine. They are started anew: a script that asks for several calls `sweep` below
               `if __name__ == "__main__":`
    executor   a `concurrent.futures` executor that spreads the work instead; it stays open. With Dask
               `Client("tcp://scheduler:8786").get_executor()`; with Ray `RayExecutor()` of benchmarks/sweep.py, after
               `ray.init(address="auto")`
    output     a .csv or .parquet file (extra `parquet`), which has the rows; without one the answer has them. Rows lie
               in FILE.part.csv as they come, until the file is whole
    resume     go on from the FILE.part.csv that an interrupted sweep has left
    progress   called with how many pairs are done, and of how many

    The order of the rows, and every number in them, is the same whoever computes them. A pair that is refused is a row
    with its reason in `refused`. Ctrl-C gives what is there, with `complete` False; FILE.part.csv then has it.
    Raises `LLMHWError` for what holds for all pairs: an unknown question or model, a file that cannot be written.

    >>> found = sweep("room", ["gpt2", "llama-3-8b"], ["h100", "a10"], gpus=[1, 2])
    >>> found.pairs, [row["fits"] for row in found.rows[:2]], sorted({row["device"] for row in found.rows})
    (8, [True, True], ['A10', 'H100 SXM5 80GB'])
    """
    if isinstance(question, str):
        _check_question(question, options)
    check_count("workers", workers, most=1024)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise LLMHWError(f"executor={shown(executor)} has no submit(); give one of concurrent.futures, or workers=")
    keys, names, places = _asked_for(models, devices, options)
    total = len(names) * len(places)
    most = QUESTIONS[question].piece if isinstance(question, str) else _PIECE
    size = max(1, min(most, -(-total // (8 * workers))))
    title = f"{getattr(question, '__name__', question)}: {len(names):,} models on {len(places):,} devices and options"
    if output is None:
        if resume:
            raise LLMHWError("resume=True goes on with a file; give output=")
        pieces = _pieces(question, names, places, size, 0)
        return _run(title, keys, pieces, total, workers, executor, None, progress)
    from llmhw.rows import RowFile

    with closing(RowFile(output, keys, resume=resume)) as file:
        done = file.pairs(_asked(spec, *place) for spec in names for place in places)
        pieces = _pieces(question, names, places, size, done)
        return _run(title, keys, pieces, total, workers, executor, file, progress)


def _check_question(question: str, options: Mapping[str, Any]) -> None:
    if question not in QUESTIONS:
        raise LLMHWError(f"question={shown(question)} is not known; use one of {', '.join(QUESTIONS)}, or a function")
    known = QUESTIONS[question].options()
    for name in options:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {', '.join(close)}?" if close else f"use one of {', '.join(known)}"
            value = options[name]
            first = value[0] if isinstance(value, (list, tuple)) and value else value
            raise LLMHWError(f"{name}={shown(first)} is no option of {question}; {hint}")


def _asked_for(models: Any, devices: Any, options: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Any], list[Any]]:
    """What tells pairs apart, models, and pairs of a device and options."""
    from llmhw.catalog import model_names
    from llmhw.hardware import accelerators

    names = _names("models", models, (str, ModelSpec), model_names)
    known = set(model_names())
    # a name of the catalog is sent as it is, and read where it is needed; an unknown one is an error now
    names = [name if isinstance(name, ModelSpec) or name in known else model(name) for name in names]
    gpus = _names("devices", devices, (str, Accelerator), accelerators)
    gpus = [accelerator_of(one) for one in gpus]
    axes = {name: _values(name, value) for name, value in options.items()}
    if axes.get("price") != ["all"]:
        every = [[(name, one) for one in values] for name, values in axes.items()]
        places = [(gpu, chosen) for gpu in gpus for chosen in product(*every)]
    else:
        whose = {name: axes.pop(name, [usual]) for name, usual in _WHOSE.items()}
        every = [[(name, one) for one in values] for name, values in axes.items() if name != "price"]
        places = [
            (gpu, (*chosen, ("price", price)))
            for gpu in gpus
            for chosen in product(*every)
            for price in _every_price(gpu, whose)
        ]
        axes["price"] = axes.pop("price")  # the last of them
    return ("model", "device", *axes), names, places


def _values(name: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple, range)) else [value]
    if not values:
        raise LLMHWError(f"{name}={shown(value)} has no value to try; leave it out")
    for one in values:  # what is wrong for every pair is told once
        if name == "gpus":
            check_count("gpus", one, most=MOST_DEVICES)
        elif name == "kind":
            check_choice("kind", one, PRICE_KINDS)
        elif name == "price" and one != "all" and one is not None and not isinstance(one, Price):
            check_number("price", one, above=True, most=1e6)
    if name == "price" and "all" in values and len(values) > 1:
        raise LLMHWError("price='all' is each price of a device: leave other values out")
    return [price_list("prices", one) for one in values] if name == "prices" else values


# What says which prices are meant, and what it is unless it is said.
_WHOSE = {"provider": None, "region": None, "kind": "on_demand", "prices": None}


def _every_price(device: Accelerator, whose: Mapping[str, list[Any]]) -> list[Price | None]:
    """The newest price of each machine with a device; [None] where there is none."""
    found: dict[Price, None] = {}
    for provider, region, kind, listed in product(*whose.values()):
        with suppress(LLMHWError):  # a provider that does not have it
            found |= dict.fromkeys(newest_prices(device, provider, region, kind, listed)[0])
    return list(found) or [None]


def _run(
    title: str,
    asked: tuple[str, ...],
    pieces: Iterator[_Piece],
    total: int,
    workers: int,
    executor: Any,
    file: Any,
    progress: Callable[[int, int], None] | None,
) -> Swept:
    from contextlib import nullcontext

    rows: list[Row] = []
    refused: dict[str, int] = {}
    for why in file.refused if file else ():
        refused[why] = refused.get(why, 0) + 1
    done, complete = file.done if file else 0, True
    place = nullcontext(executor) if executor is not None or workers == 1 else _pool(workers)
    with place as made:
        results = _results(pieces, made, _AHEAD * max(workers, getattr(made, "_max_workers", None) or 16))
        try:
            for found in results:
                told = [row for pair in found for row in pair]
                if file:
                    file.write(told)
                else:
                    rows += told
                for row in told:
                    if row["refused"]:
                        refused[row["refused"]] = refused.get(row["refused"], 0) + 1
                done += len(found)
                if progress:
                    progress(done, total)
        except KeyboardInterrupt:
            complete = False
        finally:
            results.close()  # type: ignore[attr-defined]
    path = "" if file is None else file.finish() if complete else file.part
    return Swept(title, asked, tuple(rows), done, total, refused, path, complete)
