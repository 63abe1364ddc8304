"""The metadata of a GGUF file as a config of the same model as transformers has it.

Sizes that a tensor's shape says are read from it, and so is what the metadata leaves out: biases, ties, which blocks
have experts or attention. An architecture is one entry of `_ARCHITECTURES`. The keys of the metadata are those that
llama.cpp's converter writes; a window that it drops, as that of Mistral's first models, is none there either.
`llmhw.model` holds the parameters of what comes out against the tensors of the file, to the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmhw.sources.gguf import File, Held, block_of
from llmhw.units import LLMHWError, shown

Config = dict[str, Any]

_MOST = 10**7
_MOST_BLOCKS = 1000
_SIGMOID = 2


class _Read:
    """The metadata of the file's architecture and the tensors of its blocks."""

    def __init__(self, file: File, what: str) -> None:
        self.file, self.what = file, what
        self.architecture: str = file.metadata["general.architecture"]
        blocks = self.whole("block_count")
        if blocks > _MOST_BLOCKS:
            raise LLMHWError(f"{what} says that it has {blocks:,} blocks; look for a size with too many digits")
        self.mtp = self.whole("nextn_predict_layers", 0)
        self.layers = blocks - self.mtp
        self.blocks: list[dict[str, Held]] = [{} for _ in range(blocks)]
        for name, tensor in file.tensors.items():
            block = block_of(name)
            if block and block[0] < blocks:
                self.blocks[block[0]][block[1].removesuffix(".weight")] = tensor

    def get(self, key: str) -> Any:
        return self.file.metadata.get(f"{self.architecture}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number; of a list with one for each block, the largest."""
        value = self.get(key)
        if isinstance(value, list) and value and all(type(one) is int for one in value):
            value = max(value)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 <= value <= _MOST:
            said = "is missing" if value is None else f"is {shown(value, 40)}, which is no such size"
            raise LLMHWError(
                f"{self.what}: its metadata key {self.architecture}.{key} {said}; give the model's config.json"
            )
        return value

    def has(self, *inner: str) -> bool:
        """Whether a block has a tensor of one of these names."""
        return any(name in block for block in self.blocks for name in inner)

    def into(self, *inner: str) -> int | None:
        """Inputs of the first tensor of one of these names: gate and up of a network may be one matrix, down is not."""
        return next((block[name].shape[0] for block in self.blocks for name in inner if name in block), None)

    def each(self, inner: str) -> list[bool]:
        """For each layer, whether it has such a tensor."""
        return [inner in block for block in self.blocks[: self.layers]]

    def kinds(self, inner: str, kind: str, otherwise: str) -> list[str]:
        """For each layer one kind if it has such a tensor, else the other."""
        return [kind if found else otherwise for found in self.each(inner)]

    def share(self, part: int, whole: int) -> int:
        if not whole or part % whole:
            raise LLMHWError(f"{self.what}: its metadata says sizes of {part} and {whole}, which do not divide")
        return part // whole

    def windows(self) -> Config:
        """Window and kinds of layers, where the metadata has them."""
        window = self.get("attention.sliding_window")
        found: Config = {"sliding_window": window} if window else {}
        pattern = self.get("attention.sliding_window_pattern")
        if window and isinstance(pattern, list):
            found["layer_types"] = [
                "sliding_attention" if sliding else "full_attention" for sliding in pattern[: self.layers]
            ]
        return found

    def experts(self, count: str, inner: str) -> Config:
        """How many experts, how many a token uses, and their size, under these keys."""
        return {
            count: self.whole("expert_count"),
            "num_experts_per_tok": self.whole("expert_used_count"),
            inner: self.into("ffn_down_exps", "ffn_down.0") or self.whole("expert_feed_forward_length"),
        }

    def heads(self) -> tuple[int, int, int]:
        """Query heads, key-value heads and their size; by the tensors, as some converters write a size of their own."""
        heads, hidden = self.whole("attention.head_count"), self.whole("embedding_length")
        kv = self.whole("attention.head_count_kv", heads)
        q, k, qkv = (next((b[n].rows for b in self.blocks if n in b), 0) for n in ("attn_q", "attn_k", "attn_qkv"))
        usual = (q or hidden) // heads if heads else 0
        head_dim = self.whole("attention.key_length", usual)
        if not head_dim or (kv and isinstance(self.get("attention.head_count_kv"), list)):
            return heads, kv, head_dim
        if q and k and k % head_dim == 0:
            kv = k // head_dim
        elif qkv and not q and (qkv // head_dim - heads) > 0 and qkv % head_dim == 0:
            kv = (qkv // head_dim - heads) // 2
        return heads, kv or heads, head_dim

    def outline(self) -> Config:
        """What all architectures have."""
        embedding = self.file.tensors.get("token_embd.weight")
        return {
            "hidden_size": self.whole("embedding_length"),
            "num_hidden_layers": self.layers,
            "vocab_size": embedding.rows if embedding else self.whole("vocab_size"),
            "tie_word_embeddings": "output.weight" not in self.file.tensors,
        }

    def base(self) -> Config:
        """What nearly all architectures have."""
        heads, kv, head_dim = self.heads()
        if not heads:  # a model without attention
            return self.outline()
        turned = self.whole("rope.dimension_count", head_dim)
        return {
            **self.outline(),
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "head_dim": head_dim,
            "intermediate_size": self.into("ffn_down") or self.whole("feed_forward_length", 0),
            "max_position_embeddings": self.whole("context_length"),
            "attention_bias": self.has("attn_q.bias", "attn_qkv.bias"),
            "mlp_bias": self.has("ffn_up.bias"),
            "bias": self.has("attn_output.bias"),
            **({"partial_rotary_factor": turned / head_dim} if 0 < turned < head_dim else {}),
        }


def _qwen_moe(r: _Read) -> Config:
    found = r.experts("num_experts", "moe_intermediate_size")
    found["mlp_only_layers"] = [i for i, sparse in enumerate(r.each("ffn_gate_inp")) if not sparse]
    found["shared_expert_intermediate_size"] = r.into("ffn_down_shexp")
    found["qkv_bias"] = r.has("attn_q.bias")
    return found


def _local_experts(r: _Read) -> Config:
    return r.experts("num_local_experts", "intermediate_size")


def _linear(r: _Read) -> Config:
    values = r.whole("ssm.time_step_rank")
    found: Config = {
        "linear_conv_kernel_dim": r.whole("ssm.conv_kernel"),
        "linear_key_head_dim": r.whole("ssm.state_size"),
        "linear_num_key_heads": r.whole("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_value_head_dim": r.share(r.whole("ssm.inner_size"), values),
        "layer_types": r.kinds("ssm_conv1d", "linear_attention", "full_attention"),
        "mtp_num_hidden_layers": r.mtp,
    }
    return found | (_qwen_moe(r) if r.has("ffn_up_exps") else {})


def _mla(r: _Read) -> Config:
    rope = r.whole("rope.dimension_count")
    return {
        "q_lora_rank": r.get("attention.q_lora_rank"),
        "kv_lora_rank": r.whole("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": r.whole("attention.key_length_mla", r.whole("attention.key_length")) - rope,
        "v_head_dim": r.whole("attention.value_length_mla", r.whole("attention.value_length")),
        "num_key_value_heads": r.whole("attention.head_count"),
        "attention_bias": r.has("attn_kv_a_mqa.bias"),
        "mlp_layer_types": r.kinds("ffn_gate_inp", "sparse", "dense"),
        "head_dim": None,
        "partial_rotary_factor": None,
        **_shared_experts(r),
        **({"index_n_heads": r.whole("attention.indexer.head_count"),
            "index_head_dim": r.whole("attention.indexer.key_length"),
            "index_topk": r.whole("attention.indexer.top_k")} if r.get("attention.indexer.head_count") else {}),
    }  # fmt: skip


def _shared_experts(r: _Read) -> Config:
    return {
        **r.experts("n_routed_experts", "moe_intermediate_size"),
        "n_shared_experts": r.whole("expert_shared_count", 0),
        "first_k_dense_replace": r.whole("leading_dense_block_count", 0),
        "num_nextn_predict_layers": r.mtp,
    }


def _deepseek(r: _Read) -> Config:
    third = r.get("expert_gating_func") == _SIGMOID or r.has("exp_probs_b.bias")
    return {"model_type": "deepseek_v3" if third else "deepseek_v2", **_mla(r)}


def _llama(r: _Read) -> Config:
    if r.get("expert_count"):
        return {"model_type": "mixtral", **_local_experts(r)}
    # biases of queries, keys and values alone are Qwen's
    return {"model_type": "qwen2"} if r.has("attn_q.bias") and not r.has("attn_output.bias") else {}


def _llama4(r: _Read) -> Config:
    return {
        **_local_experts(r),
        "intermediate_size_mlp": r.into("ffn_down") or r.whole("feed_forward_length"),
        "moe_layers": [i for i, sparse in enumerate(r.each("ffn_gate_inp")) if sparse],
    }


def _falcon(r: _Read) -> Config:
    heads, kv, _ = r.heads()
    two = r.has("attn_norm_2")
    new = two or kv not in (1, heads)
    norms = {"num_ln_in_parallel_attn": 2 if two else 1} if new else {}
    return {
        "new_decoder_architecture": new,
        "multi_query": kv == 1,
        "num_kv_heads": kv,
        "bias": r.has("attn_qkv.bias"),
        "ffn_hidden_size": r.into("ffn_down"),
        **norms,
    }


def _positions(r: _Read) -> Config:
    table = r.file.tensors.get("position_embd.weight")
    return {"n_positions": table.rows if table else r.whole("context_length"), "n_inner": r.into("ffn_down")}


_MIXERS = (("ssm_in", "mamba"), ("attn_q", "attention"), ("ffn_gate_inp", "moe"))


def _nemotron_h(r: _Read) -> Config:
    kinds = [
        "mamba"
        if "ssm_in" in block
        else "attention"
        if "attn_q" in block
        else "moe"
        if "ffn_gate_inp" in block
        else "mlp"
        for block in r.blocks[: r.layers]
    ]
    heads = r.whole("ssm.time_step_rank")
    found: Config = {
        "layers_block_type": kinds,
        "mamba_num_heads": heads,
        "mamba_head_dim": r.share(r.whole("ssm.inner_size"), heads),
        "ssm_state_size": r.whole("ssm.state_size"),
        "n_groups": r.whole("ssm.group_count"),
        "conv_kernel": r.whole("ssm.conv_kernel"),
        "use_conv_bias": r.has("ssm_conv1d.bias"),
        "use_bias": r.has("ssm_in.bias"),
        "intermediate_size": r.into("ffn_down") or r.whole("feed_forward_length"),
    }
    if "moe" in kinds:
        found |= r.experts("n_routed_experts", "moe_intermediate_size")
        found["moe_shared_expert_intermediate_size"] = r.into("ffn_down_shexp")
        found["moe_latent_size"] = r.get("moe_latent_size")
    return found


def _mimo(r: _Read) -> Config:
    types = r.windows()["layer_types"]
    kv = r.get("attention.head_count_kv")
    full = (
        [one for one, kind in zip(kv, types, strict=False) if kind == "full_attention"] if isinstance(kv, list) else []
    )
    return {
        **r.windows(),
        **r.experts("n_routed_experts", "moe_intermediate_size"),
        "v_head_dim": r.whole("attention.value_length"),
        "mlp_layer_types": r.kinds("ffn_gate_inp", "sparse", "dense"),
        **({"num_key_value_heads": full[0]} if full else {}),
    }


def _mamba(r: _Read) -> Config:
    inner = r.whole("ssm.inner_size")
    return {
        **({"model_type": "falcon_mamba"} if r.get("ssm.dt_b_c_rms") else {}),
        "intermediate_size": inner,
        "expand": r.share(inner, r.whole("embedding_length")),
        "state_size": r.whole("ssm.state_size"),
        "conv_kernel": r.whole("ssm.conv_kernel"),
        "time_step_rank": r.whole("ssm.time_step_rank"),
        "use_conv_bias": r.has("ssm_conv1d.bias"),
        "use_bias": r.has("ssm_in.bias"),
    }


def _mamba2(r: _Read) -> Config:
    heads, inner = r.whole("ssm.time_step_rank"), r.whole("ssm.inner_size")
    return {
        "num_heads": heads,
        "head_dim": r.share(inner, heads),
        "expand": r.share(inner, r.whole("embedding_length")),
        "n_groups": r.whole("ssm.group_count"),
        "state_size": r.whole("ssm.state_size"),
        "conv_kernel": r.whole("ssm.conv_kernel"),
        "use_conv_bias": r.has("ssm_conv1d.bias"),
        "use_bias": r.has("ssm_in.bias"),
    }


def _mamba_beside(r: _Read) -> Config:
    """Mamba-2 layers of models that have attention, too."""
    heads, inner, hidden = r.whole("ssm.time_step_rank"), r.whole("ssm.inner_size"), r.whole("embedding_length")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": r.share(inner, heads),
        "mamba_n_groups": r.whole("ssm.group_count"),
        "mamba_d_state": r.whole("ssm.state_size"),
        "mamba_d_conv": r.whole("ssm.conv_kernel"),
        "mamba_expand": r.share(inner, hidden),
        "mamba_conv_bias": r.has("ssm_conv1d.bias"),
        "mamba_proj_bias": r.has("ssm_in.bias"),
    }


def _granite_hybrid(r: _Read) -> Config:
    """Granite 4; and Bamba, which has none of Granite's scales."""
    if r.get("embedding_scale") is None and not r.get("expert_count"):
        where = [i for i, found in enumerate(r.each("attn_q")) if found]
        return {"model_type": "bamba", "attn_layer_indices": where, **_mamba_beside(r)}
    experts = _local_experts(r) if r.get("expert_count") else {"num_local_experts": 0, "num_experts_per_tok": 0}
    return {
        "layer_types": r.kinds("ssm_in", "mamba", "attention"),
        **_mamba_beside(r),
        **experts,
        "shared_intermediate_size": r.into("ffn_down_shexp", "ffn_down"),
    }


def _falcon_h1(r: _Read) -> Config:
    return _mamba_beside(r) | {"mamba_d_ssm": r.whole("ssm.inner_size"), "mamba_rms_norm": r.has("ssm_norm")}


def _gemma3n(r: _Read) -> Config:
    table = r.file.tensors.get("per_layer_token_embd.weight")
    widths = [block["ffn_down"].shape[0] for block in r.blocks if "ffn_down" in block]
    return {
        **r.windows(),
        "intermediate_size": widths if len(widths) == r.layers else r.into("ffn_down"),
        "hidden_size_per_layer_input": r.whole("embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": table.rows if table else None,
        "num_kv_shared_layers": r.whole("attention.shared_kv_layers", 0),
        "altup_num_inputs": r.whole("altup.num_inputs", 1),
        "laurel_rank": next((b["laurel_l"].rows for b in r.blocks if "laurel_l" in b), 0),
    }


def _gemma4(r: _Read) -> Config:
    table = r.file.tensors.get("per_layer_token_embd.weight")
    windows = r.windows()
    sliding = r.whole("attention.key_length_swa", r.whole("attention.key_length"))
    kv = {kind: r.whole("attention.head_count_kv") for kind in ("sliding_attention", "full_attention")}
    for kind, block in zip(windows.get("layer_types", ()), r.blocks, strict=False):
        if "attn_k" in block:
            size = sliding if kind == "sliding_attention" else r.whole("attention.key_length")
            kv[kind] = r.share(block["attn_k"].rows, size)
    full = [i for i, kind in enumerate(windows.get("layer_types", ())) if kind == "full_attention"]
    widths = {block["ffn_down"].shape[0] for block in r.blocks if "ffn_down" in block}
    experts = {
        "enable_moe_block": True,
        "num_experts": r.whole("expert_count"),
        "top_k_experts": r.whole("expert_used_count"),
        "moe_intermediate_size": r.into("ffn_down_exps"),
    } if r.get("expert_count") else {}  # fmt: skip
    return {
        **windows,
        **experts,
        "head_dim": sliding,
        "global_head_dim": r.whole("attention.key_length"),
        "num_key_value_heads": kv["sliding_attention"],
        "num_global_key_value_heads": kv["full_attention"],
        "attention_k_eq_v": any("attn_k" in r.blocks[i] and "attn_v" not in r.blocks[i] for i in full),
        "intermediate_size": min(widths, default=0),
        "use_double_wide_mlp": len(widths) > 1,
        "hidden_size_per_layer_input": r.whole("embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": table.rows if table else None,
        "num_kv_shared_layers": r.whole("attention.shared_kv_layers", 0),
    }


def _exaone_moe(r: _Read) -> Config:
    return {
        **r.windows(),
        **r.experts("num_experts", "moe_intermediate_size"),
        "num_shared_experts": r.whole("expert_shared_count", 0),
        "mlp_layer_types": r.kinds("ffn_gate_inp", "sparse", "dense"),
        "first_k_dense_replace": r.whole("leading_dense_block_count", 0),
    }


def _granite_moe(r: _Read) -> Config:
    shared = r.into("ffn_down_shexp")
    more = {"model_type": "granitemoeshared", "shared_intermediate_size": shared} if shared else {}
    return _local_experts(r) | more


def _periods(listed: list[bool], period: str, offset: str) -> Config:
    """Every how many layers something stands, and from which on."""
    where = [i for i, found in enumerate(listed) if found]
    apart = where[1] - where[0] if len(where) > 1 else len(listed)
    return {period: apart, offset: where[0] if where else len(listed)}


def _jamba(r: _Read) -> Config:
    return {
        **_periods(r.each("attn_q"), "attn_layer_period", "attn_layer_offset"),
        **_periods(r.each("ffn_gate_inp"), "expert_layer_period", "expert_layer_offset"),
        "num_experts": r.whole("expert_count"),
        "num_experts_per_tok": r.whole("expert_used_count"),
        "mamba_d_state": r.whole("ssm.state_size"),
        "mamba_d_conv": r.whole("ssm.conv_kernel"),
        "mamba_expand": r.share(r.whole("ssm.inner_size"), r.whole("embedding_length")),
        "mamba_dt_rank": r.whole("ssm.time_step_rank"),
    }


def _lfm2(r: _Read) -> Config:
    found: Config = {
        "layer_types": r.kinds("shortconv.conv", "conv", "full_attention"),
        "conv_L_cache": r.whole("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
    }
    if r.has("ffn_up_exps"):
        found |= r.experts("num_experts", "moe_intermediate_size")
        found["num_dense_layers"] = r.each("ffn_gate_inp").count(False)
    return found


def _ernie_moe(r: _Read) -> Config:
    return {
        "moe_num_experts": r.whole("expert_count"),
        "moe_k": r.whole("expert_used_count"),
        "moe_intermediate_size": r.into("ffn_down_exps"),
        "moe_num_shared_experts": r.whole("expert_shared_count", 0),
        "moe_layer_start_index": r.whole("leading_dense_block_count", 0),
        "moe_layer_interval": r.whole("interleave_moe_layer_step", 1),
        "use_bias": r.has("attn_q.bias"),
    }


def _windows(r: _Read) -> Config:
    return r.windows()


def _none(r: _Read) -> Config:
    return {}


# Architecture -> the `model_type` of transformers, and what its config has beside the common keys. One that is not here
# is tried under its own name.
_ARCHITECTURES: dict[str, tuple[str, Callable[[_Read], Config]]] = {
    "llama": ("llama", _llama),
    "llama4": ("llama4_text", _llama4),
    "mistral3": ("ministral3", lambda r: {"sliding_window": None}),
    "qwen": ("qwen", lambda r: {"intermediate_size": 2 * (r.into("ffn_down") or 0), "kv_channels": r.heads()[2]}),
    "qwen2": ("qwen2", _none),
    "qwen2vl": ("qwen2", _none),
    "qwen2moe": ("qwen2_moe", _qwen_moe),
    "qwen3": ("qwen3", _none),
    "qwen3vl": ("qwen3", _none),
    "qwen3moe": ("qwen3_moe", _qwen_moe),
    "qwen3vlmoe": ("qwen3_moe", _qwen_moe),
    "qwen3next": ("qwen3_next", _linear),
    "qwen35": ("qwen3_5_text", _linear),
    "qwen35moe": ("qwen3_5_moe_text", _linear),
    "gemma": ("gemma", _none),
    "gemma2": ("gemma2", _windows),
    "gemma3": ("gemma3_text", _windows),
    "phi2": ("phi", _none),
    "phi3": ("phi3", lambda r: {"sliding_window": r.get("attention.sliding_window") or None}),
    "phimoe": ("phimoe", lambda r: {**_local_experts(r), "lm_head_bias": "output.bias" in r.file.tensors}),
    "gpt2": ("gpt2", _positions),
    "starcoder": ("gpt_bigcode", lambda r: {**_positions(r), "multi_query": r.heads()[1] == 1}),
    "starcoder2": ("starcoder2", lambda r: {"use_bias": r.has("attn_q.bias")}),
    "gptneox": ("gpt_neox", _none),
    "bloom": ("bloom", _none),
    "falcon": ("falcon", _falcon),
    "mpt": ("mpt", _none),
    "deepseek2": ("", _deepseek),
    "deepseek32": ("deepseek_v32", _mla),
    "glm-dsa": ("glm_moe_dsa", _mla),
    "gpt-oss": ("gpt_oss", lambda r: {**_local_experts(r), **r.windows()}),
    "chatglm": ("glm", _none),
    "glm4": ("glm4", _none),
    "glm4moe": ("glm4_moe", lambda r: {**_shared_experts(r), "use_qk_norm": r.has("attn_q_norm")}),
    "minimax-m2": ("minimax_m2", _local_experts),
    "olmo": ("olmo", _none),
    "olmo2": ("olmo2", lambda r: {"model_type": "olmo3", **r.windows()} if r.windows() else {}),
    "olmoe": ("olmoe", lambda r: r.experts("num_experts", "intermediate_size")),
    "granite": ("granite", _none),
    "granitemoe": ("granitemoe", _granite_moe),
    "granitehybrid": ("granitemoehybrid", _granite_hybrid),
    "falcon-h1": ("falcon_h1", _falcon_h1),
    "dots1": ("dots1", _shared_experts),
    "exaone-moe": ("exaone_moe", _exaone_moe),
    "cohere2moe": ("cohere2_moe", lambda r: {**_exaone_moe(r), "intermediate_size": r.into("ffn_down_exps")}),
    "gemma3n": ("gemma3n_text", _gemma3n),
    "gemma4": ("gemma4_text", _gemma4),
    "hunyuan-dense": ("hunyuan_v1_dense", _none),
    "command-r": ("cohere", lambda r: {"use_qk_norm": r.has("attn_q_norm")}),
    "cohere2": ("cohere2", _windows),
    "exaone4": ("exaone4", lambda r: {"sliding_window": None, **r.windows()}),
    "seed_oss": ("seed_oss", lambda r: {"attention_out_bias": r.has("attn_output.bias")}),
    "ernie4_5": ("ernie4_5", lambda r: {"use_bias": r.has("attn_q.bias")}),
    "ernie4_5-moe": ("ernie4_5_moe", _ernie_moe),
    "smollm3": ("smollm3", _none),
    "stablelm": ("stablelm", lambda r: {
        "use_qkv_bias": r.has("attn_q.bias"), "use_parallel_residual": not r.has("ffn_norm"),
        "qk_layernorm": r.has("attn_q_norm")}),
    "nemotron": ("nemotron", _none),
    "nemotron_h": ("nemotron_h", _nemotron_h),
    "nemotron_h_moe": ("nemotron_h", _nemotron_h),
    "mimo2": ("mimo_v2_flash", _mimo),
    "mamba": ("mamba", _mamba),
    "mamba2": ("mamba2", _mamba2),
    "jamba": ("jamba", _jamba),
    "lfm2": ("lfm2", _lfm2),
    "lfm2moe": ("lfm2_moe", _lfm2),
}  # fmt: skip


def config_from(file: File, what: str) -> Config:
    """The config of the model in a file; `what` is the file's name in an error."""
    read = _Read(file, what)
    known = _ARCHITECTURES.get(read.architecture)
    if known is None:
        return {"model_type": read.architecture.replace("-", "_"), **read.base()}
    model_type, more = known
    return {"model_type": model_type, **read.base(), **more(read)}
