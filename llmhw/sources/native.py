"""Configs in the words of those who trained: `params.json` of Mistral and Meta, DeepSeek's inference configs, litgpt's.

Keys are renamed, not interpreted: a key that is not known is refused by name, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmhw.checks import check_text
from llmhw.units import LLMHWError, ceil_div, shown

Config = dict[str, Any]

_WAY_OUT = "give the model's config.json"
_MOST = 10**7

# Keys that change neither tensors nor cache, or that are read where they stand.
_MISTRAL = """dim n_layers head_dim hidden_dim n_heads n_kv_heads norm_eps vocab_size rope_theta sliding_window
    _sliding_window tied_embeddings moe max_seq_len max_position_embeddings model_type activation dtype rope_scaling
    vision_encoder multimodal quantization yarn llama_4_scaling q_lora_rank kv_lora_rank qk_nope_head_dim
    qk_rope_head_dim v_head_dim use_biases causal max_batch_size model_parallel _source use_cache ragged_attention
    attn_temperature use_qk_norm""".split()
_MISTRAL_MOE = """num_experts num_experts_per_tok first_k_dense_replace expert_hidden_dim num_shared_experts
    num_expert_groups num_expert_groups_per_tok routed_scale route_every_n renorm_strategy use_load_balancing_bias
    expert_parallel expert_model_parallel""".split()
_META = """dim n_layers n_heads n_kv_heads vocab_size multiple_of ffn_dim_multiplier norm_eps rope_theta use_scaled_rope
    rope_scaling_factor rope_high_freq_factor max_seq_len max_batch_size model_parallel _source
    rope_freq_base""".split()
_DEEPSEEK = """dim inter_dim moe_inter_dim n_layers n_dense_layers n_heads n_routed_experts n_shared_experts
    n_activated_experts n_expert_groups n_limited_groups route_scale score_func q_lora_rank kv_lora_rank
    qk_nope_head_dim qk_rope_head_dim v_head_dim vocab_size dtype scale_fmt mscale index_n_heads index_head_dim
    index_topk max_batch_size max_seq_len original_seq_len rope_theta rope_factor beta_fast beta_slow _source""".split()
# What vision models of Meta have beside.
_VISION = "vision_args vision_chunk_size vision_max_num_chunks vision_num_cross_attention_layers".split()


class _Keys:
    """The keys of a source; a missing or ill-typed one is a clear error."""

    def __init__(self, data: Mapping[str, Any], what: str, known: Iterable[str]) -> None:
        self.data, self.what = data, what
        unknown = [key for key in data if key not in set(known)]
        if unknown:
            raise LLMHWError(f"{what} has the key {shown(unknown[0])}, which is not covered; {_WAY_OUT}")

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.data.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= 10**12:
            said = "is missing" if value is None else f"is {shown(value, 40)}, no whole number of at least {least}"
            raise LLMHWError(f"{self.what}: its key {key} {said}; {_WAY_OUT}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.data.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value <= _MOST:
            raise LLMHWError(f"{self.what}: its key {key} is {shown(value, 40)}, no number above 0; {_WAY_OUT}")
        return float(value)

    def object(self, key: str) -> Mapping[str, Any]:
        value = self.data.get(key) or {}
        if not isinstance(value, Mapping):
            raise LLMHWError(f"{self.what}: its key {key} is {shown(value, 40)}, no object; {_WAY_OUT}")
        return value

    def rope(self) -> Config:
        theta = self.data.get("rope_theta")
        return {} if theta is None else {"rope_theta": theta}


def from_params(data: Config, what: str) -> Config:
    """The config of a `params.json`, or of a config of DeepSeek's inference code, which has `dim` too."""
    if "inter_dim" in data:
        return _deepseek(data, what)
    if "hidden_dim" in data or "moe" in data:
        return _mistral(data, what)
    if "multiple_of" in data or "ffn_dim_multiplier" in data:
        return _meta(data, what)
    raise LLMHWError(
        f"{what} has dim, but neither hidden_dim nor multiple_of, so its network's size is not said; {_WAY_OUT}"
    )


# -- Mistral ----------------------------------------------------------------------------------


def _mistral(data: Config, what: str) -> Config:
    k = _Keys(data, what, _MISTRAL)
    layers, heads = k.whole("n_layers"), k.whole("n_heads")
    if data.get("model_type") not in (None, "transformer"):
        raise LLMHWError(f"{what} is of model_type={shown(data['model_type'])}, which is not covered; {_WAY_OUT}")
    if data.get("use_biases") or data.get("use_qk_norm"):
        raise LLMHWError(f"{what} has biases or norms of queries and keys, which are not covered; {_WAY_OUT}")
    config: Config = {
        "model_type": "ministral3" if data.get("llama_4_scaling") else "mistral",
        "hidden_size": k.whole("dim"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": k.whole("n_kv_heads", heads),
        "vocab_size": k.whole("vocab_size"),
        "tie_word_embeddings": bool(data.get("tied_embeddings", False)),
        "max_position_embeddings": k.whole("max_seq_len", k.whole("max_position_embeddings", 128_000)),
        **({"head_dim": k.whole("head_dim")} if "head_dim" in data else {}),
        **({"intermediate_size": k.whole("hidden_dim")} if "hidden_dim" in data else {}),
        **_windows(k, layers),
        **k.rope(),
        **({"dtype": data["dtype"]} if data.get("dtype") else {}),
        **_mistral_quantization(k),
    }
    if data.get("qk_nope_head_dim") is not None:
        config |= _mistral_mla(k)
    if data.get("moe"):
        config |= _mistral_moe(k)
    if config["model_type"] == "deepseek_v3":
        config.pop("head_dim", None)
        config["num_key_value_heads"] = heads
    for key, kind in (("vision_encoder", "vision_config"), ("multimodal", _modality(k))):
        if data.get(key):
            config[kind] = data[key]
    return config


def _modality(k: _Keys) -> str:
    return "audio_config" if "whisper_model_args" in k.object("multimodal") else "vision_config"


def _windows(k: _Keys, layers: int) -> Config:
    """A window for all layers, or a list of windows that is repeated over the layers, with null for none."""
    found = k.data.get("sliding_window", k.data.get("_sliding_window"))
    if not isinstance(found, list):
        return {"sliding_window": k.whole("sliding_window") if k.data.get("sliding_window") else None}
    whole = all(size is None or type(size) is int for size in found)
    sizes = {size for size in found if size is not None} if whole else set()
    if not whole or not found or layers % len(found) or len(sizes) > 1:
        raise LLMHWError(
            f"{k.what}: its key sliding_window is {shown(found, 60)}; it must be a list of one size and null that "
            f"n_layers={layers} repeats; {_WAY_OUT}"
        )
    kinds = ["full_attention" if size is None else "sliding_attention" for size in found] * (layers // len(found))
    window = next(iter(sizes), None)
    return {
        "sliding_window": window,
        "layer_types": kinds,
        **({"model_type": "ministral"} if len(set(kinds)) > 1 else {}),
    }


def _mistral_mla(k: _Keys) -> Config:
    sizes = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return {
        "model_type": "deepseek_v3",
        "q_lora_rank": k.whole("q_lora_rank") if k.data.get("q_lora_rank") else None,
        **{size: k.whole(size) for size in sizes},
        # without experts: every layer is a plain one
        "n_routed_experts": 1,
        "num_experts_per_tok": 1,
        "first_k_dense_replace": k.whole("n_layers"),
    }


def _mistral_moe(k: _Keys) -> Config:
    moe = _Keys(k.object("moe"), f"{k.what}, moe", _MISTRAL_MOE)
    used = moe.whole("num_experts_per_tok", 2)
    if not moe.data.get("num_shared_experts"):
        if k.data.get("qk_nope_head_dim") is not None:
            raise LLMHWError(f"{k.what} has latent attention and no shared experts, which is not covered; {_WAY_OUT}")
        inner = moe.data.get("expert_hidden_dim")
        return {
            "model_type": "mixtral",
            "num_local_experts": moe.whole("num_experts", 8),
            "num_experts_per_tok": used,
            **({"intermediate_size": inner} if inner else {}),
        }
    if k.data.get("qk_nope_head_dim") is None:
        raise LLMHWError(f"{k.what} has shared experts and no latent attention, which is not covered; {_WAY_OUT}")
    if moe.whole("route_every_n", 1) != 1:
        raise LLMHWError(f"{k.what}: its key moe.route_every_n={moe.data['route_every_n']} must be 1; {_WAY_OUT}")
    return {
        "n_routed_experts": moe.whole("num_experts"),
        "num_experts_per_tok": used,
        "moe_intermediate_size": moe.whole("expert_hidden_dim"),
        "n_shared_experts": moe.whole("num_shared_experts"),
        "first_k_dense_replace": moe.whole("first_k_dense_replace", 0, least=0),
    }


def _mistral_quantization(k: _Keys) -> Config:
    found = k.object("quantization")
    if not found:
        return {}
    if found.get("qformat_weight") == "fp8_e4m3":
        dynamic = found.get("qscheme_act") == "NO_SCALES"
        return {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic" if dynamic else "static"}}
    if str(found.get("quant_method", "")).lower().replace("_", "-") == "compressed-tensors":
        return {"quantization_config": {**found, "quant_method": "compressed-tensors"}}
    raise LLMHWError(f"{k.what}: its key quantization is {shown(dict(found), 60)}, which is not covered; {_WAY_OUT}")


# -- Meta -------------------------------------------------------------------------------------


def _meta(data: Config, what: str) -> Config:
    for key in ("moe_args", *_VISION):
        if data.get(key):
            part = "experts" if key == "moe_args" else "vision"
            raise LLMHWError(f"{what} has the {part} of {key}, which is not covered in this form; {_WAY_OUT}")
    k = _Keys(data, what, _META)
    if data.get("vocab_size") == -1:
        raise LLMHWError(
            f"{what}: its vocab_size is -1, which leaves it to the tokenizer; write its size there, or {_WAY_OUT}"
        )
    dim, heads, layers = k.whole("dim"), k.whole("n_heads"), k.whole("n_layers")
    multiple = k.whole("multiple_of", 256)
    inner = int(k.number("ffn_dim_multiplier", 1) * int(2 * (4 * dim) / 3))
    scaled = data.get("use_scaled_rope") is True
    return {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": k.whole("n_kv_heads", heads),
        "intermediate_size": multiple * ceil_div(inner, multiple),
        "vocab_size": k.whole("vocab_size"),
        # the file does not say: of Meta's models with scaled rotary embeddings, Llama 3.2 1B and 3B alone are tied
        "tie_word_embeddings": scaled and dim < 4096,
        "max_position_embeddings": k.whole(
            "max_seq_len", 131072 if scaled else 8192 if k.whole("vocab_size") > 10**5 else 4096
        ),
        **k.rope(),
    }


# -- DeepSeek ---------------------------------------------------------------------------------


def _deepseek(data: Config, what: str) -> Config:
    """The config of DeepSeek's own inference code for V2, V3 and V3.2."""
    k = _Keys(data, what, _DEEPSEEK)
    indexed = data.get("index_n_heads") is not None
    third = data.get("score_func") == "sigmoid"
    index = ("index_n_heads", "index_head_dim", "index_topk")
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    return {
        "model_type": "deepseek_v32" if indexed else "deepseek_v3" if third else "deepseek_v2",
        "hidden_size": k.whole("dim"),
        "intermediate_size": k.whole("inter_dim"),
        "moe_intermediate_size": k.whole("moe_inter_dim"),
        "num_hidden_layers": k.whole("n_layers"),
        "first_k_dense_replace": k.whole("n_dense_layers", 1, least=0),
        "num_attention_heads": k.whole("n_heads"),
        "num_key_value_heads": k.whole("n_heads"),
        "n_routed_experts": k.whole("n_routed_experts"),
        "n_shared_experts": k.whole("n_shared_experts", 2, least=0),
        "num_experts_per_tok": k.whole("n_activated_experts"),
        "q_lora_rank": k.whole("q_lora_rank", 0, least=0) or None,
        **{size: k.whole(size) for size in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        "vocab_size": k.whole("vocab_size"),
        "max_position_embeddings": k.whole("max_seq_len", 163840),
        "tie_word_embeddings": False,
        **({key: k.whole(key) for key in index} if indexed else {}),
        **({"quantization_config": fp8} if data.get("dtype") == "fp8" else {}),
    }


# -- litgpt -----------------------------------------------------------------------------------

# Sizes that the model it names must agree in: litgpt's key, and where a config has the same.
_LITGPT = (
    ("n_layer", ("num_hidden_layers", "n_layer", "num_layers")),
    ("n_embd", ("hidden_size", "n_embd", "d_model")),
    ("n_head", ("num_attention_heads", "n_head", "num_heads")),
    ("intermediate_size", ("intermediate_size",)),
)


def from_litgpt(data: Config, what: str) -> tuple[str, Config]:
    """The config of the model that a litgpt config names.

    litgpt does not write down whether embeddings are tied, so its sizes alone do not make a model: they are held
    against those of the model of that name.
    """
    from llmhw.catalog import read_model

    named = data.get("hf_config")
    name = named.get("name") if isinstance(named, Mapping) else data.get("name")
    if not isinstance(name, str) or not name.strip():
        raise LLMHWError(f"{what} is a config of litgpt that names no model in hf_config; {_WAY_OUT}")
    try:
        short, config = read_model(check_text("hf_config.name", name))
    except KeyError:
        raise LLMHWError(
            f"{what} is litgpt's, which does not say whether embeddings are tied, and of {shown(name)}, which is not "
            f"in the catalog; {_WAY_OUT}"
        ) from None
    text = config.get("text_config", config)
    for key, theirs in _LITGPT:
        size = next((text[one] for one in theirs if text.get(one) is not None), None)
        if size is not None and data.get(key) is not None and data[key] != size:
            raise LLMHWError(f"{what} says {key}={shown(data[key])}, but {name} has {size}; {_WAY_OUT}")
    return short, config
