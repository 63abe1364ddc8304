"""What the columns of tables of measurements mean: the one list of names, units, checks and other names.

A name that other programs write (vLLM's and SGLang's benchmarks, llama-bench, GenAI-Perf, Megatron-LM, DeepSpeed,
transformers) stands for its column wherever the column itself is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmhw.units import LLMHWError, finite, shown

NUMBER = "a number above 0, without unit and thousands separators"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of measurements.

    meaning   what its cells say
    unit      of its numbers
    kind      of its cells: text, count (a whole number), positive (a number above 0), flag (true or false), choice
    choices   of a choice, in lower case
    words     other words for a choice
    least, most   of a count
    names     other names, as `plain_name` writes them
    """

    meaning: str
    unit: str = ""
    kind: str = "text"
    choices: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    least: int = 1
    most: int = 10**9
    names: tuple[str, ...] = ()

    def clean(self, text: str) -> str:
        """A cell as the predictions read it: choices in lower case and without a needless .0, flags true or false.

        >>> COLUMNS["zero_stage"].clean("FSDP"), COLUMNS["zero_stage"].clean("1.0"), COLUMNS["dropout"].clean("No")
        ('fsdp', '1', 'false')
        """
        if self.kind == "flag":
            known = FLAGS.get(text.casefold())
            return text if known is None else str(known).lower()
        if self.kind == "choice":
            lower = text.casefold().removesuffix(".0")
            lower = dict(self.words).get(plain_name(lower), lower)
            return lower if lower in self.choices else text
        return text

    def flaw(self, text: str) -> str:
        """What a clean cell must be, if it is not that; "" if it can be used. An empty cell says nothing, and can.

        >>> COLUMNS["zero_stage"].flaw("abc"), COLUMNS["tp"].flaw("8")
        ('one of 0, 1, 2, 3, fsdp', '')
        """
        if not text or self.kind == "text":
            return ""
        if self.kind == "flag":
            return "" if text in ("true", "false") else "true or false"
        if self.kind == "choice":
            return "" if text in self.choices else f"one of {', '.join(self.choices)}"
        value = finite(text)
        if self.kind == "positive":
            return "" if value is not None and value > 0 else NUMBER
        if value is None or not value.is_integer() or value < self.least:
            return f"a whole number of at least {self.least}"
        return "" if value <= self.most else f"at most {self.most:,}"


FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def _count(meaning: str, unit: str = "count", names: str = "", least: int = 1, most: int = 10**9) -> Column:
    return Column(meaning, unit, "count", least=least, most=most, names=tuple(names.split()))


def _positive(meaning: str, unit: str, names: str = "") -> Column:
    return Column(meaning, unit, "positive", names=tuple(names.split()))


def _text(meaning: str, names: str = "") -> Column:
    return Column(meaning, names=tuple(names.split()))


def _flag(meaning: str, names: str = "") -> Column:
    return Column(meaning, kind="flag", names=tuple(names.split()))


def _choice(meaning: str, choices: str, names: str = "") -> Column:
    return Column(meaning, kind="choice", choices=tuple(choices.split()), names=tuple(names.split()))


_RANKS = 100_000
RATES = ("bf16", "fp16", "fp32", "fp8", "int8", "fp4")
_SCOPES = {
    **dict.fromkeys("one one_device per_device per_gpu gpu each max_over_ranks".split(), "device"),
    **dict.fromkeys("total all all_devices sum_over_devices over_all_devices".split(), "sum"),
}
_RECOMPUTE = "none selective per-op block full unknown"
# Words of trainers; what single tensors MaxText keeps (custom), the column does not say.
_RECOMPUTE_WORDS = tuple(
    {
        **dict.fromkeys("true yes on full_layer uniform all every_layer".split(), "full"),
        **dict.fromkeys("false no off 0".split(), "none"),
        **dict.fromkeys("selective_op op per_op_sac".split(), "per-op"),
        **dict.fromkeys("custom as_needed not_stated".split(), "unknown"),
        "core_attn": "selective",
    }.items()
)

_FP8_WORDS = (
    *((word, "tensor") for word in "tensorwise per_tensor current cs delayed ds".split()),
    *((word, "row") for word in "rowwise per_row".split()),
    *((word, "block") for word in "blockwise subchannel sc per_block".split()),
    *((word, "mx") for word in "mxfp8 microscaling".split()),
)

COLUMNS: dict[str, Column] = {
    # -- of every table
    "id": _text("name of the row in messages", "run_id test_id"),
    "source": _text("who published it: successive releases of one source share a vote", "reference"),
    "duplicate_of": _text("id of the row that this one repeats: it does not count"),
    "year": _text("of the measurement: which generation ran of an engine without a version"),
    "source_opened": _text("false: nobody has read the source, so the row does not count"),
    "evidence": _text(
        "analytic or estimate: nobody measured it, so the row does not count; oom, capacity: see verdicts"
    ),
    "not_predicted": _text("why the row is not to be predicted"),
    "cluster": _text("sources that measured alike, and are left out of a fit together"),
    "fitted": _flag("false: the row is judged, and no constant is fitted to it"),
    # -- the model
    "model_name": _text(
        "a model of `llmhw models`, or any name if the sizes below are given", "model model_id hf_model model_path"
    ),
    "model": _text("the catalog's name or a config.json, where model_name is the source's own"),
    "config": _text(
        "a config.json: its path, from the table's folder, or as a JSON object; an object without model_type: keys of "
        "the model's config that have other values; or a name as in model"
    ),
    "n_params": _positive(
        "parameters: a row whose model has other than that, by 2 %, is left out",
        "count",
        "model_n_params num_params num_parameters total_params",
    ),
    "n_layers": _count("layers", names="num_layers num_hidden_layers layers n_layer", most=10_000),
    "d_model": _count("hidden size", names="hidden_size hidden n_embd"),
    "n_heads": _count("attention heads", names="num_attention_heads num_heads heads n_head"),
    "n_kv_heads": _count("heads of keys and values", names="num_key_value_heads kv_heads num_kv_heads n_head_kv"),
    "d_ff": _count("width of the feed-forward part", names="intermediate_size ffn_hidden_size n_ff n_inner"),
    "vocab": _count("tokens of the vocabulary", names="vocab_size n_vocab"),
    "head_dim": _count("of a query and key", "elements", "head_size attention_head_dim", most=100_000),
    "tied": _flag("the output head is the embedding table", "tie_word_embeddings tied_embeddings"),
    "n_experts": _count(
        "experts of a layer, each as wide as d_ff says; none: a dense model",
        names="n_expert num_experts num_local_experts n_routed_experts experts",
        most=100_000,
    ),
    "n_experts_used": _count(
        "experts of a layer that a token passes through",
        names="n_expert_used num_experts_per_tok experts_per_token",
        most=100_000,
    ),
    "expert_inner": _count(
        "width of an expert, where d_ff is that of dense layers",
        names="moe_intermediate_size moe_ffn_hidden_size expert_d_ff",
        least=0,
    ),
    "shared_inner": _count(
        "width of what all tokens pass through beside the experts",
        names="shared_expert_intermediate_size moe_shared_expert_intermediate_size",
        least=0,
    ),
    "moe_every": _count("every so many layers has experts", names="moe_layer_freq decoder_sparse_step", most=1000),
    "first_dense": _count("layers at the start without experts", names="first_k_dense_replace", least=0),
    "attention": _choice("of the layers", "full window mla mamba2 gdn", "attention_type"),
    "window": _count("that a layer attends to", "tokens", "sliding_window", least=0),
    "gated": _flag("the feed-forward part has three matrices (SwiGLU)", "swiglu glu"),
    "mtp": _count("layers that predict further tokens", names="num_nextn_predict_layers mtp_num_layers", least=0),
    # -- the devices
    "gpu": _text(
        "an accelerator of `llmhw gpus`, as the source writes it",
        "device accelerator gpu_name gpu_model gpu_type gpu_info device_name hardware",
    ),
    "device": _text("the catalog's name of the accelerator, where gpu is the source's own"),
    "device_changes": _text("fields of the accelerator with other values, as a JSON object"),
    "gpu_memory": _text(
        "of a device: which one of that name; or, with gpu_bandwidth and a rate, of one that the catalog lacks",
        "gpu_mem_gb gpu_memory_gb gpu_mem vram vram_gb device_memory",
    ),
    "gpu_bandwidth": _text("of its memory: 1008, 1.79TB/s", "gpu_bandwidth_gb_per_s memory_bandwidth"),
    **{
        f"gpu_tflops_{fmt}": _positive(f"dense rate in {fmt} of a device that the catalog lacks", "TFLOP/s")
        for fmt in RATES
    },
    "n_gpus": _count(
        "devices in all", names="num_gpus gpus gpu_count n_devices num_devices world_size num_accelerators"
    ),
    "adapter_gb_per_s": _positive("of a device's network adapter, one way", "GB/s"),
    # -- the layout
    "tp": _count(
        "tensor-parallel ranks",
        names="tensor_parallel tensor_parallel_size tp_size tensor_model_parallel_size",
        most=_RANKS,
    ),
    "pp": _count(
        "pipeline stages", names="pipeline_parallel pipeline_parallel_size pp_size pipeline_model_parallel_size"
    ),
    "vpp": _count("chunks of layers a stage", names="virtual_pipeline_model_parallel_size interleave", most=_RANKS),
    "cp": _count("context-parallel ranks", names="context_parallel context_parallel_size cp_size", most=_RANKS),
    "expert_tp": _count(
        "tensor-parallel ranks of an expert",
        names="etp expert_tensor_parallel_size expert_tensor_parallel",
        most=_RANKS,
    ),
    "fsdp": _count(
        "ranks that share the states, where other ranks hold copies of them (HSDP)",
        names="fsdp_size data_parallel_shard_degree shard_group_size",
        most=_RANKS,
    ),
    "ranks_per_device": _count("ranks of the layout on one device: 2 NeuronCores, or 2 dies", most=16),
    "gpus_per_node": _count("devices that the fast links join", names="devices_per_node gpus_per_host", most=1024),
    "ep": _count(
        "expert-parallel ranks",
        names="expert_parallel expert_parallel_size ep_size expert_model_parallel_size",
        most=_RANKS,
    ),
    "dp": _count("data-parallel ranks", names="data_parallel data_parallel_size dp_size", most=_RANKS),
    "zero_stage": _choice("what ZeRO or FSDP shards", "0 1 2 3 fsdp", "zero zero_optimization_stage"),
    "sequence_parallel": _flag("activations are split between the tensor-parallel ranks"),
    "cp_kind": _choice("how context parallelism moves keys and values", "ring all-gather"),
    "interleaving": _choice("none: a stage is one chunk of layers", "none"),
    # -- a training job
    "seq_len": _count("of each sequence", "tokens", "sequence_length seq_length seqlen max_seq_length context_length"),
    "micro_batch": _count(
        "of a pass",
        "sequences",
        "micro_batch_size mbs per_device_train_batch_size train_micro_batch_size_per_gpu",
    ),
    "global_batch": _count("of a step", "sequences", "global_batch_size gbs train_batch_size"),
    "precision": _text("of the computation: bf16, fp8, ..."),
    "recipe": _text("what weights, gradients and optimizer are kept in: bf16-mixed, fp32-bf16, ..."),
    "compute": _text("format of the matrix products, where it is not the recipe's"),
    "recompute": Column(
        "activations that are computed again",
        kind="choice",
        choices=tuple(_RECOMPUTE.split()),
        words=_RECOMPUTE_WORDS,
        names=("activation_checkpointing", "recompute_granularity", "gradient_checkpointing"),
    ),
    "recompute_mode": Column(
        "the same, where recompute is the source's own word",
        kind="choice",
        choices=(*_RECOMPUTE.split(), "as needed"),
    ),
    "flash_attention": _flag("attention without its matrix of scores", "flash_attn use_flash_attn"),
    "kernels": _choice("whose kernels", "megatron torch"),
    "software": _text("trainer, as `llmhw.trainers` has it, or version of an engine"),
    "tp_overlap": _flag("tensor-parallel messages run beside products"),
    "grad_overlap": _flag("gradients are reduced beside the backward pass"),
    "cuda_graph": _choice("what is launched as a graph", "none partial full"),
    "dispatcher": _choice("what takes tokens to experts", "alltoall allgather deepep hybridep"),
    "a2a_overlap": _flag("that runs beside other work"),
    "grad_reduce": _choice("format in which gradients are reduced", "fp32 bf16"),
    "attention_kernel": Column(
        "whose flash attention: flash1, flash2, cudnn (FlashAttention 3 and 4 too), splash",
        kind="choice",
        choices=("flash1", "flash2", "cudnn", "splash"),
        words=(
            *((word, "flash1") for word in ("fa1", "flashattention_1", "triton")),
            *((word, "flash2") for word in ("fa2", "flashattention_2", "flash_attn_2", "flash_attention_2")),
            *((word, "cudnn") for word in ("fa3", "fa4", "flashattention_3", "flash_attention_3", "te", "cudnn_sdpa")),
        ),
        names=("attn_implementation", "attention_backend"),
    ),
    "packed": _count("of a document, on average, in packed sequences", "tokens"),
    "recompute_modules": _text("which modules run again, in Megatron-Core's words: core_attn, layernorm, moe_act, ..."),
    "fp8_recipe": Column(
        "what has a scale of its own, where precision is fp8: tensor, row, block, mx, nvfp4",
        kind="choice",
        choices=("tensor", "row", "block", "mx", "nvfp4"),
        words=_FP8_WORDS,
    ),
    "offload": _choice("states in host memory", "none optimizer all", "cpu_offload offload_states"),
    "offload_layers": _count("layers whose activations lie in host memory", names="cpu_offloading_num_layers", least=0),
    "network": _text("between nodes: its kind (IB, RoCE, EFA) and the rate of a device's adapter, as in EFA 400 Gb/s"),
    "version": _text("of the software"),
    "loss": _choice(
        "plain: all logits in fp32; fused; chunked: never all logits at once", "plain copied fused chunked"
    ),
    "adapters_only": _flag("only adapters are trained", "lora frozen"),
    "rank": _count("of the adapters", names="lora_rank lora_r"),
    "targets": _text(
        "matrices with adapters: all-linear, attention, mlp or names", "lora_targets lora_target target_modules"
    ),
    "base": _text("format of the frozen weights, as nf4-dq", "base_format base_weights"),
    "dropout": _flag("dropout is on"),
    "counts_recompute": _flag("measured FLOPs count what is computed again"),
    "counts_causal": _flag("measured FLOPs count only the scores that a causal mask leaves"),
    "measured_kind": _choice("what was measured", "step_time_s tokens_per_s_per_gpu tflops_per_gpu mfu hfu"),
    "measured_value": _positive("the measured value", "as measured_kind says", "value result"),
    # -- memory of training
    "program": _text(
        "what ran: megatron, megatron-deepspeed, fsdp2 or litgpt; of inference: transformers, autoawq, llama.cpp"
    ),
    "peak_mem_gib": _positive(
        "peak of one device, or what mem_scope says", "GiB, or unit_bytes", "peak_memory_gib max_memory_gib"
    ),
    "mem_scope": Column(
        "whose memory the peak is: device, or sum over all devices",
        kind="choice",
        choices=("device", "sum"),
        words=tuple(_SCOPES.items()),
        names=("memory_scope",),
    ),
    "unit_bytes": _positive("one of the source's unit, if it is not the GiB", "bytes"),
    "mem_unit_in_source": _text("unit of peak_mem_gb where it is MiB"),
    "mem_kind": _text("the meter: allocated, reserved, or nvidia-smi"),
    "method": _text("pretrain, full, lora, qlora, dpo, grpo"),
    "optimizer": _text("of the training"),
    "compiled": _flag("torch.compile is on"),
    "outer_layers": _choice("counted: the embedding and the head count as layers", "counted"),
    "adapter": _choice("kind of the adapter", "lora adapter adapter_v2"),
    "trained_params": _positive("parameters of the adapters", "count"),
    "optimizer_states": _text("the library's name of the optimizer, where optimizer is the source's own word"),
    "adapter_dropout": _flag("dropout before the adapters is on", "lora_dropout"),
    "varied": _flag("sequences differ in length: seq_len is that of the longest"),
    "checkpoint_offload": _flag("inputs of recomputed layers lie in host memory"),
    "optimizer_in_backward": _flag("each weight is updated as its gradient comes"),
    "gpu_mem_gb": _positive("memory of the card that a row of evidence capacity fills", "GB"),
    # -- inference
    "engine": _text("the engine and its version", "backend framework runtime inference_engine"),
    "quant": _text("number format of the weights: see `llmhw formats`", "quantization weights weight_format dtype"),
    "weights": _text("the library's name of that format, where quant is the source's own"),
    "kv_dtype": _text("number format of the cache", "kv kv_cache_dtype kv_cache"),
    "metric": _choice(
        "what was measured",
        "decode_tok_per_s decode_ms_per_token tpot_ms prefill_tok_per_s ttft_ms request_latency_ms "
        "output_tokens_per_s_total output_tokens_per_s_per_gpu in_plus_out_tokens_per_s_total "
        "in_plus_out_tokens_per_s_per_gpu tokens_per_s_total mean_tpot_ms median_tpot_ms mean_tpot_s median_tpot_s "
        "batch_latency_ms batch_latency_s request_latency_s median_ttft_ms median_ttft_s mean_ttft_ms mean_ttft_s",
    ),
    "value": _positive("the measured value", "as metric, or unit, says", "measured_value result"),
    "isl": _count(
        "of a prompt",
        "tokens",
        "input_tokens input_len input_length prompt_tokens prompt_len random_input_len n_prompt input_sequence_length",
        least=0,
    ),
    "osl": _count(
        "of an answer",
        "tokens",
        "output_tokens output_len output_length random_output_len n_gen output_sequence_length max_new_tokens",
        least=0,
    ),
    "mean_isl": _count("of a prompt, in an offline run", "tokens", "mean_input_tokens"),
    "mean_osl": _count("of an answer, in an offline run", "tokens", "mean_output_tokens"),
    "batch_or_concurrency": _text(
        "requests at a time; no number: all that fit",
        "concurrency max_concurrency request_concurrency batch batch_size",
    ),
    "batch": _count("sequences at a time", "sequences", "batch_size bs", most=10**6),
    "requests": _count("in all", names="num_prompts num_requests request_count"),
    "past": _count("cached before the prompt", "tokens", "n_depth depth", least=0),
    "backends": _text("what llama.cpp runs on: cuda, hip, vulkan, metal, sycl, cpu"),
    "prefill_gpus": _count("devices that only read prompts; the others decode"),
    "prefill_workers": _count("copies of the model on these"),
    "prefill_attention_dp": _flag("attention is data-parallel there"),
    "decode_workers": _count("copies of the model on the others"),
    "assumed": _text("what the source does not state and is taken as usual: device, weights, tp, lengths, ..."),
    "attention_dp": _flag("attention is data-parallel", "enable_dp_attention enable_attention_dp"),
    "peak_mem_gb": _positive("peak over all devices, or what mem_scope says", "GiB", "peak_memory_gb"),
    "meter": _choice("the same as mem_kind, where that is not known", "allocated reserved device"),
    "read_at": _choice("end: the meter was read when the answer was done", "end"),
    "fused_layers": _flag("AutoAWQ fuses the matrices of attention, as it does unless this is false"),
    "prompt_logits": _flag("logits of the whole prompt are made"),
    "mask_tokens": _count("length of the causal masks that each layer keeps", "tokens", most=10**6),
    # -- logs of vLLM
    "vllm_version": _text("version of vLLM", "version"),
    "gpu_memory_utilization": _positive("share of the memory that it takes", "fraction", "utilization"),
    "max_model_len": _count("longest request", "tokens"),
    "max_num_seqs": _count("most at a time", "sequences", "max_sequences", most=10**6),
    "max_num_batched_tokens": _count("of a step", "tokens", "max_batched_tokens"),
    "block_size": _count("of a block of the cache", "tokens", "page_size", most=10**6),
    "kv_cache_tokens": _positive("room in the cache", "tokens"),
    "kv_cache_gib_per_gpu": _positive("the cache on a device", "GiB"),
    "model_load_gib_per_gpu": _positive("the weights on a device", "GiB"),
    "total_gpu_memory_gib": _positive("memory that the log shows", "GiB"),
    "visible_gib": _positive("memory that CUDA shows", "GiB"),
    "card_gib": _positive("memory of the card's class", "GiB"),
    "kv_unstated": _text("why the cache is not to be predicted"),
    "weights_unstated": _text("why the weights are not to be predicted"),
    "notes": _text("what else was different from the same start"),
    "quantity": _text("the one measured column that counts, if not all"),
    # -- logs of llama.cpp
    "arch": _text("architecture that the log prints"),
    "bpw": _positive("bits a weight that the log prints", "bits"),
    "n_ctx": _count("cached tokens", "tokens", "ctx_size"),
    "n_ubatch": _count("of a micro-batch", "tokens", "ubatch_size"),
    "flash_attn": _flag("attention is fused", "flash_attention fa"),
    "mla_attn": _choice("kind of the latent attention", "0 1 2 3"),
    "kv_type_k": _text("format of the keys", "type_k cache_type_k"),
    "kv_type_v": _text("format of the values", "type_v cache_type_v"),
    "model_size_gib": _positive("the weights", "GiB"),
    "kv_self_mib": _positive("the KV cache", "MiB"),
    "gpu_compute_mib": Column("compute buffers on devices", "MiB"),
    "host_compute_mib": Column("compute buffer on the host", "MiB"),
    "gpu_model_buffer_mib": Column("weights on devices", "MiB"),
    "cpu_model_buffer_mib": Column("weights in host memory", "MiB"),
    "gpu_kv_mib": Column("the KV cache on devices", "MiB"),
    "attn_max_b": Column("keys and values that ik_llama.cpp makes of latents at a time; 0: all", "MiB"),
    "n_gpus_listed": Column("devices that the log lists", "devices"),
    "per_device_compute_mib": _text("compute buffer of each device: CPU=450.01;CUDA0=3425.0"),
    # -- facts of models
    "fact": _text("which: params_total, gguf_file_size, kv_cache_bytes_per_token, ..."),
    "unit": _text("of value: bytes, GB, GiB, params, B, bits, ..."),
    "use": _text("why the row is ignored; truth, or empty, if it is not"),
    "rotary_buffers": _flag("the file holds the rotary frequencies too"),
}

_BOOKS = ("id", "source", "duplicate_of", "source_opened", "evidence", "not_predicted", "cluster", "fitted")
_SIZES = tuple(
    "n_params n_layers d_model n_heads n_kv_heads d_ff vocab head_dim tied n_experts n_experts_used expert_inner "
    "shared_inner moe_every first_dense attention window gated mtp".split()
)
_DEVICE = ("gpu", "device", "device_changes", "gpu_memory", "gpu_bandwidth", *(f"gpu_tflops_{fmt}" for fmt in RATES))


def _columns(names: str, *groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*_BOOKS[:2], *names.split(), *(n for group in groups for n in group), *_BOOKS]))


# Kind -> its columns: what comes first is what most rows need.
OF_KIND: dict[str, tuple[str, ...]] = {
    "training-throughput": _columns(
        "model_name gpu n_gpus seq_len global_batch measured_kind measured_value tp pp vpp cp ep zero_stage "
        "micro_batch precision recompute flash_attention sequence_parallel recipe compute kernels software "
        "version compiled tp_overlap grad_overlap cuda_graph dispatcher a2a_overlap grad_reduce attention_kernel "
        "fp8_recipe packed loss optimizer recompute_mode recompute_modules dp expert_tp fsdp ranks_per_device "
        "offload offload_layers checkpoint_offload optimizer_in_backward interleaving cp_kind method "
        "adapters_only rank targets base dropout counts_recompute counts_causal network adapter_gb_per_s "
        "gpus_per_node model config",
        _SIZES,
        _DEVICE,
    ),
    "training-memory": _columns(
        "model_name gpu n_gpus program recipe seq_len micro_batch peak_mem_gib mem_kind mem_scope tp pp vpp cp ep dp "
        "zero_stage global_batch recompute sequence_parallel unit_bytes precision compute recompute_mode "
        "flash_attention method optimizer compiled outer_layers adapter weights trained_params model config software "
        "kernels loss optimizer_states optimizer_in_backward recompute_modules adapters_only base rank targets "
        "adapter_dropout offload checkpoint_offload "
        "gpu_mem_gb meter assumed varied",
        _SIZES,
        _DEVICE,
    ),
    "serving": _columns(
        "model_name quant gpu n_gpus tp engine batch_or_concurrency isl osl metric value pp ep kv_dtype software "
        "weights attention_dp requests mean_isl mean_osl past n_ubatch flash_attn backends prefill_gpus "
        "prefill_workers prefill_attention_dp decode_workers assumed year seq_len model config",
        _SIZES,
        _DEVICE,
    ),
    "inference-memory": _columns(
        "model_name quant engine program batch isl osl peak_mem_gb mem_kind mem_scope n_gpus kv_dtype weights meter "
        "read_at prompt_logits fused_layers mask_tokens unit_bytes mem_unit_in_source n_ubatch flash_attn model config",
        _SIZES,
        _DEVICE,
    ),
    "kv-capacity": _columns(
        "model_name quant kv_dtype gpu tp kv_cache_tokens kv_cache_gib_per_gpu model_load_gib_per_gpu pp "
        "gpu_memory_utilization max_model_len max_num_seqs max_num_batched_tokens block_size vllm_version "
        "total_gpu_memory_gib visible_gib card_gib weights kv_unstated weights_unstated notes quantity model config",
        _SIZES,
        _DEVICE,
    ),
    "llama-cpp-memory": _columns(
        "model_name arch quant bpw n_ctx n_ubatch model_size_gib kv_self_mib gpu_compute_mib host_compute_mib "
        "flash_attn mla_attn attn_max_b kv_type_k kv_type_v gpu_model_buffer_mib cpu_model_buffer_mib gpu_kv_mib "
        "n_gpus_listed per_device_compute_mib weights quantity model config",
        _SIZES,
    ),
    "facts": _columns("model_name fact value unit quant weights rotary_buffers use model config", _SIZES),
}


def plain_name(column: str) -> str:
    """A column's name as the list of other names writes it.

    >>> plain_name("Input-Sequence Length")
    'input_sequence_length'
    """
    return "_".join("".join(c if c.isalnum() else " " for c in column.casefold()).split())


def other_names(kind: str, columns: Iterable[str]) -> dict[str, str]:
    """Which of a table's columns stand for one of the kind's, by another name.

    A column that is there under two other names raises `LLMHWError`.

    >>> other_names("serving", ["Model", "num_gpus", "isl"])
    {'Model': 'model_name', 'num_gpus': 'n_gpus'}
    """
    there = list(columns)
    wanted = OF_KIND.get(kind, ())
    found: dict[str, str] = {}
    for name in wanted:
        if name in there:
            continue
        known = (name, *COLUMNS[name].names)
        same = [c for c in there if c not in found and plain_name(c) in known]
        # a column that the kind has itself stands for another only where the table has nothing else for that
        same = [c for c in same if c not in wanted] or same
        if len(same) > 1:
            raise LLMHWError(f"columns {' and '.join(shown(c) for c in same)} both mean {name}; leave one out")
        found |= dict.fromkeys(same, name)
    return found
