"""Plans of training: figures of single predictions, the best of brute force, limits, ways out, Ctrl-C, bad lines."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shlex
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.cost import RunOptions
from llmhw.job import Parallelism, TrainingJob
from llmhw.launch import read
from llmhw.margin import known_error
from llmhw.planning import Limits
from llmhw.planning.places import Place, offers, priced, rented
from llmhw.planning.training import candidates, plan_training, search_places, settled
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run

SMALL = ["--cp", "1", "--micro-batch", "1,2"]


def job(name: str = "llama-3.2-1b", **options: Any) -> TrainingJob:
    return TrainingJob(model=llmhw.model(name), cluster="h100", **({"seq_len": 2048, "global_batch": 64} | options))


# -- the same figures as the single prediction ------------------------------------------------

LINES = [
    "plan train llama-3-8b --gpu h100 --gpus 8,16 --deadline 60 --storage 5 --mtbf 20000",
    "plan train qwen3-30b-a3b --gpu h200 --gpus 64 --tokens 1T --micro-batch 1 --compute fp8",
    "plan train llama-3-8b --gpu 'TPU v5e' --gpus 64 --precision bf16",
    "plan train llama-3-8b --gpu a100-80gb-sxm --gpus 16 --network 12.5 --spot --sequence-parallel --tp 2",
    "plan train gpt2 --gpu 'M4 Max 128GB' --tokens 10M --optimizer muon",
    "plan finetune llama-3-8b --gpu 'RTX 4090' --gpus 2 --method qlora --examples 2000 --seq-len 1024 --rank 8",
    "plan finetune llama-3-8b --instance p5.48xlarge --gpus 8 --method dpo --tokens 10M",
    "plan finetune llama-3.2-1b --gpu l40s --gpus 1 --method grpo,full --completion 512 --price 1.5",
]


@pytest.mark.parametrize("line", LINES)
def test_the_best_has_the_figures_of_train(line: str) -> None:
    found = answer(*shlex.split(line))
    best = found["choices"][0]
    alone = next(told for told in found["about"] if told.startswith("alone: "))
    single = answer(*shlex.split(alone)[2:])
    run_ = single["run"]
    told = {name: best.get(name) for name in ("days", "days_low", "days_high", "dollars", "dollars_low", "goodput")}
    assert {name: run_[name] for name in told} == pytest.approx(told, rel=1e-9)
    free = 1 - single["memory"]["device_bytes"] / single["memory"]["capacity_bytes"]
    assert (single["mfu"], single["step_seconds"], free) == pytest.approx(
        (best["mfu"], best["step_seconds"], best["headroom"]), rel=1e-9
    )
    assert single["fits"]


def test_every_choice_is_the_estimate_of_its_job() -> None:
    found = llmhw.plan(job(), [("h100", n) for n in (1, 2, 8)], tokens=1e9, cp=1, best=9)
    for choice in (*found.choices, *found.front):
        price = choice.where.price
        alone = llmhw.train(choice.job, tokens=1e9, price=price)
        assert choice.figures["days"].value == pytest.approx(alone.run.days, rel=1e-9)
        assert choice.figures["dollars"].most == pytest.approx(alone.run.dollars_high, rel=1e-9)
        assert choice.estimate.to_row() == alone.to_row()


TUNED: list[dict[str, Any]] = [
    {"method": "dpo"},
    {"method": "dpo", "frozen": True, "base": "nf4-dq"},
    {"method": "grpo", "completion": 512},
    {"method": "grpo", "rollout_share": 0.3},
    {"software": "deepspeed"},
]


@pytest.mark.parametrize("options", TUNED, ids=str)
def test_what_a_search_holds_is_what_the_job_holds(options: dict[str, Any]) -> None:
    """Reference models, caches of answers, engines beside the trainer, DeepSpeed's live weights."""
    made = llmhw.search(job(**options), [("h100", 8)], best=4, cp=1, vpp=1, micro_batch=1, tp=(1, 2))
    assert made.best
    for found in made.best:
        assert found.job.method == options.get("method", "sft")
        assert llmhw.training_memory(found.job).device_bytes == pytest.approx(found.device_bytes, rel=1e-9)


# -- the best ---------------------------------------------------------------------------------


def test_nothing_is_better_among_all_layouts_tried_one_by_one() -> None:
    """Every layout of ZeRO, recompute, tensor ranks and micro-batch on 1 to 8 devices, by `llmhw.train` alone."""
    tokens, asked = 1e9, job("llama-3-8b")
    best: dict[str, float] = {}
    sizes = product((1, 2, 4, 8), (1, 2, 4), (0, 1, 2, 3), ("none", "full"), (1, 2))
    for devices, tp, zero, recompute, micro in sizes:
        if devices % tp:
            continue
        layout = Parallelism(dp=devices // tp, tp=tp, zero=zero)
        try:
            one = replace(asked, cluster=("h100", devices), parallelism=layout, recompute=recompute, micro_batch=micro)
            made = llmhw.train(one, tokens=tokens)
        except LLMHWError:
            continue
        held = made.memory
        if held.device_bytes * (1 + known_error("training")) <= held.capacity_bytes:
            for name, value in (("cost", made.run.dollars), ("time", made.run.days)):
                best[name] = min(best.get(name, float("inf")), value or float("inf"))
    axes: dict[str, Any] = {"tp": (1, 2, 4), "pp": 1, "cp": 1, "micro_batch": (1, 2), "recompute": ("none", "full")}
    axes |= {"sequence_parallel": False}
    for by, figure in (("cost", "dollars"), ("time", "days")):
        found = llmhw.plan(asked, [("h100", n) for n in (1, 2, 4, 8)], tokens=tokens, by=by, **axes)
        assert found.best.figures[figure].value == pytest.approx(best[by], rel=1e-9)
        assert found.holds(found.best) == "yes"


def test_what_holds_over_its_interval_comes_first() -> None:
    """A deadline between the estimate and the end of its interval puts the cheapest behind what keeps it for sure."""
    asked, places = job("llama-3-8b"), [("h100", n) for n in (4, 8, 16)]
    free = llmhw.plan(asked, places, tokens=1e10, cp=1, best=9)
    cheapest = free.best.figures["days"]
    assert cheapest.least < cheapest.value < cheapest.most
    tight = Limits(deadline_days=(cheapest.value + cheapest.most) / 2)
    found = llmhw.plan(asked, places, tokens=1e10, limits=tight, cp=1, best=9)
    assert found.best.place != free.best.place
    assert [found.holds(c) == "yes" for c in found.choices] == sorted(
        (found.holds(c) == "yes" for c in found.choices), reverse=True
    )
    assert "may miss its time" in " ".join(found.why)


def test_the_front_is_what_nothing_beats() -> None:
    found = llmhw.plan(job("llama-3-8b"), [("h100", n) for n in (4, 8, 16)] + [("h200", 8)], tokens=1e10, cp=1, best=9)
    every = [*found.choices, *found.front]

    def point(c: Any) -> tuple[float, ...]:
        signs = {"days": 1, "dollars": 1, "devices": 1, "headroom": -1}
        return tuple(sign * c.figures[name].value for name, sign in signs.items())

    for c in found.front:
        others = [point(o) for o in every if point(o) != point(c)]
        assert not [o for o in others if all(a <= b for a, b in zip(o, point(c), strict=True))], c


# -- where they run ---------------------------------------------------------------------------


def test_offers_are_machines_with_their_own_price_and_network() -> None:
    for device in priced():
        for offer in offers(device)[0]:
            assert offer.price is not None
            assert offer.price.accelerator == device.name
            for devices in offer.counts(1, 64)[:4]:
                place = offer.place(devices)
                if offer.machine is not None:
                    assert place.machines * offer.machine.count >= devices
                    assert offer.machine.name in str(place)
                if place.cluster.nodes > 1:
                    assert place.cluster.inter_link is not None


def test_a_machine_that_is_named_is_taken_as_it_is() -> None:
    offer = rented("p4d.24xlarge")
    two = offer.place(16)
    assert (two.machines, two.cluster.nodes, str(two)) == (2, 2, "16 x A100 40GB SXM4 (2 x AWS p4d.24xlarge)")
    machine = llmhw.instance("p4d.24xlarge")
    assert two.cluster == machine.cluster(2)
    assert two.dollars_per_hour == pytest.approx(2 * (machine.price_per_hour or 0))
    with pytest.raises(LLMHWError, match="come in 8s"):
        offer.place(12)


# -- nothing holds ----------------------------------------------------------------------------

IMPOSSIBLE = [
    ("plan train llama-3-70b --gpu h100 --gpus 8 --tokens 1B", "nothing fits"),
    ("plan train llama-3-8b --gpu 'RTX 4090' --gpus 8 --deadline 10", "--deadline 10"),
    ("plan train llama-3-8b --gpu h100 --deadline 30 --budget 100", "nothing keeps --budget 100"),
    (
        "plan train gpt2-xl --gpu h100 --tokens 3B --deadline 0.05 --peak-kw 5",
        "--deadline 0.05 and --peak-kw 5 exclude",
    ),
    ("plan train llama-3-8b --gpu h100 --deadline 2 --budget-per-hour 60", "exclude each other"),
    ("plan finetune llama-3-8b --gpu 'RTX 4090' --gpus 1 --method full", "nothing fits"),
    ("plan train llama-3-8b --gpu h100 --gpus 8 --tokens 1B --tp 1 --pp 1 --zero 0", "nothing fits"),
]


@pytest.mark.parametrize(("line", "says"), IMPOSSIBLE)
def test_what_is_short_and_each_way_out_works(line: str, says: str) -> None:
    done = run(*shlex.split(line))
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "Does not work" in done.stdout.splitlines()[1]
    tries = [told[5:] for told in done.stdout.splitlines() if told.startswith("Try: ")]
    assert tries
    for told in tries[:2]:
        asked, _, gives = told.partition(": ")
        words = shlex.split(asked)
        left = re.sub(rf" {words[0]} ('[^']*'|\S+)", "", line) if words[0] != "--frozen" else line
        left = left.replace(" --method full", "") if words[0] == "--frozen" else left
        again = answer(*shlex.split(left), *words)
        assert again["choices"], (told, again["verdict"])
        assert any(gives.startswith(c["place"].partition(" (")[0]) for c in again["choices"] + again["front"]), told


def test_an_assumed_deadline_is_let_go_where_nothing_keeps_it() -> None:
    found = answer(*shlex.split("plan train llama-3-8b --gpu 'RTX 4090'"), *SMALL)
    assert found["choices"]
    assert not any("deadline" in note for note in found["notes"])


# -- long searches ----------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_found() -> None:
    def stop(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    places = [("h100", 8), ("h200", 8)]
    found = llmhw.plan(job(), places, tokens=1e9, cp=1, progress=stop)
    whole = llmhw.plan(job(), places, tokens=1e9, cp=1)
    assert not found.complete
    assert len({c.where.kind for c in found.choices}) == 1 < len({c.where.kind for c in whole.choices})
    assert "interrupted" in found.notes[0]


def test_ctrl_c_of_the_command_leaves_a_file(tmp_path: Path) -> None:
    def late(*_: Any) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "plan.csv"
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 1.5)  # of some twenty seconds of work
    try:
        done = run("plan", "train", "deepseek-v3", "--output", str(file))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert (done.returncode, "interrupted" in done.stderr) == (130, True)
    if file.exists():
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
        assert all(float(row["days"]) > 0 for row in rows)


def test_an_executor_finds_the_same() -> None:
    places = [("h100", 8), ("h200", 8), ("b200", 8)]
    serial = llmhw.plan(job(), places, tokens=1e9, cp=1)
    with ThreadPoolExecutor(2) as pool:
        spread = llmhw.plan(job(), places, tokens=1e9, cp=1, executor=pool)
    assert [c.to_dict() for c in spread.choices] == [c.to_dict() for c in serial.choices]


def test_a_search_travels_to_other_processes() -> None:
    question = settled([job()], Limits(), RunOptions(), 1e9, "cost", {"cp": (1,), "pp": (1,)}, False, True)
    group = candidates(question, [("h100", 8)], (), ())[0]
    there = pickle.loads(pickle.dumps((question, group)))
    made = pickle.loads(pickle.dumps(search_places(*there)))
    assert [str(place) for place, _ in made.picks] == [str(place) for place in group]
    assert isinstance(made.picks[0][0], Place)


# -- train and memory without a layout --------------------------------------------------------


PLANNED = ["llama-3-70b --gpu h100 --gpus 64", "llama-3-8b --gpu h100 --gpus 8 --recompute full"]


@pytest.mark.parametrize("line", PLANNED)
def test_a_layout_is_planned_where_the_plain_one_does_not_fit(line: str) -> None:
    found = answer("train", *line.split())
    assert found["fits"]
    note = next(note for note in found["warnings"] if "layout planned: " in note)
    typed = re.search(r"layout planned: ([^:]*):", note)
    assert typed
    flags = [f"--{one.replace('_', '-').replace('=', ' ')}".removesuffix(" True") for one in typed[1].split(", ")]
    assert ("--sequence-parallel" in flags) == found["sequence_parallel"]
    words = [word for flag in flags for word in flag.split()]
    words += ["--global-batch", str(found["global_batch"])]
    own = answer("train", *line.split(), *(w for w in words if w not in ("--recompute", "full")))
    assert own["step_seconds"] == found["step_seconds"]
    held = answer("memory", *line.split())
    assert held["device_bytes"] == found["memory"]["device_bytes"]


def test_a_layout_that_is_given_is_kept() -> None:
    for line in ("train llama-3-70b --gpu h100 --gpus 64 --tp 8", "train gpt2 --gpu h100 --gpus 8"):
        assert not any("layout planned" in note for note in answer(*line.split())["warnings"])


# -- bad lines --------------------------------------------------------------------------------

_WRONG = {
    "--gpu": "h10x '' M4",
    "--gpus": "0 -1 1.5 x 1e99",
    "--instance": "x p5 ''",
    "--provider": "x",
    "--region": "x",
    "--price": "0 -1 x nan",
    "--deadline": "0 -1 x inf 1e300",
    "--budget": "0 x -5",
    "--budget-per-hour": "0 x",
    "--budget-per-month": "0 x",
    "--purchase": "0 x",
    "--most-devices": "0 x 1.5",
    "--headroom": "1 -0.1 x",
    "--peak-kw": "0 x",
    "--by": "x money",
    "--best": "0 x -3",
    "--tp": "0 x 1.5",
    "--pp": "0 x",
    "--zero": "4 x",
    "--cp": "0 x",
    "--ep": "0 x",
    "--micro-batch": "0 x",
    "--global-batch": "0 x",
    "--seq-len": "0 x",
    "--recompute": "x most",
    "--offload": "x",
    "--optimizer": "x adam8",
    "--precision": "x fp7",
    "--compute": "x",
    "--software": "x",
    "--schedule": "x",
    "--tokens": "0 -1 x nan",
    "--mtbf": "0 x",
    "--storage": "0 x",
    "--pue": "0.5 x",
    "--network": "x -1",
    "--emit": "x",
    "--lang": "fr",
    "--workers": "0 x",
    "--model-id": "x",
}
_TUNED = {
    "--method": "x sft,dpo lora,x",
    "--examples": "0 x",
    "--epochs": "0 x 3",
    "--rank": "0 x",
    "--base": "x",
    "--targets": "x",
}
_BAD = [
    *(f"plan train gpt2 {flag} {value}" for flag, values in _WRONG.items() for value in values.split()),
    *(f"plan finetune gpt2 {flag} {value}" for flag, values in _TUNED.items() for value in values.split()),
    "plan train",
    "plan train x",
    "plan trian gpt2",
    "plan --gpu h100",
    "plan train gpt2 --gpu h100 --instance p5.48xlarge",
    "plan train gpt2 --instance p5.48xlarge --network 50",
    "plan train gpt2 --price 2 --provider AWS",
    "plan train gpt2 --lora",
    "plan train gpt2 --dp 8",
    "plan train gpt2 --fsdp",
    "plan train gpt2 --gpu h100 --emit torchrun --json",
    "plan finetune gpt2 --examples 10 --tokens 10",
    "plan finetune gpt2 --method full --frozen",
    "plan finetune gpt2 --method full --rank 8",
    "plan train gpt2 --gpu h100 --output nowhere.parquet.x",
]


def test_a_hundred_bad_lines_are_refused_in_one_line() -> None:
    assert len(_BAD) >= 100
    for line in _BAD:
        told = refused(*shlex.split(line))
        assert 10 < len(told) < 400, line
        words = shlex.split(line)
        flag = next((word for word in words if word.startswith("--")), "")
        named = flag in told or any(word in told for word in words[-1:] if len(word) > 1)
        assert named or re.search("use|give|missing|must|run|leave|see", told), (line, told)


@pytest.mark.parametrize("wrong", ["h100 x", [], ["h10x"], [("h100", 0)], 3, [None]])
def test_wrong_clusters(wrong: Any) -> None:
    with pytest.raises(LLMHWError):
        plan_training(job(), wrong, tokens=1e9)


def test_json_says_all() -> None:
    done = run(*shlex.split("plan train gpt2 --gpu h100 --gpus 1,8 --tokens 1B --json"))
    names = "title verdict choices front refused why about changes notes counts complete versions"
    assert set(json.loads(done.stdout)) == set(names.split())


def test_a_file_is_of_the_trainer_that_was_planned_and_still_fits(tmp_path: Path) -> None:
    """A form's own program decides what a job needs: FSDP's mixed precision keeps more than was planned."""
    line = "plan finetune llama-3-8b --gpu h100 --gpus 8 --method dpo --examples 100 --emit accelerate".split()
    told = refused(*line)
    assert re.search(r"--emit accelerate is short by [\d.]+ GiB a device .*; ask for --precision fp32-bf16", told)
    made = run(*line, "--precision", "fp32-bf16")
    assert made.returncode == 0, made.stderr
    path = tmp_path / "accelerate.yaml"
    path.write_text(made.stdout, encoding="utf-8")
    assert read(path).options["software"] == "fsdp"
    assert run("memory", "--from", str(path), "--gpu", "h100", "--gpus", "8", "-q").stdout.startswith("Fits")
    inside = run("plan", "finetune", "gpt2", "--gpu", "h100", "--gpus", "1", "--method", "lora", "--emit", "slurm")
    assert "axolotl train" in inside.stdout, inside.stderr


def test_two_limits_that_exclude_each_other_are_named_though_neither_was_searched() -> None:
    cards = "h100,RTX PRO 6000 Blackwell Workstation"  # quick and dear, slow and cheap
    line = "plan train llama-3-8b --tokens 1T --deadline 10 --budget 50000"
    told = run(*line.split(), "--gpu", cards).stdout
    assert "Why: --deadline 10 and --budget 50000 exclude each other: " in told
    assert re.search(r"^Try: --budget \d+: .*, [\d.]+ days", told, re.MULTILINE)
