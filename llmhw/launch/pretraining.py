"""Forms of trainers that know every kind of parallelism: Megatron-LM and torchtitan.

Options are those of Megatron-LM of August 2026 (pretrain_gpt.py) and of torchtitan 0.3. The tables are read both ways:
`reading` turns them round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.job import TrainingJob
from llmhw.launch import FORMS, Asked, Written, cannot_say, commented, heading
from llmhw.model import ModelSpec
from llmhw.sources.megatron import from_mapping, to_arguments
from llmhw.units import LLMHWError, ceil_div

Rows = list[tuple[str, str]]

# -- what all scripts begin with --------------------------------------------------------------


def steps_of(asked: Asked, usual: int = 1000) -> tuple[int, str]:
    """Optimizer steps of the run, and why: those of the tokens, or so many where nobody says how many tokens."""
    each = asked.job.batch * asked.job.seq_len
    if asked.tokens is None:
        return usual, "nobody said how many tokens; a step has " + f"{each:,}"
    return ceil_div(int(asked.tokens), each), f"{asked.tokens:,.0f} tokens, {each:,} a step"


def torchrun_line(job: TrainingJob) -> list[str]:
    """`torchrun` up to the script: one process a device, the same line on every node."""
    cluster = job.cluster
    each = min(cluster.devices, cluster.devices_per_node)
    if cluster.nodes == 1:
        return ["torchrun --standalone", f"--nnodes=1 --nproc-per-node={each}"]
    return [
        "torchrun",
        f"--nnodes={cluster.nodes} --nproc-per-node={each}",
        '--node-rank="$NODE_RANK" --rdzv-backend=static',
        '--master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"',
    ]


def node_variables(job: TrainingJob) -> Rows:
    """What a script of several nodes takes from outside."""
    if job.cluster.nodes == 1:
        return []
    return [
        (": ${NODE_RANK:?of this node, 0 to " + f"{job.cluster.nodes - 1}" + "}", "a scheduler sets these three"),
        (": ${MASTER_ADDR:?name of the first node}", ""),
        ("MASTER_PORT=${MASTER_PORT:-29500}", ""),
    ]


def command_line(words: list[str]) -> str:
    """A command over several lines."""
    return " \\\n  ".join(words)


# -- Megatron-LM ------------------------------------------------------------------------------

# Argument -> field, where its value is the field's. A flag is there where the field is true.
MEGATRON_FIELDS = {
    "tensor_model_parallel_size": "tp",
    "pipeline_model_parallel_size": "pp",
    "num_virtual_stages_per_pipeline_rank": "vpp",
    "context_parallel_size": "cp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "expert_tp",
    "sequence_parallel": "sequence_parallel",
    "micro_batch_size": "micro_batch",
    "global_batch_size": "global_batch",
    "seq_length": "seq_len",
    "tp_comm_overlap": "tp_overlap",
    "overlap_grad_reduce": "grad_overlap",
    "overlap_moe_expert_parallel_comm": "a2a_overlap",
}
# Argument -> field and, for each of its values, the field's.
MEGATRON_CHOICES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "cp_comm_type": ("cp_kind", {"p2p": "ring", "all_gather": "all-gather"}),
    "optimizer": ("optimizer", {"adam": "adamw", "sgd": "sgd-momentum", "muon": "muon", "lion": "lion"}),
    "attention_backend": ("attention", {"flash": "flash", "fused": "flash", "auto": "flash", "unfused": "eager"}),
    "data_parallel_sharding_strategy": (
        "zero",
        {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3},
    ),
    "fp8_recipe": (
        "compute",
        {"tensorwise": "fp8", "delayed": "fp8", "blockwise": "fp8-block", "mxfp8": "mxfp8"},
    ),
    "cuda_graph_impl": (
        "cuda_graph",
        {"none": "none", "transformer_engine": "partial", "local": "partial", "full_iteration": "full"},
    ),
}
_MEGATRON_SAID = frozenset(MEGATRON_FIELDS.values()) | {
    *(name for name, _ in MEGATRON_CHOICES.values()),
    *"recompute recompute_layers recompute_modules precision grad_reduce dispatcher attention_kernel".split(),
    *"schedule uneven offload replicas zero dropout mtp gather_prefetch".split(),
}


def said_as(argument: str, value: Any) -> str:
    """The first of an argument's values that means a field's."""
    field, values = MEGATRON_CHOICES[argument]
    for word, meant in values.items():
        if meant == value:
            return word
    raise cannot_say("megatron", f"{field}={value!r}")


def megatron(asked: Asked) -> Written:
    """A script that starts Megatron-LM's pretrain_gpt.py."""
    job: TrainingJob = asked.job
    groups: dict[str, Rows] = {
        "MODEL": _megatron_model(job),
        "LAYOUT": _megatron_layout(job),
        "BATCH": _megatron_batch(asked),
        "MEMORY": _megatron_memory(job),
        "SOFTWARE": _megatron_software(job),
        "DATA": [
            (f"--tokenizer-type HuggingFaceTokenizer --tokenizer-model {asked.model_id}", ""),
            ("--data-path ${DATA:?prefix of the .bin and .idx of preprocess_data.py}", "or --mock-data, for a trial"),
            ("--lr 3e-4 --min-lr 3e-5 --lr-decay-style cosine --lr-warmup-fraction 0.01", "no figure of the plan"),
            ("--clip-grad 1.0 --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95", "no figure of the plan"),
            (f"--save checkpoints --save-interval 500 --ckpt-format {_checkpoints(job)}", "no figure of the plan"),
        ],
    }
    arrays = [f"{name}=(\n{_indented(rows)}\n)" for name, rows in groups.items() if rows]
    start = [*torchrun_line(job), '"${MEGATRON:-Megatron-LM}/pretrain_gpt.py"']
    start.append(" ".join(f'"${{{name}[@]}}"' for name, rows in groups.items() if rows))
    text = "\n".join(
        [
            "#!/usr/bin/env bash",
            *heading(
                asked, FORMS["megatron"], "MEGATRON is a clone of github.com/NVIDIA/Megatron-LM; run on each node."
            ),
            "set -euo pipefail",
            commented(
                [
                    *node_variables(job),
                    ("export CUDA_DEVICE_MAX_CONNECTIONS=1", "messages go ahead of the products that they overlap"),
                ]
                if job.parallelism.zero < 2
                else node_variables(job)
            ),
            "",
            *arrays,
            "",
            command_line(start),
            "",
        ]
    )
    return Written(
        text=text,
        said=_MEGATRON_SAID,
        command=f"bash {FORMS['megatron'].file}",
        image="nvcr.io/nvidia/pytorch:26.02-py3",
    )


def _checkpoints(job: TrainingJob) -> str:
    """The format of checkpoints: FSDP has one of its own."""
    return "fsdp_dtensor" if job.parallelism.zero >= 2 else "torch_dist"


def _indented(rows: Rows) -> str:
    return "\n".join(f"  {line}" for line in commented(rows, most=72).splitlines())


def _flags(found: Mapping[str, Any]) -> list[str]:
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" '{value}'" if "[" in str(value) else f" {value}")
        for name, value in found.items()
    ]


def _megatron_model(job: TrainingJob) -> Rows:
    """The model's sizes; refused where Megatron would make another one of them."""
    spec = job.model
    if spec.towers:
        raise cannot_say("megatron", f"the towers of {spec.name}")
    found = to_arguments(spec.config, spec.name)
    if ModelSpec.from_config(
        from_mapping({**found, "padded_vocab_size": spec.vocab_size}, spec.name)
    ).parameters.total != (spec.parameters.total):
        raise cannot_say("megatron", f"model={spec.name!r}, whose tensors its arguments do not make")
    found["max_position_embeddings"] = max(found.get("max_position_embeddings", 0), job.seq_len)
    if job.mtp:
        found["mtp_num_layers"] = int(spec.config.get("num_nextn_predict_layers") or 1)
    tp = job.parallelism.tp
    found["make_vocab_size_divisible_by"] = next(
        n for n in (128, 64, 32, 16, 8, 4, 2, 1) if spec.vocab_size % (n * tp) == 0 or n == 1
    )
    if "num_experts" in found:
        found["moe_grouped_gemm"] = True
    rows: Rows = [(flag, "") for flag in _flags(found)]
    dropout = 0.1 if job.dropout_masks else 0.0
    rows.append((f"--attention-dropout {dropout} --hidden-dropout {dropout}", "Megatron's default is 0.1"))
    return [(rows[0][0], f"sizes of {spec.name}: {spec.parameters.total:,} parameters"), *rows[1:]]


def _megatron_layout(job: TrainingJob) -> Rows:
    p = job.parallelism
    if p.pipeline_schedule not in ("1f1b", "interleaved"):
        raise cannot_say("megatron", f"schedule={p.schedule!r}")
    if p.by_cost:
        raise cannot_say("megatron", "by_cost=True")
    node = f"dp = {p.devices} devices / (tp x pp x cp) = {p.dp}"
    rows: Rows = [(f"--tensor-model-parallel-size {p.tp}", node)]
    if p.sequence_parallel:
        rows.append(("--sequence-parallel", "norms and residuals over the tp ranks too"))
    stages = f"{job.model.num_layers} layers over {p.pp} stages" if p.pp > 1 else ""
    rows.append((f"--pipeline-model-parallel-size {p.pp}", stages))
    if p.vpp > 1:
        rows.append((f"--num-virtual-stages-per-pipeline-rank {p.vpp}", f"the bubble is {p.vpp} times smaller"))
    if p.uneven and (job.model.num_layers + 2) % (p.pp * p.vpp):
        raise cannot_say("megatron", f"uneven=True with pp x vpp={p.pp * p.vpp}")
    if p.uneven:
        rows.append(("--account-for-embedding-in-pipeline-split", "embedding and head count as layers"))
        rows.append(("--account-for-loss-in-pipeline-split", ""))
    parts = f"{job.seq_len // p.cp:,} of {job.seq_len:,} tokens on a rank" if p.cp > 1 else ""
    rows.append((f"--context-parallel-size {p.cp}", parts))
    if p.cp > 1:
        rows.append((f"--cp-comm-type {said_as('cp_comm_type', p.cp_kind)}", f"keys and values: {p.cp_kind}"))
    if p.ep > 1 or p.expert_tp > 1 or "num_experts" in to_arguments(job.model.config, job.model.name):
        rows.append((f"--expert-model-parallel-size {p.ep}", "experts over the ranks of a stage"))
        rows.append((f"--expert-tensor-parallel-size {p.expert_tp}", "else it would be tp"))
        dispatcher = {"deepep": "flex --moe-flex-dispatcher-backend deepep"} | {
            "hybridep": "flex --moe-flex-dispatcher-backend hybridep"
        }
        kind = job.dispatcher or job.trainer.dispatcher
        rows.append((f"--moe-token-dispatcher-type {dispatcher.get(kind, kind)}", ""))
    return [*rows, *_megatron_zero(job)]


def _megatron_zero(job: TrainingJob) -> Rows:
    p = job.parallelism
    overlap = job.trainer.grad_overlap
    prefetch = job.trainer.gather_prefetch
    if p.zero == 0:
        return [("--overlap-grad-reduce", "beside the backward pass")] if overlap else []
    rows: Rows = [("--use-distributed-optimizer", f"optimizer states over {p.shards} ranks: {p.dp} dp x {p.cp} cp")]
    if p.zero >= 2:
        if job.optimizer not in ("adamw", "adamw-fused", "sgd-momentum"):  # what its FSDP takes
            raise cannot_say("megatron", f"optimizer={job.optimizer!r} with zero={p.zero}")
        rows += [
            ("--use-megatron-fsdp --no-gradient-accumulation-fusion", "FSDP of Megatron-Core"),
            (
                f"--data-parallel-sharding-strategy {said_as('data_parallel_sharding_strategy', p.zero)}",
                f"zero={p.zero}",
            ),
            ("--init-model-with-meta-device", "no rank ever holds the whole model"),
        ]
    if p.replicas > 1:
        rows.append((f"--num-distributed-optimizer-instances {p.replicas}", "copies of the sharded model (HSDP)"))
    if overlap:
        rows.append(("--overlap-grad-reduce", "beside the backward pass"))
        if prefetch:
            rows.append(("--overlap-param-gather", "beside the forward pass"))
    return rows


def _megatron_batch(asked: Asked) -> Rows:
    job: TrainingJob = asked.job
    steps, why = steps_of(asked)
    return [
        (f"--micro-batch-size {job.micro_batch}", "sequences at a time on a data-parallel rank"),
        (f"--global-batch-size {job.batch}", f"{job.micro_batches} micro-batches a rank and step"),
        (f"--seq-length {job.seq_len}", ""),
        (f"--train-iters {steps}", why),
    ]


def _megatron_memory(job: TrainingJob) -> Rows:
    p = job.parallelism
    rows: Rows = []
    if job.recompute == "full":
        rows.append(("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1", "every layer"))
    elif job.recompute == "block":
        rows.append(
            (
                f"--recompute-granularity full --recompute-method block --recompute-num-layers {job.recompute_layers}",
                f"{job.recompute_layers} layers of each stage",
            )
        )
    elif job.again:
        rows.append(
            (f"--recompute-granularity selective --recompute-modules {' '.join(sorted(job.again))}", "runs again")
        )
    elif job.recompute != "none":
        raise cannot_say("megatron", f"recompute={job.recompute!r}")
    if p.offload == "all":
        raise cannot_say("megatron", "offload='all'")
    if p.offload == "optimizer":
        rows.append(("--optimizer-cpu-offload --use-precision-aware-optimizer", "its states wait in host memory"))
    return [*rows, *_megatron_precision(job)]


def _megatron_precision(job: TrainingJob) -> Rows:
    form, recipe = job.compute_format, job.precision
    if recipe not in ("bf16-mixed-fp32-grads", "bf16-mixed", "fp32"):
        raise cannot_say("megatron", f"precision={recipe!r}")
    if (recipe == "fp32") != (form in ("fp32", "tf32")):
        raise cannot_say("megatron", f"compute={form!r} with precision={recipe!r}")
    grads = "fp32" if recipe == "bf16-mixed-fp32-grads" else "bf16"
    if recipe != "fp32" and job.grad_reduce not in (None, grads):
        raise cannot_say("megatron", f"grad_reduce={job.grad_reduce!r} with precision={recipe!r}")
    rows: Rows = []
    if recipe == "fp32":
        rows.append(("--attention-softmax-in-fp32", "no --bf16: everything in fp32"))
    else:
        rows.append(("--fp16", "fp32 master copy") if form == "fp16" else ("--bf16", "bf16 weights, fp32 master copy"))
    if grads == "fp32":
        rows.append(("--accumulate-allreduce-grads-in-fp32", "gradients in fp32: 18 bytes a parameter in all"))
    elif recipe != "fp32":
        rows.append(("--grad-reduce-in-bf16", "gradients in bf16: 16 bytes a parameter in all"))
    if form in ("fp8", "fp8-block", "mxfp8"):
        kind = "hybrid" if form == "fp8" else "e4m3"
        rows.append((f"--fp8-format {kind} --fp8-recipe {said_as('fp8_recipe', form)}", f"products in {form}"))
    elif form == "nvfp4":
        rows.append(("--fp4-format e2m1 --fp4-recipe nvfp4", "products in nvfp4"))
    elif form not in ("bf16", "fp16", "fp32", "tf32"):
        raise cannot_say("megatron", f"compute={form!r}")
    return rows


def _megatron_software(job: TrainingJob) -> Rows:
    name = {"adamw-fused": "adamw"}.get(job.optimizer, job.optimizer)
    rows: Rows = [
        ("--use-mcore-models --transformer-impl transformer_engine", "Megatron-Core's layers"),
        (f"--optimizer {said_as('optimizer', name)}", job.optimizer),
        (f"--attention-backend {'unfused' if job.attention == 'eager' else 'fused'}", job.attention),
    ]
    if job.trainer.tp_overlap and job.parallelism.tp > 1 and job.parallelism.sequence_parallel:
        rows.append(("--tp-comm-overlap", "tensor-parallel messages beside products"))
    graph = job.cuda_graph or job.trainer.cuda_graph
    if graph != "none":
        rows.append((f"--cuda-graph-impl {said_as('cuda_graph_impl', graph)}", f"cuda_graph={graph}"))
    if job.a2a_overlap:
        rows.append(("--overlap-moe-expert-parallel-comm", "all-to-all beside other work"))
    return rows


# -- torchtitan -------------------------------------------------------------------------------

# Sizes of the models that torchtitan 0.3 has: family, hidden, layers -> module and flavor.
TITAN_MODELS = {
    ("llama", 2048, 16): ("llama3", "1B"),
    ("llama", 3072, 28): ("llama3", "3B"),
    ("llama", 4096, 32): ("llama3", "8B"),
    ("llama", 8192, 80): ("llama3", "70B"),
    ("llama", 16384, 126): ("llama3", "405B"),
    ("qwen3", 1024, 28): ("qwen3", "0.6B"),
    ("qwen3", 2048, 28): ("qwen3", "1.7B"),
    ("qwen3", 2560, 36): ("qwen3", "4B"),
    ("qwen3", 4096, 36): ("qwen3", "8B"),
    ("qwen3", 5120, 40): ("qwen3", "14B"),
    ("qwen3", 5120, 64): ("qwen3", "32B"),
    ("qwen3_moe", 2048, 48): ("qwen3", "30B-A3B"),
    ("qwen3_moe", 4096, 94): ("qwen3", "235B-A22B"),
    ("deepseek_v3", 7168, 61): ("deepseek_v3", "671B"),
    ("gpt_oss", 2880, 24): ("gpt_oss", "20b"),
    ("gpt_oss", 2880, 36): ("gpt_oss", "120b"),
}
_LLAMA3_WORDS = 128256
# Of `torchtitan.config.ParallelismConfig` and `TrainingConfig`: option -> field, where its value is the field's.
TITAN_FIELDS = {
    "tensor_parallel_degree": "tp",
    "enable_sequence_parallel": "sequence_parallel",
    "pipeline_parallel_degree": "pp",
    "context_parallel_degree": "cp",
    "expert_parallel_degree": "ep",
    "seq_len": "seq_len",
}
TITAN_SCHEDULES = {
    "GPipe": "gpipe",
    "1F1B": "1f1b",
    "Interleaved1F1B": "interleaved",
    "InterleavedZeroBubble": "zero-bubble",
    "ZBVZeroBubble": "zero-bubble",
}
TITAN_CONVERTERS = {"fp8-row": "Float8Linear", "mxfp8": "MXFP8Linear", "nvfp4": "NVFP4Linear"}
_TITAN_SAID = frozenset(TITAN_FIELDS.values()) | {
    *"zero replicas vpp schedule uneven offload cp_kind micro_batch global_batch recompute precision".split(),
    *"compute optimizer loss attention compiled tp_overlap expert_tp gather_prefetch cuda_graph".split(),
}


def titan_model(spec: ModelSpec) -> tuple[str, str]:
    """Module and flavor of torchtitan that has a model."""
    found = TITAN_MODELS.get((spec.model_type, spec.hidden, spec.num_layers))
    if found is None or (spec.model_type == "llama" and spec.vocab_size != _LLAMA3_WORDS):
        known = ", ".join(sorted({f"{module} {flavor}" for module, flavor in TITAN_MODELS.values()}))
        raise cannot_say("torchtitan", f"model={spec.name!r}: it has {known}")
    return found


def torchtitan(asked: Asked) -> Written:
    """torchtitan's config: a Python module with a function that makes it, as since 0.3."""
    job: TrainingJob = asked.job
    form = FORMS["torchtitan"]
    module, flavor = titan_model(job.model)
    stem = form.file.removesuffix(".py")
    command = " ".join([*torchrun_line(job), f"-m torchtitan.train --module {stem} --config plan"])
    chunked, converter = job.loss == "chunked", TITAN_CONVERTERS.get(job.compute_format)
    if job.attention != "flash" or job.gather_prefetch is False:
        raise cannot_say("torchtitan", f"attention={job.attention!r} with gather_prefetch={job.gather_prefetch}")
    if job.loss not in ("chunked", "plain"):
        raise cannot_say("torchtitan", f"loss={job.loss!r}")
    if converter is None and job.compute_format != "bf16":
        raise cannot_say("torchtitan", f"compute={job.compute_format!r}")
    parts = [
        *heading(
            asked,
            form,
            "On every node, with NODE_RANK, MASTER_ADDR and MASTER_PORT set if there are several:",
            f"  {command}",
        ),
        *_titan_imports(job, module, converter, chunked),
        "",
        "",
        "def plan() -> Trainer.Config:",
        *_titan_spec(job, flavor, converter),
        "    return Trainer.Config(",
        "        model_spec=spec,",
        f'        hf_assets_path="./assets/hf/{asked.model_id.rpartition("/")[2]}",'
        "  # tokenizer and weights: scripts/download_hf_assets.py",
        "        loss=ChunkedLossWrapper.Config(  # never all logits at once\n"
        "            loss_fn=CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec)),\n        ),"
        if chunked
        else "        loss=CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec)),",
        f"        {_titan_optimizer(job)}",
        '        dataloader=HuggingFaceTextDataLoader.Config(dataset="c4"),  # or a folder of your own',
        _titan_call("training", "TrainingConfig", _titan_training(asked)),
        _titan_call("parallelism", "ParallelismConfig", _titan_layout(job)),
        f"        activation_checkpoint={_titan_recompute(job)},",
        _titan_compile(job),
        "        checkpoint=CheckpointManager.Config(enable=True, interval=500),",
        "    )",
        "",
    ]
    return Written(text="\n".join(parts), said=_TITAN_SAID, command=command, packages=("torchtitan==0.3.0",))


def _titan_imports(job: TrainingJob, module: str, converter: str | None, chunked: bool) -> list[str]:
    losses = "ChunkedLossWrapper, CrossEntropyLoss" if chunked else "CrossEntropyLoss"
    recompute = {"full": "FullAC", "per-op": "SelectiveAC"}.get(job.recompute)
    return [
        "from torchtitan.components.checkpoint import CheckpointManager",
        f"from torchtitan.components.loss import {losses}",
        "from torchtitan.components.optimizer import default_adamw",
        *([f"from torchtitan.components.quantization import {converter}Converter"] if converter else []),
        "from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig",
        *([f"from torchtitan.distributed.activation_checkpoint import {recompute}"] if recompute else []),
        "from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader",
        "from torchtitan.models.common.config_utils import decoder_vocab_size",
        f"from torchtitan.models.{module} import model_registry",
        "from torchtitan.trainer import Trainer",
    ]


def _titan_spec(job: TrainingJob, flavor: str, converter: str | None) -> list[str]:
    if converter is None:
        return [f'    spec = model_registry("{flavor}")  # {job.model.name}']
    if not _titan_compiled(job):
        raise LLMHWError(
            f"compute={job.compute_format!r} needs compiled=True in torchtitan, which fuses scaling into kernels"
        )
    skipped = {"nvfp4": 'fqns=["layers"], ', "fp8-row": 'filter_fqns=["lm_head"], '}.get(job.compute_format, "")
    return [
        f"    # products in {job.compute_format}",
        f"    converter = {converter}Converter.Config({skipped}model_compile_enabled=True)",
        f'    spec = model_registry("{flavor}", converters=[converter])  # {job.model.name}',
    ]


def _titan_call(argument: str, name: str, rows: Rows) -> str:
    inner = "\n".join(f"            {line}" for line in commented(rows, most=60).splitlines())
    return f"        {argument}={name}(\n{inner}\n        ),"


def _titan_optimizer(job: TrainingJob) -> str:
    kinds = {"adamw": "foreach=True, fused=False", "adamw-fused": "fused=True"}
    if job.optimizer not in kinds:
        raise cannot_say("torchtitan", f"optimizer={job.optimizer!r}")
    return f"optimizer=default_adamw(lr=3e-4, {kinds[job.optimizer]}),  # the rate is no figure of the plan"


def _titan_training(asked: Asked) -> Rows:
    job: TrainingJob = asked.job
    p = job.parallelism
    local = job.micro_batch * (job.micro_batches if p.pp > 1 else 1)
    steps, why = steps_of(asked)
    kinds = {"bf16": "bfloat16", "fp32-bf16": "float32", "bf16-mixed": "float32", "fp32": "float32"}
    if job.precision not in kinds:
        raise cannot_say("torchtitan", f"precision={job.precision!r}")
    param = "float32" if job.precision == "fp32" else "bfloat16"
    whole = "states too" if job.precision == "bf16" else "4 + 4 + 8 bytes with gradient and states"
    if p.offload == "optimizer":
        raise cannot_say("torchtitan", "offload='optimizer'")
    graph = job.cuda_graph or job.trainer.cuda_graph
    if graph == "partial" or (graph == "full" and (p.pp > 1 or p.ep > 1)):
        raise cannot_say("torchtitan", f"cuda_graph={graph!r} with pp={p.pp}, ep={p.ep}")
    each = f"{local // job.micro_batch} micro-batches of {job.micro_batch}"
    return [
        (f"local_batch_size={local},", f"of a rank at a time: {each}"),
        (f"global_batch_size={job.batch},", f"{job.micro_batches} micro-batches a rank and step"),
        (f"seq_len={job.seq_len},", ""),
        (f"steps={steps},", why),
        (f'dtype="{kinds[job.precision]}",', whole),
        (f'mixed_precision_param="{param}",', "what is computed with"),
        (f"disable_cuda_graphs={graph != 'full'},", f"cuda_graph={graph}"),
        (
            f"enable_cpu_offload={p.offload == 'all'},",
            f"offload={p.offload}: weights, gradients, states in host memory",
        ),
    ]


def _titan_layout(job: TrainingJob) -> Rows:
    p = job.parallelism
    if p.zero == 1:
        raise cannot_say("torchtitan", "zero=1")
    if p.expert_tp > 1:
        raise cannot_say("torchtitan", f"expert_tp={p.expert_tp}")
    if p.zero == 0 and p.cp > 1:  # it shares weights over cp ranks
        raise cannot_say("torchtitan", f"zero=0 with cp={p.cp}")
    replicas, shards = (p.dp, 1) if p.zero == 0 else (p.replicas, p.dp // p.replicas)
    rows: Rows = [
        (f"data_parallel_replicate_degree={replicas},", "copies of the model"),
        (f"data_parallel_shard_degree={shards},", f"ranks that share one: {'FSDP' if shards > 1 else 'none'}"),
    ]
    if p.zero == 2:
        rows.append(('fsdp_reshard_after_forward="never",', "zero=2: weights stay gathered through the step"))
    elif p.zero == 3:
        rows.append(
            ('fsdp_reshard_after_forward="always",', "zero=3: weights are gathered again for the backward pass")
        )
    rows += [
        (f"tensor_parallel_degree={p.tp},", ""),
        (f"enable_sequence_parallel={p.sequence_parallel},", "norms and residuals over the tp ranks too"),
        (f"context_parallel_degree={p.cp},", "keys and values are gathered" if p.cp > 1 else ""),
        (f"expert_parallel_degree={p.ep},", "out of the ranks of a stage"),
        (f"pipeline_parallel_degree={p.pp},", ""),
    ]
    return rows + (_titan_pipeline(job) if p.pp > 1 else [])


def _titan_pipeline(job: TrainingJob) -> Rows:
    p = job.parallelism
    names = {meant: word for word, meant in reversed(TITAN_SCHEDULES.items())}
    word = "ZBVZeroBubble" if (p.schedule, p.vpp) == ("zero-bubble", 2) else names[p.pipeline_schedule]
    if p.schedule == "zero-bubble" and p.vpp == 1:
        raise cannot_say("torchtitan", "schedule='zero-bubble' with vpp=1")
    if p.by_cost:
        raise cannot_say("torchtitan", "by_cost=True")
    less = int(p.uneven)
    each = ceil_div(job.model.num_layers + 2 * less, p.pp * p.vpp)
    return [
        (f'pipeline_parallel_schedule="{word}",', f"schedule={p.pipeline_schedule}"),
        (f"pipeline_parallel_microbatch_size={job.micro_batch},", "sequences of a micro-batch"),
        (f"pipeline_parallel_layers_per_stage={each},", f"{p.vpp} of {p.pp * p.vpp} chunks on each rank"),
        (f"pipeline_parallel_first_stage_less_layers={less},", "the embedding counts as so many layers"),
        (f"pipeline_parallel_last_stage_less_layers={less},", "and so does the head"),
    ]


def _titan_recompute(job: TrainingJob) -> str:
    kinds = {"none": "None", "full": "FullAC.Config()", "per-op": "SelectiveAC.Config()"}
    if job.recompute not in kinds:
        raise cannot_say("torchtitan", f"recompute={job.recompute!r}")
    return kinds[job.recompute]


def _titan_compiled(job: TrainingJob) -> bool:
    """As asked, or as the job's software has it."""
    return bool(job.compiled) if job.software != "torchtitan" else job.trainer.elementwise == "compiled"


def _titan_compile(job: TrainingJob) -> str:
    compiled, overlap = _titan_compiled(job), bool(job.tp_overlap) and job.parallelism.tp > 1
    if overlap and not compiled:
        raise cannot_say("torchtitan", "tp_overlap=True with compiled=False")
    return f"        compile=CompileConfig(enable={compiled}, enable_async_tensor_parallel={overlap}),"
