"""Tables, traces, constants and loads of any content: an answer, or one line that says what is wrong.

With LLMHW_FUZZ_EXAMPLES=50000 so many calls are made in all, or a few more.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.catalog import read_calibration
from llmhw.queueing import StepModel
from llmhw.service import simulate_service
from llmhw.simulation import Empirical, Engine, Exponential, LogNormal, Recorded, Uniform, simulate
from llmhw.units import LLMHWError
from llmhw.validation import KINDS, read_constants, template, validate
from llmhw.validation.columns import COLUMNS, OF_KIND

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "0"))
SECONDS = 20.0  # of this process, to see a hang and no slowness

# Answers after which nobody trusts the next one.
ODD_TEXTS = (
    "", " ", "0", "1", "-1", "-0", "2", "3", "7", "8", "64", "1e9", "1e18", "1e30", "1e308", "1e400", "1e-320", "0.1",
    "1.5", "-5", "NaN", "inf", "-inf", "1_000", "1,000", "=cmd|'/c'!A0", "abc", "None", "null", "true", "FALSE", "yes",
    "\u0661\u0662", "\u00bd", "\x1b[31m", "a\nb", "{}", "[]", '{"a": 1, "a": 2}', '{"num_hidden_layers": 10000000}',
    '{"model_type": "llama"}', '{"hidden_size": "x"}', '{"memory_bytes": 1e300}', "[" * 300, "x" * 5000, "../../etc",
    "h100", "llama-3-8b", "deepseek-v3", "gpt2", "bf16", "fp8", "fp4", "Q4_K_M", "fsdp", "full", "unknown", "8 GPUs",
    "9" * 400, "0x10", "--", "\ufeff", "\u202e", "/dev/zero", "1e3", "100000", "999999999", "mfu", "ttft_ms", "END",
)  # fmt: skip
TEXTS = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=12), st.integers().map(str), st.floats().map(str))


def examples(usual: int) -> Any:
    return settings(
        max_examples=max(usual, EXAMPLES // 15),
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


table = cache(template)


@cache
def example(kind: str) -> dict[str, str]:
    return next(csv.DictReader(io.StringIO(table(kind))))


def one_line(text: str) -> None:
    assert "\n" not in text, text
    assert len(text) < 3000, text[:300]
    assert "Traceback" not in text


def told(answer: Any) -> None:
    """It can be printed, and written as JSON and as a row: all finite."""
    json.dumps(answer.to_dict(), allow_nan=False)
    row = answer.to_row()
    assert all(not isinstance(v, float) or math.isfinite(v) for v in row.values()), row
    one_line(answer.verdict)
    assert str(answer)
    for text in answer.warnings():
        one_line(text)


# -- tables of measurements -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@examples(60)
@given(data=st.data())
def test_any_cells(kind: str, data: Any) -> None:
    names = data.draw(st.lists(st.sampled_from(OF_KIND[kind]), min_size=1, max_size=4, unique=True))
    cells = example(kind) | {name: data.draw(TEXTS) for name in names}
    start = process_time()
    found = validate([cells], kind)
    assert process_time() - start < SECONDS, (names, cells)
    assert found.rows or found.skipped or found.repeats
    for _, source, reason in found.skipped:
        one_line(reason)
        one_line(source)
    for name in names:
        text = cells[name].strip()
        if COLUMNS[name].kind == "choice" and text and text.casefold().removesuffix(".0") not in COLUMNS[name].choices:
            assert not found.rows, f"{name}={text!r} was taken as if it were empty"
    told(found)


PIECES = (b"", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b";", b"9" * 200, b"id,", b"\xd9\xa1")


@examples(120)
@given(data=st.data())
def test_any_file(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    kind = data.draw(st.sampled_from(list(KINDS)))
    content = bytearray(table(kind).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        what = data.draw(
            st.sampled_from([b"", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b";", b"9" * 200])
        )
        content[at : at + data.draw(st.integers(0, 9))] = what
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(bytes(content))
    try:
        told(validate(path, kind))
    except LLMHWError as error:
        one_line(str(error))


# -- constants --------------------------------------------------------------------------------

ODD_VALUES = (None, True, -1, 0, 1e308, 1e-320, 10**400, "x", "", [], {}, [1], {"a": 1}, [2, 1], [0, 0], ["a", None])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree of constants."""
    found = [path] if path else []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        found += places(value, (*path, key))
    return found


@cache
def constants(kind: str) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    timed = KINDS[kind].timed
    made = read_calibration(timed.subject if timed else "training_memory" if "training" in kind else "serving_memory")
    plain = json.loads(json.dumps(made, default=dict))
    return plain, places(
        {k: v for k, v in plain.items() if k not in ("data", "residuals", "left_out", "prior", "method")}
    )


@pytest.mark.parametrize("kind", [kind for kind, entry in KINDS.items() if entry.fits])
@examples(40)
@given(data=st.data())
def test_any_constants(kind: str, data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    known, where = constants(kind)
    made = deepcopy(known)
    *path, last = data.draw(st.sampled_from(where))
    inner = made
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()) or isinstance(inner, list):
        inner[last] = data.draw(st.one_of(st.sampled_from(ODD_VALUES), st.floats(), st.text(max_size=5)))
    else:
        del inner[last]
    file = tmp_path_factory.getbasetemp() / "fuzz.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    try:
        told(validate([example(kind)], kind, calibration=read_constants(file)))
    except LLMHWError as error:
        one_line(str(error))


# -- loads ------------------------------------------------------------------------------------

ARRIVALS = st.one_of(TEXTS, st.floats(0, 100).map(str))


@examples(150)
@given(
    rows=st.lists(st.tuples(ARRIVALS, st.one_of(st.just("5"), TEXTS), st.one_of(st.just("7"), TEXTS)), max_size=6),
    head=st.sampled_from(["arrival_seconds,input_tokens,output_tokens", "gap_seconds,input_tokens,output_tokens"]),
    speed=st.sampled_from([1.0, 1e-20, 1e20, 0.3]),
)
def test_any_trace(tmp_path_factory: pytest.TempPathFactory, rows: Any, head: str, speed: float) -> None:
    path = tmp_path_factory.getbasetemp() / "trace.csv"
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as out:
        out.write(head + "\n")
        csv.writer(out).writerows(rows)
    start = process_time()
    try:
        told(simulate(Engine(StepModel(0.01, 1e-5, 1e-5, 1e-9), max_context=10**6), Recorded(path, speed)))
    except LLMHWError as error:
        one_line(str(error))
    assert process_time() - start < SECONDS


@cache
def job() -> llmhw.ServingJob:
    cluster = llmhw.Cluster("h100", 2)
    return llmhw.ServingJob(model=llmhw.model("llama-3-8b"), cluster=cluster, tp=1, max_model_len=4096)


NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, 2, 3, -1, 0.5, 1e-320, 1e-9, 1e9, 1e308, 10**30, math.inf, math.nan, True, None, "4", [], 33]
    ),
    st.floats(),
    st.integers(),
)


@st.composite
def lengths(draw: Any) -> Any:
    """A length, a distribution, or the error of one that cannot be."""
    kind = draw(st.sampled_from([None, Uniform, Exponential, LogNormal, Empirical]))
    if kind is None:
        return draw(NUMBERS)
    count = {Uniform: 2, Exponential: 1, LogNormal: draw(st.integers(2, 4)), Empirical: 1}[kind]
    small = st.one_of(st.integers(1, 50), NUMBERS)
    return lambda: kind(*(draw(small) for _ in range(count)))


@examples(250)
@given(data=st.data())
def test_any_load(data: Any) -> None:
    usual: dict[str, Any] = {"rate": 3.0, "requests": 8, "input_tokens": 20, "output_tokens": 5}
    own = {
        **dict.fromkeys(("rate", "concurrency", "requests", "speed", "seed", "slo_ttft", "slo_tpot"), NUMBERS),
        **dict.fromkeys(("prefill_workers", "max_delay_seconds", "watermark", "transfer_seconds"), NUMBERS),
        **dict.fromkeys(("input_tokens", "output_tokens"), lengths()),
        "mode": st.sampled_from(["static", "dynamic", "continuous", "disaggregated", "", 3]),
        "chunked_prefill": st.sampled_from([True, False, 2, None]),
        "trace": st.sampled_from(["/dev/null", "none.csv", "", 3]),
    }
    chosen = data.draw(st.lists(st.sampled_from(sorted(own)), min_size=1, max_size=3, unique=True))
    asked = usual | {name: data.draw(own[name]) for name in chosen}
    if "concurrency" in chosen and "rate" not in chosen:
        del asked["rate"]
    # a run of many requests is no hang, but takes its time
    if isinstance(asked["requests"], (int, float)) and 2000 < asked["requests"] <= 10**8:
        asked["requests"] = 2000
    if asked["requests"] is None or (isinstance(asked.get("concurrency"), int) and asked["concurrency"] > 50):
        asked["requests"] = 50
    start = process_time()
    try:
        for name in ("input_tokens", "output_tokens"):
            asked[name] = asked[name]() if callable(asked[name]) else asked[name]
        told(simulate_service(job(), **asked))
    except LLMHWError as error:
        one_line(str(error))
    assert process_time() - start < SECONDS, asked


def test_devices_and_pipes_are_no_tables(tmp_path: Path) -> None:
    """None of them is read for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in ("/dev/zero", "/dev/null", str(pipe)):
        start = process_time()
        for read in (lambda p: validate(p, "serving"), lambda p: list(Recorded(p)), read_constants):
            with pytest.raises(LLMHWError, match=r"no regular file|is empty|not JSON|is no file|not a file"):
                read(path)
        assert process_time() - start < SECONDS
