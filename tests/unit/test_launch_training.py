"""Files of trainers: written so that the programs take them, and read back as the job that they came from."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from shlex import split
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmhw import Cluster, LLMHWError, ModelSpec, Parallelism, TrainingJob
from llmhw.launch import FORMS, Launched, changed, emit, read, usual_form, written
from llmhw.launch.training import OPTIM
from tests.unit.command import run

OPTIONS = Path(__file__).parent / "launch_options"
TRAINERS = [name for name, form in FORMS.items() if form.of == "training"]


@cache
def options(name: str) -> dict[str, dict[str, str]]:
    """What a program takes, as its own parser or schema said."""
    with (OPTIONS / f"{name}.csv").open(newline="") as file:
        return {row["option"]: row for row in csv.DictReader(file)}


def job(model: str = "llama-3.1-8b", gpus: int = 8, **fields_of: Any) -> TrainingJob:
    layout = {f.name: fields_of.pop(f.name) for f in fields(Parallelism) if f.name in fields_of}
    taken = layout.get("tp", 1) * layout.get("pp", 1) * layout.get("cp", 1)
    parallelism = Parallelism(dp=gpus // taken, **layout)
    return TrainingJob(model=model, cluster=Cluster("h100", gpus), parallelism=parallelism, **fields_of)


# One of each kind that people ask for.
JOBS = {
    "full": job(zero=3, recompute="full", micro_batch=2, global_batch=64, loss="chunked"),
    "hsdp": job(gpus=16, zero=3, replicas=2, recompute="full", compiled=True, offload="all"),
    "zero 2": job(zero=2, optimizer="adamw-8bit", global_batch=32),
    "offload": job(zero=3, offload="optimizer", software="deepspeed"),
    "ddp": job(precision="fp32-bf16", optimizer="adamw-fused"),
    "lora": job(gpus=1, frozen=True, rank=64, targets="q_proj v_proj", recompute="full", adapters="bf16"),
    "qlora": job(
        gpus=1,
        frozen=True,
        base="nf4-dq",
        optimizer="paged-adamw-8bit",
        packed=512,
        checkpoint_offload=True,
        recompute="full",
    ),
    "8 bit": job(frozen=True, base="int8-llm", zero=3),
    "dpo": job(zero=3, method="dpo", recompute="full"),
    "grpo": job(zero=3, method="grpo", group=8, completion=1024, rollout_share=0.3, global_batch=64),
    "server": job(zero=2, method="grpo", group=4, rollout_gpus=2, frozen=True, global_batch=32),
    "long": job(zero=3, tp=2, cp=2, seq_len=32768, cp_kind="all-gather"),
    "3d": job(
        "llama-3.1-70b",
        64,
        tp=8,
        pp=4,
        vpp=2,
        sequence_parallel=True,
        zero=1,
        kernels="megatron",
        recompute="selective",
        global_batch=128,
        precision="bf16-mixed-fp32-grads",
    ),
    "fp8": job(gpus=16, tp=2, zero=3, compute="fp8-row", compiled=True, recompute="per-op", sequence_parallel=True),
    "megatron fp8": job(
        tp=4,
        zero=1,
        sequence_parallel=True,
        kernels="megatron",
        compute="fp8",
        tp_overlap=True,
        recompute="block",
        recompute_layers=4,
    ),
    "experts": job(
        "qwen3-30b-a3b",
        16,
        tp=2,
        ep=8,
        zero=1,
        kernels="megatron",
        sequence_parallel=True,
        recompute_modules="moe_act layernorm",
        dispatcher="deepep",
    ),
    "latent": job("deepseek-v2-lite", 16, ep=8, zero=1, kernels="megatron"),
    "pipeline": job(gpus=16, pp=2, zero=3, schedule="zero-bubble", vpp=2, micro_batch=1, global_batch=64),
}


def emitted(form: str) -> Iterator[tuple[str, str]]:
    """The jobs that a form can say, with their texts."""
    for name, made in JOBS.items():
        try:
            yield name, emit(made, form, tokens=1e9)
        except LLMHWError as error:
            if "cannot say" not in str(error):
                raise


def test_every_job_has_a_form() -> None:
    said = {form: [name for name, _ in emitted(form)] for form in TRAINERS}
    assert {name for names in said.values() for name in names} == set(JOBS)
    assert {form: len(names) for form, names in said.items()} == {
        "torchrun": 2,
        "torchtitan": 6,
        "megatron": 6,
        "accelerate": 10,
        "deepspeed": 8,
        "axolotl": 10,
        "llamafactory": 8,
    }


# -- what the programs take -------------------------------------------------------------------


def expanded(text: str, folder: Path) -> list[str]:
    """The words that a script gives to torchrun, as Bash puts them in."""
    script = "torchrun() { printf '%s\\n' \"$@\"; }\n" + text
    around = {"PATH": os.environ["PATH"], "DATA": "tokens.bin", "NODE_RANK": "0", "MASTER_ADDR": "node0"}
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_launcher(words: list[str], made: TrainingJob) -> None:
    """torchrun's own parser takes it, and starts a process for each device."""
    from torch.distributed.run import get_args_parser

    said = get_args_parser().parse_args(words)
    assert int(said.nnodes) * int(said.nproc_per_node) == made.cluster.devices


def parser_of(name: str, prefix: str = "") -> ArgumentParser:
    """A parser with the options of a program."""

    def refuse(message: str) -> None:
        raise AssertionError(message)

    parser = ArgumentParser(allow_abbrev=False, add_help=False)
    parser.error = refuse  # type: ignore[method-assign, assignment]
    for option, row in options(name).items():
        if not option.startswith(prefix) or option in ("-h", "--help"):
            continue
        takes: dict[str, Any] = {"action": "store_true"}
        if row["takes"] != "none":
            kind = {"int": int, "float": float}.get(row["type"], str)
            takes = {"type": kind, "choices": row["choices"].split("|") if row["choices"] else None}
            takes["nargs"] = "+" if row["takes"] == "many" or row["type"] in ("list", "") else None
        parser.add_argument(option.removeprefix(prefix), **takes)
    return parser


def test_megatron_takes_it(tmp_path: Path) -> None:
    parser = parser_of("megatron")
    for name, text in emitted("megatron"):
        words = expanded(text, tmp_path)
        script = next(i for i, word in enumerate(words) if word.endswith("pretrain_gpt.py"))
        check_launcher(words[: script + 1], JOBS[name])
        said = parser.parse_args(words[script + 1 :])
        assert (said.tensor_model_parallel_size, said.seq_length) == (JOBS[name].parallelism.tp, JOBS[name].seq_len)


def test_torchtitan_takes_it() -> None:
    known = options("torchtitan")
    for name, text in emitted("torchtitan"):
        tree = ast.parse(text)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        module = text.partition("from torchtitan.models.")[2].partition("torchtitan.models.")[2].split()[0]
        for call in calls:
            kind = ast.unparse(call.func)
            if kind == "model_registry":
                assert f"model {module} {ast.literal_eval(call.args[0])}" in known
            if kind not in ("ParallelismConfig", "TrainingConfig", "CompileConfig", "Trainer.Config"):
                continue
            for word in call.keywords:
                row = known[f"{kind}.{word.arg}"]
                if row["choices"]:
                    assert ast.literal_eval(word.value) in row["choices"].split("|"), (name, word.arg)
                if word.arg == "pipeline_parallel_schedule":
                    assert f"schedule {ast.literal_eval(word.value)}" in known


def check_keys(name: str, said: dict[str, Any], inside: str = "") -> None:
    """Each key is one that the program has, and its value one of those that it takes."""
    known = options(name)
    for key, value in said.items():
        if inside == "optimizer.params.":
            continue
        row = known[f"{inside}{key}"]
        if isinstance(value, dict) and any(option.startswith(f"{inside}{key}.") for option in known):
            check_keys(name, value, f"{inside}{key}.")
        elif row["choices"]:
            allowed = row["choices"].split("|")
            assert str(value) in allowed or isinstance(value, bool), (key, value, allowed)
        elif row["type"] in ("int", "float", "bool"):
            kinds = {"int": int, "float": (int, float), "bool": (bool, str)}[row["type"]]
            assert isinstance(value, kinds), (key, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["axolotl", "llamafactory"])
def test_yaml_is_of_the_schema(form: str) -> None:
    for _, text in emitted(form):
        said = yaml.safe_load(text)
        inner = said.pop("deepspeed", None)
        own = said.pop("fsdp_config", None) if form == "llamafactory" else None
        check_keys(form, said)
        check_keys("deepspeed", inner or {})
        if own:  # transformers takes FSDP's settings with and without their prefix
            from accelerate.commands.launch import launch_command_parser

            names = {action.dest for action in launch_command_parser()._actions}
            assert {f"fsdp_{key}" for key in own} <= names


def words_of(command: str) -> list[str]:
    """The words of a command over several lines; numbers for variables."""
    return split(command.replace("\\\n", " ").replace("$NODE_RANK", "0").replace("$MASTER_PORT", "29500"))


def check_trl(command: str, script: str) -> None:
    words = words_of(command)
    start = next(i for i, word in enumerate(words) if word == f"trl.scripts.{script}")
    flags = list(words[start + 1 :])
    if "--deepspeed" in flags:
        assert flags[flags.index("--deepspeed") + 1] == FORMS["deepspeed"].file
    parser_of("trl", f"{script} ").parse_args(flags)


def test_deepspeed_takes_it() -> None:
    for name, text in emitted("deepspeed"):
        said = json.loads(text)
        said.pop("_comment")
        made = JOBS[name]
        micro, steps = said["train_micro_batch_size_per_gpu"], said["gradient_accumulation_steps"]
        assert said["train_batch_size"] == micro * steps * made.parallelism.dp
        check_keys("deepspeed", said)
        check_trl(written(made, "deepspeed").command, made.method)


def test_accelerate_takes_it(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    names = {action.dest for action in parser._actions}
    for name, text in emitted("accelerate"):
        path = tmp_path / "accelerate.yaml"
        path.write_text(text)
        found = load_config_from_file(str(path))
        assert found.num_processes == JOBS[name].cluster.devices
        for section in (found.fsdp_config, found.deepspeed_config, found.parallelism_config):
            assert {key for key in section if key not in names and f"deepspeed_{key}" not in names} == set()
        command = written(JOBS[name], "accelerate").command
        said = parser.parse_args(words_of(command)[2:])
        assert said.config_file == FORMS["accelerate"].file
        check_trl(command, JOBS[name].method)


def test_optimizers_are_those_of_transformers() -> None:
    from transformers.training_args import OptimizerNames

    ours = set(OPTIM) - {"muon"}  # axolotl's own
    assert ours <= {one.value for one in OptimizerNames}


def test_torchrun_runs(tmp_path: Path) -> None:
    """The program that the script holds trains a small model on two processes."""
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 64,
              "architectures": ["LlamaForCausalLM"]}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    small = TrainingJob(
        model=ModelSpec.from_config(config, "small"),
        cluster=Cluster("h100", 2),
        parallelism=Parallelism(dp=2, zero=3),
        micro_batch=2,
        global_batch=8,
        seq_len=32,
        recompute="full",
    )
    text = emit(small, "torchrun", model_id=".", tokens=8 * 32 * 2)
    words = expanded(text, tmp_path)
    check_launcher(words, small)
    launch = [sys.executable, "-m", "torch.distributed.run", *words, "--from-scratch", "--out", "none"]
    launch = [word for word in launch if word not in ("--data", "tokens.bin")]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(launch, cwd=tmp_path, env=around, capture_output=True, text=True, timeout=300)
    steps = [line.split() for line in done.stdout.splitlines() if line.startswith("step")]
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line[1] for line in steps] == ["1", "2"]
    assert float(steps[1][3]) < float(steps[0][3]) < 6  # ln 256 is 5.5


# -- there and back ---------------------------------------------------------------------------

_LAYOUT = "tp pp cp vpp ep expert_tp zero replicas sequence_parallel schedule uneven offload".split()
_JOB = (
    "micro_batch seq_len recompute recompute_layers recompute_modules frozen rank base method optimizer group".split()
)


def check_back(made: TrainingJob, form: str) -> None:
    """The file that a job makes says the same job."""
    found = read(emit(made, form))
    assert found.form == form
    back, p = found.job(made.cluster, made.model), made.parallelism
    assert isinstance(back, TrainingJob)
    want = {name: getattr(p, name) for name in _LAYOUT} | {name: getattr(made, name) for name in _JOB}
    got = {name: getattr(back.parallelism, name) for name in _LAYOUT} | {name: getattr(back, name) for name in _JOB}
    want["schedule"], got["schedule"] = p.pipeline_schedule, back.parallelism.pipeline_schedule
    if form == "megatron" and made.optimizer == "adamw-fused":
        want["optimizer"] = "adamw"  # its Adam is one kernel
    if p.dp // p.replicas * p.cp == 1:  # nothing is shared by one rank
        for name in ("zero", "replicas"):
            del got[name], want[name]
    assert got == want
    assert back.batch == made.batch
    assert found.options.get("gpus", 1) == made.cluster.devices
    assert found.spec.num_layers == made.model.num_layers
    back.check_effects()


@pytest.mark.parametrize("name", JOBS)
def test_back(name: str) -> None:
    forms = [form for form in TRAINERS if name in dict(emitted(form))]
    for form in forms:
        check_back(JOBS[name], form)


class Made:
    """A job that is shown by what it asks for: a model's whole repr is long."""

    def __init__(self, of: TrainingJob) -> None:
        self.of = of

    def __repr__(self) -> str:
        return f"{self.of.model.name} {changed(self.of)} {self.of.parallelism}"


@st.composite
def jobs(draw: Any) -> Made:
    """Training jobs of all kinds; those that cannot run are left out."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    tp, pp, cp, dp = pick(1, 1, 2, 4), pick(1, 1, 2, 4), pick(1, 1, 2), pick(1, 2, 4, 8)
    zero, frozen = pick(0, 1, 2, 3, 3), pick(False, True)
    more: dict[str, Any] = {"kernels": pick("torch", "megatron")}
    if frozen:
        more |= {"frozen": True, "rank": pick(8, 64), "base": pick(None, "nf4", "nf4-dq", "int8-llm")}
    if more["kernels"] == "torch" and pp == 1:
        more["method"] = pick("sft", "dpo", "grpo")
    if more.get("method") == "grpo":
        more |= {"group": pick(4, 8), "rollout_share": pick(0.0, 0.3)}
    micro, recompute = pick(1, 2, 4), pick("none", "full", "full", "per-op", "selective", "block")
    try:
        p = Parallelism(
            tp=tp, pp=pp, cp=cp, dp=dp, zero=zero, vpp=pick(1, 2) if pp > 1 else 1,
            replicas=pick(1, 2) if zero == 3 and dp > 1 else 1, sequence_parallel=tp > 1 and pick(False, True),
            ep=pick(1, 1, 2), schedule=pick("1f1b", "1f1b", "gpipe", "zero-bubble") if pp > 1 else "1f1b",
            uneven=pp > 1 and pick(False, True), offload=pick("none", "none", "optimizer", "all"),
        )  # fmt: skip
        made = TrainingJob(
            model=pick("llama-3.1-8b", "llama-2-7b", "qwen3-8b", "qwen3-30b-a3b", "mixtral-8x7b"),
            cluster=Cluster("h100", p.devices), parallelism=p, micro_batch=micro,
            global_batch=micro * dp * pick(1, 4, 8), seq_len=pick(2048, 8192), recompute=recompute,
            recompute_layers=2 if recompute == "block" else 0,
            optimizer=pick("adamw", "adamw-fused", "adamw-8bit", "lion"),
            precision=pick("bf16-mixed", "bf16-mixed-fp32-grads", "fp32-bf16", "bf16", "fp32"), **more,
        )  # fmt: skip
        made.check_effects()
    except LLMHWError:
        assume(False)
    return Made(made)


@given(made=jobs(), form=st.sampled_from(TRAINERS))
@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
def test_back_of_any(made: Made, form: str) -> None:
    try:
        emit(made.of, form)
    except LLMHWError:
        return
    check_back(made.of, form)


# -- files that people have -------------------------------------------------------------------

_SLURM = """#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
TP=${TP:-4}; PP=2            # of a node, and over nodes
MICRO_BATCH=1
GLOBAL_BATCH=$((MICRO_BATCH * 4 * 32))
GPT_ARGS="
    --num-layers 32 --hidden-size 4096 --ffn-hidden-size 11008 --num-attention-heads 32 \\
    --seq-length 4096 --max-position-embeddings 4096 --swiglu --normalization RMSNorm --disable-bias-linear
    --untie-embeddings-and-output-weights --use-rotary-position-embeddings
    --tensor-model-parallel-size ${TP} --pipeline-model-parallel-size $PP
    --num-layers-per-virtual-pipeline-stage 4 --sequence-parallel --use-distributed-optimizer
    --recompute-granularity selective --bf16 --micro-batch-size $MICRO_BATCH --global-batch-size $GLOBAL_BATCH
"
DATA_ARGS=(
    "--vocab-size 32000"  # the tokenizer's
    --data-path "$DATA"
)
srun torchrun --nproc_per_node=$SLURM_GPUS_PER_NODE --nnodes=$SLURM_NNODES \\
    pretrain_gpt.py $GPT_ARGS ${DATA_ARGS[@]} --lr 1e-4
"""
_FSDP1 = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
downcast_bf16: 'no'
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_backward_prefetch: BACKWARD_PRE
  fsdp_offload_params: true
  fsdp_sharding_strategy: SHARD_GRAD_OP
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_use_orig_params: true
mixed_precision: bf16
num_machines: 2
num_processes: 16
"""
_AUTO = """{
  "bf16": {"enabled": "auto"},
  "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_max_live_parameters": 1e9},
  "gradient_accumulation_steps": "auto", "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"
}"""
_AXOLOTL = """base_model: NousResearch/Meta-Llama-3-8B
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_target_modules: [q_proj, v_proj]
sequence_len: 4096
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: paged_adamw_32bit
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
fsdp: [full_shard, auto_wrap]
fsdp_config: {fsdp_offload_params: true, fsdp_sharding_strategy: FULL_SHARD}
wandb_watch: all
"""
_FACTORY = """model_name_or_path: Qwen/Qwen3-8B
stage: dpo
finetuning_type: lora
lora_rank: 8
lora_target: all
quantization_bit: 4
cutoff_len: 2048
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
bf16: true
deepspeed: examples/deepspeed/ds_z2_config.json
"""
_TOML = """[model]
name = "llama3"
flavor = "70B"
[training]
local_batch_size = 2
seq_len = 8192
[parallelism]
data_parallel_shard_degree = 8
tensor_parallel_degree = 8
[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"
[compile]
enable = true
"""
_TRAINER = """export NGPU=8
torchrun --nproc_per_node $NGPU train.py \\
  --model_name_or_path meta-llama/Llama-2-7b-hf --per_device_train_batch_size 4 \\
  --gradient_accumulation_steps 8 --fsdp "full_shard auto_wrap" --bf16 True --optim adamw_torch_fused \\
  --gradient_checkpointing --model_max_length 2048   # from the recipe of Alpaca
"""
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "slurm": (_SLURM, "megatron", {
        "tp": 4, "pp": 2, "vpp": 4, "gpus": 32, "zero": 1, "global_batch": 128, "sequence_parallel": True,
        "recompute": "selective", "precision": "bf16-mixed-fp32-grads", "dropout": True}),
    "FSDP 1": (_FSDP1, "accelerate", {
        "gpus": 16, "devices_per_node": 8, "zero": 2, "offload": "all", "precision": "fp32-bf16"}),
    "auto": (_AUTO, "deepspeed", {"zero": 3, "offload": "optimizer", "precision": "bf16-mixed"}),
    "axolotl": (_AXOLOTL, "axolotl", {
        "frozen": True, "rank": 32, "base": "nf4-dq", "targets": "q_proj v_proj", "optimizer": "paged-adamw", "zero": 3,
        "offload": "all", "recompute": "full", "micro_batch": 2, "global_batch": 8}),
    "factory": (_FACTORY, "llamafactory", {
        "method": "dpo", "frozen": True, "rank": 8, "base": "nf4-dq", "zero": 2, "recompute": "full", "seq_len": 2048,
        "global_batch": 8}),
    "toml": (_TOML, "torchtitan", {
        "tp": 8, "gpus": 64, "zero": 3, "recompute": "per-op", "compiled": True, "micro_batch": 2, "seq_len": 8192,
        "sequence_parallel": True, "precision": "fp32-bf16"}),
    "trainer": (_TRAINER, "torchrun", {
        "gpus": 8, "zero": 3, "micro_batch": 4, "global_batch": 256, "optimizer": "adamw-fused", "recompute": "full",
        "seq_len": 2048, "precision": "fp32-bf16"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_people_have(name: str) -> None:
    text, form, want = FILES[name]
    found = read(text)
    said = found.over({})
    assert found.form == form
    assert {key: said.get(key) for key in want} == want


def test_a_file_says_its_model() -> None:
    assert read(_TOML).model == "llama-3.1-70b"
    assert read(_AXOLOTL).model == "NousResearch/Meta-Llama-3-8B"
    config = read(_SLURM).config
    assert config is not None
    found = ModelSpec.from_config(config, "made")
    more = 2 * 256 * 4096  # Megatron fills 32,000 words up to a multiple of 128 x tp
    assert found.parameters.total == 6_738_415_616 + more  # Llama 2 7B's


def test_a_config_of_deepspeed_beside(tmp_path: Path) -> None:
    """A file that names one is read with it; without it, what is missing is noted."""
    line = "deepspeed --num_gpus=8 tune.py --model_name_or_path Qwen/Qwen3-8B --deepspeed ds.json --bf16 True\n"
    script = tmp_path / "run.sh"
    script.write_text(line)
    alone = read(script)
    assert "zero" not in alone.options
    assert any("ds.json" in note for note in alone.notes)
    (tmp_path / "ds.json").write_text(_AUTO)
    both = read(script)
    assert (both.options["zero"], both.options["offload"], both.options["gpus"]) == (3, "optimizer", 8)
    assert not any("ds.json" in note for note in both.notes)


def test_arguments_in_python() -> None:
    found = read(
        "x = 1\nargs = TrainingArguments(per_device_train_batch_size=4, bf16=True, optim='paged_adamw_8bit')\n"
    )
    assert dict(found.options) == {"micro_batch": 4, "precision": "fp32-bf16", "optimizer": "paged-adamw-8bit"}


def test_what_is_not_used_is_noted() -> None:
    assert any("wandb_watch" in note for note in read(_AXOLOTL).notes)
    assert any("auto" in note and "micro_batch" in note for note in read(_AUTO).notes)


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "asked", "told"),
    [
        ("axolotl", {"pp": 2, "gpus": 16}, "axolotl cannot say pp=2; torchtitan, megatron can"),
        ("torchrun", {"frozen": True}, "torchrun cannot say frozen=True; accelerate, deepspeed, axolotl"),
        ("torchtitan", {"zero": 1}, "torchtitan cannot say zero=1"),
        (
            "megatron",
            {"pp": 2, "gpus": 16, "schedule": "gpipe", "kernels": "megatron"},
            "schedule='gpipe'; torchtitan can",
        ),
        ("llamafactory", {"zero": 3, "method": "grpo", "global_batch": 64}, "method='grpo'; accelerate"),
        ("deepspeed", {"recompute": "per-op"}, "recompute='per-op'; torchtitan"),
        ("accelerate", {"zero": 3, "optimizer": "paged-adamw"}, "optimizer='paged-adamw'"),
        ("axolotle", {}, "did you mean axolotl?"),
        ("vllm", {}, "form='vllm' is for serving, and this is a job of training"),
    ],
)
def test_refused(form: str, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(LLMHWError) as error:
        emit(job(**asked), form)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a\nb", "{}\n", "[training]\nx = \n", "base_model: [\n", "#!/bin/sh\necho\n"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(LLMHWError):
        read(text)


@given(text=st.sampled_from([emit(JOBS["full"], form) for form in ("torchtitan", "axolotl", "deepspeed", "accelerate")]
                            + [_SLURM, _AXOLOTL, _FACTORY, _TOML, _TRAINER]),
       data=st.data())  # fmt: skip
@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_changed_file_is_read_or_refused(text: str, data: Any) -> None:
    """A line gone, doubled or of another value: options, or one clear line."""
    lines = text.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(
        st.sampled_from(["", lines[at] * 2, lines[at].replace("1", "x"), lines[at] + " [", "a: b: c"])
    )
    told = ""
    try:
        assert isinstance(read("\n".join(lines) + "\n"), Launched)
    except LLMHWError as error:
        told = str(error)
    assert "\n" not in told


# -- the command ------------------------------------------------------------------------------


def test_emit_and_from_on_the_command(tmp_path: Path) -> None:
    path = tmp_path / "axolotl.yaml"
    line = ["llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3", "--recompute", "full", "--micro-batch", "2"]
    done = run("memory", *line, "--emit", "axolotl", "--output", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    whole, again = run("memory", *line, "--precision", "fp32-bf16", "--software", "axolotl", "--quiet"), None
    again = run("memory", "--from", str(path), "--gpu", "h100", "--quiet")
    assert again.stdout == whole.stdout != ""
    other = run("memory", "--from", str(path), "--gpu", "h100", "--micro-batch", "1", "--quiet")
    assert other.returncode == 0
    assert other.stdout != again.stdout


def test_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(_AUTO)
    for line, told in {
        ("memory", "--gpu", "h100"): "the model is missing",
        ("memory", "--gpu", "h100", "--from", str(path)): "does not say the model; name it too",
        ("memory", "--gpu", "h100", "--from", "nix"): "--from nix does not exist",
        ("memory", "llama-3-8b", "--gpu", "h100", "--emit", "nix"): "--emit nix is not known",
        ("memory", "llama-3-8b", "--gpu", "h100,b200", "--emit", "axolotl"): "--emit is for one answer",
        ("memory", "llama-3-8b", "--gpu", "h100", "--emit", "axolotl", "--json"): "leave --json out",
    }.items():
        done = run(*line)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr


def test_usual_form() -> None:
    assert usual_form(job()) == "torchtitan"
    assert usual_form(job(software="llama-factory")) == "llamafactory"
    assert usual_form(job(kernels="megatron")) == "megatron"


# -- the article's snippets -------------------------------------------------------------------


def test_the_articles_fsdp_snippet() -> None:
    """Two lines without a process group do not run; ours do, see `test_torchrun_runs`."""
    from torch import nn
    from torch.distributed.fsdp import FullyShardedDataParallel

    with pytest.raises((ValueError, RuntimeError), match=r"process group|accelerator"):
        FullyShardedDataParallel(nn.Linear(2, 2))


def test_the_articles_megatron_snippet() -> None:
    """It names a launcher that torch has deprecated, and no model; ours has all that Megatron needs."""
    theirs = read(
        "python -m torch.distributed.launch --nproc_per_node=8 pretrain_gpt.py \\--tensor-model-parallel-size 4 "
        "\\--pipeline-model-parallel-size 2\n"
    )
    assert theirs.config is None
    assert any("the model is not made" in note for note in theirs.notes)
    ours = job("llama-3.1-8b", 8, tp=4, pp=2, zero=1, kernels="megatron")
    found = read(emit(ours, "megatron"))
    assert found.config is not None
    assert (found.options["tp"], found.options["pp"], found.options["gpus"]) == (4, 2, 8)
    assert "torch.distributed.launch" not in emit(ours, "megatron")
