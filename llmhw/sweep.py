"""One question asked of many models on many devices: rows in one order, whoever computes them, as they come.

Pairs of one model stay together, since what depends on the model alone is worked out once by each process. Work goes
out in pieces to any executor of `concurrent.futures`; pieces come back in the order in which they were asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from inspect import signature
from itertools import islice, product
from os import PathLike
from typing import Any

from llmhw.checks import check_items
from llmhw.cost import RunOptions
from llmhw.formula import Report, Table, flat
from llmhw.hardware import Accelerator, Cluster, accelerator_of, usual_network
from llmhw.job import Parallelism, ServingJob, TrainingJob, data_parallel
from llmhw.model import ModelSpec, model
from llmhw.units import LLMHWError, check_count, format_quantity, nearest, plain, shown

# Pairs of a piece at most: about a second of work, so that Ctrl-C loses no more and a bar moves.
_PIECE = 200
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


@dataclass(frozen=True, slots=True)
class Question:
    """What can be asked of every pair.

    ask     from a model, a device and options, which are taken out of the mapping, to rows of plain numbers
    takes   whose fields and arguments the options are: dataclasses, and functions as module:name
    """

    ask: Ask
    takes: tuple[Any, ...]

    def options(self) -> list[str]:
        """Names of the options."""
        found = ["gpus"]
        for one in self.takes:
            if isinstance(one, str):
                name, _, function = one.partition(":")
                found += signature(getattr(import_module(name), function)).parameters
            else:
                found += [f.name for f in fields(one)]
        left_out = ("job", "spec", "device", "devices", "model", "cluster", "parallelism", "progress", "run")
        return sorted(set(found).difference(left_out))


_TRAINING = (Parallelism, TrainingJob)
QUESTIONS: Mapping[str, Question] = {
    "fit": Question(_fit, ("llmhw.fit:fit",)),
    "room": Question(_room, (ServingJob, "llmhw.serving:serving_memory")),
    "serve": Question(_serve, (ServingJob, "llmhw.service:serve")),
    "memory": Question(_memory, _TRAINING),
    "train": Question(_train, (*_TRAINING, RunOptions, "llmhw.training:train")),
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
    return plain(getattr(value, "name", value))


def _flat(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in flat(row) if name not in ("model", "device")}


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal: the one that asked ends the others."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """Processes of this machine, started anew, so that no thread or lock of this one is copied."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupts)
    try:
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
    "days": ("days", "days"),
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

    question   fit, room (an engine's memory alone), serve, memory or train; or a function of a module, from a
               `ModelSpec`, an `Accelerator` and a dict of options to rows
    models, devices   names, specs and accelerators; "all": the catalog's
    options    of the question, each a value or a list of values: gpus (devices of one pair), price, tp, weights, ...
    workers    processes of this machine. They are started anew: a script that asks for several calls `sweep` below
               `if __name__ == "__main__":`
    executor   of `concurrent.futures` instead, such as Dask's `client.get_executor()`; it stays open
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
    check_count("workers", workers)
    names, places = _asked_for(models, devices, options)
    total = len(names) * len(places)
    size = max(1, min(_PIECE, -(-total // (8 * workers))))
    title = f"{getattr(question, '__name__', question)}: {len(names):,} models on {len(places):,} devices and options"
    keys = ("model", "device", *options)
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
            raise LLMHWError(f"{name}={shown(options[name])} is no option of {question}; {hint}")


def _asked_for(models: Any, devices: Any, options: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Models, and pairs of a device and options."""
    from llmhw.catalog import model_names
    from llmhw.hardware import accelerators

    names = _names("models", models, (str, ModelSpec), model_names)
    known = set(model_names())
    # a name of the catalog is sent as it is, and read where it is needed; an unknown one is an error now
    names = [name if isinstance(name, ModelSpec) or name in known else model(name) for name in names]
    gpus = _names("devices", devices, (str, Accelerator), accelerators)
    gpus = [accelerator_of(one) for one in gpus]
    axes = []
    for name, value in options.items():
        values = list(value) if isinstance(value, (list, tuple, range)) else [value]
        if not values:
            raise LLMHWError(f"{name}={shown(value)} has no value to try; leave it out")
        axes.append([(name, one) for one in values])
    return names, [(gpu, chosen) for gpu in gpus for chosen in product(*axes)]


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
