"""Forms of trainers: plain PyTorch, and those around transformers: accelerate, DeepSpeed, axolotl, LLaMA-Factory.

Options are those of accelerate 1.15, TRL 1.16, DeepSpeed 0.19, axolotl 0.19 and LLaMA-Factory 0.9.5. The tables are
read both ways: `reading` turns them round. Megatron-LM and torchtitan are in `pretraining`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmhw.job import TrainingJob
from llmhw.launch import FORMS, Asked, Form, Written, cannot_say, commented, heading
from llmhw.launch.pretraining import (
    Rows,
    command_line,
    megatron,
    node_variables,
    steps_of,
    torchrun_line,
    torchtitan,
)
from llmhw.memory import lora_modules
from llmhw.units import LLMHWError

__all__ = ["accelerate", "axolotl", "deepspeed", "llamafactory", "megatron", "torchrun", "torchtitan"]

# A setting: name, value, reason. A value may hold settings itself.
Setting = tuple[str, Any, str]

_MINE = "yours goes here"
_NOT = "no figure of the plan"
_BATCH = frozenset("micro_batch global_batch seq_len recompute precision optimizer attention zero".split())
_TUNING = frozenset("frozen rank targets base adapters adapter_layers method reference completion group".split())

# -- plain PyTorch ----------------------------------------------------------------------------

TORCHRUN_SAID = _BATCH | {"replicas", "offload", "compiled"}
# Values that the script takes, as its own parser says; the option is called as the field.
TORCHRUN_VALUES = {
    "optimizer": ("adamw", "adamw-fused", "sgd", "sgd-momentum"),
    "recompute": ("none", "full"),
    "attention": ("flash", "eager"),
    "offload": ("none", "all"),
    "precision": ("fp32", "fp32-bf16", "bf16"),
}


def sharded_precision(job: TrainingJob, form: str) -> tuple[str, str]:
    """The precision under FSDP, or autocast, and why: weights of fp32 take the place of a master copy."""
    if job.compute_format not in ("bf16", "fp32") or (job.precision == "fp32") != (job.compute_format == "fp32"):
        raise cannot_say(form, f"compute={job.compute_format!r}")
    if job.precision == "bf16-mixed":
        return "fp32-bf16", "fp32 weights are the master copy: 16 bytes a parameter"
    if job.precision not in TORCHRUN_VALUES["precision"]:
        raise cannot_say(form, f"precision={job.precision!r}")
    return job.precision, f"precision={job.precision}"


def torchrun(asked: Asked) -> Written:
    """A script that holds a program in plain PyTorch and starts it."""
    job: TrainingJob = asked.job
    form, p = FORMS["torchrun"], job.parallelism
    for name, values in TORCHRUN_VALUES.items():
        value = getattr(p if name == "offload" else job, name)
        if value not in values and name != "precision":
            raise cannot_say("torchrun", f"{name}={value!r}")
    if p.offload == "all" and p.zero < 2:
        raise cannot_say("torchrun", f"offload='all' with zero={p.zero}")
    precision, why = sharded_precision(job, "torchrun")
    steps, tokens = steps_of(asked)
    how = {0: "DDP", 1: "DDP, optimizer states shared", 2: "FSDP2, weights stay gathered", 3: "FSDP2"}[p.zero]
    rows: Rows = [
        (f"--model {asked.model_id}", "or a folder; --from-scratch for random weights"),
        ("${DATA:+--data $DATA}", "a file of token ids, uint32; without it: random tokens"),
        (f"--zero {p.zero} --replicas {p.replicas}", f"{how} over {p.dp // p.replicas} of {p.dp} ranks"),
        (f"--precision {precision}", why),
        (f"--optimizer {job.optimizer} --lr 3e-4", f"the rate is {_NOT}"),
        (f"--recompute {job.recompute} --attention {job.attention} --offload {p.offload}", ""),
        *([("--compile", "layer by layer")] if job.compiled else []),
        (f"--micro-batch {job.micro_batch} --accumulate {job.micro_batches}", f"{job.batch} sequences a step"),
        (f"--seq-len {job.seq_len} --steps {steps}", tokens),
    ]
    program = Path(__file__).with_name("torchrun_script.txt").read_text(encoding="utf-8")
    variables = [
        ("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}", "of the host, for each process"),
        *node_variables(job),
    ]
    text = [
        "#!/usr/bin/env bash",
        *heading(asked, form, "Run it on each node."),
        "set -euo pipefail",
        commented(variables),
        "",
        "ARGUMENTS=(",
        *(f"  {line}" for line in commented(rows, most=72).splitlines()),
        ")",
        "",
        f"cat > train.py <<'PYTHON'\n{program}PYTHON\n",
        command_line([*torchrun_line(job), 'train.py "${ARGUMENTS[@]}"']),
        "",
    ]
    return Written(
        text="\n".join(text),
        said=TORCHRUN_SAID,
        command=f"bash {form.file}",
        packages=("torch", "transformers"),
        image="pytorch/pytorch",
    )


# -- transformers' Trainer --------------------------------------------------------------------

# `optim` of transformers' TrainingArguments, and our optimizer; the first of those that mean the same is written.
OPTIM = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw-fused",
    "adamw_bnb_8bit": "adamw-8bit",
    "adamw_8bit": "adamw-8bit",
    "adamw_torch_8bit": "adamw-8bit",
    "paged_adamw_32bit": "paged-adamw",
    "paged_adamw_8bit": "paged-adamw-8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "lion_32bit": "lion",
    "muon": "muon",
}
# bitsandbytes' states and bucket tensors are no DTensors.
_NOT_UNDER_FSDP2 = ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit")
# Formats of a frozen base that bitsandbytes makes.
QUANTIZED = {"nf4-dq": (4, True), "nf4": (4, False), "int8-llm": (8, False), "int8": (8, False)}
ATTENTION = {"flash": "sdpa", "eager": "eager"}


def optim_of(job: TrainingJob, form: str) -> str:
    """transformers' name of the optimizer."""
    by = "deepspeed" if form == "deepspeed" else sharder(job)
    for name, meant in OPTIM.items():
        if meant != job.optimizer or (name == "muon" and form != "axolotl"):
            continue
        if (by == "fsdp" and name in _NOT_UNDER_FSDP2) or (by == "deepspeed" and name == "muon"):
            continue
        return name
    raise cannot_say(form, f"optimizer={job.optimizer!r}")


def sharder(job: TrainingJob) -> str:
    """Who shares states out: fsdp for ZeRO 3; deepspeed for 1 and 2, or where a master copy is wanted; else none."""
    p = job.parallelism
    if p.zero and (p.zero < 3 or job.software.startswith("deepspeed") or p.offload == "optimizer"):
        return "deepspeed"
    if p.zero == 3:
        return "fsdp"
    mixed = job.precision in ("bf16-mixed", "bf16-mixed-fp32-grads")
    return "deepspeed" if mixed and not job.frozen else "none"


def _checked(job: TrainingJob, form: str) -> None:
    """What no form around transformers' Trainer can say."""
    if job.recompute not in ("none", "full"):
        raise cannot_say(form, f"recompute={job.recompute!r}")
    if job.base is not None and job.base not in QUANTIZED:
        raise cannot_say(form, f"base={job.base!r}")
    if job.loss == "fused":
        raise cannot_say(form, "loss='fused'")
    if job.method == "grpo" and job.batch % job.group:
        raise LLMHWError(f"group={job.group} does not divide global_batch={job.batch}, the answers of a step")
    if job.parallelism.zero == 0 and job.parallelism.offload != "none":
        raise cannot_say(form, f"offload={job.parallelism.offload!r} with zero=0")
    if job.reference is not None and job.reference != (job.method == "dpo" and not job.frozen):
        raise cannot_say(form, f"reference={job.reference}")


def _targets(job: TrainingJob) -> list[str]:
    """Names of the modules with adapters."""
    return list(lora_modules(job.model, job.targets))


def trl_flags(asked: Asked, form: str) -> list[str]:
    """Flags of TRL's scripts, which are those of transformers' TrainingArguments and some more."""
    job: TrainingJob = asked.job
    steps, _ = steps_of(asked)
    by = "deepspeed" if form == "deepspeed" else sharder(job)
    whole = (by == "deepspeed" and job.precision != "fp32-bf16") or job.frozen or job.precision == "bf16"
    data = {"sft": "trl-lib/Capybara", "dpo": "trl-lib/ultrafeedback_binarized", "grpo": "trl-lib/DeepMath-103K"}
    kind = "bfloat16" if whole and job.precision != "fp32" else "float32"
    # under FSDP it is the config's own: gradients would be gathered twice
    again = job.recompute == "full" and by != "fsdp"
    found: dict[str, Any] = {
        "model_name_or_path": asked.model_id,
        "dataset_name": data[job.method],
        "output_dir": "out",
        "dtype": kind,
        "attn_implementation": ATTENTION[job.attention],
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.micro_batches,
        "max_steps": steps,
        "optim": optim_of(job, form),
        "bf16": job.precision not in ("fp32", "bf16"),
        "gradient_checkpointing": again,
    }
    found |= {"torch_compile": True} if job.compiled else {}
    found |= {"use_liger_kernel": True} if job.loss == "chunked" else {}
    found |= _trl_method(job)
    found |= _trl_adapters(job) if job.frozen else {}
    return [f"--{name} {value}" for name, value in found.items()]


def _trl_method(job: TrainingJob) -> dict[str, Any]:
    if job.method != "grpo":
        packed = {"packing": True} if job.packed else {}
        return {"max_length": job.seq_len} | (packed if job.method == "sft" else {})
    found: dict[str, Any] = {
        "max_completion_length": job.answer_tokens,
        "vllm_max_model_length": job.seq_len,
        "num_generations": job.group,
        "reward_funcs": "accuracy_reward",
        "use_vllm": bool(job.rollout_share or job.rollout_gpus),
        "beta": 0.04 if job.has_reference else 0.0,
    }
    if job.rollout_share:
        found |= {"vllm_mode": "colocate", "vllm_gpu_memory_utilization": job.rollout_share}
    elif job.rollout_gpus:
        found |= {"vllm_mode": "server", "vllm_tensor_parallel_size": job.rollout_gpus}
    return found


def _trl_adapters(job: TrainingJob) -> dict[str, Any]:
    found: dict[str, Any] = {
        "use_peft": True,
        "lora_r": job.rank,
        "lora_alpha": 2 * job.rank,
        "lora_target_modules": job.targets if job.targets == "all-linear" else " ".join(_targets(job)),
    }
    bits, double = QUANTIZED.get(job.base or "", (16, False))
    if bits == 4:
        found |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": double}
    return found | ({"load_in_8bit": True} if bits == 8 else {})


_TRL_SAID = (
    _BATCH
    | (_TUNING - {"adapters", "adapter_layers"})
    | {*"compiled loss packed rollout_share rollout_gpus replicas offload".split()}
)


# -- accelerate -------------------------------------------------------------------------------

CP_KINDS = {"allgather": "all-gather", "alltoall": "ring"}


def accelerate(asked: Asked) -> Written:
    """The config of `accelerate launch`; its head has the command, whose flags say the rest."""
    job: TrainingJob = asked.job
    form, p, by = FORMS["accelerate"], job.parallelism, sharder(job)
    _checked(job, "accelerate")
    if (p.tp > 1 or p.cp > 1) and by != "fsdp":
        raise cannot_say("accelerate", f"tp={p.tp}, cp={p.cp} with zero={p.zero}")
    mixed = {"fp32": "no", "bf16": "no"}.get(job.precision, "bf16")
    if job.compute_format not in ("bf16", "fp32"):
        raise cannot_say("accelerate", f"compute={job.compute_format!r}")
    alone = p.devices == 1
    kind = {"fsdp": "FSDP", "deepspeed": "DEEPSPEED", "none": "NO" if alone else "MULTI_GPU"}[by]
    settings: list[Setting] = [
        ("compute_environment", "LOCAL_MACHINE", ""),
        ("distributed_type", kind, f"zero={p.zero}" if p.zero else "every rank has all states"),
        ("num_machines", job.cluster.nodes, ""),
        ("num_processes", p.devices, "devices of all machines together"),
        ("machine_rank", 0, "--machine_rank says which one it is"),
        ("main_training_function", "main", ""),
        ("mixed_precision", mixed, _why_mixed(job, by)),
        ("rdzv_backend", "static", ""),
        ("same_network", True, ""),
        ("use_cpu", False, ""),
    ]
    if by == "fsdp":
        settings.append(("fsdp_config", _accelerate_fsdp(job), ""))
    if by == "deepspeed":
        settings.append(("deepspeed_config", _accelerate_deepspeed(job), ""))
    if p.replicas > 1 or p.tp > 1 or p.cp > 1:
        settings.append(("parallelism_config", _accelerate_parallelism(job), "accelerate 1.10 and later"))
    command = _accelerate_command(asked)
    text = [
        *heading(asked, form, "On every node, with NODE_RANK, MASTER_ADDR and MASTER_PORT set if there are several:"),
        *(f"#   {line}" for line in command.splitlines()),
        *_yaml(settings),
        "",
    ]
    said = _TRL_SAID | ({"tp", "cp", "cp_kind"} if by == "fsdp" else set())
    return Written(text="\n".join(text), said=said, command=command, packages=_packages(job, "accelerate", "trl", by))


def _packages(job: TrainingJob, *names: str) -> tuple[str, ...]:
    found = [name for name in names if name not in ("fsdp", "none")]
    found += ["peft"] if job.frozen and "trl" in found else []
    found += ["bitsandbytes"] if job.base or "8bit" in job.optimizer or "paged" in job.optimizer else []
    found += ["liger-kernel"] if job.loss == "chunked" else []
    return tuple(found) + (("vllm",) if job.rollout_share or job.rollout_gpus else ())


def _accelerate_command(asked: Asked) -> str:
    job: TrainingJob = asked.job
    words = [f"accelerate launch --config_file {FORMS['accelerate'].file}"]
    if job.cluster.nodes > 1:
        words.append('--machine_rank "$NODE_RANK" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT"')
    return command_line([*words, f"-m trl.scripts.{job.method}", *trl_flags(asked, "accelerate")])


def _why_mixed(job: TrainingJob, by: str) -> str:
    if job.precision == "bf16":
        return "weights, gradients and states are in bf16 (--dtype)"
    if by == "fsdp" and not job.frozen:
        return sharded_precision(job, "accelerate")[1]
    return f"precision={job.precision}"


def _accelerate_fsdp(job: TrainingJob) -> list[Setting]:
    return [
        ("fsdp_version", 2, "fully_shard"),
        ("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "layer by layer: no more than one is gathered"),
        ("fsdp_reshard_after_forward", True, "zero=3"),
        ("fsdp_activation_checkpointing", job.recompute == "full", f"recompute={job.recompute}"),
        ("fsdp_offload_params", job.parallelism.offload == "all", f"offload={job.parallelism.offload}"),
        ("fsdp_cpu_ram_efficient_loading", True, "rank 0 reads the weights"),
        ("fsdp_state_dict_type", "SHARDED_STATE_DICT", "every rank writes its part"),
    ]


def _accelerate_deepspeed(job: TrainingJob) -> list[Setting]:
    p = job.parallelism
    if job.precision not in ("bf16-mixed", "fp32"):
        raise cannot_say("accelerate", f"precision={job.precision!r} with DeepSpeed")
    if p.replicas > 1:
        raise cannot_say("accelerate", f"replicas={p.replicas} with DeepSpeed")
    found: list[Setting] = [
        ("zero_stage", p.zero, ""),
        ("gradient_accumulation_steps", job.micro_batches, f"{job.batch} sequences a step"),
        ("gradient_clipping", 1.0, _NOT),
        ("offload_optimizer_device", "cpu" if p.offload != "none" else "none", f"offload={p.offload}"),
        ("offload_param_device", "cpu" if p.offload == "all" else "none", ""),
    ]
    if p.offload == "all" and p.zero < 3:
        raise cannot_say("accelerate", f"offload='all' with zero={p.zero}")
    if p.zero == 3:
        found += [("zero3_init_flag", True, "no rank ever holds the whole model"), ("zero3_save_16bit_model", True, "")]
    return found


def _accelerate_parallelism(job: TrainingJob) -> list[Setting]:
    p = job.parallelism
    found: list[Setting] = [
        ("parallelism_config_dp_replicate_size", p.replicas, "HSDP: copies of the sharded model"),
        ("parallelism_config_dp_shard_size", p.dp // p.replicas, "ranks that share one"),
        ("parallelism_config_tp_size", p.tp, ""),
        ("parallelism_config_cp_size", p.cp, ""),
    ]
    if p.cp > 1:
        kinds = {meant: word for word, meant in CP_KINDS.items()}
        found.append(("parallelism_config_cp_comm_strategy", kinds[p.cp_kind], f"cp_kind={p.cp_kind}"))
    return found


# -- DeepSpeed --------------------------------------------------------------------------------

DEEPSPEED_OPTIMIZERS = {"AdamW": "adamw-fused", "Adam": "adamw-fused", "Lion": "lion", "Muon": "muon"}


def deepspeed(asked: Asked) -> Written:
    """DeepSpeed's config. JSON has no comments: they, and the command, stand under "_comment", which it ignores."""
    from json import dumps

    job: TrainingJob = asked.job
    form = FORMS["deepspeed"]
    _checked(job, "deepspeed")
    each = min(job.cluster.devices, job.cluster.devices_per_node)
    launch = [f"deepspeed --num_gpus {each} --module"]
    if job.cluster.nodes > 1:  # its own launcher wants ssh and a list of hosts
        launch = [*torchrun_line(job), "-m"]
    flags = trl_flags(asked, "deepspeed")
    launch[-1] += f" trl.scripts.{job.method}"
    command = command_line([*launch, *flags, f"--deepspeed {form.file}"])
    found, why = deepspeed_config(job, "deepspeed")
    comments = [*heading(asked, form, "On every node, with NODE_RANK, MASTER_ADDR and MASTER_PORT set if several:")]
    lines = [*comments, *command.splitlines(), "Why:", *(f"{name}: {reason}" for name, reason in why.items())]
    text = dumps({"_comment": [line.strip() for line in lines], **found}, indent=2) + "\n"
    said = (_TRL_SAID | {"tp"}) - {"reference"}
    return Written(text=text, said=said, command=command, packages=_packages(job, "deepspeed", "trl"))


def deepspeed_config(job: TrainingJob, form: str) -> tuple[dict[str, Any], dict[str, str]]:
    """DeepSpeed's config as a dict, and the reasons of its entries."""
    p = job.parallelism
    if job.compute_format not in ("bf16", "fp32") or (job.precision == "fp32") != (job.compute_format == "fp32"):
        raise cannot_say(form, f"compute={job.compute_format!r}")
    zero: dict[str, Any] = {"stage": p.zero}
    if p.zero:
        zero |= {"overlap_comm": True, "contiguous_gradients": True}
    if p.zero == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    if p.replicas > 1:  # MiCS is gone since 0.19
        raise cannot_say(form, f"replicas={p.replicas} with DeepSpeed")
    if p.offload == "all" and p.zero < 3:
        raise cannot_say(form, f"offload='all' with zero={p.zero}")
    if p.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if p.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    found = {
        "train_batch_size": job.batch,
        "train_micro_batch_size_per_gpu": job.micro_batch,
        "gradient_accumulation_steps": job.micro_batches,
        "gradient_clipping": 1.0,
        "zero_optimization": zero,
        **_deepspeed_precision(job, form),
    }
    if p.tp > 1:
        if p.zero == 3:
            raise cannot_say(form, f"tp={p.tp} with zero=3")
        found["tensor_parallel"] = {"autotp_size": p.tp}
    if p.offload != "none":  # DeepSpeed's own Adam runs on the processor
        if job.optimizer not in ("adamw", "adamw-fused"):
            raise cannot_say(form, f"optimizer={job.optimizer!r} with offload={p.offload!r}")
        rest = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
        found["optimizer"] = {"type": "AdamW", "params": rest}
    elif job.optimizer not in ("adamw", "adamw-fused"):
        found["zero_allow_untested_optimizer"] = True
    why = {
        "train_batch_size": f"{job.micro_batch} sequences x {job.micro_batches} micro-batches x {p.dp} ranks",
        "zero_optimization.stage": "1 splits optimizer states, 2 gradients too, 3 weights too",
        "data_types.grad_accum_dtype": f"precision={job.precision}",
    }
    return found, {name: reason for name, reason in why.items() if name.partition(".")[0] in found}


def _inside(job: TrainingJob, form: str) -> list[Setting]:
    """DeepSpeed's config inside of another, which fills in the batch."""
    found, _ = deepspeed_config(job, form)
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return _nested(found | dict.fromkeys(batch, "auto"))


def _deepspeed_precision(job: TrainingJob, form: str) -> dict[str, Any]:
    """bf16 weights with a master copy of fp32, unless all is in one format; gradients as the precision has them."""
    if job.precision == "fp32":
        return {"bf16": {"enabled": False}}
    if job.precision == "fp32-bf16":
        return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    found: dict[str, Any] = {"bf16": {"enabled": True}}
    if job.precision == "bf16":
        if job.parallelism.zero == 0:
            raise cannot_say(form, "precision='bf16' with zero=0")
        found["bf16"] |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    grads = "fp32" if job.precision == "bf16-mixed-fp32-grads" else "bf16"
    return found | {"data_types": {"grad_accum_dtype": grads}}


# -- axolotl ----------------------------------------------------------------------------------

AXOLOTL_FIELDS = {
    "sequence_len": "seq_len",
    "micro_batch_size": "micro_batch",
    "lora_r": "rank",
    "tensor_parallel_size": "tp",
    "context_parallel_size": "cp",
    "dp_replicate_size": "replicas",
}
_AXOLOTL_SAID = (
    _BATCH
    | _TUNING
    | {*"tp cp replicas offload compiled loss packed checkpoint_offload rollout_share rollout_gpus".split()}
)


def axolotl(asked: Asked) -> Written:
    """axolotl's config."""
    job: TrainingJob = asked.job
    form, p = FORMS["axolotl"], job.parallelism
    _checked(job, "axolotl")
    if job.compute_format not in ("bf16", "fp32"):
        raise cannot_say("axolotl", f"compute={job.compute_format!r}")
    if p.tp > 1 and sharder(job) != "fsdp":
        raise cannot_say("axolotl", f"tp={p.tp} with zero={p.zero}")
    if job.method == "dpo" and job.base and sharder(job) == "fsdp":
        raise cannot_say("axolotl", f"base={job.base!r} with method='dpo' and zero=3")
    steps, why = steps_of(asked)
    settings: list[Setting] = [
        ("base_model", asked.model_id, ""),
        *_axolotl_adapters(job),
        *_axolotl_method(job),
        ("sequence_len", job.seq_len, ""),
        ("sample_packing", bool(job.packed), "several texts in a sequence" if job.packed else "else they are padded"),
        ("pad_to_sequence_len", True, "every batch as long as planned"),
        ("micro_batch_size", job.micro_batch, "sequences at a time on a device"),
        ("gradient_accumulation_steps", job.micro_batches, f"{job.batch} sequences a step"),
        ("max_steps", steps, why),
        ("optimizer", optim_of(job, "axolotl"), f"optimizer={job.optimizer}"),
        ("learning_rate", "2.0e-5" if not job.frozen else "2.0e-4", _NOT),
        ("lr_scheduler", "cosine", _NOT),
        *_axolotl_precision(job),
        ("attn_implementation", "flash_attention_2" if job.attention == "flash" else "eager", ""),
        *_axolotl_recompute(job),
        *([("torch_compile", True, "")] if job.compiled else []),
        *_axolotl_loss(job),
        *_axolotl_sharding(job),
        ("output_dir", "./out", ""),
    ]
    launch = " ".join(torchrun_line(job)).removeprefix("torchrun ")
    each = min(job.cluster.devices, job.cluster.devices_per_node)
    extras = ["deepspeed"] * (sharder(job) == "deepspeed") + ["ring-flash-attn"] * (p.cp > 1)
    command = f"axolotl train {form.file} --launcher torchrun -- {launch}" if each > 1 else f"axolotl train {form.file}"
    return Written(
        text=_document(asked, form, command, settings),
        said=_AXOLOTL_SAID,
        command=command,
        packages=(f"axolotl[{','.join(extras)}]" if extras else "axolotl",),
        image="axolotlai/axolotl:main-latest",
    )


def _axolotl_adapters(job: TrainingJob) -> list[Setting]:
    if not job.frozen:
        return []
    bits, double = QUANTIZED.get(job.base or "", (16, False))
    found: list[Setting] = [("adapter", "qlora" if bits == 4 else "lora", "the model's own weights are frozen")]
    if bits < 16:
        found.append((f"load_in_{bits}bit", True, f"base={job.base}"))
    if bits == 4 and not double:
        found.append(("bnb_config_kwargs", [("bnb_4bit_use_double_quant", False, "")], "scales stay in fp32"))
    found += [("lora_r", job.rank, f"rank={job.rank}"), ("lora_alpha", 2 * job.rank, _NOT), ("lora_dropout", 0.0, "")]
    if job.targets == "all-linear":
        found.append(("lora_target_linear", True, "targets=all-linear"))
    else:
        found.append(("lora_target_modules", _targets(job), f"targets={job.targets}"))
    if job.adapter_layers is not None:
        layers = job.model.num_layers
        found.append(("peft_layers_to_transform", list(range(layers - job.adapter_layers, layers)), "the last ones"))
    if job.adapters == "bf16":
        found.append(("peft_autocast_adapter_dtype", False, "adapters in bf16; by default they are in fp32"))
    return found


def _axolotl_method(job: TrainingJob) -> list[Setting]:
    """Data, and what a method needs beside."""
    if job.method == "dpo":
        data = [("path", "Intel/orca_dpo_pairs", _MINE), ("type", "chatml.intel", ""), ("split", "train", "")]
        return [("rl", "dpo", "pairs of answers"), ("datasets", [data], "")]
    if job.method == "sft":
        return [("datasets", [[("path", "tatsu-lab/alpaca", _MINE), ("type", "alpaca", "")]], "")]
    trl: list[Setting] = [
        ("num_generations", job.group, f"group={job.group}: answers to a prompt"),
        ("max_completion_length", job.answer_tokens, "tokens of an answer"),
        ("beta", 0.04 if job.has_reference else 0.0, "0: no reference model is held"),
        ("reward_funcs", ["rewards.reward"], f"function of your file rewards.py: {_MINE}"),
        ("use_vllm", bool(job.rollout_share or job.rollout_gpus), "vLLM writes the answers"),
    ]
    if job.micro_batch * job.micro_batches < job.group:
        raise LLMHWError(
            f"group={job.group} is more than the {job.micro_batch * job.micro_batches} answers of a rank and step; "
            f"axolotl wants a global_batch of at least {job.group * job.parallelism.dp}"
        )
    trl.append(("generation_batch_size", job.batch, "answers of a step, over all ranks"))
    found: list[Setting] = [("rl", "grpo", "answers of its own"), ("trl", trl, "")]
    if job.rollout_share:
        trl.append(("vllm_mode", "colocate", "beside the trainer, on the same devices"))
        engine: list[Setting] = [("gpu_memory_utilization", job.rollout_share, f"rollout_share={job.rollout_share:g}")]
    else:
        trl += [("vllm_mode", "server", "`axolotl vllm-serve axolotl.yaml` starts it")] if job.rollout_gpus else []
        engine = [("tensor_parallel_size", job.rollout_gpus, f"rollout_gpus={job.rollout_gpus}")]
    if job.rollout_share or job.rollout_gpus:
        found.append(("vllm", [*engine, ("max_model_len", job.seq_len, "prompt and answer")], ""))
    return [
        *found,
        ("datasets", [[("path", "openai/gsm8k", _MINE), ("name", "main", ""), ("type", "rewards.texts", "")]], ""),
    ]


def _axolotl_precision(job: TrainingJob) -> list[Setting]:
    if job.precision == "fp32":
        return [("bf16", False, ""), ("float32", True, "precision=fp32"), ("tf32", False, "")]
    if job.precision == "bf16" and not job.frozen and sharder(job) == "none":
        return [("bf16", True, "weights, gradients and states in bf16"), ("tf32", True, "")]
    if job.frozen or sharder(job) == "deepspeed":
        return [("bf16", True, f"precision={job.precision}"), ("tf32", True, "")]
    if job.precision == "fp32-bf16" or (job.precision == "bf16-mixed" and sharder(job) == "fsdp"):
        if sharder(job) == "none":
            raise cannot_say("axolotl", "precision='fp32-bf16' with zero=0")
        return [("bf16", True, sharded_precision(job, "axolotl")[1]), ("tf32", True, "")]
    raise cannot_say("axolotl", f"precision={job.precision!r} with zero={job.parallelism.zero}")


def _axolotl_recompute(job: TrainingJob) -> list[Setting]:
    found: list[Setting] = []
    inside = sharder(job) == "fsdp"  # FSDP's own: weights are not gathered twice
    if not inside:
        found.append(("gradient_checkpointing", job.recompute == "full", f"recompute={job.recompute}"))
    if job.recompute == "full" and not inside:
        found.append(("gradient_checkpointing_kwargs", [("use_reentrant", False, "")], ""))
    if job.checkpoint_offload:
        found.append(("activation_offloading", "hidden_states", "inputs of layers wait in host memory"))
    return found


def _axolotl_loss(job: TrainingJob) -> list[Setting]:
    if job.loss != "chunked":
        return []
    return [
        ("plugins", ["axolotl.integrations.liger.LigerPlugin"], ""),
        ("liger_fused_linear_cross_entropy", True, "loss=chunked: never all logits at once"),
    ]


def _axolotl_sharding(job: TrainingJob) -> list[Setting]:
    p = job.parallelism
    by = sharder(job)
    found: list[Setting] = []
    if p.devices > 1 and by == "fsdp":
        found += [
            ("dp_shard_size", p.dp // p.replicas, "ranks that share the states"),
            ("dp_replicate_size", p.replicas, "HSDP: copies of the sharded model"),
        ]
    found += [("tensor_parallel_size", p.tp, "")] if p.tp > 1 else []
    found += [("context_parallel_size", p.cp, f"{job.seq_len // p.cp:,} tokens on a rank")] if p.cp > 1 else []
    if by == "deepspeed":
        return [*found, ("deepspeed", _inside(job, "axolotl"), f"zero={p.zero}")]
    if by == "none":
        return found
    inner: list[Setting] = [
        ("reshard_after_forward", True, "zero=3"),
        ("activation_checkpointing", job.recompute == "full", f"recompute={job.recompute}"),
        ("offload_params", p.offload == "all", f"offload={p.offload}"),
        ("auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "layer by layer"),
        *_layer_class(job),
        ("cpu_ram_efficient_loading", job.base is None, "rank 0 reads the weights; not where they are quantized"),
        ("state_dict_type", "FULL_STATE_DICT", ""),
    ]
    return [*found, ("fsdp_version", 2, "fully_shard"), ("fsdp_config", inner, "")]


def _layer_class(job: TrainingJob) -> list[Setting]:
    """The class of the repeated layer, as transformers names it: that of the architecture, with DecoderLayer."""
    found = (job.model.config.get("architectures") or [""])[0]
    stem = found.removesuffix("ForCausalLM")
    return [("transformer_layer_cls_to_wrap", f"{stem}DecoderLayer", "")] if found.endswith("ForCausalLM") else []


# -- LLaMA-Factory ----------------------------------------------------------------------------

LLAMAFACTORY_FIELDS = {
    "cutoff_len": "seq_len",
    "per_device_train_batch_size": "micro_batch",
    "lora_rank": "rank",
}
_LLAMAFACTORY_SAID = (
    _BATCH
    | (_TUNING - {"completion", "group", "adapter_layers"})
    | {*"offload compiled loss packed checkpoint_offload".split()}
)


def llamafactory(asked: Asked) -> Written:
    """LLaMA-Factory's config."""
    job: TrainingJob = asked.job
    form, p = FORMS["llamafactory"], job.parallelism
    _llamafactory_checked(job)
    steps, why = steps_of(asked)
    stage = {"sft": "sft", "dpo": "dpo"}[job.method]
    data = {"sft": "alpaca_en_demo", "dpo": "dpo_en_demo"}[job.method]
    settings: list[Setting] = [
        ("model_name_or_path", asked.model_id, ""),
        ("flash_attn", "disabled" if job.attention == "eager" else "sdpa", f"attention={job.attention}"),
        ("stage", stage, f"method={job.method}"),
        ("do_train", True, ""),
        ("finetuning_type", "lora" if job.frozen else "full", ""),
        *_llamafactory_adapters(job),
        *([("pref_beta", 0.1, _NOT), ("pref_loss", "sigmoid", "DPO's")] if job.method == "dpo" else []),
        ("dataset", data, f"a name in dataset_info.json: {_MINE}; template: as the tokenizer has it"),
        ("cutoff_len", job.seq_len, "tokens of a sequence"),
        *([("packing", True, "several texts in a sequence"), ("neat_packing", True, "")] if job.packed else []),
        ("per_device_train_batch_size", job.micro_batch, "sequences at a time on a device"),
        ("gradient_accumulation_steps", job.micro_batches, f"{job.batch} sequences a step"),
        ("max_steps", steps, why),
        ("optim", optim_of(job, "llamafactory"), f"optimizer={job.optimizer}"),
        ("learning_rate", "1.0e-4" if job.frozen else "1.0e-5", _NOT),
        ("lr_scheduler_type", "cosine", _NOT),
        *_llamafactory_precision(job),
        (
            "disable_gradient_checkpointing",
            job.recompute == "none",
            f"recompute={job.recompute}; by default it is full",
        ),
        *([("use_unsloth_gc", True, "inputs of layers wait in host memory")] if job.checkpoint_offload else []),
        *([("enable_liger_kernel", True, "loss=chunked: never all logits at once")] if job.loss == "chunked" else []),
        *([("torch_compile", True, "")] if job.compiled else []),
        *_llamafactory_sharding(job),
        ("output_dir", "out", ""),
        ("logging_steps", 10, ""),
        ("save_steps", 500, ""),
    ]
    nodes = job.cluster.nodes
    each = min(job.cluster.devices, job.cluster.devices_per_node)
    variables = f"FORCE_TORCHRUN=1 NPROC_PER_NODE={each} " if p.devices > 1 or sharder(job) != "none" else ""
    variables += (
        f"NNODES={nodes} NODE_RANK=$NODE_RANK MASTER_ADDR=$MASTER_ADDR MASTER_PORT=$MASTER_PORT " if nodes > 1 else ""
    )
    command = f"{variables}llamafactory-cli train {form.file}"
    return Written(
        text=_document(asked, form, command, settings),
        said=_LLAMAFACTORY_SAID,
        command=command,
        packages=("llamafactory", *_packages(job, sharder(job))),
        image="hiyouga/llamafactory:latest",
    )


def _llamafactory_checked(job: TrainingJob) -> None:
    _checked(job, "llamafactory")
    if job.method == "grpo":
        raise cannot_say("llamafactory", "method='grpo'")
    if job.compute_format not in ("bf16", "fp32"):
        raise cannot_say("llamafactory", f"compute={job.compute_format!r}")


def _llamafactory_adapters(job: TrainingJob) -> list[Setting]:
    if not job.frozen:
        return []
    bits, double = QUANTIZED.get(job.base or "", (16, False))
    found: list[Setting] = []
    if bits < 16:
        found = [("quantization_method", "bnb", ""), ("quantization_bit", bits, f"base={job.base}")]
    if bits == 4:
        found.append(("double_quantization", double, "scales in 8 bit" if double else "scales in fp32"))
    targets = "all" if job.targets == "all-linear" else ",".join(_targets(job))
    return [*found, ("lora_rank", job.rank, ""), ("lora_alpha", 2 * job.rank, _NOT), ("lora_target", targets, "")]


def _llamafactory_precision(job: TrainingJob) -> list[Setting]:
    if job.precision == "fp32":
        return [("bf16", False, "precision=fp32")]
    pure = job.precision == "bf16" or (job.frozen and job.adapters == "bf16")
    if pure and sharder(job) != "none":
        raise cannot_say("llamafactory", f"precision={job.precision!r} with zero={job.parallelism.zero}")
    mixed = sharder(job) == "fsdp" or (sharder(job) == "none" and not job.frozen and not pure)
    why = "adapters and the rest in bf16" if job.frozen and pure else f"precision={job.precision}"
    found: list[Setting] = [
        ("bf16", True, sharded_precision(job, "llamafactory")[1] if mixed and not job.frozen else why)
    ]
    return [*found, ("pure_bf16", True, why)] if pure else found


def _llamafactory_sharding(job: TrainingJob) -> list[Setting]:
    p = job.parallelism
    if p.replicas > 1:
        raise cannot_say("llamafactory", f"replicas={p.replicas}")
    if sharder(job) == "deepspeed":
        return [("deepspeed", _inside(job, "llamafactory"), f"zero={p.zero}")]
    if sharder(job) == "none":
        return []
    inner: list[Setting] = [
        ("version", 2, "fully_shard"),
        ("reshard_after_forward", True, "zero=3"),
        ("cpu_ram_efficient_loading", True, "rank 0 reads the weights"),
        *_layer_class(job),
    ]
    return [
        ("fsdp", "full_shard auto_wrap" + (" offload" if p.offload == "all" else ""), f"zero={p.zero}"),
        ("fsdp_config", inner, ""),
    ]


# -- YAML -------------------------------------------------------------------------------------


def _document(asked: Asked, form: Form, command: str, settings: list[Setting]) -> str:
    said = [
        "On every node, with NODE_RANK, MASTER_ADDR and MASTER_PORT set:" if asked.job.cluster.nodes > 1 else "Run:"
    ]
    return "\n".join([*heading(asked, form, *said, f"  {command}"), *_yaml(settings), ""])


def _nested(found: Mapping[str, Any]) -> list[Setting]:
    """A dict as settings without reasons."""
    return [(name, _nested(value) if isinstance(value, Mapping) else value, "") for name, value in found.items()]


def _yaml(settings: Iterable[Setting]) -> list[str]:
    return commented(_yaml_rows(settings)).splitlines()


def _yaml_rows(settings: Iterable[Setting], indent: str = "") -> Rows:
    """Lines of YAML with their reasons."""
    rows: Rows = []
    for name, value, why in settings:
        if _is_settings(value):
            rows += [(f"{indent}{name}:", why), *_yaml_rows(value, indent + "  ")]
        elif isinstance(value, list) and value and all(_is_settings(one) for one in value):
            rows.append((f"{indent}{name}:", why))
            for one in value:
                inner = _yaml_rows(one, indent + "    ")
                rows += [(f"{indent}  - {inner[0][0].strip()}", inner[0][1]), *inner[1:]]
        else:
            rows.append((f"{indent}{name}: {_scalar(value)}", why))
    return rows


def _is_settings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, tuple) and len(one) == 3 for one in value)


def _scalar(value: Any) -> str:
    """A value as YAML reads it back: words that mean something else there are quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(one) for one in value) + "]"
    text = str(value)
    quoted = isinstance(value, str) and (
        text.lower() in ("no", "yes", "on", "off", "true", "false", "none", "null")
        or text[:1] in "*&!%@`'\"[{#|>-?:"
        or ": " in text
        or " #" in text
    )
    return "'" + text.replace("'", "''") + "'" if quoted else text
