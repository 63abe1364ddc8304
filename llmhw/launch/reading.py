"""Files of trainers, read into the options of a job: those that `emit` wrote, and those that people have.

The names are those of the tables in `training` and `pretraining`. What a file says and no option holds is noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmhw.files import parse_json, read_text
from llmhw.job import MODULES
from llmhw.launch import Launched, script
from llmhw.launch.pretraining import (
    MEGATRON_CHOICES,
    MEGATRON_FIELDS,
    TITAN_CONVERTERS,
    TITAN_FIELDS,
    TITAN_MODELS,
    TITAN_SCHEDULES,
)
from llmhw.launch.training import (
    AXOLOTL_FIELDS,
    CP_KINDS,
    LLAMAFACTORY_FIELDS,
    OPTIM,
    QUANTIZED,
    TORCHRUN_VALUES,
)
from llmhw.sources.megatron import from_mapping, from_yaml
from llmhw.units import LLMHWError, shown

_WAY_OUT = "give the file that starts a trainer or an engine"
_MOST_NOTES = 12


def text_of(path_or_text: str) -> tuple[str, str]:
    """The text, and what errors call it: its path, or "the text"."""
    if "\n" in path_or_text:
        return path_or_text, "the text"
    return read_text(path_or_text, argument="path_or_text", way_out=_WAY_OUT), path_or_text


def found_form(text: str, what: str) -> str:
    """The form that a text looks like."""
    from llmhw.launch import served

    if form := served.found(text) or trainer_in(text):
        return form
    raise LLMHWError(f"path_or_text={shown(what)} is of no form that is known; {_WAY_OUT}, or say its form")


def trainer_in(text: str) -> str | None:
    """The form of a trainer that a text looks like; None where it looks like none."""
    return next((form for holds, form in _LOOKS if re.search(holds, text, re.MULTILINE)), None)


# Expressions that only one form has, in the order in which they are tried.
_LOOKS = (
    (r"^\s*\{[\s\S]*\"(?:zero_optimization|train_micro_batch_size_per_gpu|train_batch_size)\"\s*:", "deepspeed"),
    (
        r"^\s*(?:distributed_type|fsdp_config|deepspeed_config)\s*:[\s\S]*^\s*(?:mixed_precision|num_processes)\s*:",
        "accelerate",
    ),
    (r"^\s*(?:mixed_precision|num_processes)\s*:[\s\S]*^\s*distributed_type\s*:", "accelerate"),
    (r"^\s*base_model\s*:", "axolotl"),
    (r"^\s*model_name_or_path\s*:", "llamafactory"),
    (r"pretrain_\w+\.py|--tensor-model-parallel-size", "megatron"),
    (r"torchtitan|^\s*\[(?:parallelism|activation_checkpoint)\]|--parallelism\.", "torchtitan"),
    (r"\baccelerate launch\b", "accelerate"),
    (
        r"\b(?:torchrun|torch\.distributed\.(?:run|launch))\b|^\s*(?:deepspeed|python3?)\s.*--(?:deepspeed|fsdp)\b",
        "torchrun",
    ),
    (r"per_device_train_batch_size", "torchrun"),
)


# -- what is found ----------------------------------------------------------------------------


class _Found:
    """Settings of a file by name; each that is taken goes into the options, or is known to say nothing of them."""

    def __init__(self, form: str, said: Mapping[str, Any]) -> None:
        self.form, self.said = form, dict(said)
        self.options: dict[str, Any] = {}
        self.notes: list[str] = []
        self.model: str | None = None
        self.config: dict[str, Any] | None = None
        self.accumulation: int | None = None
        self.beside: str | None = None

    def take(self, *names: str, default: Any = None) -> Any:
        """The first of these settings that is there; all are used up."""
        found = [self.said.pop(name) for name in names if name in self.said]
        return next((value for value in found if value is not None), default)

    def unknown(self, name: str, value: Any, why: str = "is not known") -> None:
        self.notes.append(f"{name}={shown(value, 60)} {why}")

    def whole(self, field: str, *names: str, least: int = 1) -> int | None:
        """A whole number into an option; "auto" and variables are noted."""
        value = self.take(*names)
        if value is None or value == "":
            return None
        if isinstance(value, str) and value.split():
            value = value.split()[0]  # behind the last flag stands the program
        if isinstance(value, str) and (value in ("auto", "-1", "gpu") or "$" in value):
            left = "global_batch" if field == "accumulation" else field
            self.unknown(names[0], value, f"leaves {left} open; give it on the line")
            return None
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,12}", str(value).strip()) or int(value) < least:
            raise LLMHWError(f"{names[0]}={shown(value, 40)} must be a whole number of at least {least}")
        self.options[field] = int(value)
        return int(value)

    def flag(self, *names: str) -> bool | None:
        """Yes or no; None where nothing is said."""
        value = self.take(*names)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in ("true", "yes", "1", "on"):
            return True
        if word in ("false", "no", "0", "off", "none", "null"):
            return False
        self.unknown(names[0], value, "is neither yes nor no")
        return None

    def word(self, field: str, values: Mapping[str, Any], *names: str) -> Any:
        """One of a few words into an option; another is noted."""
        value = self.take(*names)
        if value is None:
            return None
        if str(value) not in values:
            self.unknown(names[0], value)
            return None
        self.options[field] = values[str(value)]
        return self.options[field]

    def count(self, *names: str) -> None:
        """Micro-batches of a rank and step."""
        self.whole("accumulation", *names)
        self.accumulation = self.options.pop("accumulation", self.accumulation)

    def launched(self) -> Launched:
        """All that was found; settings that nobody took are listed."""
        rest = [name for name, value in self.said.items() if value not in (None, "", [], {})]
        if rest:
            more = f" and {len(rest) - _MOST_NOTES} more" if len(rest) > _MOST_NOTES else ""
            self.notes.append(f"not used: {', '.join(map(str, rest[:_MOST_NOTES]))}{more}")
        return Launched(
            form=self.form,
            model=self.model,
            config=self.config,
            options=self.options,
            accumulation=self.accumulation,
            beside=self.beside,
            notes=tuple(self.notes),
        )


def _object(text: str, what: str) -> dict[str, Any]:
    """What YAML or JSON holds."""
    if text.lstrip().startswith("{"):
        found = parse_json(text, what)
        if not isinstance(found, dict):
            raise LLMHWError(f"{what} holds JSON that is no object; {_WAY_OUT}")
        return found
    return from_yaml(text, what)


def _machines(found: _Found) -> None:
    """Devices, by what torchrun, accelerate's and DeepSpeed's launchers call them."""
    each = found.whole("devices_per_node", "nproc_per_node", "nproc-per-node", "num_gpus")
    nodes = str(found.take("nnodes", "num_nodes", default="1")).split()[0]
    for name in """standalone node_rank machine_rank master_addr master_port rdzv_backend rdzv_endpoint rdzv_id
        main_process_ip main_process_port no_ssh hostfile include module""".split():
        found.take(name)
    if each is None:
        return
    if not re.fullmatch(r"\d{1,6}", str(nodes)):
        found.unknown("nnodes", nodes, "leaves gpus open; give it on the line")
        return
    found.options["gpus"] = each * int(nodes)
    if int(nodes) == 1:
        del found.options["devices_per_node"]  # what a node has is not known of a part of it


# -- transformers' Trainer --------------------------------------------------------------------

# Names of older versions.
_OLDER_OPTIM = {"adamw_apex_fused": "adamw-fused", "paged_adamw": "paged-adamw", "adamw_hf": "adamw"}
_TARGETS = {"all-linear": "all-linear", "all": "all-linear"}
_NO_FIGURE = """learning_rate lr_scheduler_type lr_scheduler warmup_ratio warmup_steps weight_decay output_dir
    logging_steps save_steps save_strategy seed max_grad_norm report_to dataset_name dataset
    datasets template reward_funcs num_train_epochs num_epochs overwrite_output_dir plot_loss
    preprocessing_num_workers dataloader_num_workers max_samples do_train do_eval trust_remote_code""".split()


def _trainer(found: _Found) -> None:
    """Settings that transformers' TrainingArguments, TRL's and PEFT's have."""
    found.whole("micro_batch", "per_device_train_batch_size")
    found.count("gradient_accumulation_steps")
    found.whole(
        "seq_len",
        "max_length",
        "max_seq_length",
        "max_seq_len",
        "model_max_length",
        "vllm_max_model_length",
        "cutoff_len",
    )
    found.word("optimizer", OPTIM | _OLDER_OPTIM, "optim", "optimizer")
    if found.flag("gradient_checkpointing"):
        found.options["recompute"] = "full"
    found.take("gradient_checkpointing_kwargs", "dtype")
    if found.flag("torch_compile"):
        found.options["compiled"] = True
    if found.flag("use_liger_kernel", "enable_liger_kernel"):
        found.options["loss"] = "chunked"
    attention = found.take("attn_implementation")
    if attention is not None:
        found.options["attention"] = "eager" if attention == "eager" else "flash"
    if found.flag("packing", "sample_packing"):
        found.unknown("packing", True, "needs the tokens of a document; give --packed")
    _adapters(found)
    _grpo(found)


def _adapters(found: _Found) -> None:
    """LoRA by PEFT, and bitsandbytes under it."""
    peft = found.flag("use_peft") or found.take("adapter") in ("lora", "qlora")
    four, eight = found.flag("load_in_4bit"), found.flag("load_in_8bit")
    double = found.flag("use_bnb_nested_quant")
    found.take("bnb_4bit_quant_type", "lora_alpha", "lora_dropout", "quantization_method")
    if not peft:
        for name in ("lora_r", "lora_target_modules", "lora_target_linear"):
            found.take(name)
        return
    found.options["frozen"] = True
    found.whole("rank", "lora_r", "lora_rank")
    if four or eight:
        bits = 4 if four else 8
        found.options["base"] = _base(bits, bool(double))
    _targets(found, found.take("lora_target_modules", "lora_target"))


def _base(bits: int, double: bool) -> str:
    return next(name for name, kind in QUANTIZED.items() if kind == (bits, double and bits == 4))


def _targets(found: _Found, value: Any) -> None:
    if value is None:
        return
    words = value if isinstance(value, list) else re.split(r"[\s,]+", str(value).strip())
    words = [re.sub(r"^[\w.]+\.(?=\w+$)", "", str(word)) for word in words]  # self_attn.q_proj
    if words and words[0] in _TARGETS:
        return
    if any(re.search(r"[^\w.-]", str(word)) for word in words):
        found.unknown("lora_target_modules", value, "is a pattern; give --targets")
        return
    found.options["targets"] = " ".join(str(word) for word in words)


def _grpo(found: _Found) -> None:
    """What GRPO's answers need."""
    group = found.take("num_generations")
    answer = found.take("max_completion_length")
    vllm, share = found.flag("use_vllm"), found.take("vllm_gpu_memory_utilization")
    mode, ranks = found.take("vllm_mode"), found.take("vllm_tensor_parallel_size")
    beta = found.take("beta")
    if found.options.get("method") != "grpo":
        return
    for name, value in (("group", group), ("completion", answer)):
        if value is not None:
            found.options[name] = script.whole(found.form, name, str(value))
    if beta is not None:
        found.options["reference"] = float(beta) > 0
        if not found.options["reference"]:
            del found.options["reference"]
    if vllm and mode == "server":
        found.options["rollout_gpus"] = script.whole(found.form, "vllm_tensor_parallel_size", str(ranks or 1))
    elif vllm:
        found.options["rollout_share"] = float(share or 0.3)


def _one_word(flags: Mapping[str, list[str]]) -> dict[str, Any]:
    """Flags of a command line: one value, several with blanks between, or True where there is none."""
    return {
        name: True if not words else words[0] if len(words) == 1 else " ".join(words) for name, words in flags.items()
    }


def _command(found: _Found, words: list[str]) -> None:
    """Which of TRL's scripts a command runs."""
    method = re.search(r"trl(?:\.scripts\.|\s+)(sft|dpo|grpo)\b", " ".join(words))
    if method and method[1] != "sft":
        found.options["method"] = method[1]
    if isinstance(found.said.get("deepspeed"), str):
        _elsewhere(found, found.take("deepspeed"))
    for name in ("max_steps", "max_train_steps", "config_file", "deepspeed", "model_name_or_path", "model"):
        value = found.take(name)
        if name.startswith("model") and value not in (None, True):
            found.model = str(value).split()[0]


def _ignored(found: _Found) -> None:
    """Settings of every recipe that say nothing of memory or time."""
    for name in _NO_FIGURE:
        found.take(name)


# -- torchrun ---------------------------------------------------------------------------------


def read_torchrun(text: str) -> Launched:
    """A script that starts a program under torchrun: ours, or one with the arguments of transformers' Trainer."""
    words = script.words_of(text)
    found = _Found("torchrun", _one_word(script.flags(words)) or _python_arguments(text))
    _machines(found)
    _command(found, words)
    ours = "accumulate" in found.said
    if ours:
        found.whole("zero", "zero", least=0)
        found.whole("replicas", "replicas")
        found.whole("micro_batch", "micro_batch")
        found.whole("seq_len", "seq_len")
        found.count("accumulate")
        found.options["software"] = "compiled" if found.flag("compile") else "eager"
        for name, values in TORCHRUN_VALUES.items():
            found.word(name, {value: value for value in values}, name)
        for name in ("lr", "steps", "data", "out", "from_scratch"):
            found.take(name)
        return found.launched()
    if found.flag("bf16") and found.beside is None:
        found.options["precision"] = "fp32-bf16"
    if (fsdp := found.take("fsdp")) is not None:
        found.options["zero"] = 2 if "grad_op" in str(fsdp) else 3
        found.options["software"] = "fsdp"
    _trainer(found)
    _ignored(found)
    return found.launched()


def _python_arguments(text: str) -> dict[str, Any]:
    """Arguments of the calls of a Python program, such as TrainingArguments(...), which is parsed and never run."""
    import ast

    try:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    made = [call for call in calls if ast.unparse(call.func).rpartition(".")[2].endswith(("Arguments", "Config"))]
    return {k.arg: k.value.value for call in made for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)}


# -- accelerate and DeepSpeed -----------------------------------------------------------------


def _commented_command(text: str) -> str:
    """The command in the comments at a file's head."""
    lines = [line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")]
    programs = ("accelerate launch", "deepspeed", "torchrun")
    start = next((i for i, line in enumerate(lines) if line.startswith(programs)), None)
    return "" if start is None else "\n".join(lines[start:])


def read_accelerate(text: str) -> Launched:
    """accelerate's config, FSDP 1 and 2, DeepSpeed and the rest; or a script with `accelerate launch`."""
    if not re.search(r"^\s*distributed_type\s*:", text, re.MULTILINE):
        return _accelerate_script(text)
    command = _commented_command(text)
    found = _Found("accelerate", from_yaml(text, "the config of accelerate"))
    kind = str(found.take("distributed_type", default="NO")).upper()
    found.whole("gpus", "num_processes")
    nodes = found.take("num_machines", default=1)
    if isinstance(nodes, int) and nodes > 1 and "gpus" in found.options:
        found.options["devices_per_node"] = max(1, found.options["gpus"] // nodes)
    mixed = str(found.take("mixed_precision", default="no"))
    if kind == "FSDP":
        _accelerate_fsdp(found, found.take("fsdp_config") or {}, mixed)
    elif kind == "DEEPSPEED":
        _accelerate_deepspeed(found, found.take("deepspeed_config") or {}, mixed)
    else:
        found.options |= {"precision": "fp32" if mixed == "no" else "fp32-bf16", "software": "fsdp"}
        if kind not in ("NO", "MULTI_GPU"):
            found.unknown("distributed_type", kind)
    _accelerate_parallelism(found, found.take("parallelism_config") or {})
    for name in """compute_environment machine_rank main_training_function rdzv_backend same_network use_cpu debug
        downcast_bf16 tpu_env tpu_use_cluster tpu_use_sudo enable_cpu_affinity main_process_ip main_process_port
        gpu_ids""".split():
        found.take(name)
    if (dynamo := found.take("dynamo_config")) and str(dynamo.get("dynamo_backend", "NO")).upper() != "NO":
        found.options["compiled"] = True
    if command:
        _add(found, command)
    return found.launched()


def _add(found: _Found, command: str) -> None:
    """What the command at the head says beside the config."""
    words = script.words_of(command)
    flags = _one_word(script.flags(words))
    kind = flags.get("dtype")
    found.said |= {name: value for name, value in flags.items() if name not in found.said}
    _command(found, words)
    _machines(found)
    _trainer(found)
    _ignored(found)
    found.take("bf16")
    if found.options.get("frozen") and found.options.get("precision") == "fp32-bf16":
        del found.options["precision"]  # the frozen weights are as --dtype says
    if kind == "bfloat16" and found.options.get("precision") == "fp32":
        found.options["precision"] = "bf16"


def _accelerate_script(text: str) -> Launched:
    words = script.words_of(text)
    found = _Found("accelerate", _one_word(script.flags(words)))
    found.whole("gpus", "num_processes")
    fsdp = {name: value for name, value in found.said.items() if name.startswith("fsdp")}
    deepspeed = found.flag("use_deepspeed")
    mixed = str(found.take("mixed_precision", default="no"))
    if found.flag("use_fsdp"):
        for name in fsdp:
            found.take(name)
        _accelerate_fsdp(found, fsdp, mixed)
    elif deepspeed:
        names = ("zero_stage", "offload_optimizer_device", "offload_param_device", "gradient_accumulation_steps")
        _accelerate_deepspeed(found, {name: found.said[name] for name in names if name in found.said}, mixed)
    elif mixed == "bf16" or found.said.get("bf16"):
        found.options["precision"] = "fp32-bf16"
    found.take("num_machines", "bf16", "multi_gpu", "zero_stage")
    _command(found, words)
    _machines(found)
    _trainer(found)
    _ignored(found)
    return found.launched()


_STRATEGIES = {"FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0, "HYBRID_SHARD": 3, "HYBRID_SHARD_ZERO2": 2,
               "1": 3, "2": 2, "3": 0, "4": 3, "5": 2}  # fmt: skip


def _accelerate_fsdp(found: _Found, config: Mapping[str, Any], mixed: str) -> None:
    """FSDP's settings, of both versions."""
    fsdp = _Found("accelerate", config)
    strategy = str(fsdp.take("fsdp_sharding_strategy", default="")).upper()
    gathered = fsdp.take("fsdp_reshard_after_forward", default=True)
    zero = 2 if str(gathered).lower() == "false" else 3
    if strategy or str(gathered).upper() in _STRATEGIES:
        zero = _STRATEGIES.get(strategy or str(gathered).upper(), 3)
    if "HYBRID" in strategy:
        found.unknown("fsdp_sharding_strategy", strategy, "keeps a copy in every node; give --replicas")
    found.options |= {"zero": zero, "software": "fsdp", "precision": {"no": "fp32"}.get(mixed, "fp32-bf16")}
    if fsdp.flag("fsdp_offload_params"):
        found.options["offload"] = "all"
    if fsdp.flag("fsdp_activation_checkpointing"):
        found.options["recompute"] = "full"
    for name in """fsdp_version fsdp_auto_wrap_policy fsdp_transformer_layer_cls_to_wrap fsdp_cpu_ram_efficient_loading
        fsdp_state_dict_type fsdp_sync_module_states fsdp_use_orig_params fsdp_backward_prefetch
        fsdp_forward_prefetch""".split():
        fsdp.take(name)
    found.said |= fsdp.said


def _accelerate_deepspeed(found: _Found, config: Mapping[str, Any], mixed: str) -> None:
    deepspeed = _Found("accelerate", config)
    found.options |= {"software": "deepspeed", "precision": "fp32" if mixed == "no" else "bf16-mixed"}
    if (file := deepspeed.take("deepspeed_config_file")) is not None:
        _elsewhere(found, file)
    deepspeed.whole("zero", "zero_stage", least=0)
    deepspeed.count("gradient_accumulation_steps")
    optimizer, param = (str(deepspeed.take(f"offload_{name}_device")) for name in ("optimizer", "param"))
    if param in ("cpu", "nvme"):
        deepspeed.options["offload"] = "all"
    elif optimizer in ("cpu", "nvme"):
        deepspeed.options["offload"] = "optimizer"
    for name in ("gradient_clipping", "zero3_init_flag", "zero3_save_16bit_model", "deepspeed_multinode_launcher"):
        deepspeed.take(name)
    found.options |= deepspeed.options
    found.accumulation = deepspeed.accumulation
    found.said |= deepspeed.said
    found.notes += deepspeed.notes


def _accelerate_parallelism(found: _Found, config: Mapping[str, Any]) -> None:
    sizes = _Found("accelerate", {name.removeprefix("parallelism_config_"): value for name, value in config.items()})
    for field, name in (("replicas", "dp_replicate_size"), ("tp", "tp_size"), ("cp", "cp_size")):
        sizes.whole(field, name)
    shards = sizes.take("dp_shard_size", default=1)
    if sizes.options.get("cp", 1) > 1:
        sizes.word("cp_kind", CP_KINDS, "cp_comm_strategy")
    if sizes.options.get("replicas", 1) > 1 and shards == 1 and sizes.options.get("cp", 1) == 1:
        found.options["zero"] = 0
        del sizes.options["replicas"]
    found.options |= sizes.options
    found.notes += sizes.notes


def read_deepspeed(text: str) -> Launched:
    """DeepSpeed's config, with "auto" where transformers' Trainer fills it in."""
    config = _object(text, "the config of DeepSpeed")
    comment = config.pop("_comment", [])
    found = _Found("deepspeed", config)
    found.options["software"] = "deepspeed"
    _deepspeed(found)
    if isinstance(comment, list) and (command := _commented_command("\n".join(f"# {line}" for line in comment))):
        _add(found, command.partition("\nWhy:")[0])
    return found.launched()


def _deepspeed(found: _Found) -> None:
    """The settings of a DeepSpeed config."""
    found.whole("micro_batch", "train_micro_batch_size_per_gpu")
    found.whole("global_batch", "train_batch_size")
    found.count("gradient_accumulation_steps")
    zero = _Found("deepspeed", found.take("zero_optimization") or {})
    zero.whole("zero", "stage", least=0)
    devices = {name: (zero.take(name) or {}).get("device") for name in ("offload_optimizer", "offload_param")}
    if devices["offload_param"] in ("cpu", "nvme"):
        zero.options["offload"] = "all"
    elif devices["offload_optimizer"] in ("cpu", "nvme"):
        zero.options["offload"] = "optimizer"
    shards = zero.take("mics_shard_size", default=-1)
    if isinstance(shards, int) and shards > 0:
        batch, micro = found.options.get("global_batch"), found.options.get("micro_batch")
        if batch and micro and found.accumulation:
            zero.options["replicas"] = max(1, batch // micro // found.accumulation // shards)
    found.options |= zero.options
    found.options["precision"] = _deepspeed_precision(found)
    tensor = found.take("tensor_parallel") or {}
    if isinstance(tensor, Mapping) and tensor.get("autotp_size", 0) > 1:
        found.options["tp"] = int(tensor["autotp_size"])
    kind = (found.take("optimizer") or {}).get("type")
    if kind is not None and "offload" not in zero.options:
        names = {"adamw": "adamw-fused", "adam": "adamw-fused", "lion": "lion", "muon": "muon", "sgd": "sgd"}
        if str(kind).lower() in names:
            found.options["optimizer"] = names[str(kind).lower()]
        else:
            found.unknown("optimizer", kind)
    if found.accumulation and "global_batch" not in found.options:  # it follows once the devices are known
        found.notes = [note for note in found.notes if not note.startswith("train_batch_size")]
    _batch_of_ranks(found)
    for name in """gradient_clipping zero_allow_untested_optimizer scheduler steps_per_print wall_clock_breakdown
        fp16 zero_force_ds_cpu_optimizer""".split():
        found.take(name)


def _deepspeed_precision(found: _Found) -> str:
    bf16, cast = found.take("bf16", "bfloat16") or {}, found.take("torch_autocast") or {}
    half = found.said.get("fp16") or {}
    grads = (found.take("data_types") or {}).get("grad_accum_dtype")
    if cast.get("enabled"):
        return "fp32-bf16"
    if bf16.get("bf16_master_weights_and_grads"):
        return "bf16"
    if bf16.get("enabled") in (True, "auto") or half.get("enabled") in (True, "auto"):
        return "bf16-mixed-fp32-grads" if grads == "fp32" else "bf16-mixed"
    return "fp32"


def _batch_of_ranks(found: _Found) -> None:
    """Devices, where the batch of all, that of one and the accumulation say them."""
    batch, micro = found.options.get("global_batch"), found.options.get("micro_batch")
    if batch and micro and found.accumulation and batch % (micro * found.accumulation) == 0:
        found.options.setdefault("gpus", batch // micro // found.accumulation * found.options.get("tp", 1))


# -- axolotl and LLaMA-Factory ----------------------------------------------------------------


def read_axolotl(text: str) -> Launched:
    """axolotl's config, of FSDP 1 and 2 and DeepSpeed."""
    found = _Found("axolotl", from_yaml(text, "the config of axolotl"))
    found.model = str(found.take("base_model"))
    found.options["software"] = "axolotl"
    _axolotl_launch(found, text)
    for name, field in AXOLOTL_FIELDS.items():
        if field != "rank":
            found.whole(field, name)
    found.count("gradient_accumulation_steps")
    method = found.take("rl")
    if method in ("dpo", "grpo"):
        found.options["method"] = method
    elif method is not None:
        found.unknown("rl", method)
    _axolotl_grpo(found)
    double = (found.take("bnb_config_kwargs") or {}).get("bnb_4bit_use_double_quant", True)
    found.said.setdefault("use_bnb_nested_quant", double)  # axolotl's own default
    if found.take("lora_target_linear"):
        found.take("lora_target_modules")
    if found.take("activation_offloading") or found.said.get("gradient_checkpointing") == "offload":
        found.options |= {"checkpoint_offload": True, "recompute": "full"}
        found.take("gradient_checkpointing")
    if found.flag("liger_fused_linear_cross_entropy", "cut_cross_entropy"):
        found.options["loss"] = "chunked"
    _trainer(found)
    layers = found.take("peft_layers_to_transform")
    if isinstance(layers, list) and layers and found.options.get("frozen"):
        found.options["adapter_layers"] = len(layers)
    if found.take("peft_autocast_adapter_dtype") is False and found.options.get("frozen"):
        found.options["adapters"] = "bf16"
    _axolotl_sharding(found)
    _ignored(found)
    for (
        name
    ) in "max_steps plugins pad_to_sequence_len val_set_size dataset_prepared_path tf32 fp16 chat_template".split():
        found.take(name)
    return found.launched()


def _axolotl_launch(found: _Found, text: str) -> None:
    """Devices by the command at the head."""
    line = next((line for line in text.splitlines() if line.startswith("#") and "axolotl train" in line), "")
    _launch_line(found, line)


def _launch_line(found: _Found, line: str) -> None:
    flags = _one_word(script.flags(line.lstrip("# ").split()))
    machines = _Found(found.form, flags)
    _machines(machines)
    found.options |= {name: value for name, value in machines.options.items() if name in ("gpus", "devices_per_node")}


def _axolotl_grpo(found: _Found) -> None:
    trl, vllm = found.take("trl") or {}, found.take("vllm") or {}
    names = ("num_generations", "max_completion_length", "beta", "use_vllm", "vllm_mode")
    found.said |= {name: trl[name] for name in names if name in trl}
    if "gpu_memory_utilization" in vllm:
        found.said["vllm_gpu_memory_utilization"] = vllm["gpu_memory_utilization"]
    if "tensor_parallel_size" in vllm:
        found.said["vllm_tensor_parallel_size"] = vllm["tensor_parallel_size"]


def _axolotl_sharding(found: _Found) -> None:
    """FSDP, DeepSpeed, or neither, and the precision that follows."""
    config, version = found.take("fsdp_config"), found.take("fsdp_version")
    old, deepspeed = found.take("fsdp"), found.take("deepspeed")
    bf16, whole = found.take("bf16", "bfloat16"), found.flag("float32")
    found.take("dp_shard_size", "qlora_sharded_model_loading")
    if deepspeed is not None:
        _inline_deepspeed(found, deepspeed)
        return
    half = bf16 not in (None, False, "false") and not whole
    if config is None and old is None and version is None:
        if not found.options.get("frozen"):
            found.options["precision"] = "bf16" if half else "fp32"
        return
    prefixed = {f"fsdp_{name.removeprefix('fsdp_')}": value for name, value in (config or {}).items()}
    if isinstance(old, list) and "fsdp_sharding_strategy" not in prefixed:
        prefixed["fsdp_sharding_strategy"] = "SHARD_GRAD_OP" if "shard_grad_op" in old else "FULL_SHARD"
    _accelerate_fsdp(found, prefixed, "bf16" if half else "no")
    found.options["software"] = "axolotl"
    for name in ("fsdp_limit_all_gathers", "fsdp_final_state_dict_type", "fsdp_mixed_precision_policy"):
        found.take(name)
    if found.options.get("frozen"):
        del found.options["precision"]


def _inline_deepspeed(found: _Found, deepspeed: Any) -> None:
    """A config of DeepSpeed inside, or the name of a file that says its stage."""
    if isinstance(deepspeed, Mapping):
        inner = _Found("deepspeed", deepspeed)
        _deepspeed(inner)
        options = {name: value for name, value in inner.options.items() if name not in ("micro_batch", "global_batch")}
        found.options |= options
        if found.options.get("frozen"):
            del found.options["precision"]
        return
    _elsewhere(found, deepspeed)
    if found.options.get("frozen"):
        del found.options["precision"]


def _elsewhere(found: _Found, name: Any) -> None:
    """DeepSpeed's config in a file of its own, which may say its stage by its name."""
    found.beside = str(name).split()[0] if str(name).split() else None
    found.options["precision"] = "bf16-mixed"
    stage = re.search(r"(?:z|zero|stage)[_-]?([0-3])", str(name).rpartition("/")[2])
    if stage:
        found.options["zero"] = int(stage[1])
        found.unknown("deepspeed", name, f"is not here; it is taken as ZeRO {stage[1]} by its name")
    else:
        found.unknown("deepspeed", name, "is not here; give zero")


def read_llamafactory(text: str) -> Launched:
    """LLaMA-Factory's config."""
    found = _Found("llamafactory", from_yaml(text, "the config of LLaMA-Factory"))
    found.model = str(found.take("model_name_or_path"))
    found.options["software"] = "llama-factory"
    _llamafactory_launch(found, text)
    stage, kind = found.take("stage", default="sft"), found.take("finetuning_type", default="lora")
    if stage == "dpo":
        found.options["method"] = "dpo"
    elif stage not in ("sft", "pt"):
        found.unknown("stage", stage, "is taken as sft")
    if kind not in ("lora", "full"):
        found.unknown("finetuning_type", kind, "is taken as full")
    found.said |= {"use_peft": kind == "lora"}
    bits = found.take("quantization_bit")
    if bits in (4, 8):
        found.said |= {f"load_in_{bits}bit": True}
    double = found.flag("double_quantization")
    found.said["use_bnb_nested_quant"] = True if double is None else double
    attention = found.take("flash_attn")
    found.said |= {} if attention is None else {"attn_implementation": "eager" if attention == "disabled" else "sdpa"}
    off = found.flag("disable_gradient_checkpointing")
    found.options["recompute"] = "none" if off else "full"
    if found.flag("use_unsloth_gc"):
        found.options["checkpoint_offload"] = True
    for name, field in LLAMAFACTORY_FIELDS.items():
        if field != "rank":
            found.whole(field, name)
    _trainer(found)
    _llamafactory_sharding(found)
    _ignored(found)
    for (
        name
    ) in "max_steps neat_packing pref_beta pref_loss ddp_timeout save_only_model resume_from_checkpoint tf32".split():
        found.take(name)
    return found.launched()


def _llamafactory_launch(found: _Found, text: str) -> None:
    line = next((line for line in text.splitlines() if line.startswith("#") and "llamafactory-cli" in line), "")
    each, nodes = re.search(r"NPROC_PER_NODE=(\d{1,6})", line), re.search(r"NNODES=(\d{1,6})", line)
    if each:
        _launch_line(found, f"--nproc-per-node={each[1]} --nnodes={nodes[1] if nodes else 1}")


def _llamafactory_sharding(found: _Found) -> None:
    deepspeed, fsdp, config = found.take("deepspeed"), found.take("fsdp"), found.take("fsdp_config") or {}
    bf16, pure = found.flag("bf16"), found.flag("pure_bf16")
    frozen = found.options.get("frozen")
    if deepspeed is not None:
        _inline_deepspeed(found, deepspeed)
    elif fsdp:
        prefixed = {f"fsdp_{name.removeprefix('fsdp_')}": value for name, value in dict(config).items()}
        _accelerate_fsdp(found, prefixed, "bf16" if bf16 else "no")
        found.take("fsdp_min_num_params", "fsdp_xla")
        if "offload" in str(fsdp):
            found.options["offload"] = "all"
        if "shard_grad_op" in str(fsdp):
            found.options["zero"] = 2
        found.options["software"] = "llama-factory"
        if frozen:
            del found.options["precision"]
    elif not frozen:
        found.options["precision"] = "bf16" if pure else "fp32-bf16" if bf16 else "fp32"
    if frozen and pure:
        found.options["adapters"] = "bf16"


# -- Megatron-LM ------------------------------------------------------------------------------


def read_megatron(text: str) -> Launched:
    """A script with Megatron-LM's arguments; the model is made of its sizes."""
    flags = script.flags(script.words_of(text))
    found = _Found("megatron", _one_word(flags))
    found.options |= {"kernels": "megatron", "software": "megatron-lm"}
    _machines(found)
    _megatron_model(found, flags)
    for name, field in MEGATRON_FIELDS.items():
        if found.said.get(name) is True:
            found.options[field] = found.take(name)
        else:
            found.whole(field, name)
    fp8 = found.take("fp8_format")
    recipe = found.said.pop("fp8_recipe", "delayed")
    for name, (field, values) in MEGATRON_CHOICES.items():
        found.word(field, values, name)
    if fp8 is not None:
        found.said["fp8_recipe"] = recipe
        found.word("compute", MEGATRON_CHOICES["fp8_recipe"][1], "fp8_recipe")
    if found.take("fp4_format") is not None:
        found.options["compute"] = found.take("fp4_recipe", default="nvfp4")
    _megatron_zero(found)
    _megatron_recompute(found, flags)
    _megatron_precision(found)
    _megatron_rest(found)
    return found.launched()


def _megatron_model(found: _Found, flags: Mapping[str, list[str]]) -> None:
    """The config of the model's sizes, as `llmhw.sources.megatron` reads them."""
    sizes: dict[str, Any] = {}
    for name, words in flags.items():
        value = words[0] if words else "true"
        if "$" not in value:
            sizes[name] = int(value) if re.fullmatch(r"\d{1,15}", value) else True if not words else value
    tokenizer = found.take("tokenizer_model")
    try:
        if "vocab_size" not in sizes and "padded_vocab_size" not in sizes:
            raise LLMHWError("the vocabulary is the tokenizer's")
        found.config = from_mapping(sizes, "the script")
    except LLMHWError as error:
        found.notes.append(f"the model is not made of its arguments: {error}")
        found.model = str(tokenizer) if tokenizer and "$" not in str(tokenizer) else None
    for name in _MODEL_ARGUMENTS:
        found.take(name)


# Arguments that make the model, and say nothing of how it is trained.
_MODEL_ARGUMENTS = """num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups group_query_attention
    kv_channels max_position_embeddings vocab_size padded_vocab_size make_vocab_size_divisible_by normalization swiglu
    position_embedding_type use_rotary_position_embeddings norm_epsilon rotary_base rotary_percent
    untie_embeddings_and_output_weights disable_bias_linear add_qkv_bias qk_layernorm num_experts moe_router_topk
    moe_ffn_hidden_size moe_shared_expert_intermediate_size moe_shared_expert_gate moe_layer_freq
    multi_latent_attention q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim squared_relu
    moe_router_score_function moe_router_enable_expert_bias tokenizer_type tokenizer_model
    use_rope_scaling rope_scaling_factor""".split()
# Arguments that change no figure here.
_MEGATRON_OTHERS = """train_iters train_samples lr min_lr lr_decay_style lr_warmup_fraction lr_warmup_iters
    lr_warmup_samples lr_decay_iters lr_decay_samples clip_grad weight_decay adam_beta1 adam_beta2 save save_interval
    load ckpt_format data_path mock_data split use_mcore_models transformer_impl moe_grouped_gemm init_method_std
    eval_iters eval_interval log_interval log_throughput tensorboard_dir distributed_backend master_addr master_port
    no_gradient_accumulation_fusion init_model_with_meta_device use_precision_aware_optimizer seed
    attention_softmax_in_fp32 no_load_optim no_load_rng overlap_param_gather moe_aux_loss_coeff
    moe_router_load_balancing_type no_masked_softmax_fusion bf16 data_cache_path""".split()


def _megatron_zero(found: _Found) -> None:
    """ZeRO: the distributed optimizer is stage 1, FSDP what its strategy says."""
    shared = found.flag("use_distributed_optimizer")
    fsdp = found.flag("use_megatron_fsdp", "use_torch_fsdp2", "use_custom_fsdp")
    if fsdp:
        found.options.setdefault("zero", 3)
    else:
        found.options["zero"] = 1 if shared else 0
    copies = found.take("num_distributed_optimizer_instances", default=1)
    if str(copies).isdecimal() and int(copies) > 1:
        if found.options["zero"] == 3:
            found.options["replicas"] = int(copies)
        else:
            found.unknown("num_distributed_optimizer_instances", copies, "is known with FSDP alone")
    overlap = found.options.pop("grad_overlap", None)
    found.options["grad_overlap"] = bool(overlap)
    embedding, loss = (found.flag(f"account_for_{name}_in_pipeline_split") for name in ("embedding", "loss"))
    if embedding or loss:
        found.options["uneven"] = True
    if found.flag("optimizer_cpu_offload"):
        found.options["offload"] = "optimizer"
    chunk = found.take("num_layers_per_virtual_pipeline_stage")
    layers = (found.config or {}).get("num_hidden_layers")
    stages = found.options.get("pp", 1)
    if chunk is not None and layers and str(chunk).isdecimal() and int(chunk) and layers % (stages * int(chunk)) == 0:
        found.options["vpp"] = layers // stages // int(chunk)
    elif chunk is not None:
        found.unknown("num_layers_per_virtual_pipeline_stage", chunk, "leaves vpp open; give it on the line")
    if found.options.get("cp", 1) == 1:
        found.options.pop("cp_kind", None)
    if found.options.get("tp", 1) == 1:  # as Megatron itself does
        found.options.pop("sequence_parallel", None)
        found.options.pop("tp_overlap", None)
    if "num_experts" not in "".join(found.config or {}):
        for name in ("ep", "expert_tp"):
            if found.options.get(name) == 1:
                del found.options[name]
    experts = found.options.get("ep", 1)
    if "ep" in found.options and "expert_tp" not in found.options:  # Megatron's default: as tp
        found.options["expert_tp"] = found.options.get("tp", 1)
    if experts == 1 and found.options.get("expert_tp") == 1:
        found.options.pop("expert_tp", None)
    dispatcher, backend = found.take("moe_token_dispatcher_type"), found.take("moe_flex_dispatcher_backend")
    if dispatcher is not None and "ep" in found.options:
        found.options["dispatcher"] = {"flex": str(backend or "deepep")}.get(str(dispatcher), str(dispatcher))


def _megatron_recompute(found: _Found, flags: Mapping[str, list[str]]) -> None:
    granularity, method = found.take("recompute_granularity"), found.take("recompute_method")
    layers = found.take("recompute_num_layers")
    found.take("recompute_modules")
    if found.flag("recompute_activations"):
        granularity = "selective"
    modules = set(" ".join(flags.get("recompute_modules", ["core_attn"])).split())
    if granularity == "full" and method == "block" and str(layers).isdecimal():
        found.options |= {"recompute": "block", "recompute_layers": int(layers)}
    elif granularity == "full":
        found.options["recompute"] = "full"
    elif granularity == "selective":
        found.options["recompute"] = "selective" if "core_attn" in modules else "none"
        if rest := [one for one in MODULES if one in modules - {"core_attn"}]:
            found.options["recompute_modules"] = ",".join(rest)


def _megatron_precision(found: _Found) -> None:
    """bf16 with gradients in fp32, unless they are asked for in bf16: as validate_args has it."""
    half = found.flag("bf16")
    if found.flag("fp16"):
        half, found.options["compute"] = True, "fp16"
    found.take("accumulate_allreduce_grads_in_fp32")
    grads = "bf16-mixed" if found.flag("grad_reduce_in_bf16") else "bf16-mixed-fp32-grads"
    found.options["precision"] = grads if half else "fp32"
    dropout = [str(found.take(f"{name}_dropout", default="0.1")) for name in ("attention", "hidden")]
    found.options["dropout"] = any(float(rate) > 0 for rate in dropout if re.fullmatch(r"[\d.]{1,9}", rate))
    if found.take("mtp_num_layers") is not None:
        found.options["mtp"] = True


def _megatron_rest(found: _Found) -> None:
    for name in _MEGATRON_OTHERS:
        found.take(name)


# -- torchtitan -------------------------------------------------------------------------------


def read_torchtitan(text: str) -> Launched:
    """torchtitan's config: a Python module (0.3), TOML (0.1 and 0.2), or flags of its command line (all)."""
    if re.search(r"^\s*\[parallelism\]|^\s*\[training\]", text, re.MULTILINE):
        said, model = _titan_toml(text)
    elif re.search(r"^\s*(?:from|import)\s+torchtitan", text, re.MULTILINE):
        said, model = _titan_python(text)
    else:
        said, model = {}, None
    words = script.words_of(text if not said else "\n".join(_commands_in_comments(text)))
    flags = {name.rpartition(".")[2]: value for name, value in _one_word(script.flags(words)).items()}
    mode = re.search(r"--activation[-_]checkpoint\.mode[= ](\w+)|activation_checkpoint:(\w+)", " ".join(words))
    if mode and not said:
        flags["activation_checkpoint"] = (mode[1] or mode[2]).replace("_", "-")
    found = _Found("torchtitan", {**flags, **said})
    found.options["software"] = "torchtitan"
    module, config = found.take("module"), found.take("config")
    if model is None and isinstance(module, str) and isinstance(config, str):
        model = _titan_name(module, config.removeprefix(f"{module}_"))
    found.model = model
    _machines(found)
    _titan_layout(found)
    _titan_training(found)
    for (
        name
    ) in """steps lr max_norm dataset hf_assets_path dump_folder interval log_freq warmup_steps enable_tensorboard
        profile_freq enable_profiling name description components m torchtitan.train eps decay_ratio decay_type
        dataset_path last_save_model_only async_mode export_dtype min_lr_factor keep_latest_k backend
        enable_wandb freq global_vocab_size loss_fn""".split():
        found.take(name)
    return found.launched()


def _commands_in_comments(text: str) -> list[str]:
    return [line.lstrip("# ") for line in text.splitlines() if line.lstrip().startswith("#") and "torchrun" in line]


def _titan_toml(text: str) -> tuple[dict[str, Any], str | None]:
    from tomllib import TOMLDecodeError, loads

    try:
        data = loads(text)
    except (TOMLDecodeError, RecursionError) as error:
        raise LLMHWError(f"the config of torchtitan is not TOML ({shown(str(error), 60)})") from None
    said: dict[str, Any] = {}
    for name, section in data.items():
        if isinstance(section, dict) and name in ("parallelism", "training", "compile", "optimizer", "experimental"):
            said |= {key: value for key, value in section.items() if not isinstance(value, dict)}
    said.pop("name", None)
    mode = (data.get("activation_checkpoint") or {}).get("mode")
    option = str((data.get("activation_checkpoint") or {}).get("selective_ac_option", "2"))
    if mode is not None:
        said["activation_checkpoint"] = mode if mode != "selective" or option == "op" else f"selective:{option}"
    if (data.get("compile") or {}).get("enable") is not None:
        said["compile"] = said.pop("enable", None)
    model = data.get("model") or {}
    converters = [str(one) for one in model.get("converters") or []]
    if any("float8" in one for one in converters):
        recipe = next((v.get("recipe_name") for v in _tables(data, "float8")), "tensorwise")
        said["converter"] = {"rowwise": "fp8-row"}.get(str(recipe), "fp8")
    elif any("mx" in one for one in converters):
        said["converter"] = "mxfp8"
    return said, _titan_name(str(model.get("name", "")), str(model.get("flavor", "")))


def _tables(data: Mapping[str, Any], word: str) -> Iterable[Mapping[str, Any]]:
    """Tables whose name has a word in it, a few levels deep."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            if word in name:
                yield value
            for inner, more in value.items():
                if isinstance(more, Mapping):
                    yield from _tables({inner: more}, word)


def _titan_python(text: str) -> tuple[dict[str, Any], str | None]:
    """Arguments of calls and assigned attributes of a Python module, which is parsed and never run."""
    import ast

    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise LLMHWError("the config of torchtitan is not Python that can be parsed") from None
    said: dict[str, Any] = {}
    model = None
    module = re.search(r"torchtitan\.models\.(?!common)(\w+)(?:\.\w+)? import", text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "model_registry" and node.args and isinstance(node.args[0], ast.Constant):
                model = _titan_name(module[1] if module else "", str(node.args[0].value))
            said |= _called(
                name, {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            )
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and isinstance(node.value, ast.Constant)
        ):
            said[node.targets[0].attr] = node.value.value
    return said, model


def _called(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What one call of a config says."""
    kinds = {"FullAC.Config": "full", "SelectiveAC.Config": "selective", "MemoryBudgetAC.Config": "memory_budget"}
    if name in kinds:
        return {"activation_checkpoint": kinds[name]}
    if name == "ChunkedLossWrapper.Config":
        return {"loss": "chunked"}
    if name == "CompileConfig":
        return {"compile": given.get("enable", False)} | {k: v for k, v in given.items() if k != "enable"}
    for word, converter in TITAN_CONVERTERS.items():
        if name == f"{converter}Converter.Config":
            return {"converter": word}
    if name == "default_adamw":
        return {"adamw": "adamw" if given.get("foreach") else "adamw-fused"}
    return given if name in ("ParallelismConfig", "TrainingConfig") else {}


def _titan_name(module: str, flavor: str) -> str | None:
    """The catalog's name of a model that torchtitan has."""
    from llmhw.catalog import model_index

    sizes = [key for key, value in TITAN_MODELS.items() if value[0] == module and value[1].lower() == flavor.lower()]
    if not sizes:
        return None
    parts = {"llama3": "llama-3.1-{}" if flavor.lower() in ("8b", "70b", "405b") else "llama-3.2-{}"}
    name = parts.get(module, module.replace("_", "-") + "-{}").format(flavor.lower())
    names = {row["name"] for row in model_index()}
    return next((one for one in (name, name.replace("-671b", "")) if one in names), None)


def _titan_layout(found: _Found) -> None:
    for name, field in TITAN_FIELDS.items():
        if field == "sequence_parallel":
            continue
        found.whole(field, name)
    sequence = found.flag("enable_sequence_parallel")
    found.take("disable_loss_parallel")
    if found.flag("enable_async_tensor_parallel"):
        found.options["tp_overlap"] = True
    if found.options.get("tp", 1) > 1:
        found.options["sequence_parallel"] = sequence is not False  # its default
    copies = found.take("data_parallel_replicate_degree", default=1)
    shards = found.take("data_parallel_shard_degree", default=-1)
    gathered = found.take("fsdp_reshard_after_forward", default="default")
    copies, shards = (int(x) if str(x).lstrip("-").isdecimal() else 1 for x in (copies, shards))
    if shards == 1 and not (found.options.get("cp", 1) > 1):
        found.options["zero"] = 0
    else:
        found.options["zero"] = 2 if gathered == "never" else 3
        found.options |= {"replicas": copies} if copies > 1 else {}
    sizes = [found.options.get(name, 1) for name in ("tp", "pp", "cp")]
    if shards > 0 and "gpus" not in found.options:
        found.options["gpus"] = copies * shards * sizes[0] * sizes[1] * sizes[2]
    if found.options.get("cp", 1) > 1:
        found.options["cp_kind"] = "all-gather"
    if found.flag("enable_cpu_offload"):
        found.options["offload"] = "all"
    _titan_pipeline(found)


def _titan_pipeline(found: _Found) -> None:
    schedule = found.take("pipeline_parallel_schedule", default="1F1B")
    each, less = (
        found.take("pipeline_parallel_layers_per_stage"),
        found.take("pipeline_parallel_first_stage_less_layers"),
    )
    last = found.take("pipeline_parallel_last_stage_less_layers")
    found.take("pipeline_parallel_schedule_csv", "pipeline_parallel_split_points")
    stages = found.options.get("pp", 1)
    if stages == 1:
        return
    if str(schedule) not in TITAN_SCHEDULES:
        found.unknown("pipeline_parallel_schedule", schedule)
        return
    found.options["schedule"] = TITAN_SCHEDULES[str(schedule)]
    uneven = str(1 if less is None else less) != "0" or str(1 if last is None else last) != "0"
    if uneven:
        found.options["uneven"] = True
    looped = str(schedule).startswith(("Interleaved", "ZBV"))
    layers = _layers_of(found.model)
    if each is not None and str(each).isdecimal() and layers:
        found.options["vpp"] = max(1, -(-(layers + 2 * uneven) // (stages * int(each))))
    elif looped:
        found.options["vpp"] = 2


def _layers_of(name: str | None) -> int | None:
    from llmhw.model import model

    return model(name).num_layers if name else None


def _titan_training(found: _Found) -> None:
    micro = found.take("pipeline_parallel_microbatch_size")
    local = found.take("local_batch_size", "batch_size")
    if found.options.get("pp", 1) > 1:
        found.said["micro"] = 1 if micro is None else micro
    elif local is not None:
        found.said["micro"] = local
    found.whole("micro_batch", "micro")
    batch = found.take("global_batch_size")
    if batch is not None and str(batch) != "-1":
        found.said["batch"] = batch
        found.whole("global_batch", "batch")
    elif local is not None and str(local).isdecimal() and found.options.get("pp", 1) > 1:
        found.accumulation = int(local) // found.options["micro_batch"]
    kind, param = found.take("dtype", default="float32"), found.take("mixed_precision_param", default="bfloat16")
    found.take("mixed_precision_reduce")
    found.options["precision"] = "bf16" if kind == "bfloat16" else "fp32" if param == "float32" else "fp32-bf16"
    mode = str(found.take("activation_checkpoint", "mode", default="none"))
    kinds = {"full": "full", "selective": "per-op", "none": "none"}
    if mode in kinds:
        found.options["recompute"] = kinds[mode]
    else:
        found.unknown("activation_checkpoint", mode)
    compiled = found.take("compile", "enable")
    if compiled is not None:
        found.options["compiled"] = str(compiled).lower() == "true"
    if found.take("loss") == "chunked":
        found.options["loss"] = "chunked"
    if (kind := found.take("converter")) is not None:
        found.options["compute"] = kind
    if (kind := found.take("adamw")) is not None:
        found.options["optimizer"] = kind
    if found.take("disable_cuda_graphs") is False:
        found.options["cuda_graph"] = "full"
