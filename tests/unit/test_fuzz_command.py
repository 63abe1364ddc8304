"""Whatever is typed, the command answers in numbers or refuses in one line; never a traceback, a hang or nonsense.

With LLMHW_FUZZ_EXAMPLES=50000 so many lines are tried in all.
"""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.cli import COMMANDS
from llmhw.validation import template
from tests.unit.command import Done, run
from tests.unit.lines import Asked, lines

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "0"))
SECONDS = 20.0  # of this process, to see a hang and no slowness: how fast it is, benchmarks/startup.py measures
# How many of a hundred lines are of this command: most where most can go wrong.
SHARES = {
    "train": 22,
    "serve": 22,
    "simulate": 14,
    "memory": 12,
    "validate": 6,
    "plan train": 5,
    "plan finetune": 5,
    "plan serve": 5,
    "fit": 3,
    "model": 4,
    "explain": 4,
}


def examples(share: float, usual: int) -> Any:
    return settings(
        max_examples=max(int(EXAMPLES * share / 100), 1) if EXAMPLES else usual,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# -- what an answer must be -------------------------------------------------------------------

# No number; minus nothing; a number that no machine has; what cannot be below nothing.
NONSENSE = re.compile(
    r"(?<![\w.'\"/=-])-?\$?(nan|inf|infinity)(?![\w'\"/]|,? (band|fabric))"
    r"|(?<![\w.])-0(\.0+)?(?![\d.\w])"
    r"|(?<![\w.=])\d[\d.,]*e\+?[3-9]\d\b|(?<![\w.=])\d[\d.,]*e\+?[1-9]\d\d\b|(?<![\w.=])(\d{30,}|\d{1,3}(,\d{3}){9,})"
    r"|(?<![\w.)=])-\d[\d.,]*e?[\d+-]* ([KMGTPE]i?B|B|m?s|tokens|bytes|days|W|kWh|GFLOP|PFLOP)\b"
    r"|\$-\d|(?<![\w.])-\$",
    re.IGNORECASE,
)
# Keys of numbers that may be below 0: errors and where they lie.
SIGNED = ("error", "bias", "effect", "slope", "residual", "drift", "deviation", "exponent")


def nonsense(text: str) -> str:
    """What in a text is no number that anybody can use; what was refused quotes what it was given."""
    told = "\n".join(re.sub(r"='[^']*'", "", line) for line in text.splitlines() if "refused: " not in line)
    found = NONSENSE.search(told)
    return told[max(0, found.start() - 80) : found.end() + 40] if found else ""


def below_nothing(value: Any, path: str = "") -> str:
    """Where in an answer as JSON a number is below 0."""
    if isinstance(value, dict):
        return next((found for key, entry in value.items() if (found := below_nothing(entry, f"{path}/{key}"))), "")
    if isinstance(value, list):
        return next((found for entry in value if (found := below_nothing(entry, path))), "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    below = value < 0 or str(value) == "-0.0"
    return f"{path}: {value}" if value > 1e40 or (below and not any(word in path for word in SIGNED)) else ""


def check_form(form: str, content: bytes) -> None:
    """That a file, or what is printed, is what its form says."""
    if form == "svg":
        assert not re.search(r">[^<]*(nan|inf)\b|[=\" ](nan|inf)[\" ]", content.decode())
        return
    if form == "xlsx":
        assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None
        return
    text = content.decode()
    if form == "json":
        found = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
        assert not below_nothing(found), below_nothing(found)
        return
    if form == "csv":
        head, *rows = list(csv.reader(io.StringIO(text), strict=True)) or [[]]
        assert len(set(head)) == len(head)
        assert {len(row) for row in rows} <= {len(head)}
        assert not [cell for row in rows for cell in row if cell.startswith(("{'", "<", "Decimal("))]
        answers = [row for row in rows if "refused" not in head or not row[head.index("refused")]]
        text = "\n".join(map(",".join, answers))
    assert not nonsense(text), nonsense(text)
    if form == "html":
        html.parser.HTMLParser().feed(text)


def asked_in(folder: Path, asked: Asked) -> list[str]:
    """The line, when its files lie in the folder."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in asked.files.items():
        (folder / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    return [word.replace("{dir}", str(folder)) for word in asked.line]


def form_of(line: list[str]) -> str:
    if "--csv" in line:
        return "csv"
    return "json" if "--json" in line or "-j" in line else "txt"


def told(line: list[str]) -> Done:
    """What the command says; it is a line where it refuses, and in time."""
    began = time.process_time()
    done = run(*line)
    took = time.process_time() - began
    assert done.returncode in (0, 1, 2), done.stderr
    assert len(done.stderr.splitlines()) == (done.returncode == 2), done.stderr
    assert len(done.stderr) < 4000, done.stderr[:300]
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    many = "all" in line or any("," in word for word in line) or len(set(line)) < len(line)
    assert took < SECONDS * (10 if many or "measure" in line else 1), f"{took:.1f} s"
    if done.returncode == 2:
        assert done.stdout == ""
    return done


def check(folder: Path, asked: Asked) -> None:
    line = asked_in(folder, asked)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = told(line)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after.get(name) for name in before} == before, "an input was written onto"
    made = [name for name in after if name not in before]
    assert all(re.fullmatch(r"out\.\w+|plot\.svg|fitted\.json", name) for name in made), made
    if done.returncode == 2:
        assert not [name for name in made if name != "fitted.json"], made
    for name in made:
        check_form(name.partition(".")[2], after[name])
    if done.stdout and not {"-e", "--explain", "--help", "-h", "explain", "completion", "--template"} & set(line):
        check_form(form_of(line), done.stdout.encode())


# `llmhw mcp` answers no line, but messages: see test_mcp.py.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "mcp"])
def test_any_line(name: str, tmp_path: Path) -> None:
    share = SHARES.get(name, 1.5)

    @examples(share, usual=max(5, int(share)))
    @given(asked=lines(name))
    def any_line(asked: Asked) -> None:
        check(tmp_path, asked)

    any_line()


# -- no contradictions ------------------------------------------------------------------------


def same(cell: str, value: Any) -> bool:
    """Whether a cell of a table is this value of JSON."""
    if value is None:
        return cell == ""
    if isinstance(value, float):
        return float(cell) == value
    return cell == str(value)


@pytest.mark.parametrize("name", ["train", "serve", "simulate", "memory", "fit", "model", "validate"])
def test_forms_agree(name: str, tmp_path: Path) -> None:
    """Text, --json and --csv of one line: all refuse it alike, or tell the same numbers."""

    @examples(1, usual=1 if name == "fit" else 3)
    @given(asked=lines(name, wrong=False, form=False))
    def agree(asked: Asked) -> None:
        line = [
            word for word in asked_in(tmp_path, asked) if word not in ("--curve", "--csv", "--template", "--columns")
        ]
        text, as_json, as_csv = told(line), told([*line, "--json"]), told([*line, "--csv"])
        assert text.returncode == as_json.returncode == as_csv.returncode
        assert text.stderr == as_json.stderr == as_csv.stderr
        if text.returncode:
            return
        found, rows = json.loads(as_json.stdout), list(csv.DictReader(io.StringIO(as_csv.stdout)))
        if isinstance(found, list):  # many answers
            assert len(rows) >= len(found)
            return
        quiet = told([*line, "-q"]).stdout
        assert quiet.strip() in text.stdout
        if len(rows) == 1:
            told_twice = [key for key in rows[0] if key in found]
            assert name == "validate" or len(told_twice) > 4
            for key in told_twice:
                assert same(rows[0][key], found[key]), (key, rows[0][key], found[key])
            for key, interval in found.items():
                if interval and key.endswith("_interval") and key.replace("_interval", "_low") in rows[0]:
                    assert [float(rows[0][key.replace("_interval", end)]) for end in ("_low", "_high")] == interval

    agree()


@pytest.mark.parametrize("name", ["train", "serve", "memory", "fit"])
def test_many_values_are_as_many_lines(name: str, tmp_path: Path) -> None:
    """A row of a table of combinations says what the line of that combination alone says."""
    values = {"--gpus": "1,8", "--tp": "1,2"} if name != "fit" else {"--gpus": "1,2", "--batch": "1,3"}
    values |= {"--seq-len": "128,777"} if name != "serve" else {"--concurrency": "1,5", "--input-tokens": "100,300"}

    @examples(1, usual=1 if name == "fit" else 2)
    @given(asked=lines(name, wrong=False, form=False), data=st.data())
    def agree(asked: Asked, data: Any) -> None:
        line = [word for word in asked_in(tmp_path, asked) if word not in ("--curve", "--csv")]
        flag = data.draw(st.sampled_from(list(values)))
        short = {"--seq-len": "-s", "--concurrency": "-c", "--batch": "-b"}.get(flag, flag)
        flags = [word for word in line if word.startswith("-")]
        assume(not {flag, short} & set(flags) and not any("," in word for word in line))
        assume(len(set(flags)) == len(flags))
        alone = [told([*line, flag, value, "--csv"]) for value in values[flag].split(",")]
        # among many, some combinations may have no use for a network
        assume(not any(re.search("--(network|link) .* has no effect", done.stderr) for done in alone))
        both = told([*line, flag, values[flag], "--csv"])
        assert (both.returncode == 2) == all(done.returncode == 2 for done in alone)
        rows = [row for row in csv.DictReader(io.StringIO(both.stdout)) if not row["refused"]]
        expected = [row for done in alone for row in csv.DictReader(io.StringIO(done.stdout))]
        for row, right in zip(rows, expected, strict=True):
            assert all(row.get(key) == right[key] for key in right if key != "best")

    agree()


# What broke it once, or was ignored in silence.
REFUSED = {
    "model gpt2 \x1b[31m": "unexpected extra argument",
    "\x9b": "is no command",
    "model gpt2 --\x07": "is no option of model",
    "explain matmul_flops tokens=1 weights=7B --csv": "is no row of a table",
    "explain matmul_flops tokens=1 weights=7B --batch 2": "--batch 2 has no effect on topic='matmul_flops'",
    "explain weights gpt2 --optimizer muon": "--optimizer muon has no effect on topic='weights'",
    "explain kv-cache gpt2 --batch 1,2": "explain is for one answer; give one value of --batch",
    "train gpt2 --gpu h100 --network 1,2 --explain MFU": "--explain is for one answer; give one value of --network",
    "validate --kind facts --columns --plot x.svg": "--plot draws errors, and --columns has none",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str) -> None:
    done = told(line.split(" "))
    assert REFUSED[line] in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()


@pytest.mark.parametrize("name", ["models", "gpus", "links", "formats", "prices", "trainers"])
@pytest.mark.parametrize("ending", ["csv", "xlsx", "md", "html", "json", "txt"])
def test_lists_in_every_form(name: str, ending: str, tmp_path: Path) -> None:
    check(tmp_path, Asked([name, "h1" if name in ("gpus", "prices") else "4", "--output", f"{{dir}}/out.{ending}"], {}))
    assert (tmp_path / f"out.{ending}").exists()


# Of a question and what grows in it: the column that must not shrink (+) or must not grow (-).
GROWS = [
    ("memory {model} --gpu h100 --zero 3 --recompute full --gpus", "1,2,4,8,16,64", "-", "device_bytes"),
    ("memory {model} --gpu h100 --gpus 8 --zero 3 --micro-batch", "1,2,4,8", "+", "device_bytes"),
    ("memory {model} --gpu h100 --seq-len", "128,256,1024", "+", "device_bytes"),
    ("train {model} --gpu h200 --gpus 8 --zero 3 --tokens", "1e9,1e10,1e12", "+", "days"),
    ("train {model} --gpu h200 --gpus 8 --zero 3 --price", "1,2,30", "+", "dollars"),
    ("train {model} --gpu h200 --gpus 8 --zero 3 --mtbf", "1000,10000,inf", "-", "days"),
    ("serve {model} --gpu h200 --gpus 8 --tp 8 --utilization", "0.5,0.7,0.95", "+", "capacity"),
    ("serve {model} --gpu h200 --gpus 8 --tp 8 --concurrency", "1,4,16,64", "+", "tpot_seconds"),
    ("serve {model} --gpu h200 --gpus 8 --tp 8 -c 4 --input-tokens", "100,2000,7000", "+", "ttft_seconds"),
    ("model {model} --batch", "1,2,9", "+", "kv_cache_bytes"),
]


@pytest.mark.parametrize(("asked", "values", "way", "column"), GROWS, ids=[case[0] for case in GROWS])
@pytest.mark.parametrize("model", ["mistral-7b", "llama-3-8b", "gemma-3-12b"])
def test_more_is_more(model: str, asked: str, values: str, way: str, column: str) -> None:
    done = told([*asked.format(model=model).split(), values, "--csv"])
    rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if not row["refused"]]
    found = [float(row[column]) for row in rows if row[column]]
    assert len(found) > 1
    assert found == sorted(found, reverse=way == "-")


def test_a_small_rate_is_no_zero() -> None:
    table = told(["serve", "llama-3-8b", "--gpu", "h100", "--rate", "1e-5,0.001"]).stdout
    assert "0.00500" in table
    assert "0.500" in table
    slow = ["train", "deepseek-v3", "--gpu", "T4", "--gpus", "1024", "--kernels", "megatron", "--network", "1"]
    shown = told([*slow, "--compute", "fp16", "--seq-len", "1"]).stdout
    assert re.search(r"^tokens/s a device +0\.\d*[1-9]", shown, re.MULTILINE)


FILES = {
    "config.json": json.dumps(dict(llmhw.model("gpt2").config), default=dict),
    "lengths.csv": "input_tokens,output_tokens\n3,4\n",
    "trace.csv": "arrival_seconds,input_tokens,output_tokens\n0,3,4\n",
    "table.csv": template("serving"),
    "calibration.json": "{}",
}
READ = [
    "fit {config.json} --gpu h100",
    "memory {config.json} --gpu h100",
    "train {folder} --gpu h100",
    "serve gpt2,{config.json} --gpu h100",
    "serve gpt2 --gpu h100 --draft {config.json}",
    "serve gpt2 --gpu h100 --calibration {calibration.json}",
    "simulate gpt2 --gpu h100 --trace {trace.csv}",
    "simulate gpt2 --gpu h100 --rate 1 --requests 3 --input-tokens csv:{lengths.csv}",
    "simulate gpt2 --gpu h100 --rate 1 --requests 3 --output-tokens 3,csv:{lengths.csv}",
    "model {config.json}",
    "explain weights {config.json}",
    "measure params {config.json}",
    "validate {table.csv} --kind serving",
]
PLOTTED = {"memory", "train", "serve", "simulate", "validate", "cost"}


@pytest.mark.parametrize("other", [os.symlink, os.link, None])
@pytest.mark.parametrize("line", READ)
def test_no_input_is_written_onto(line: str, other: Any, tmp_path: Path) -> None:
    """Whatever a line reads, and by whatever name the file to write is called."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    read = re.search(r"{(.*)}", line)[1].replace("folder", "config.json")  # type: ignore[index]
    words = [re.sub(r"{(.*)}", lambda m: str(tmp_path / m[1].replace("folder", "")), word) for word in line.split()]
    for flag, name in (("--output", "other.json"), ("--plot", "other.svg"), ("--fit", "other")):
        if flag == "--output" or (words[0] in PLOTTED if flag == "--plot" else words[0] == "validate"):
            path = tmp_path / name if other else tmp_path / read
            if other:
                other(tmp_path / read, path)
            done = told([*words, flag, str(path), *([f"--{path.suffix[1:]}"] if flag == "--output" else [])])
            assert done.returncode == 2
            assert (tmp_path / read).read_text(encoding="utf-8") == FILES[read]
            assert "is the file that is read" in done.stderr or flag == "--plot"
