"""How fast a sweep is, computed here in turn and by a cluster: the same rows, in which share of the time.

    python benchmarks/sweep.py [--question room] [--models 300] [--devices 300] [--workers 2] [--with dask|ray]

Devices are accelerators in several numbers. The time of the cluster is that of the sweep, once its workers have
answered; the processor's time is that of all of them. Dask's cluster needs `pip install distributed`, Ray's
`pip install ray`: it takes longer to start than a test may, so that the tests have Dask's alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from logging import CRITICAL
from multiprocessing import get_context
from typing import Any

from llmhw.catalog import model_names
from llmhw.hardware import accelerators
from llmhw.sweep import Swept, sweep

COUNTS = [1, 2, 4, 8, 16]


@contextmanager
def dask(workers: int) -> Iterator[Executor]:
    """A cluster on this machine; elsewhere it is `Client("tcp://scheduler:8786")`."""
    from distributed import Client, LocalCluster

    made = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=CRITICAL)
    with made as cluster, Client(cluster) as client:
        yield client.get_executor()


class RayExecutor(Executor):
    """Ray's tasks as an executor: each has a future of `concurrent.futures` already."""

    def __init__(self) -> None:
        import ray

        self._call = ray.remote(lambda function, *args, **kwargs: function(*args, **kwargs))

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._call.remote(fn, *args, **kwargs).future()


@contextmanager
def ray(workers: int) -> Iterator[Executor]:
    """A cluster on this machine; elsewhere it is `ray.init(address="auto")`."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        yield RayExecutor()
    finally:
        ray.shutdown()


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool


def timed(asked: dict[str, Any], executor: Executor | None = None) -> tuple[Swept, float, float]:
    """The answer, its seconds, and those of this process alone."""
    start, own = time.perf_counter(), time.process_time()
    found = sweep(**asked, executor=executor)
    return found, time.perf_counter() - start, time.process_time() - own


def spread(names: list[Any], number: int) -> list[Any]:
    """So many of them, from all over the list."""
    return [names[i * len(names) // number] for i in range(min(number, len(names)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default="room")
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--with", dest="cluster", choices=("dask", "ray", "processes"), default="dask")
    args = parser.parse_args()
    cluster = {"dask": dask, "ray": ray, "processes": processes}[args.cluster]
    counts = COUNTS[: min(len(COUNTS), args.devices)]
    asked: dict[str, Any] = {
        "question": args.question,
        "models": spread(model_names(), args.models),
        "devices": spread([one.name for one in accelerators()], args.devices // len(counts)),
        "gpus": counts,
        "workers": args.workers,
    }
    with cluster(args.workers) as executor:
        few = asked | {"models": asked["models"][: 4 * args.workers], "devices": asked["devices"][:2]}
        sweep(**few, executor=executor)  # every worker has loaded the library
        many, apart, _ = timed(asked, executor)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    alone, whole, own = timed(asked | {"workers": 1})
    print(f"{alone.title}: {alone.pairs:,} pairs, {sum(alone.refused.values()):,} of them refused")
    print(f"in turn     {whole:8.1f} s  {1e3 * whole / alone.pairs:6.2f} ms a pair, {own:.1f} s of a processor")
    cluster_seconds = spent.ru_utime + spent.ru_stime
    print(
        f"{args.cluster:<11} {apart:8.1f} s  {whole / apart:6.2f} times as fast with {args.workers} workers, "
        f"{cluster_seconds:.1f} s of processors, starts included"
    )
    assert many.rows == alone.rows, "the rows are others"
    print(f"the {len(alone.rows):,} rows are the same")


if __name__ == "__main__":
    main()
