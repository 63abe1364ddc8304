"""Scripts that start engines, and schedulers' files around them: held against the programs' own parsers and schemas."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmhw
from llmhw import Cluster, LLMHWError, ServingJob
from llmhw.launch import FORMS, Launched, emit, read, written
from llmhw.launch.served import found
from llmhw.launch.serving import for_engine, offloaded_gib
from llmhw.launch.shell import read_script
from llmhw.launch.wraps import opened
from tests.unit.command import answer, refused, run

TABLES = Path(__file__).parent / "launch_options"
SERVING = [name for name, form in FORMS.items() if form.of == "serving"]
AROUND = [name for name, form in FORMS.items() if form.of == "both"]
FLAGGED = {"vllm": "vllm", "sglang": "sglang", "trtllm-serve": "trtllm-serve", "llama.cpp": "llama.cpp"}
BASH = shutil.which("bash")


def job(model: str, gpu: str, gpus: int = 1, **options: Any) -> ServingJob:
    """A job of the catalog's names; several nodes have a network."""
    network = "infiniband ndr" if gpus > 8 else None
    return ServingJob(model=llmhw.model(model), cluster=Cluster(gpu, gpus, inter_link=network), **options)


JOBS: dict[str, tuple[str, ServingJob, dict[str, Any]]] = {
    "vllm, two copies": (
        "vllm",
        job("llama-3-70b", "h100", 8, tp=4, weights="fp8", kv="fp8", max_model_len=8192, max_sequences=64),
        {},
    ),
    "vllm, experts": ("vllm", job("deepseek-v3", "h200", 16, attention_dp=16, ep=16), {"draft": "mtp"}),
    "vllm, stages on nodes": ("vllm", job("llama-3.1-405b", "h100", 16, tp=8, pp=2), {}),
    "vllm with Ray": ("vllm", job("llama-3.1-405b", "h100", 16, tp=8, pp=2, engine="vllm:0.9.2"), {}),
    "vllm, adapters": (
        "vllm",
        job(
            "llama-3-70b", "h100", 4, tp=4, weights="int4-awq", lora_adapters=4, lora_rank=20, lora_targets="attention"
        ),
        {"draft": "eagle3"},
    ),
    "vllm, a small model's drafts": ("vllm", job("qwen3-32b", "h100", 2, tp=2), {"draft": "Qwen/Qwen3-0.6B"}),
    "vllm, copies of experts": ("vllm", job("mixtral-8x7b", "h100", 8, tp=4), {}),
    "vllm, GGUF": ("vllm", job("qwen3-8b", "rtx 4090", weights="Q4_K_M", engine="vllm"), {}),
    "vllm, host memory": ("vllm", job("qwen3-32b", "rtx 4090", 2, tp=2, weights="fp8", weight_offload=0.25), {}),
    "sglang": ("sglang", job("deepseek-v3", "h200", 8, attention_dp=8, ep=8, engine="sglang"), {"draft": "mtp"}),
    "sglang on nodes": ("sglang", job("deepseek-v3", "h200", 16, tp=16, ep=16, max_sequences=128), {}),
    "sglang of 2025": (
        "sglang",
        job("deepseek-v3", "h200", 8, attention_dp=8, ep=8, engine="sglang:0.5.4", max_sequences=32),
        {},
    ),
    "sglang, adapters": ("sglang", job("llama-3-8b", "h100", 2, tp=1, weights="fp8", lora_adapters=3), {}),
    "trtllm-serve": (
        "trtllm-serve",
        job("llama-3-70b", "h100", 4, tp=4, weights="fp8", kv="fp8", page_size=64),
        {"draft": "eagle3"},
    ),
    "trtllm-serve, experts": ("trtllm-serve", job("deepseek-v3", "h200", 8, attention_dp=8, ep=8), {"draft": "mtp"}),
    "trtllm-serve on nodes": ("trtllm-serve", job("llama-3.1-405b", "h100", 16, tp=8, pp=2), {}),
    "llama.cpp": ("llama.cpp", job("qwen3-32b", "rtx 4090", 2, weights="Q4_K_M", kv="Q8_0", pp=2, max_sequences=2), {}),
    "llama.cpp, copies": ("llama.cpp", job("qwen3-8b", "rtx 4090", 2, weights="Q8_0", pp=1, n_ctx=32768), {}),
    "llama.cpp, experts in host memory": (
        "llama.cpp",
        job("gpt-oss-120b", "rtx 4090", engine="llama.cpp", cpu_moe=30, max_model_len=16384, lora_adapters=1),
        {},
    ),
    "ollama": ("ollama", job("qwen3-32b", "rtx 4090", 2, weights="Q4_K_M", kv="Q8_0", engine="ollama", pp=2), {}),
    "triton": ("triton", job("llama-3-70b", "h100", 4, tp=4, weights="fp8", max_model_len=4096), {"draft": "eagle3"}),
    "triton of TensorRT-LLM": (
        "triton",
        job("llama-3-70b", "h100", 4, tp=4, engine="tensorrt-llm-pytorch", kv="fp8", utilization=0.85),
        {},
    ),
}


# One of each kind of object, and of each way to place instances.
PLACED = [
    "vllm, two copies",
    "vllm, stages on nodes",
    "vllm with Ray",
    "vllm, GGUF",
    "sglang, adapters",
    "trtllm-serve, experts",
    "llama.cpp, copies",
    "ollama",
    "triton of TensorRT-LLM",
]


def text_of(name: str, around: str | None = None) -> str:
    form, asked, more = JOBS[name]
    return emit(asked, around or form, around=form if around else None, notes=("a note",), **more)


def rebuilt(said: Launched, gpu: str) -> ServingJob:
    """The job that a file says, on devices of that name."""
    options = dict(said.options)
    gpus, per_node = options.pop("gpus"), options.pop("devices_per_node", None)
    for name in ("draft", "draft_tokens"):
        options.pop(name, None)
    assert said.model is not None
    network = "infiniband ndr" if gpus > (per_node or 8) else None
    return ServingJob(
        model=llmhw.model(said.model), cluster=Cluster(gpu, gpus, per_node, inter_link=network), **options
    )


def assert_same_job(found_job: ServingJob, asked: ServingJob, form: str) -> None:
    """Whether a job that was read is the one that was written."""
    engines = {"trtllm-serve": ["tensorrt-llm-pytorch", "tensorrt-llm"], "triton": ["vllm", "tensorrt-llm-pytorch"]}
    told = for_engine(asked, form, engines.get(form, [form]))
    layout = ("tp", "pp", "ep", "attention_dp", "weights", "kv", "lora_adapters", "lora_targets", "cpu_moe")
    for name in layout:
        assert getattr(found_job, name) == getattr(told, name), name
    asked_for = ("max_sequences", "max_batched_tokens", "max_model_len", "utilization", "page_size", "n_batch", "kv_v")
    for name in asked_for:
        if asked.was_asked(name):
            assert getattr(found_job, name) == getattr(asked, name), name
    whole = 1 / offloaded_gib(told, 1.0) if form == "sglang" else 0.01  # SGLang takes whole GiB
    assert found_job.weight_offload == pytest.approx(told.weight_offload, abs=whole)
    every = told.model.num_layers + 1
    layers = [every if one.gpu_layers is None else min(every, one.gpu_layers) for one in (found_job, told)]
    assert layers[0] == layers[1]
    assert found_job.software.name == told.software.name


# -- the scripts run --------------------------------------------------------------------------

needs_bash = pytest.mark.skipif(BASH is None, reason="Bash is not installed")


@needs_bash
@pytest.mark.parametrize("name", JOBS)
def test_a_script_runs_in_bash_and_starts_what_is_read_from_it(name: str, tmp_path: Path) -> None:
    """Programs stand for the real ones that write down their arguments: Bash itself says what they are given."""
    text, form = text_of(name), JOBS[name][0]
    programs = ("vllm", "python3", "trtllm-serve", "trtllm-llmapi-launch", "llama-server", "tritonserver")
    for program in (*programs, "ollama", "ray", "cp"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            '#!/bin/sh\nprintf "%s\\0" "${0##*/}" "$@" >> "$TOLD"; printf "\\n\\0" >> "$TOLD"; echo ALIVE ALIVE\n'
        )
        path.chmod(0o755)
    (tmp_path / "serve.sh").write_text(text)
    (tmp_path / "model_repository" / "tensorrt_llm" / "1").mkdir(parents=True)
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TOLD": str(tmp_path / "told"), "NODE_RANK": "0"}
    given = {"MASTER_ADDR": "first", "MODEL": "org/model", "DRAFT": "org/draft", "LORA": "a,b"}
    text = text.replace("-ge 2", "-ge 1")
    (tmp_path / "serve.sh").write_text(text)
    done = subprocess.run(
        [str(BASH), "serve.sh"], cwd=tmp_path, env=env | given, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [line.strip("\0").split("\0") for line in (tmp_path / "told").read_text().split("\0\n\0") if line]
    script = read_script("\n".join(f"{key}={value}" for key, value in given.items()) + "\nNODE_RANK=0\n" + text)
    if form in FLAGGED and "copies=" not in text:
        mine = script.commands[-1]
        mine = mine[1:] if mine[0] == "exec" else mine
        other_nodes = re.compile(r"--headless|--data-parallel-start-rank")
        assert mine[: next((i for i, word in enumerate(mine) if other_nodes.match(word)), None)] == told[-1]
    elif "copies=" in text:
        copies = int(script.variables["copies"])
        assert len({tuple(words[-2:]) for words in told}) == copies == len(told)
    written_here = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and "bin" not in p.parts}
    assert set(script.files) <= written_here
    for file, body in script.files.items():
        if "$" not in body:
            assert (tmp_path / file).read_text() == body


@needs_bash
def test_a_script_says_what_is_missing() -> None:
    text = text_of("vllm, adapters")
    done = subprocess.run([str(BASH), "-c", text], capture_output=True, text=True, check=False, env={"PATH": "/bin"})
    assert done.returncode
    assert "give the int4-awq checkpoint of meta-llama/Meta-Llama-3-70B" in done.stderr


@needs_bash
def test_every_file_with_a_script_is_one_to_bash(tmp_path: Path) -> None:
    paths = []
    for i, name in enumerate(PLACED):
        for around in (None, "slurm"):
            path = tmp_path / f"{i}-{around}.sh"
            path.write_text(text_of(name, around))
            paths.append(path)
        task = opened_run(text_of(name, "skypilot"))
        (tmp_path / f"{i}-run.sh").write_text(task)
        paths.append(tmp_path / f"{i}-run.sh")
    checks = " && ".join(f"bash -n {path.name}" for path in paths)
    done = subprocess.run([str(BASH), "-c", checks], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def opened_run(text: str) -> str:
    yaml = pytest.importorskip("yaml")
    return str(yaml.safe_load(text)["run"])


# -- options are the program's own ------------------------------------------------------------


def options_of(program: str) -> dict[str, dict[str, str]]:
    with (TABLES / f"{program}.csv").open(newline="") as file:
        return {row["option"]: row for row in csv.DictReader(file)}


def check_arguments(words: Sequence[str], table: dict[str, dict[str, str]]) -> int:
    """Hold arguments against a program's table; how many options there were."""
    at = options = 0
    while at < len(words):
        flag = words[at]
        at += 1
        if not re.match(r"--?[a-z]", flag):
            continue
        assert flag in table, f"{flag} is no option of it"
        row = table[flag]
        values = []
        while at < len(words) and not re.match(r"--?[a-z]", words[at]):
            values.append(words[at])
            at += 1
        assert {"none": len(values) == 0, "one": len(values) == 1}.get(row["takes"], bool(values)), (flag, values)
        for value in values:
            if "$" in value:
                continue
            if row["choices"]:
                assert value in row["choices"].split(";"), (flag, value)
            if row["type"] in ("int", "human_readable_int", "human_readable_int_or_auto"):
                int(value)
            if row["type"] == "float":
                float(value)
        options += 1
    return options


@pytest.mark.parametrize("name", [name for name, (form, asked, _) in JOBS.items() if form in FLAGGED])
def test_options_and_values_are_ones_that_the_programs_parser_takes(name: str) -> None:
    form, asked, _ = JOBS[name]
    if ":" in asked.engine:
        pytest.skip("the table is of the newest version")
    script = read_script(text_of(name))
    starts = {"vllm": 2, "sglang": 3, "trtllm-serve": 1, "llama.cpp": 1}[form]
    words = (
        script.commands[-1]
        if "copies" not in script.variables
        else next(words for words in script.commands if words[0] in ("vllm", "llama-server", "trtllm-serve"))
    )
    words = words[1:] if words[0] in ("exec", "trtllm-llmapi-launch") else words
    assert check_arguments(words[starts:], options_of(form)) >= 1
    if form == "trtllm-serve":
        check_llm_api(script.files.get("extra_llm_api_options.yaml", "kv_cache_config: {}"))


def check_llm_api(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    with (TABLES / "llm_api.csv").open(newline="") as file:
        known = {(row["inside"], row["name"]) for row in csv.DictReader(file)}
    for key, value in yaml.safe_load(text).items():
        if key == "triton_config":
            continue
        assert ("", key) in known, key
        for inner in value if isinstance(value, dict) else ():
            assert (key, inner) in known, inner


def test_vllms_arguments_in_triton_are_those_of_its_engine() -> None:
    table = {option.lstrip("-").replace("-", "_") for option in options_of("vllm")}
    script = read_script(text_of("triton"))
    data = json.loads(next(text for name, text in script.files.items() if name.endswith("model.json")))
    assert {"tensor_parallel_size", "quantization", "max_model_len"} <= set(data) <= table | {"model"}


def test_words_of_vllm_are_of_its_version() -> None:
    asked = job("llama-3-8b", "h100", weights="fp8")
    older = job("llama-3-8b", "h100", weights="fp8", engine="vllm:0.9.2")
    assert "--quantization fp8_per_tensor" in emit(asked, "vllm")
    assert re.search(r"--quantization fp8\s", emit(older, "vllm"))
    assert "ray start --head" in text_of("vllm with Ray")
    assert "--nnodes 2" in text_of("vllm, stages on nodes")
    assert "vllm-gguf-plugin" in written(JOBS["vllm, GGUF"][1], "vllm").packages
    assert "--enable-dp-attention" in text_of("sglang of 2025")
    assert "--attn-dp-size 8" in text_of("sglang")


# -- schedulers' schemas ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACED)
def test_objects_of_kubernetes_are_valid(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install 'llmhw[test]'")
    yaml = pytest.importorskip("yaml")
    kinds = set()
    for data in yaml.safe_load_all(text_of(name, "kubernetes")):
        kinds.add(data["kind"])
        if data["kind"] == "LeaderWorkerSet":
            group = data["spec"]["leaderWorkerTemplate"]
            assert set(group) == {"size", "restartPolicy", "leaderTemplate", "workerTemplate"}
            for part in ("leaderTemplate", "workerTemplate"):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group[part]}
                validate.validate(pod, "1.37", strict=True)
            assert "startupProbe" not in group["workerTemplate"]["spec"]["containers"][0]
        else:
            validate.validate(data, "1.37", strict=True)
    assert kinds in ({"ConfigMap", "Deployment", "Service"}, {"ConfigMap", "LeaderWorkerSet", "Service"})


@pytest.mark.parametrize("name", PLACED)
def test_tasks_of_skypilot_are_valid(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    schemas = json.loads((TABLES / "skypilot.json").read_text())
    task = yaml.safe_load(text_of(name, "skypilot"))
    jsonschema.validate(task, schemas["task"])
    jsonschema.validate(task["resources"], schemas["resources"])
    if "service" in task:
        jsonschema.validate(task["service"], schemas["service"])


@pytest.mark.parametrize("name", PLACED)
def test_options_of_a_batch_script_are_slurms(name: str) -> None:
    known = set((TABLES / "sbatch.txt").read_text().split())
    lines = re.findall(r"(?m)^#SBATCH (\S+)$", text_of(name, "slurm"))
    assert len(lines) >= 6
    assert {line.partition("=")[0] for line in lines} <= known


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("form", ["torchrun", "megatron", "accelerate", "torchtitan"])
def test_training_on_nodes_is_valid_and_reads_back(form: str, around: str) -> None:
    yaml = pytest.importorskip("yaml")
    asked = llmhw.TrainingJob(
        model=llmhw.model("llama-3-8b"),
        cluster=Cluster("h100", 16, inter_link="infiniband ndr"),
        parallelism=llmhw.Parallelism(dp=16, zero=3),
        recompute="full",
        micro_batch=2,
        global_batch=64,
    )
    text = emit(asked, around, around=form)
    said = read(text)
    told = said.over({})
    assert (said.form, told["gpus"], told["zero"], told["micro_batch"], told["global_batch"]) == (form, 16, 3, 2, 64)
    if around == "kubernetes":
        validate = pytest.importorskip("kubernetes_validate", reason="pip install 'llmhw[test]'")
        objects = list(yaml.safe_load_all(text))
        assert [data["kind"] for data in objects] == ["ConfigMap", "Service", "Job"]
        for data in objects:
            validate.validate(data, "1.37", strict=True)
    if around == "skypilot":
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(yaml.safe_load(text), json.loads((TABLES / "skypilot.json").read_text())["task"])


def model_config() -> Any:
    """The message of Triton's config, out of the client's package, without the rest of it."""
    pytest.importorskip("google.protobuf", reason="pip install 'llmhw[test]'")
    try:
        listed = files("tritonclient") or []
    except PackageNotFoundError:
        pytest.skip("tritonclient is not installed: pip install 'llmhw[test]'")
    place = next(path for path in listed if str(path) == "tritonclient/grpc/model_config_pb2.py")
    spec = spec_from_file_location("model_config_pb2", str(place.locate()))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tritons_config_is_read_by_its_protobuf() -> None:
    message = model_config()
    from google.protobuf import text_format

    script = read_script(text_of("triton"))
    text = next(text for name, text in script.files.items() if name.endswith("config.pbtxt"))
    config = text_format.Parse(text, message.ModelConfig())
    assert config.backend == "vllm"
    assert config.model_transaction_policy.decoupled
    assert [one.name for one in config.input] == ["text_input", "stream", "sampling_parameters"]
    check_llm_api(next(iter(read_script(text_of("triton of TensorRT-LLM")).files.values())))


def test_a_modelfile_has_instructions_and_parameters_of_ollama() -> None:
    script = read_script(text_of("ollama"))
    lines = script.files["Modelfile"].splitlines()
    assert {line.split()[0] for line in lines} == {"FROM", "PARAMETER"}
    assert {line.split()[1] for line in lines if line.startswith("PARAMETER")} <= {"num_ctx", "num_gpu", "num_batch"}
    assert script.variables["OLLAMA_KV_CACHE_TYPE"] == "q8_0"


# -- read back --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "around"), [*((name, None) for name in JOBS), *((name, around) for name in PLACED for around in AROUND)]
)
def test_a_file_reads_back_as_the_job(name: str, around: str | None) -> None:
    if around in ("skypilot", "kubernetes"):
        pytest.importorskip("yaml")
    form, asked, more = JOBS[name]
    text = text_of(name, around)
    assert found(text) == (around or form)
    said = read(text)
    assert said.form == form
    assert_same_job(rebuilt(said, asked.cluster.accelerator.name), asked, form)
    if around:
        assert said.options["gpus"] == for_engine(asked, form, [asked.software.name]).cluster.devices
    if more.get("draft") and form != "ollama":
        assert said.options["draft"] == more["draft"]


TENSOR = {
    "tp": [1, 2, 4, 8],
    "pp": [1, 2],
    "weights": ["bf16", "fp8", "int4-awq", "fp16"],
    "kv": ["bf16", "fp16", "fp8"],
    "max_model_len": [2048, 4096],
    "max_sequences": [1, 30, 256],
    "max_batched_tokens": [2048, 16384],
    "utilization": [0.5, 0.85],
    "page_size": [32, 64],
    "lora_adapters": [0, 4],
}
CELLS = {
    "pp": [1, 2],
    "weights": ["Q4_K_M", "Q8_0", "bf16"],
    "kv": ["fp16", "Q8_0", "Q4_0"],
    "max_model_len": [2048, 4096],
    "max_sequences": [1, 4],
    "max_batched_tokens": [256, 1024],
    "gpu_layers": [0, 10, 30],
    "flash_attention": [True],
}
SPREAD = {"attention_dp": [8], "ep": [1, 8]}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), form=st.sampled_from(SERVING), around=st.sampled_from([None, *AROUND]))
def test_any_job_that_is_written_reads_back_as_it_is(data: st.DataObject, form: str, around: str | None) -> None:
    if around:
        pytest.importorskip("yaml")
    choices: dict[str, list[Any]] = dict(CELLS if form in ("llama.cpp", "ollama") else TENSOR)
    model = data.draw(st.sampled_from(["llama-3-8b", "qwen3-32b", "mixtral-8x7b", "deepseek-v3"]))
    if model == "deepseek-v3" and "tp" in choices:
        choices = {name: values for name, values in choices.items() if name not in ("tp", "pp")} | SPREAD
    gpu = data.draw(st.sampled_from(["h100", "rtx 4090", "mi300x"]))
    gpus = data.draw(st.sampled_from([1, 2, 8, 16]))
    options = data.draw(st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in choices.items()}))
    engine = {"trtllm-serve": "tensorrt-llm-pytorch", "triton": "vllm"}.get(form, form)
    try:
        asked = job(model, gpu, gpus, engine=engine, **options)
        text = emit(asked, around or form, around=form if around else None)
    except LLMHWError:
        return  # a job that cannot be, or one that the form cannot say
    said = read(text)
    assert_same_job(rebuilt(said, gpu), asked, form)
    told = for_engine(asked, form, [engine])
    if around:
        assert said.options["gpus"] == told.cluster.devices
    if form in FLAGGED and around is None:
        starts = {"vllm", "python3", "trtllm-serve", "llama-server"}
        words = next(w[w[0] == "exec" :] for w in read_script(text).commands if {*w[:2]} & starts)
        check_arguments(words[3:] if words[0] == "python3" else words[1:], options_of(form))


# -- files that people have -------------------------------------------------------------------

FILES = {
    "docker": (
        """docker run --runtime nvidia --gpus all \\
    -v ~/.cache/huggingface:/root/.cache/huggingface \\
    --env "HUGGING_FACE_HUB_TOKEN=<secret>" -p 8000:8000 --ipc=host \\
    vllm/vllm-openai:v0.9.2 \\
    --model mistralai/Mistral-7B-v0.1 --max_model_len 16k --tensor-parallel-size=2 --gpu-memory-utilization .95
""",
        "mistralai/Mistral-7B-v0.1",
        {"engine": "vllm:0.9.2", "max_model_len": 16000, "tp": 2, "utilization": 0.95, "gpus": 2},
    ),
    "a script with variables": (
        """#!/bin/sh
# MODEL=other/model
MODEL=Qwen/Qwen3-32B-AWQ  # 4 bit
TP="${TP:-2}"
export VLLM_USE_V1=1
if [ -n "$HF_TOKEN" ]; then echo "vllm is started"; fi
python -m vllm.entrypoints.openai.api_server --model "$MODEL" -tp $TP --trust-remote-code \\
  --enable-auto-tool-choice --tool-call-parser hermes --kv-cache-dtype fp8_e5m2 --max-num-seqs 32 2>&1 | tee log
""",
        "Qwen/Qwen3-32B-AWQ",
        {"engine": "vllm", "tp": 2, "weights": "int4-awq", "kv": "fp8", "max_sequences": 32, "gpus": 2},
    ),
    "experts": (
        "vllm serve deepseek-ai/DeepSeek-V3 -dp 8 --enable-expert-parallel --quantization fp8\n",
        "deepseek-ai/DeepSeek-V3",
        {"engine": "vllm", "attention_dp": 8, "ep": 8, "gpus": 8},
    ),
    "sglang": (
        "python3 -m sglang.launch_server --model deepseek-ai/DeepSeek-V3 --tp 8 --dp 8 --enable-dp-attention "
        "--mem-fraction-static 0.85 --max-running-requests 256 --context-length 32768\n",
        "deepseek-ai/DeepSeek-V3",
        {
            "engine": "sglang",
            "tp": 1,
            "attention_dp": 8,
            "utilization": 0.85,
            "max_sequences": 32,
            "max_model_len": 32768,
            "gpus": 8,
        },
    ),
    "compose": (
        """services:
  vllm:
    image: vllm/vllm-openai:latest
    command: >
      --model meta-llama/Llama-3.1-8B-Instruct
      --max-model-len 8192
    deploy:
      resources:
        reservations:
          devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]
""",
        "meta-llama/Llama-3.1-8B-Instruct",
        {"engine": "vllm", "max_model_len": 8192, "gpus": 1},
    ),
    "kubernetes": (
        """apiVersion: apps/v1
kind: Deployment
metadata: {name: mistral}
spec:
  replicas: 2
  template:
    spec:
      containers:
        - name: mistral
          image: vllm/vllm-openai:latest
          command: ["/bin/sh", "-c"]
          args: ["vllm serve mistralai/Mistral-7B-Instruct-v0.3 --trust-remote-code --max_num_batched_tokens 1024"]
          resources: {limits: {nvidia.com/gpu: "1"}}
""",
        "mistralai/Mistral-7B-Instruct-v0.3",
        {"engine": "vllm", "max_batched_tokens": 1024, "gpus": 2, "devices_per_node": 1},
    ),
    "skypilot": (
        """envs:
  MODEL_NAME: meta-llama/Llama-3.1-70B-Instruct
resources:
  accelerators: {A100-80GB: 8}
  ports: 8081
setup: |
  pip install vllm==0.5.4
run: |
  vllm serve $MODEL_NAME --tensor-parallel-size $SKYPILOT_NUM_GPUS_PER_NODE --port 8081
""",
        "meta-llama/Llama-3.1-70B-Instruct",
        {"engine": "vllm", "tp": 8, "gpus": 8},
    ),
    "slurm": (
        """#!/bin/bash
#SBATCH --nodes=1
#SBATCH --gres=gpu:4  # all of them
srun --container-image=x bash -c 'vllm serve Qwen/Qwen3-32B --tensor-parallel-size 4'
""",
        "Qwen/Qwen3-32B",
        {"engine": "vllm", "tp": 4, "gpus": 4},
    ),
    "llama-server": (
        "./build/bin/llama-server -hf unsloth/Qwen3-32B-GGUF:Q5_K_M -ngl 99 "
        " -c 32768 -np 4 -fa on -ctk q8_0 -ctv q8_0\n",
        "unsloth/Qwen3-32B-GGUF",
        {
            "engine": "llama.cpp",
            "weights": "Q5_K_M",
            "max_model_len": 8192,
            "max_sequences": 4,
            "kv": "Q8_0",
            "flash_attention": True,
            "pp": 1,
            "gpus": 1,
        },
    ),
    "a Modelfile": (
        'FROM llama3.1:70b\nPARAMETER num_ctx 16384\nPARAMETER temperature 1\nSYSTEM """You are FROM Mars."""\n',
        "llama3.1:70b",
        {"engine": "ollama", "max_model_len": 16384, "pp": 1, "gpus": 1},
    ),
    "trtllm-serve": (
        """cat > extra.yml <<EOF
enable_attention_dp: true
kv_cache_config:
  dtype: fp8
  free_gpu_memory_fraction: 0.8
speculative_config: {decoding_type: MTP, num_nextn_predict_layers: 3}
EOF
trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 8 --ep_size 8 --max_batch_size 128 --extra_llm_api_options extra.yml
""",
        "deepseek-ai/DeepSeek-V3",
        {
            "engine": "tensorrt-llm-pytorch",
            "tp": 1,
            "attention_dp": 8,
            "ep": 8,
            "kv": "fp8",
            "utilization": 0.8,
            "max_sequences": 128,
            "draft": "mtp",
            "draft_tokens": 3,
            "gpus": 8,
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_people_have_is_read(name: str) -> None:
    if name in ("compose", "kubernetes", "skypilot", "trtllm-serve"):
        pytest.importorskip("yaml")
    text, model, options = FILES[name]
    said = read(text)
    assert said.model == model
    assert dict(said.options) == options


def test_what_is_no_part_of_a_job_is_noted() -> None:
    said = read(FILES["a script with variables"][0])
    assert said.notes == ("not used: --enable-auto-tool-choice, --tool-call-parser",)


@needs_bash
@pytest.mark.parametrize(
    "line",
    [
        "run a 'b c' \"d $X\" e\\ f",
        "Y=2 run --n=\"$X${X}\" ${Z:-z} '$X'",
        "A=(1 '2 3' # why\n 4); A+=(5); run \"${A[@]}\"",
        "run a;run b # c\nrun 'it''s' \"q\\\"q\" $(echo 1)",
        "run 1 2>&1 > /dev/null < /dev/null",
        "for i in 1; do run x; done; if true; then run y; fi",
        "run \\\n  a \\\n  b",
    ],
)
def test_words_of_commands_are_those_of_bash(line: str, tmp_path: Path) -> None:
    script = f"X=x\n{line}\n"
    run = 'run() { printf "%s\\0" run "$@" >> told; printf "\\n" >> told; }'
    subprocess.run([str(BASH), "-c", f"{run}\n{script}"], cwd=tmp_path, capture_output=True, check=True)
    told = [words.rstrip("\0").split("\0") for words in (tmp_path / "told").read_text().splitlines()]
    mine = [words for words in read_script(script).commands if words[0] == "run"]
    assert [[word if word != "$(echo 1)" else "1" for word in words] for words in mine] == told


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "asked", "more", "says"),
    [
        ("vllm", job("llama-3-8b", "h100", engine="sglang"), {}, r"vllm cannot say engine='sglang': .*; sglang can"),
        ("vllm", job("llama-3-8b", "h100", kv_offload=0.5, weight_offload=0.1), {}, r"vllm cannot say kv_offload=0.5"),
        ("vllm", job("deepseek-v3", "h200", 8, tp=8, ep=4), {}, r"vllm cannot say ep=4: .*; trtllm-serve"),
        ("vllm", job("llama-3-8b", "h100", lora_adapters=1, lora_rank=1000), {}, r"lora_rank=1000: the most is 512"),
        ("llama.cpp", job("qwen3-8b", "rtx 4090", weights="Q8_0"), {"draft": "eagle3"}, r"cannot say draft='eagle3'"),
        ("ollama", job("qwen3-8b", "rtx 4090", 2, weights="Q8_0", engine="ollama", pp=1), {}, r"2 instances"),
        ("kubernetes", job("qwen3-8b", "m4 max 40-core 64gb", weights="Q8_0"), {}, r"device='M4 Max 40-core 64GB'"),
        ("skypilot", job("qwen3-8b", "m4 max 40-core 64gb", weights="Q8_0"), {}, r"device='M4 Max 40-core 64GB'"),
        ("trtllm-serve", job("deepseek-v3", "h200", 8, tp=2, attention_dp=4, ep=8), {}, r"attention_dp=4 with tp=2"),
    ],
)
def test_what_a_form_cannot_say_is_named(form: str, asked: ServingJob, more: dict[str, Any], says: str) -> None:
    with pytest.raises(LLMHWError, match=says) as error:
        emit(asked, form, **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "form", "says"),
    [
        ("echo hello\n", "vllm", "no command of vllm is in it"),
        ("vllm serve a/b --tensor-parallel-size many\n", None, "--tensor-parallel-size 'many' must be a whole number"),
        ("vllm serve a/b --kv-cache-dtype int3\n", None, "'int3' is no format of a cache"),
        ("resources: 8\nrun: |\n  vllm serve a/b\n", None, "resources=8 must be names and values"),
        ("services:\n  a: {image: }\n", "vllm", "no service of it has an image"),
        ("PARAMETER num_ctx 1\n\n", "ollama", "needs a line FROM"),
        ('name: "x"\nbackend: "onnxruntime"\n', "triton", "its backend is none of"),
    ],
)
def test_a_file_that_starts_nothing_says_so(text: str, form: str | None, says: str) -> None:
    with pytest.raises(LLMHWError, match=re.escape(says)) as error:
        read(text, form)
    assert "\n" not in str(error.value)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from([*PLACED, *FILES]),
    around=st.sampled_from([None, *AROUND]),
    cuts=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(["", "$X", "'", '"', "{", "-3", "a: ["]))
    ),
)
def test_a_broken_file_is_read_or_refused_in_one_line(
    name: str, around: str | None, cuts: list[tuple[float, int, str]]
) -> None:
    pytest.importorskip("yaml")
    text = FILES[name][0] if name in FILES else text_of(name, around)
    for place, length, put in cuts:
        at = int(place * len(text))
        text = text[:at] + put + text[at + length :]
    try:
        read(text + "\n\n")
    except LLMHWError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


def test_scripts_are_read_without_running_them(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    read(f"X=$(touch {mark})\n`touch {mark}`\nvllm serve a/b -tp $(nproc)\n")
    assert not mark.exists()
    assert os.listdir(tmp_path) == []
    assert opened("vllm serve a/b\n")[0].commands == [["vllm", "serve", "a/b"]]


# -- the command ------------------------------------------------------------------------------


def test_serve_takes_a_file_and_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "serve.sh"
    line = ["llama-3-70b", "--gpu", "h100", "--gpus", "8", "--tp", "4", "--kv", "fp8", "--max-model-len", "4096"]
    done = run("serve", *line, "--emit", "vllm", "--output", str(path))
    assert done.returncode == 0, done.stderr
    head = path.read_text().splitlines()[:4]
    asked, again = answer("serve", *line), answer("serve", "--from", str(path), "--gpu", "h100")
    assert asked["tokens_per_second"] == again["tokens_per_second"]
    assert head[3].startswith("# Fits: ")
    other = run("serve", "--from", str(path), "--gpu", "h100", "--emit", "slurm:sglang").stdout
    assert "--tp-size 4" in other
    assert "--kv-cache-dtype fp8_e4m3" in other
    assert "it starts sglang" in refused("serve", *line, "--engine", "vllm", "--emit", "sglang")


def test_the_file_names_the_model_as_it_was_named() -> None:
    named = run("serve", "meta-llama/Llama-3.1-8B-Instruct", "--gpu", "l4", "--emit", "vllm").stdout
    assert "vllm serve meta-llama/Llama-3.1-8B-Instruct" in named
    given = run("serve", "llama-3.1-8b", "--gpu", "l4", "--emit", "vllm", "--model-id", "./models/mine").stdout
    assert "vllm serve ./models/mine" in given
    assert "no effect without --emit" in refused("serve", "llama-3.1-8b", "--gpu", "l4", "--model-id", "mine")


def test_a_form_is_of_its_own_engine() -> None:
    text = run("serve", "llama-3.1-8b", "--gpu", "h100", "--emit", "trtllm-serve", "--draft", "eagle3").stdout
    told = run("serve", "llama-3.1-8b", "--gpu", "h100", "--engine", "tensorrt-llm-pytorch", "--draft", "eagle3").stdout
    assert next(line for line in told.splitlines() if line.startswith("Fits")) in text
