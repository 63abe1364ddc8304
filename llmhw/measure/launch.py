"""Start the ranks of a measurement on this machine, and end every one of them whatever happens.

A helper process imports PyTorch once and forks the ranks from there; it lies in a process group of its own. Ranks
find each other through a file, so no port is chosen. If one fails the others are ended and it is named; if the
caller goes away, the helper and the ranks notice and end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmhw.units import LLMHWError, check_choice

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Case:
    """What the ranks of one measurement are told; plain values only."""

    ranks: int
    parallelism: dict[str, Any]
    config: dict[str, Any]
    seq_len: int
    global_batch: int
    micro_batches: int
    bucket_cap_mb: float | None = None
    recompute: str = "none"
    fail_rank: int | None = None
    hang_rank: int | None = None


def run_cases(cases: Sequence[Any], *, device: str = "auto", timeout: float = 120) -> list[list[dict[str, Any]]]:
    """What every rank of every case, a `Case` or a `Talk`, reported.

    Raises `LLMHWError` naming the rank that failed, and why.

    timeout   seconds for each case
    """
    import subprocess
    import tempfile

    check_choice("device", device, DEVICES)
    if not hasattr(os, "fork"):
        raise LLMHWError("ranks are started by fork, which this system has not; use Linux, macOS or WSL")
    order = {"cases": [asdict(case) for case in cases], "device": device, "timeout": timeout}
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # The helper must find this very package, wherever it was imported from
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmhw.measure.launch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            start_new_session=True,
            text=True,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()  # and stays open: its end tells the helper that we are gone
            answer = process.stdout.readline()
        finally:
            _end_group(process)
        if not answer:
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:] or ["it ended without a word"]
            raise LLMHWError(f"the process that starts the ranks failed: {last[0]}")
    told: dict[str, Any] = json.loads(answer)
    if "error" in told:
        raise LLMHWError(told["error"])
    results: list[list[dict[str, Any]]] = told["results"]
    return results


def _end_group(process: Any) -> None:
    """End the helper and all its ranks, and collect what the system keeps of the helper."""
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            stream.close()
    for what in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, what)
        with contextlib.suppress(Exception):
            process.wait(timeout=2)
    process.wait()


# -- in the helper ----------------------------------------------------------------------------


def _pick(device: str, ranks: int) -> str:
    """cpu or cuda; asked inside a rank only, since CUDA must not be touched before a fork."""
    import torch

    if device == "cpu":
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and count < ranks:
        raise LLMHWError(f"device='cuda' needs {ranks} GPUs, one for each rank; there are {count}: use device='cpu'")
    return "cuda" if count >= ranks else "cpu"


def _rank(rank: int, case: dict[str, Any], device: str, store: str, pipe: Any) -> None:
    """The life of one rank."""
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _watch_parent()
    try:
        import torch
        import torch.distributed as dist

        from llmhw.measure._worker import run_case
        from llmhw.measure.talk import run_talk

        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        kind = _pick(device, case["ranks"])
        if kind == "cuda":
            torch.cuda.set_device(rank)
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=case["ranks"]
        )
        work = run_talk if case.get("collectives") else run_case
        pipe.send(("result", time.monotonic(), work(case, kind)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException as error:
        with contextlib.suppress(OSError):
            pipe.send(("error", time.monotonic(), _reason(error)))
        os._exit(1)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, and of what caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _watch_parent() -> None:
    """End this process when its parent is gone."""
    import threading

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(case: dict[str, Any], device: str, timeout: float) -> list[dict[str, Any]]:
    """Run one case to its end. Raises `LLMHWError` for the first rank that fails."""
    import multiprocessing
    import tempfile
    from multiprocessing.connection import wait

    context: Any = multiprocessing.get_context("fork")
    caller: Any = sys.stdin
    ranks, end, done = case["ranks"], time.monotonic() + timeout, False
    folder = tempfile.TemporaryDirectory(prefix="llmhw-")
    processes, pipes = [], []
    try:
        for rank in range(ranks):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(rank, case, device, f"{folder.name}/store", theirs))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        results: dict[int, dict[str, Any]] = {}
        errors: dict[int, tuple[float, str]] = {}
        open_pipes = dict(enumerate(pipes))
        while open_pipes and not errors:
            ready = wait([caller, *open_pipes.values()], max(0.0, end - time.monotonic()))
            if not ready:
                silent = ", ".join(str(rank) for rank in range(ranks) if rank not in results)
                raise LLMHWError(f"rank {silent} of {ranks} did not finish within {timeout:g} seconds; all were ended")
            if caller in ready:
                raise KeyboardInterrupt  # the caller has gone
            _collect(open_pipes, results, errors)
        if errors:
            time.sleep(0.3)  # let the others speak: the one that failed first is to blame
            _collect(open_pipes, results, errors)
            blamed = min(errors, key=lambda rank: errors[rank])
            killed = [r for r, process in enumerate(processes) if (process.exitcode or 0) < 0]
            if killed:
                name = signal.Signals(-processes[killed[0]].exitcode).name
                raise LLMHWError(f"rank {killed[0]} of {ranks} failed: it was ended from outside by {name}")
            raise LLMHWError(f"rank {blamed} of {ranks} failed: {errors[blamed][1]}")
        done = True
        return [results[rank] for rank in range(ranks)]
    finally:
        for process in processes:
            if done:
                process.join(2)  # they take leave of each other
            process.terminate()
        for process in processes:
            process.join(1)
            if process.exitcode is None:
                process.kill()
                process.join()
        folder.cleanup()


def _collect(pipes: dict[int, Any], results: dict[int, Any], errors: dict[int, tuple[float, str]]) -> None:
    """Read what ranks have sent; a rank that left without a word is an error."""
    for rank, pipe in list(pipes.items()):
        if not pipe.poll():
            continue
        try:
            kind, when, what = pipe.recv()
        except EOFError:
            errors[rank] = (time.monotonic(), "it ended without a word")
            del pipes[rank]
            continue
        if kind == "error":
            errors[rank] = (when, what)
        else:
            results[rank] = what
        del pipes[rank]


def run_here(case: Case, device: str) -> list[dict[str, Any]] | None:
    """This process is one rank, started by torchrun. All results on rank 0, None elsewhere."""
    import warnings

    import torch
    import torch.distributed as dist

    from llmhw.measure._worker import run_case

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", 0))
    kind = _pick(device, int(os.environ.get("LOCAL_WORLD_SIZE", case.ranks)))
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        mine = run_case(asdict(case), kind)
        gathered: list[Any] = [None] * case.ranks
        dist.all_gather_object(gathered, mine)
    except Exception as error:
        raise LLMHWError(f"rank {rank} of {case.ranks} failed: {_reason(error)}") from None
    finally:
        dist.destroy_process_group()
    return gathered if rank == 0 else None


def main() -> None:
    """The helper: one line of JSON in, one line of JSON out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the ranks and clears up on the way out
    order = json.loads(sys.stdin.readline())
    answer: dict[str, Any]
    try:
        try:
            import torch  # noqa: F401  (once, before the ranks are forked)
        except ImportError:
            raise LLMHWError("llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'") from None
        import llmhw.measure._worker  # noqa: F401

        answer = {"results": [_run(case, order["device"], order["timeout"]) for case in order["cases"]]}
    except LLMHWError as error:
        answer = {"error": str(error)}
    except KeyboardInterrupt:
        return
    print(json.dumps(answer), flush=True)
    sys.stdin.readline()  # wait until the caller has read it and lets go


if __name__ == "__main__":
    main()
