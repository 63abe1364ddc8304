"""How the command ends: closed pipes, full disks, Ctrl-C, mistakes inside, files that are whole or not there."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from llmhw.cli import catalog, command
from llmhw.cli.terminal import Progress
from tests.unit.command import run

START = [sys.executable, "-W", "error", "-c", "from _llmhw import main; main()"]
posix = pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")


def shell(text: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell, in which `llmhw` is the command."""
    line = f"llmhw() {{ '{sys.executable}' -c 'from _llmhw import main; main()' \"$@\"; }}; set -o pipefail; {text}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)


@posix
@pytest.mark.parametrize(
    "asked",
    [
        "models",
        "models --json",
        "gpus --csv",
        "explain",
        "train gpt2 --gpu h100",
        "fit gpt2 --gpu h100 --json",
        "--help",
    ],
)
def test_a_reader_that_leaves_is_no_error(asked: str) -> None:
    done = shell(f"llmhw {asked} | head -n 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@posix
@pytest.mark.parametrize("asked", ["models", "gpus --json", "explain weights gpt2", "--help", "", "completion bash"])
def test_an_output_that_takes_nothing(asked: str) -> None:
    full = shell(f"llmhw {asked} >/dev/full")
    assert full.returncode == 1
    assert full.stderr == "llmhw: the output cannot be written: No space left on device\n"
    closed = shell(f"llmhw {asked} >&-")
    assert closed.returncode == 1
    assert closed.stderr.startswith("llmhw: the output cannot be written: ")
    assert len(closed.stderr.splitlines()) == 1
    both = shell(f"llmhw {asked} >/dev/full 2>/dev/full")
    assert (both.returncode, both.stderr) == (1, "")


@posix
@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.08, 0.12, 0.2, 0.4])
def test_interrupted_at_any_moment(after: float) -> None:
    """While Python loads, it ends as by its default: by the signal itself; later with one line and 130."""
    asked = ["simulate", "llama-3-8b", "--gpu", "h100", "--rate", "8", "--requests", "100000000", "--json"]
    code = "import signal as s; s.signal(s.SIGINT, s.SIG_DFL); print(flush=True); from _llmhw import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert len(err.splitlines()) <= 1


@posix
def test_told_to_end_it_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("old", encoding="utf-8")
    asked = ["simulate", "llama-3-8b", "--gpu", "h100", "--rate", "8", "--requests", "100000000", "--output", str(path)]
    with subprocess.Popen([*START, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert [p.name for p in tmp_path.iterdir()] == ["found.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_mistake_inside_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: dict[str, object]) -> None:
        raise KeyError("what nobody\nforesaw")

    monkeypatch.setattr(catalog.MODEL, "ask", broken)
    done = run("model", "gpt2", "--batch", "2")
    assert (done.returncode, done.stdout) == (70, "")
    assert len(done.stderr.splitlines()) == 1
    for text in ("KeyError", "please report it at https://", "llmhw model gpt2 --batch 2", "--debug"):
        assert text in done.stderr
    with pytest.raises(KeyError):
        run("model", "gpt2", "--debug")


@pytest.mark.parametrize(
    "asked", [["explain"], ["train", "--help"], ["fit", "gpt2", "--gpu", "h100"], ["models", "gpt2"]]
)
def test_without_docstrings(asked: list[str]) -> None:
    done = subprocess.run([sys.executable, "-OO", "-m", "llmhw", *asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_any_locale_and_terminal(locale: str) -> None:
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "TERM": "dumb", "COLUMNS": "0"}
    done = subprocess.run([*START, "gpus"], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")


# -- files ------------------------------------------------------------------------------------

ASK = ["train", "llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3", "--recompute", "full"]


@pytest.mark.parametrize("ending", ["json", "csv", "md", "html", "txt", "xlsx"])
def test_the_ending_says_the_form(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"answer.{ending}"
    done = run(*ASK, "--output", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if ending == "xlsx":
        with zipfile.ZipFile(path) as book:
            assert "step_seconds" in book.read("xl/sharedStrings.xml").decode()
        return
    text = path.read_text(encoding="utf-8")
    if ending == "json":
        assert text == run(*ASK, "--json").stdout
        assert json.loads(text)["versions"]["llmhw_version"]
    elif ending == "csv":
        assert text == run(*ASK, "--csv").stdout
        (row,) = csv.DictReader(text.splitlines())
        assert (row["model"], row["catalog_date"][:2]) == ("llama-3-8b", "20")
    elif ending == "txt":
        assert text == run(*ASK).stdout
    else:
        assert "llama-3-8b" in text
        assert ("<table>" if ending == "html" else "| --- |") in text


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x.foo", "needs a form: end it in .json, .csv"),
        ("x", "needs a form"),
        ("", "is no name of a file"),
        ("no/x.csv", "its folder does not exist"),
        (".", "needs a form"),
    ],
)
def test_wrong_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*ASK, "--output", output)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dash_is_the_terminal() -> None:
    assert run(*ASK, "--csv", "--output", "-").stdout == run(*ASK, "--csv").stdout


TRACE = "arrival_seconds,input_tokens,output_tokens\n0,100,20\n1,200,40\n"


@posix
@pytest.mark.parametrize("how", ["same", "other name", "symbolic", "hard"])
@pytest.mark.parametrize("what", ["trace", "config", "calibration", "rows", "fit", "plot"])
def test_what_is_read_is_never_written_onto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    from llmhw.catalog import read_model

    monkeypatch.chdir(tmp_path)
    texts = {"trace": TRACE, "config": json.dumps(read_model("gpt2")[1]), "calibration": "{}"}
    source, target = tmp_path / "in.csv", tmp_path / ("out.svg" if what == "plot" else "out.csv")
    source.write_text(
        texts.get(what, "id,source,model_name\n" if what in ("rows", "fit") else texts["config"]), "utf-8"
    )
    before = source.read_text(encoding="utf-8")
    if how == "symbolic":
        target.symlink_to(source)
    elif how == "hard":
        target.hardlink_to(source)
    name = "in.csv" if how == "same" else "./in.csv" if how == "other name" else target.name
    onto = ["--output", name] if what != "plot" else ["--plot", name]
    asked = {
        "trace": ["simulate", "llama-3-8b", "--gpu", "h100", "--trace", "in.csv", "--csv", *onto],
        "config": ["train", "in.csv", "--gpu", "h100", "--csv", *onto],
        "plot": ["train", "in.csv", "--gpu", "h100", *onto],
        "calibration": ["train", "gpt2", "--gpu", "h100", "--calibration", "in.csv", "--csv", *onto],
        "rows": ["validate", "in.csv", "--kind", "training-memory", "--csv", *onto],
        "fit": ["validate", "in.csv", "--kind", "training-memory", "--fit", name],
    }
    done = run(*asked[what])
    assert done.returncode == 2, done.stdout
    assert "is the file that is read" in done.stderr
    assert source.read_text(encoding="utf-8") == before


# -- progress ---------------------------------------------------------------------------------


def test_a_bar_for_what_takes_long_and_none_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("rows") as step:
        step.began -= 2
        step(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("rows") as step:
        step(1, 4)
        assert capsys.readouterr().err == ""
        step.began -= 2
        step(2, 4)
        step(4, 4)
    assert "rows" in capsys.readouterr().err


def test_too_many_combinations() -> None:
    many = ",".join(map(str, range(1, 200)))
    done = run(*ASK, "--micro-batch", many, "--global-batch", many)
    assert done.returncode == 2
    assert f"39,601 combinations are more than {command.MOST_COMBINATIONS:,}" in done.stderr


# -- one answer in three forms ----------------------------------------------------------------

ANSWERS = {
    "memory llama-3-8b --gpu h100 --gpus 8 --zero 3": {
        "device_bytes": (r"nvidia-smi +([\d.]+) GiB", 2**30),
        "fits": (r"^(Fits|Does not fit)", None),
    },
    "train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --tokens 1B": {
        "step_seconds": (r"step +([\d,.]+) ms", 1e-3),
        "tokens_per_second": (r"tokens/s in all +([\d,.]+)", 1),
        "mfu": (r"MFU +([\d.]+) %", 0.01),
        "memory_device_bytes": (r"memory +([\d.]+) GiB", 2**30),
        "fits": (r"^(Fits|Does not fit)", None),
    },
    "train llama-3-70b --gpu h100 --gpus 8": {"fits": (r"^(Fits|Does not fit)", None)},
    "serve llama-3-8b --gpu h100 --concurrency 16": {
        "tokens_per_second": (r"all users +([\d,.]+) tokens/s", 1),
        "ttft_seconds": (r"first token +([\d.]+) ms", 1e-3),
        "dollars_per_million_tokens": (r"a million tokens +\$([\d.]+)", 1),
        "longest": (r"longest context +one sequence of ([\d,]+)", 1),
        "fits": (r"^(Fits|Does not fit)", None),
    },
    "serve llama-3-70b --gpu h100": {"fits": (r"^(Fits|Does not fit)", None)},
    "simulate llama-3-8b --gpu h100 --rate 4 --requests 100": {
        "simulated_ttft_p50": (r"time to first token .*p50 ([\d.]+) ms", 1e-3),
        "output_tokens_per_second_of_all": (r"output tokens .*  ([\d,.]+) a second", 1),
    },
    "model llama-3-8b": {"parameters_total": (r"total +([\d,]+) ", 1), "weight_bytes": (r"total +([\d.]+) GiB", 2**30)},
}


@pytest.mark.parametrize("line", ANSWERS)
def test_text_json_and_csv_say_the_same(line: str) -> None:
    asked = line.split()
    text, plain, table = (run(*asked, *form).stdout for form in ([], ["--json"], ["--csv"]))
    (row,) = csv.DictReader(table.splitlines())
    found = flat(json.loads(plain))
    for name, (pattern, unit) in ANSWERS[line].items():
        match = re.search(pattern, text, re.MULTILINE)
        assert match, f"{name}: {pattern}\n{text}"
        assert row[name] == str(found.get(name, found.get(f"memory_{name}"))), name
        if unit is None:
            assert row[name] == str(match[1] == "Fits")
        else:
            last = 10.0 ** -len(match[1].partition(".")[2])  # what the last digit that is printed stands for
            assert float(match[1].replace(",", "")) == pytest.approx(float(row[name]) / unit, abs=0.51 * last)


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}_") if isinstance(value, dict) else {prefix + name: value}
    return found
