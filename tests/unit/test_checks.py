"""Checks of arguments, names in the place of objects, and answers that are equal where they should be."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from copy import copy, deepcopy
from timeit import repeat
from typing import Any

import pytest

import llmhw
from llmhw import checks
from llmhw.activations import activations
from llmhw.checks import checked, number, whole
from llmhw.fit import fit
from llmhw.hardware import cluster_of, link_of
from llmhw.model import model_of
from llmhw.units import LLMHWError


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(LLMHWError) as raised:
        function(*args, **kwargs)
    return str(raised.value)


# -- the decorator ----------------------------------------------------------------------------


@checked(share=number(most=1.0), index=whole(0))
def asked(
    count: int,
    share: float,
    index: int = 1,
    *,
    none: int | None = None,
    zero: int = 0,
    flag: bool = False,
    name: str = "x",
    words: Iterable[str] = (),
    sizes: list[int] | None = None,
    table: Mapping[str, Any] | None = None,
    call: Callable[[], int] | None = None,
    job: llmhw.TrainingJob | None = None,
    free: Any = None,
    either: int | str = 1,
) -> dict[str, Any]:
    """What came in."""
    return locals()


def test_what_is_right_passes_as_it_is_meant() -> None:
    found = asked(4.0, 1, none=None, zero=0, words=iter("ab"), sizes=(1, 2), table={}, call=int, free=[1], either="a")
    assert found["count"] == 4
    assert type(found["count"]) is int
    assert (found["share"], found["words"], found["sizes"]) == (1.0, ("a", "b"), (1, 2))
    assert asked.__doc__ == "What came in."


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("count", 0, "count=0 must be a whole number of at least 1"),
        ("share", 1.5, "share=1.5 must be a number of at least 0 and at most 1"),
        ("index", -1, "index=-1 must be a whole number of at least 0"),
        ("none", 0, "none=0 must be a whole number of at least 1"),
        ("zero", -1, "zero=-1 must be a whole number of at least 0"),
        ("flag", 1, "flag=1 must be True or False"),
        ("name", "\x1b[31m", r"name='\x1b[31m' must be a name without control characters"),
        ("name", 301 * "a", "must be a name of 1 to 300 letters"),
        ("words", "ab", "words='ab' must be a sequence, such as a list"),
        ("words", ["a", 1], "words[1]=1 must be a name of 1 to 300 letters"),
        ("sizes", [1, -1], "sizes[1]=-1 must be a whole number of at least 1"),
        ("table", [], "table=[] must be a dict"),
        ("call", 1, "call=1 must be a function"),
        ("job", "x", "job='x' must be a TrainingJob; make one with it"),
    ],
)
def test_what_is_wrong_is_named(argument: str, value: Any, message: str) -> None:
    assert message in refused(asked, **{"count": 1, "share": 0.5, argument: value})


def test_a_place_is_checked_as_a_name_is() -> None:
    assert refused(asked, "x", 1) == "count='x' must be a whole number of at least 1"
    with pytest.raises(TypeError):  # Python's own
        asked(1, 1, wrong=1)


def test_checking_takes_no_time() -> None:
    def plain(a: int, b: int = 1, *, c: str = "x", d: float = 1.0) -> int:
        return a

    fast = checked(plain)
    seconds = min(repeat(lambda: fast(1, 2, c="y", d=2.0), number=2000)) / 2000
    assert seconds < 50e-6  # some 2 us: a cache's bytes take 100


def test_a_name_is_looked_up_where_an_object_is_asked_for() -> None:
    assert set(checks._FINDERS) == {"ModelSpec", "Accelerator", "Cluster", "Link"}


# -- names ------------------------------------------------------------------------------------


def test_names_are_taken_where_objects_are() -> None:
    spec, h100 = llmhw.model("llama-3-8b"), llmhw.accelerator("h100")
    fp8 = llmhw.number_format("fp8")
    assert llmhw.kv_cache("llama-3-8b", seq_len=16) == llmhw.kv_cache(spec, seq_len=16)
    assert llmhw.weights("llama-3-8b", "fp8") == llmhw.weights(spec, fp8)
    assert llmhw.training_states("llama-3-8b").total == llmhw.training_states(spec).total
    assert llmhw.lora_states("llama-3-8b", base_format=fp8) == llmhw.lora_states(spec, base_format="fp8")
    assert llmhw.forward_flops("llama-3-8b", seq_len=8) == llmhw.forward_flops(spec, seq_len=8)
    assert activations("gpt2", seq_len=64) == activations(llmhw.model("gpt2"), seq_len=64)
    assert str(fit("llama-3-8b", "h100")) == str(fit(spec, h100))
    assert llmhw.prices("h100") == llmhw.prices(h100)
    job = llmhw.TrainingJob(model="llama-3-8b", cluster=("h100", 8))
    assert job == llmhw.TrainingJob(model=spec, cluster=llmhw.Cluster(h100, 8), parallelism=llmhw.Parallelism(dp=8))
    assert llmhw.ServingJob(model="llama-3-8b", cluster="h100").cluster == llmhw.Cluster("h100", 1)
    served = llmhw.ServingJob(model="llama-3-8b", cluster="h100")
    asked_for = {"input_tokens": 100, "output_tokens": 10, "concurrency": 1}
    assert (
        llmhw.serve(served, draft="llama-3.2-1b", **asked_for).point
        == llmhw.serve(served, draft=llmhw.model("llama-3.2-1b"), **asked_for).point
    )


@pytest.mark.parametrize(
    ("find", "value", "message"),
    [
        (model_of, 3, "spec=3 must be a ModelSpec, or the name of a model, such as 'llama-3-8b'"),
        (model_of, "lama-3-8b", "model='lama-3-8b' is not known; did you mean llama-3-8b"),
        (cluster_of, 3, "cluster=3 must be a Cluster, the name of a device, or its name and how many"),
        (cluster_of, ("h100", 0), "devices=0 must be a whole number of at least 1"),
        (cluster_of, ("h1000", 1), "accelerator='h1000' is not known; did you mean H100"),
        (llmhw.number_format, 3, "number_format=3 must be a name of 1 to 300 letters"),
        (lambda value: link_of("inter_link", value), 3, "inter_link=3 must be a name of 1 to 300 letters"),
    ],
)
def test_what_is_neither_a_name_nor_an_object(find: Callable[[Any], Any], value: Any, message: str) -> None:
    assert refused(find, value).startswith(message)


def test_a_search_takes_names_of_clusters() -> None:
    job = llmhw.TrainingJob(model="gpt2", cluster="h100", seq_len=256, global_batch=8)
    found = llmhw.search(job, ["h100", ("h200", 2)], best=5)
    assert {one.job.cluster.devices for one in found.best} == {2}
    for wrong, message in (([], "is empty"), ([3], "cluster=3 must be"), (3, "clusters=3 must be a sequence")):
        assert message in refused(llmhw.search, job, wrong)
    assert "at most 1,000,000 devices" in refused(llmhw.search, job, [("h100", 8 * 10**8)])


# -- equal and unchanged ----------------------------------------------------------------------


def test_models_are_equal_by_what_they_are() -> None:
    one, two = (
        llmhw.model("llama-3-8b"),
        llmhw.ModelSpec.from_config(dict(llmhw.model("llama-3-8b").config), "llama-3-8b"),
    )
    assert one is not two
    assert one == two
    assert hash(one) == hash(two)
    assert one != llmhw.model("llama-3-70b")
    assert one != "llama-3-8b"
    for again in (pickle.loads(pickle.dumps(one)), copy(one), deepcopy(one)):
        assert again == one
        assert hash(again) == hash(one)
        assert again.parameters == one.parameters


def test_jobs_are_equal_by_what_they_ask() -> None:
    def training(**change: Any) -> llmhw.TrainingJob:
        return llmhw.TrainingJob(**{"model": "llama-3-8b", "cluster": ("h100", 8), **change})

    assert training() == training() == pickle.loads(pickle.dumps(training())) == deepcopy(training())
    assert len({training(), pickle.loads(pickle.dumps(training())), training(seq_len=128)}) == 2
    serving = llmhw.ServingJob(model="llama-3-8b", cluster="h100")
    assert serving == pickle.loads(pickle.dumps(serving))


def test_estimates_can_be_put_into_sets() -> None:
    job = llmhw.TrainingJob(model="gpt2", cluster="h100", seq_len=256)
    serving = llmhw.ServingJob(model="gpt2", cluster="h100")
    lengths = {"input_tokens": 100, "output_tokens": 10}
    assert len({llmhw.train(job), llmhw.train(job)}) == 1
    assert len({llmhw.serve(serving, **lengths), llmhw.serve(serving, **lengths)}) == 1


def test_jobs_as_numbers_and_names() -> None:
    job = llmhw.TrainingJob(model="llama-3-8b", cluster=("h100", 8))
    asked_for = json.loads(json.dumps(job.to_dict(), allow_nan=False))
    assert asked_for["model"] == "llama-3-8b"
    assert asked_for["cluster"]["accelerator"] == "H100 SXM5 80GB"
    assert asked_for["cluster"]["devices"] == 8
    assert asked_for["parallelism"] == job.parallelism.to_dict()
    assert asked_for["parallelism"]["dp"] == 8
    serving = llmhw.ServingJob(model="llama-3-8b", cluster="h100", weights="fp8").to_dict()
    assert (serving["weights"], serving["model"]) == ("fp8", "llama-3-8b")
    json.dumps(serving, allow_nan=False)


# -- optimized away ---------------------------------------------------------------------------


def test_without_docstrings_and_asserts() -> None:
    """python -OO leaves both out."""
    code = (
        "import llmhw\n"
        "print(len({f.summary for f in llmhw.formulas().values()}))\n"
        "print(llmhw.explain('matmul_flops', tokens=1, weights=2).splitlines()[-1])\n"
        "print(llmhw.explain('matmul_flops').splitlines()[0], llmhw.Parallelism.__doc__ is None)\n"
        "print(llmhw.train(llmhw.TrainingJob(model='gpt2', cluster='h100', seq_len=256)).explain('stragglers')[:10])\n"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    first, last, *_ = done.stdout.splitlines()
    assert int(first) == len(llmhw.formulas())
    assert last.strip().startswith("= 4.00 FLOP")
