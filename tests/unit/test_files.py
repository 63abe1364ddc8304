"""A file is whole, or it is what it was before."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw.files import read_json, read_text, write_whole
from llmhw.units import LLMHWError


def test_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "row.csv"
    write_whole(path, lambda: "a,b\n1,2\n")
    write_whole(path, lambda: "a,b\n3,4\n")
    assert path.read_bytes() == b"a,b\n3,4\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_if_the_text_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "row.csv"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        write_whole(path, lambda: str(1 / 0))
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    path, link = tmp_path / "row.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    write_whole(link, lambda: "text")
    assert link.is_symlink()
    assert path.read_text(encoding="utf-8") == "text"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is not a file; give the path of a file to write"),
        ("no/row.csv", "cannot be written: its folder does not exist; create it first"),
        ("row.csv/row.csv", "cannot be written (Not a directory); give a path in a folder you may write"),
        (300 * "a", "cannot be written (File name too long); give a path in a folder you may write"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "row.csv").write_text("before", encoding="utf-8")
    with pytest.raises(LLMHWError) as raised:
        write_whole(name, lambda: "text")
    assert str(raised.value) == f"{name} {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["row.csv"]


@pytest.mark.parametrize("name", ["trace.csv", "./trace.csv", "link.csv", "same.csv", "folder/../trace.csv"])
def test_what_is_read_is_never_written_onto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("trace.csv").write_text("measured", encoding="utf-8")
    Path("link.csv").symlink_to("trace.csv")
    Path("same.csv").hardlink_to("trace.csv")
    with pytest.raises(LLMHWError, match=r"output='.*' is the file that is read \(trace.csv\)"):
        write_whole(name, lambda: "text", inputs=["trace.csv", "other.csv"])
    assert Path("trace.csv").read_text(encoding="utf-8") == "measured"
    write_whole("new.csv", lambda: "text", inputs=["trace.csv"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "output='' is an empty path; give the path of a file to write"),
        (" ", "output=' ' is an empty path; give the path of a file to write"),
        ("-", "output='-' is no file; leave it out, and the text is printed"),
        ("a\0b", r"output='a\x00b' holds a zero byte, which no path may; give the path of a file to write"),
        (3, "output=3 is no path; give the path of a file to write"),
    ],
)
def test_what_is_no_path_to_write(name: str, message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        write_whole(name, lambda: "text")
    assert str(raised.value) == message


def test_being_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\nfrom llmhw.files import write_whole\n"
        "def make():\n    print('now', flush=True); time.sleep(60)\n"
        f"write_whole({str(tmp_path / 'row.csv')!r}, make)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": [1, 2.5]}', '\ufeff{"a": [1, 2.5]}', '{"a": [1, 2.5]}\r\n'])
def test_json_with_and_without_a_byte_order_mark(tmp_path: Path, text: str) -> None:
    (tmp_path / "any name").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "any name") == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON (line 1: "),
        ("[1]", "holds a JSON list, not an object"),
        ("[" * 100_000, "within each other more than 40 deep"),
        ('{"a":' * 50_000, "within each other more than 40 deep"),
        ('{"a": ' + "9" * 5000 + "}", "of more than 20 digits"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice in one object; leave one out"),
        ('{"b": {"a": 1, "a": 1}}', "has the key 'a' twice in one object; leave one out"),
        ('{"a": NaN}', "has NaN, which is no JSON"),
        ('{"a": -Infinity}', "has -Infinity, which is no JSON"),
        ('"' + '\\"' * 200_000, "is not JSON"),
    ],
)
def test_what_is_no_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LLMHWError) as raised:
        read_json(path, argument="calibration", way_out="give another")
    assert str(raised.value).startswith(f"calibration={str(path)!r} ")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_brackets_inside_strings_are_not_depth(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "' + "[" * 1000 + '\\"{"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json")["a"] == "[" * 1000 + '"{'


def test_only_files_within_limits_are_read(tmp_path: Path) -> None:
    def refused(path: str | Path, message: str) -> None:
        with pytest.raises(LLMHWError, match=message):
            read_text(path, limit=10)

    (tmp_path / "large").write_text("01234567890", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it: opening it may not wait
    refused(tmp_path / "large", "has more than 10 bytes")
    refused(tmp_path / "binary", "is not text in UTF-8")
    refused(tmp_path / "zeros", r"cannot be read \(it is no regular file\)")
    refused(tmp_path / "pipe", r"cannot be read \(it is no regular file\)")
    refused(tmp_path, r"cannot be read \(it is a folder\)")
    refused(tmp_path / "none", "does not exist")
    refused("a" * 300, "File name too long")
    refused("", "is an empty path")
    refused("a\0b", "holds a zero byte")


def test_a_pipe_of_the_shell_and_standard_input_are_read() -> None:
    code = 'import sys; from llmhw.files import read_json; print(read_json(sys.argv[1])["a"])'
    for path in ("-", "/dev/stdin"):
        done = subprocess.run([sys.executable, "-c", code, path], input='{"a": 7}', capture_output=True, text=True)
        assert done.stdout == "7\n", done.stderr
    shell = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <(sleep 0.2; echo '{{\"a\": 8}}')"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, text=True).stdout == "8\n"
