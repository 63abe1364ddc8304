"""Time and memory of whole answers explain themselves: in the library and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw import engine, step_time
from llmhw.formula import Ledger, explained
from llmhw.memory import state_bytes
from llmhw.rates import stream_seconds
from llmhw.service import ServingEstimate
from llmhw.units import LLMHWError, format_quantity
from tests.unit.command import answer, refused, run

ANSWERS = ("first token", "next token", "all users")
TRAIN = ["train", "llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3"]
SERVE = ["serve", "llama-3-8b", "--gpu", "h100"]


def served(**change: Any) -> ServingEstimate:
    layout = {"tp": 2, "pp": 2} | change.pop("layout", {})
    job = llmhw.ServingJob(model=llmhw.model("llama-3-70b"), cluster=llmhw.Cluster("h200", 4), weights="fp8", **layout)
    return llmhw.serve(job, **({"input_tokens": 1000, "output_tokens": 500, "concurrency": 40} | change))


@pytest.fixture(scope="module")
def service() -> ServingEstimate:
    return served()


@pytest.fixture(scope="module")
def step() -> llmhw.TrainingEstimate:
    layout = llmhw.Parallelism(dp=8, zero=3)
    return llmhw.train(llmhw.TrainingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 8),
                                         parallelism=layout, seq_len=4096))  # fmt: skip


def head(text: str) -> str:
    """The line with the part's value; above it is whose part it is."""
    return text.splitlines()[2]


# -- serving ----------------------------------------------------------------------------------


def test_answers_of_a_service_are_formulas(service: ServingEstimate) -> None:
    point = service.point
    told = (
        format_quantity(point.ttft_seconds, "seconds"),
        format_quantity(point.tpot_seconds, "seconds"),
        format_quantity(point.tokens_per_second, "tokens/s"),
    )
    texts = [service.explain(name) for name in ANSWERS]
    for name, value, text in zip(ANSWERS, told, texts, strict=True):
        assert head(text) == f"{name} = {value}"
        assert "with 40 requests at work" in text.splitlines()[0]
    for text, behind in zip(texts, (True, False, True), strict=True):
        assert ("the cycle: cycle_seconds(" in text) is behind


@pytest.mark.parametrize("how", [{}, {"draft": llmhw.model("llama-3-8b")}])
def test_parts_of_a_decoding_pass_are_the_time_between_tokens(how: dict[str, Any]) -> None:
    """Of a single user, who waits for no other's prompt."""
    found = served(concurrency=1, **how)
    assert tuple(found.parts) == engine.PARTS
    assert sum(found.parts.values()) == pytest.approx(found.point.tpot_seconds)
    assert found.parts["matrix products"] + found.parts["draft"] > 0.3 * found.point.tpot_seconds


def test_every_part_of_a_pass_says_where_it_comes_from(service: ServingEstimate) -> None:
    for name, seconds in service.parts.items():
        text = service.explain(name)
        if seconds:
            assert head(text) == f"{name} = {format_quantity(seconds, 'seconds')}"
            assert text.startswith("A token of each of 20 sequences that have 1,250 tokens")
    text = service.explain("attention over prompts")
    assert text.startswith("A prompt of 1,000 tokens")
    assert "attention_seconds(" in text
    # a part that both passes have
    text = service.explain("matrix products")
    assert "A token of each of 20 sequences" in text
    assert "A prompt of 1,000 tokens" in text


def test_memory_of_a_service_is_explained_too(service: ServingEstimate) -> None:
    held = service.memory
    assert service.explain("weights").endswith(held.explain("weights"))
    assert service.explain("KV cache").endswith(held.explain("KV cache"))


def test_all_parts_at_once(service: ServingEstimate) -> None:
    text = service.explain()
    for name in (*ANSWERS, *engine.PARTS, "weights", "KV cache"):
        assert f"\n{name} = " in text


# -- training ---------------------------------------------------------------------------------


def test_parts_of_a_step_and_of_its_memory(step: llmhw.TrainingEstimate) -> None:
    for name in step_time.PARTS:
        assert head(step.explain(name)) == f"{name} = {format_quantity(step.time.parts[name], 'seconds')}"
    held = step.memory.stages[step.memory.worst]
    for part in held:
        if part.name not in step_time.PARTS:
            assert head(step.explain(part.name)) == f"{part.name} = {format_quantity(float(part.value), 'bytes')}"


# -- both -------------------------------------------------------------------------------------


def test_a_misspelt_part_lists_those_of_time_and_of_memory(
    service: ServingEstimate, step: llmhw.TrainingEstimate
) -> None:
    with pytest.raises(LLMHWError) as wrong:
        service.explain("all-reduce")
    listed = ", ".join((*ANSWERS, *engine.PARTS))
    held = ", ".join(part.name for part in service.memory.shown()[service.memory.worst])
    assert str(wrong.value) == f"part='all-reduce' is not known; parts are, of time: {listed}; of memory: {held}"
    assert held.endswith("engine, CUDA graphs, KV cache")
    with pytest.raises(LLMHWError) as wrong:
        step.explain("weight")
    held = ", ".join(part.name for part in step.memory.stages[0])
    listed = ", ".join(step_time.PARTS)
    assert str(wrong.value) == f"part='weight' is not known; parts are, of time: {listed}; of memory: {held}"


def test_a_name_of_time_and_of_memory_gives_both() -> None:
    time, memory = Ledger("terms"), Ledger("terms")
    time.add("optimizer", "update", stream_seconds, memory_bytes=2e9, bandwidth_bytes_per_second=1e9)
    memory.add("optimizer", "momentum", state_bytes, elements=2**30, bytes_per_element=4)
    kinds = {"time": [time.estimate("a step", "seconds", ["optimizer"])],
             "memory": [memory.estimate("a stage", "bytes", ["optimizer"])]}  # fmt: skip
    text = explained("optimizer", **kinds)
    assert text.index("a step\n\noptimizer = 2.00 s") < text.index("a stage\n\noptimizer = 4.00 GiB")


def test_equal_terms_are_one() -> None:
    found = Ledger("terms")
    for size in (1e9, 1e9, 2e9):
        found.add("x", "read", stream_seconds, 3, memory_bytes=size, bandwidth_bytes_per_second=1e9)
    (part,) = found.estimate("", "seconds", ["x"])
    assert [(t.times, t.value) for t in part.terms] == [(6, 6.0), (3, 6.0)]


# -- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*SERVE, "--explain", "first token"), "first_token_seconds("),
        ((*SERVE, "--explain", "attention over the cache"), "cache_seconds("),
        ((*SERVE, "--explain", "weights"), "stored_weight_bytes("),
        ((*TRAIN, "--explain", "attention"), "attention_seconds("),
        ((*TRAIN, "--explain", "activations"), "saved_bytes("),
        (("memory", *TRAIN[1:], "--explain", "momentum"), "state_bytes("),
    ],
)
def test_the_command_explains_a_part(arguments: tuple[str, ...], text: str) -> None:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert text in done.stdout
    assert answer(*arguments) == {"part": arguments[-1], "explanation": done.stdout.rstrip("\n")}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*SERVE, "--explain", "weight"), "of time: first token, next token, all users, matrix products"),
        ((*TRAIN, "--explain", "attentoin"), "of memory: weights"),
        ((*TRAIN, "--explain", "attention", "--csv"), "explain='attention' prints formulas"),
        ((*SERVE, "--explain", "weights", "--csv"), "explain='weights' prints formulas"),
        (("memory", *TRAIN[1:], "--explain", "momentums"), "did you mean momentum?"),
    ],
)
def test_wrong_parts_are_refused(arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(*arguments)


@pytest.mark.parametrize("command", ["serve", "train", "memory"])
def test_the_help_names_it(command: str) -> None:
    assert "--explain NAME" in run(command, "--help").stdout
