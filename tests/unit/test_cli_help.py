"""What the command says of itself: help, hints, synonyms, completion, and that all of it is true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from llmhw.cli import COMMANDS, cli
from llmhw.cli.output import flags_of, in_flags
from tests.unit.command import refused, run

ROOT = Path(__file__).parents[2]


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def flags(name: str) -> set[str]:
    """All flags of a command."""
    return {flag for param in command(name).params for flag in (*param.opts, *param.secondary_opts)} | {"-h", "--help"}


def test_alone_it_asks_five_questions() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    asked = re.findall(r"llmhw (?:plan|which|fit|serve|train) .*", done.stdout)
    assert len(asked) == 5
    for line in asked:
        assert run(*shlex.split(line)[1:]).returncode == 0, line


def test_all_commands_are_listed_with_what_they_answer() -> None:
    text = " ".join(run("--help").stdout.split())
    for name, (_, group, what) in COMMANDS.items():
        assert what in text
        assert group in text
        assert command(name).name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_in_80_columns(name: str) -> None:
    done = run(*name.split(), "--help", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    for param in command(name).params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert max(param.opts, key=len) in done.stdout


LOG = Path(__file__).parent / "logs" / "sglang.log"


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name in COMMANDS for line in getattr(command(name), "examples", [])]
)
def test_examples_run(name: str, line: str) -> None:
    assert line in run(*name.split(), "--help").stdout
    if name == "measure":
        pytest.importorskip("torch", reason="needs the extra torch")
    done = run(*shlex.split(line.replace("server.log", str(LOG)))[1:])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_help_and_books_name_only_options_that_exist() -> None:
    texts = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    texts |= {str(p): p.read_text(encoding="utf-8") for p in [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]}
    for name in COMMANDS:
        texts[f"{name} --help"] = run(*name.split(), "--help").stdout
    found = 0
    for where, text in texts.items():
        for line in re.findall(rf"llmhw ((?:{'|'.join(COMMANDS)})(?: [^`\n|]*)?)", text):
            name = next(name for name in COMMANDS if f"{line} ".startswith(f"{name} "))
            for flag in re.findall(r"(?<=\s)--[a-z][a-z-]*", line):
                found += 1
                assert flag in flags(name), f"{where}: llmhw {line}"
    assert found > 40


def test_version_and_colours() -> None:
    assert run("-V").stdout == run("--version").stdout
    assert run("-V").returncode == 0
    plain = run("memory", "gpt2", "--gpu", "h100", "--no-color")
    assert "\x1b" not in plain.stdout
    assert plain.stdout == run("memory", "gpt2", "--gpu", "h100").stdout
    assert run("gpus", "h100", "--lang", "en").returncode == 0
    assert "--lang fr is not known; use one of en, zh" in refused("gpus", "--lang", "fr")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("serve llama-3-8b --gpu h100 --quantization fp8", "use --weights"),
        ("serve llama-3-8b --gpu h100 --ctx 8192", "use --max-model-len"),
        ("serve llama-3-8b --gpu h100 --batch 8", "use --concurrency"),
        ("serve llama-3-8b --gpu h100 --tensor-parallel-size 8", "use --tp"),
        ("serve llama-3-8b --gpu h100 --kv-cache-dtype fp8", "use --kv"),
        ("train llama-3-8b --gpu h100 --fsdp", "use --zero 3"),
        ("train llama-3-8b --gpu h100 --dp 8", "give --gpus"),
        ("train llama-3-8b --gpu h100 --batch-size 8", "use --micro-batch"),
        ("train llama-3-8b --gpu h100 --gradient-checkpointing", "use --recompute full"),
        ("train llama-3-8b --gpu h100 --lora", "use --frozen"),
        ("fit llama-3-8b --gpu h100 --num-gpus 2", "use --gpus"),
        ("fit llama-3-8b --gpu h100 --quant fp8", "use --weights"),
        ("memory --model llama-3-8b --gpu h100", "the model stands without a flag"),
        ("memory llama-3-8b --gpu h100 --recompte full", "use --recompute"),
        ("memory llama-3-8b --device h100", "use --gpu"),
        ("fit llama-3-8b --gpu RTX 4090", 'wants quotes: --gpu "RTX 4090"'),
        ("serve llama-3-8b --gpu A100 80GB SXM4 --gpus 2", 'wants quotes: --gpu "A100 80GB SXM4"'),
        ("fit llama-3-8b", "--gpu"),
        ("fti llama-3-8b", "did you mean fit"),
        ("--gpu h100", "options stand behind a command"),
    ],
)
def test_hints(arguments: str, hint: str) -> None:
    assert hint in refused(*arguments.split())


def test_the_library_s_arguments_are_told_as_flags() -> None:
    known = flags_of(command("train"))
    for text, told in (
        ("recompute='full', zero=3", "--recompute full, --zero 3"),
        ("use uneven=True", "use --uneven"),
        ("dropout=False", "--no-dropout"),
        ("gpu='RTX 4090'", "--gpu 'RTX 4090'"),
        ("give max_model_len=8", "give max_model_len=8"),
        ("raise global_batch or devices=64", "raise --global-batch or --gpus 64"),
        ("dp x tp = 8 x 2; a formula(tokens=3) ends", "dp x tp = 8 x 2; a formula(--tokens 3) ends"),
        ("compute=None", "--compute None"),
    ):
        assert in_flags(text, known) == told


# -- completion -------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    number = len(line.partition("'")[0].split()) - ("'" not in line)
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(number))
    return [text.partition(",")[2] for text in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("llmhw se", "serve"),
        ("llmhw model qwen3-2", "qwen3-235b-a22b"),
        ("llmhw fit gpt2 --gpu H100", "H100 SXM5 80GB"),
        ("llmhw fit gpt2 --gpu h100,rtx", "h100,RTX 5090"),
        ("llmhw fit gpt2 --gpu 'RTX 5", "RTX 5090"),
        ("llmhw train gpt2 --network Inf", "InfiniBand NDR 4x"),
        ("llmhw train gpt2 --link NV", "NVLink 4"),
        ("llmhw train gpt2 --recompute s", "selective"),
        ("llmhw train gpt2 --schedule zero", "zero-bubble"),
        ("llmhw train gpt2 --offload opt", "optimizer"),
        ("llmhw train gpt2 --attention f", "flash"),
        ("llmhw train gpt2 --optimizer adamw-8", "adamw-8bit"),
        ("llmhw train gpt2 --software torcht", "torchtitan"),
        ("llmhw serve gpt2 --engine v", "vllm"),
        ("llmhw simulate gpt2 --mode c", "continuous"),
        ("llmhw validate --kind training-", "training-memory"),
        ("llmhw explain kv-", "kv-cache"),
    ],
)
def test_completion(line: str, name: str) -> None:
    assert name in completed(line)


def test_bash_puts_names_with_spaces_in_as_they_must_be_typed(tmp_path: Path) -> None:
    source = run("completion", "bash").stdout
    tell = tmp_path / "llmhw"
    tell.write_text("#!/bin/sh\nprintf 'plain,RTX 5090\\n'\n", encoding="utf-8")
    tell.chmod(0o755)
    script = f"PATH={tmp_path}:$PATH\n{source}\nCOMP_WORDS=(llmhw fit --gpu RTX); COMP_CWORD=3\n"
    script += '_llmhw_completion llmhw; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "RTX\\ 5090\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("serve llama-3-8b --gpu h100 --curve", "--curve asks for rows; add --csv"),
        ("gpus h100 --quiet --json", "--quiet prints the verdict alone"),
        ("train llama-3-8b --gpu h100 --gpus 8 --network 50", "--network 50 has no effect: 8 devices are in one node"),
        ("serve llama-3-8b --gpu h100 --link 'NVLink 4'", "has no effect on one device"),
        ("serve llama-3-8b --gpu h100 --draft-tokens 3", "has no effect without a draft"),
        ("serve llama-3-8b --gpu h100 --page-size 0", "--page-size 0 must be a whole number of at least 1"),
        ("serve llama-3-8b --gpu h100 --max-model-len 0", "--max-model-len 0 must be a whole number of at least 1"),
        ("train llama-3-8b --gpu h100 --global-batch 0", "--global-batch 0 must be a whole number of at least 1"),
        ("memory llama-3-8b --gpu h100 --recompute-layers -1", "--recompute-layers -1"),
        ("memory llama-3-8b --gpu h100 --recompute-layers 3", "--recompute-layers 3 has no effect"),
        ("memory mixtral-8x7b --gpu h100 --expert-imbalance 1e30", "--expert-imbalance 1e+30"),
        ("simulate llama-3-8b --gpu h100 --rate 1 --speed 2", "--speed 2.0"),
        ("explain weights gpt2 --batch 4", "--batch 4 has no effect"),
        ("train llama-3-8b --gpu h100 --price 2 --provider aws", "leave provider"),
        ("serve llama-3-8b --gpu h100 --slo-tpot 33", "it is in seconds; 33 ms are --slo-tpot 0.033"),
        ("serve llama-3-8b --gpu h100 --engine vlLM --kv q4_0", "--kv"),
        ("serve llama-3-8b --gpu 'M4 Max 128GB' --engine tensorrt-llm", "--engine tensorrt-llm does not run on M4 Max"),
        ("serve llama-3-8b --gpu h100 --engine tensorrt-llm --weights q4_k_m", "is not read by tensorrt-llm"),
        ("serve llama-3-8b --gpu 'A100 80GB SXM4' --weights nvfp4 --engine tensorrt-llm", "does not multiply"),
    ],
)
def test_what_has_no_effect_or_does_not_exist_is_refused(arguments: str, message: str) -> None:
    assert message in refused(*shlex.split(arguments))


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(
    "line",
    [
        "gpus",
        "models",
        "prices",
        "fit llama-3-8b --gpu h100",
        "serve llama-3-8b --gpu h100,h200 --weights bf16,fp8 -c 8",
        "train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute none,full",
        "train llama-3-8b --gpu h100 --gpus 8",
        "serve deepseek-v3 --gpu h200 --gpus 16 --tp 16",
    ],
)
def test_a_terminal_of_80_columns(line: str) -> None:
    """No line is longer than the terminal, and colours are there unless they are not wanted."""
    import fcntl
    import pty
    import struct
    import termios

    def shown(*more: str) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        command = [sys.executable, "-m", "llmhw", *shlex.split(line), *more]
        # a bar of progress, on stderr, comes on a machine that is busy
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
            os.close(theirs)
            text = b""
            while True:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
                if not piece:
                    break
                text += piece
        os.close(ours)
        assert process.returncode == 0
        return text.decode().replace("\r\n", "\n")

    plain = shown("--no-color")
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80
