"""Calculators of jobs and costs: what a reader copies gives the same numbers, and contradictions are the library's."""

from __future__ import annotations

import json
import shlex

import pytest

from llmhw.language import in_language
from llmhw.live import CALCULATORS, answer, answer_html
from llmhw.units import LLMHWError
from tests.live import answers, leaves, numbers, run_python
from tests.unit.command import run

JOBS = ("layout", "cost", "step", "shards", "pipeline", "checkpoint", "load")
# Figures of which the command says nothing.
NOT_PRINTED = {
    "weights, gradients and optimizer states of a rank",
    "sent by a rank in a step",
    "activations",
    "short by",
    "needed for one request",
}


@pytest.mark.parametrize("name", JOBS)
def test_python_gives_the_figures(name: str) -> None:
    for settings, made in answers(name, 12):
        assert run_python(made.python) == [figure.value for figure in made.figures], settings


@pytest.mark.parametrize("name", [name for name in JOBS if name not in ("pipeline", "checkpoint")])
def test_the_command_prints_the_figures(name: str) -> None:
    for settings, made in answers(name, 5):
        done = run(*shlex.split(made.command)[1:], "--json")
        assert done.returncode == 0, (settings, done.stderr)
        printed = set(leaves(json.loads(done.stdout)))
        wanted = {figure.value for figure in made.figures if figure.label not in NOT_PRINTED}
        assert wanted <= printed, settings


@pytest.mark.parametrize(("name", "figure"), [("pipeline", 1), ("checkpoint", 1)])
def test_the_command_explains_the_figure(name: str, figure: int) -> None:
    made = answer(name)
    done = run(*shlex.split(made.command)[1:])
    assert done.returncode == 0
    assert f" = {made.figures[figure].value:.9g}"[:12] in done.stdout


@pytest.mark.parametrize("name", JOBS)
def test_every_figure_that_says_so_is_explained(name: str) -> None:
    for settings, made in answers(name, 6):
        for figure in made.figures:
            assert figure.explain is None or figure.explain(), (settings, figure.label)


@pytest.mark.parametrize("name", JOBS)
def test_an_answer_depends_on_its_settings_alone(name: str) -> None:
    """Caches between questions change nothing: backwards and forwards it is the same."""
    given = [settings for settings, _ in answers(name, 5)]
    first = [numbers(CALCULATORS[name].answer(one)) for one in given]
    again = [numbers(CALCULATORS[name].answer(one)) for one in reversed(given)]
    assert first == again[::-1]


@pytest.mark.parametrize("name", JOBS)
def test_chinese_changes_no_number(name: str) -> None:
    with in_language("zh"):
        there = CALCULATORS[name].answer({})
        page = answer_html(there)
    assert [figure.value for figure in there.figures] == [figure.value for figure in answer(name).figures]
    assert any("\u4e00" <= letter <= "\u9fff" for letter in page)


def test_contradictions_are_the_librarys_errors() -> None:
    with pytest.raises(LLMHWError, match="does not divide heads=12"):
        answer("layout", {"model": "gpt2", "seq_len": "1024", "tp": "8", "count": "8"})
    with pytest.raises(LLMHWError, match="does not divide devices=8"):
        answer("layout", {"tp": "8", "pp": "4", "count": "8"})
    with pytest.raises(LLMHWError, match="needs schedule"):
        answer("pipeline", {"v": 2, "schedule": "gpipe"})


@pytest.mark.parametrize("model", ["gpt2", "llama-3-8b", "mixtral-8x7b", "llama-3.1-405b", "deepseek-v3"])
@pytest.mark.parametrize("count", ["1", "8", "72", "1024"])
def test_what_is_left_open_makes_a_valid_layout(model: str, count: str) -> None:
    device = "GB200" if count == "72" else "H100 SXM5 80GB"
    length = "1024" if model == "gpt2" else "4096"
    made = answer("layout", {"model": model, "count": count, "device": device, "seq_len": length})
    assert made.figures[1].value > 0


def test_money_is_printed_in_a_currency_and_kept_in_dollars() -> None:
    plain, yuan = answer("cost"), answer("cost", {"currency": "CNY"})
    assert [figure.value for figure in plain.figures] == [figure.value for figure in yuan.figures]
    assert all(figure.text.startswith("CNY") for figure in yuan.figures[:3])
    assert "CNY" in yuan.verdict
    assert any("2026" in note for note in yuan.notes), "the rate has its date"
