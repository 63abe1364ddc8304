"""A config.json's keys: what each may hold, and their values with a family's defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llmhw.checks import check_prose, check_text
from llmhw.families.sizes import COLUMNS
from llmhw.model import DROPOUT_RATES
from llmhw.units import LLMHWError, shown

Check = Callable[[str, Any], Any]


def _whole(argument: str, value: Any, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise LLMHWError(f"{argument}={shown(value)} must be a whole number from {least} to {most:,}")


def _number(argument: str, value: Any, *, most: float) -> None:
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise LLMHWError(f"{argument}={shown(value)} must be a number from 0 to {most:g}")


def _auto(argument: str, value: Any) -> None:
    if value != "auto":
        _whole(argument, value, least=1, most=10**7)


def _wholes(argument: str, value: Any, *, least: int, most: int) -> None:
    """One for all layers, or a list with one for each."""
    for one in value if isinstance(value, (list, tuple)) else [value]:
        _whole(argument, one, least=least, most=most)


def _flag(argument: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise LLMHWError(f"{argument}={shown(value)} must be true or false")


def _object(argument: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise LLMHWError(f"{argument}={shown(value)} must be an object")


def _list(argument: str, value: Any, *, kind: type) -> None:
    if not isinstance(value, (list, tuple)) or any(type(entry) is not kind for entry in value):
        raise LLMHWError(f"{argument}={shown(value)} must be a list of {'names' if kind is str else 'whole numbers'}")


def _directions(argument: str, value: Any) -> None:
    """Whether tokens see later ones: all of them, or those of an image."""
    if not isinstance(value, bool) and value not in ("all", "vision"):
        raise LLMHWError(f"{argument}={shown(value)} must be true, false, 'all' or 'vision'")


def _window_pattern(argument: str, value: Any) -> None:
    """Every how many layers, or a letter for each of a few: L for a window, G for a layer that sees everything."""
    if isinstance(value, str):
        if not 1 <= len(value) <= 1000 or set(value) - {"L", "G"}:
            raise LLMHWError(f"{argument}={shown(value)} must be a whole number, or letters L and G, such as LLLG")
    else:
        _whole(argument, value, least=1, most=10**5)


def _counts(argument: str, value: Any, *, least: int, most: int) -> None:
    """A number, or one for each layer."""
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        _whole(argument, entry, least=least, most=most)


def _by_layer(argument: str, value: Any) -> None:
    """Objects of keys, by the number of a layer."""
    _object(argument, value)
    for number, keys in value.items():
        if not str(number).isdecimal() or not isinstance(keys, Mapping):
            raise LLMHWError(f"{argument}={shown(value)} must hold objects, by the number of a layer")
        check_keys(keys)


def _nested(argument: str, value: Any) -> None:
    """Keys in an object of their own."""
    _object(argument, value)
    check_keys(value)


def _rates(argument: str, value: Any) -> None:
    """Whole numbers by name."""
    _object(argument, value)
    for number in value.values():
        _whole(argument, number, least=1, most=10**5)


def _numbers(argument: str, value: Any) -> None:
    """A list of whole numbers, or a text of them with commas between."""
    if isinstance(value, str):
        if not all(part.strip().isdecimal() and len(part) < 10 for part in value.split(",")):
            raise LLMHWError(f"{argument}={shown(value)} must be whole numbers, with commas between")
    else:
        _list(argument, value, kind=int)


def _patterns(argument: str, value: Any) -> None:
    """GPT-Neo's: lists of names, each with how often it is repeated."""
    pairs = isinstance(value, (list, tuple)) and all(isinstance(e, (list, tuple)) and len(e) == 2 for e in value)
    if not pairs:
        raise LLMHWError(f"{argument}={shown(value)} must be a list of pairs: names, and how often they are repeated")
    for names, times in value:
        _list(argument, names, kind=str)
        _whole(argument, times, least=1, most=10**3)


_WIDTH, _COUNT = (1, 10**7), (1, 10**5)
_INTS, _NAMES = partial(_list, kind=int), partial(_list, kind=str)

# Those of hybrids and of recurrent models.
_RECURRENT: dict[str, Check] = {
    **{
        key: partial(_whole, least=least, most=most)
        for (least, most), keys in {
            _WIDTH: """state_size mamba_d_state mamba_d_ssm attention_head_dim block_ff_dim block_multiple_of
                conv_L_cache adapter_rank lru_width conv1d_width attention_hidden_size ffn_round_up_to_multiple_of
                linear_head_dim short_conv_kernel_size routed_expert_hidden_size""",
            _COUNT: """expand mamba_expand mamba_n_heads num_experts_per_token n_mamba_heads mamba_ngroups
                num_mem_blocks expert_layer_period attn_layer_period linear_num_heads layer_group_size
                n_heads_in_group head_size decay_low_rank_dim a_low_rank_dim v_low_rank_dim gate_low_rank_dim
                group_norm_size hc_count hc_lowrank ple_embed_dim ple_conv_kernel_size ngram_size heads_per_ngram
                make_ngram_vocab_size_divisible_by indexer_n_heads indexer_head_dim indexer_compress_ratio cca_time0
                cca_time1 router_hidden_size""",
            (3, 10**8): "ngram_vocab_size_base",
            (1, 10**12): "indexer_budget window_length attention_window_size model_max_length context_length",
            (0, 10**7): "shared_intermediate_size",
            (0, 10**5): """num_local_experts num_shared_experts num_dense_layers attn_layer_offset expert_layer_offset
                attn_res_block_size""",
            (0, 100): "mtp_num_hidden_layers",
        }.items()
        for key in keys.split()
    },
    **dict.fromkeys(
        """conv_bias tie_embedding block_auto_adjust_ff_dim use_sandwich_norm use_attention_gate mamba_conv_bias
        mamba_proj_bias projectors_bias mamba_rms_norm add_bias_linear use_shared_attention_adapter use_full_rank_gate
        mla_use_output_gate latent_moe_use_norm""".split(),
        _flag,
    ),
    **dict.fromkeys(
        "block_ffn_dim_multiplier ffn_mult qk_dim_factor v_dim_factor ffn_proj_factor".split(),
        partial(_number, most=1e3),
    ),
    **dict.fromkeys("time_step_rank mamba_dt_rank mamba_d_head".split(), _auto),
    **dict.fromkeys(
        "ple_layer_ids attn_layer_indices full_attn_idxs full_attn_layers kda_layers attn_type_list".split(), _INTS
    ),
    **dict.fromkeys("block_types mtp_layers_block_type".split(), _NAMES),
    "linear_attn_config": _object,
    "mtp_hybrid_override_pattern": check_prose,
    "weight_mode": check_text,
}

# What each key that is read must hold. Bounds are far beyond any model; they keep sizes sums that mean something, and
# layers so few that every question is answered at once. null stands for a family's default. What a key's value means
# for the others (that heads are divided, that a list has an entry for each layer) is checked where it is read.
KEYS: dict[str, Check] = {
    **{
        key: partial(_whole, least=least, most=most)
        for (least, most), keys in {
            _WIDTH: """hidden_size n_embd n_embed d_model n_inner ffn_dim ffn_hidden_size
                intermediate_size_mlp moe_latent_size moe_shared_expert_intermediate_size
                kv_lora_rank q_lora_rank index_head_dim linear_key_head_dim
                linear_value_head_dim linear_conv_kernel_dim mamba_head_dim ssm_state_size conv_kernel mamba_d_conv
                draft_vocab_size target_hidden_size gru_hidden_dim emb_dim dim hidden_dim embedding_size kv_channels dff
                global_head_dim laurel_rank
                word_embed_proj_dim rotary_dim expansion_ratio""",
            _COUNT: """num_attention_heads attention_heads n_head num_heads n_heads num_key_value_heads num_kv_heads
                n_routed_experts experts_per_token index_n_heads
                num_global_key_value_heads top_k_experts altup_num_inputs intermediate_multiple_size
                multi_query_group_num global_attn_every_n_layers
                relative_attention_num_buckets
                linear_num_key_heads linear_num_value_heads mamba_num_heads n_groups mamba_n_groups
                no_rope_layer_interval full_attention_interval
                decoder_sparse_step interleave_moe_layer_step num_ln_in_parallel_attn""",
            (1, 10**3): "num_hidden_layers n_layer num_layers n_layers",
            (1, 10**9): "vocab_size padded_vocab_size num_labels",
            (1, 10**12): """max_position_embeddings n_positions max_seq_len seq_length attention_chunk_size window_size
                local_attention index_topk""",
            # 0 is none
            (0, 10**12): "sliding_window sliding_window_size",
            (0, 10**7): "hidden_size_per_layer_input type_vocab_size markov_rank shared_expert_intermediate_size",
            (0, 10**5): "first_k_dense_replace max_window_layers n_shared_experts num_kv_shared_layers",
            (0, 100): "num_nextn_predict_layers num_mtp_layers",
        }.items()
        for key in keys.split()
    },
    **dict.fromkeys(
        """tie_word_embeddings attention_bias mlp_bias use_sliding_window use_bias use_qk_norm qk_layernorm multi_query
        bias enable_bias do_layer_norm_before _remove_final_layer_norm layer_norm_elementwise_affine parallel_attn
        new_decoder_architecture lm_head_bias attention_out_bias qkv_bias use_qkv_bias use_parallel_residual
        use_conv_bias norm_topk_prob alibi fc_norm enable_confidence_head confidence_head_with_markov
        multi_query_attention add_bias_linear add_qkv_bias rmsnorm post_layer_norm no_bias
        attention_k_eq_v enable_moe_block use_double_wide_mlp norm_bias decoder_bias classifier_bias""".split(),
        _flag,
    ),
    **_RECURRENT,
    "intermediate_size": partial(_wholes, least=1, most=10**7),
    **dict.fromkeys("partial_rotary_factor rotary_pct".split(), partial(_number, most=1)),
    **dict.fromkeys(DROPOUT_RATES, partial(_number, most=1)),
    **dict.fromkeys("attn_logit_softcapping final_logit_softcapping".split(), partial(_number, most=1e9)),
    **dict.fromkeys(
        "model_type dtype torch_dtype hidden_act hidden_activation activation_function".split(), check_text
    ),
    "hybrid_override_pattern": check_prose,
    "rope_parameters": _object,
    "rope_scaling": _object,
    "layer_types": partial(_list, kind=str),
    "layers_block_type": partial(_list, kind=str),
    "mlp_layer_types": partial(_list, kind=str),
    "mlp_only_layers": partial(_list, kind=int),
    "moe_layers": partial(_list, kind=int),
    "no_rope_layers": partial(_list, kind=int),
    "attention_types": _patterns,
    **dict.fromkeys("sliding_window_pattern _sliding_window_pattern".split(), _window_pattern),
    # of further relatives of Llama
    **dict.fromkeys("additional_vocab_size vocab_size_per_layer_input".split(), partial(_whole, least=0, most=10**9)),
    **dict.fromkeys("use_post_norm is_moe use_ordered_embeddings".split(), _flag),
    "use_bidirectional_attention": _directions,
    "qk_norm_type": check_text,
    **dict.fromkeys("backbone_hidden_size num_centroids".split(), partial(_whole, least=1, most=10**7)),
    "cross_attention_layers": partial(_list, kind=int),
    # numbers that some configs give for every layer
    **dict.fromkeys(
        "num_experts num_experts_per_tok moe_num_experts moe_topk moe_top_k moe_k num_shared_expert".split(),
        partial(_counts, least=0, most=10**5),  # 0: a dense model of a family with experts
    ),
    "moe_intermediate_size": partial(_counts, least=1, most=10**7),
    "moe_layer_start_index": partial(_counts, least=0, most=10**5),
    "moe_layer_end_index": partial(_counts, least=-1, most=10**5),
    "per_layer_config": _by_layer,
    "compress_ratios": partial(_list, kind=int),
    "compress_rates": _rates,
    "indexer_types": partial(_list, kind=str),
    "index_topk_pattern": check_prose,
    "kv_source_layers": partial(_list, kind=int),
    **dict.fromkeys("use_mla use_dsa use_cla router_bias shared_expert_sink".split(), _flag),
    "hybrid_layer_pattern": partial(_list, kind=int),
    "local_layer_ids": partial(_list, kind=int),
    "mtp_layer_types": partial(_list, kind=str),
    "moe_layers_enum": _numbers,
    "num_attention_heads_per_layer": partial(_list, kind=int),
    "attention_other_setting": _nested,
    "sparse_attention_config": _nested,
    "sparse_attention_freq": partial(_list, kind=int),
    **{
        key: partial(_whole, least=least, most=most)
        for (least, most), keys in {
            _WIDTH: """linear_head_dim moe_hidden_size conv_kernel_size
                sconv_kernel_size d_rel rel_extent swa_head_dim swa_v_head_dim
                swa_q_lora_rank swa_kv_lora_rank swa_qk_nope_head_dim gated_norm_rank
                o_lora_rank prefix_dense_intermediate_size dense_intermediate_size expert_ffn_hidden_size
                shared_experts_intermediate_size""",
            _COUNT: """moe_layer_interval prefix_dense_sliding_window_pattern
                swa_num_attention_heads swa_num_key_value_heads
                linear_num_heads index_kpool compress_rate_csa compress_rate_hca o_groups
                sparse_num_index_heads sparse_index_dim sparse_block_size sparse_topk_blocks
                num_sliding_attention_heads num_attention_groups index_block_size index_topk_blocks""",
            # 0: no rotary part, which some call the size of a head; no latent attention in DeepSeek's small models
            (0, 10**7): """shared_intermediate_size share_expert_dim head_dim qk_nope_head_dim qk_rope_head_dim
                v_head_dim swa_qk_rope_head_dim""",
            (1, 100): "hc_mult",
            (0, 10**5): """num_dense_layers num_shared_experts moe_num_shared_experts zero_expert_num dense_mlp_idx
                index_topk_freq index_skip_topk_offset""",
        }.items()
        for key in keys.split()
    },
    "moe_layer_freq": partial(_counts, least=0, most=10**5),
}


def check_keys(data: Mapping[str, Any]) -> None:
    """Raise `LLMHWError` for the first key whose value is not of its kind or out of bounds."""
    for key, value in data.items():
        check = KEYS.get(key)
        if check and value is not None:
            check(f"config key {key}", value)
    for key in ("rope_parameters", "rope_scaling"):
        factor = (data.get(key) or {}).get("partial_rotary_factor")
        if factor is not None:
            _number(f"config key {key}.partial_rotary_factor", factor, most=1)


# What other tools call a size. A config that has one of these in place of transformers' key is not one of transformers,
# so the value that transformers has for a key that is left out is not meant.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    size: tuple(names.split())
    for sizes, names in {
        "hidden_size": "hidden_dim embed_dim emb_dim embedding_dim model_dim base_emb_dim",
        "intermediate_size ffn_dim": """ffn_embed_dim ffn_hidden_size ffn_hidden_dim ffn_dim d_ff dff mlp_dim inner_dim
            base_mlp_dim""",
        "num_hidden_layers": "num_decoder_layers base_num_decoder_layers n_blocks num_blocks",
        "num_attention_heads": "num_query_heads n_query_heads num_q_heads base_num_query_heads",
        "num_key_value_heads": """num_kv_heads n_kv_heads n_head_kv num_kv_groups num_query_groups n_query_groups
            base_num_kv_heads""",
        "vocab_size": "n_vocab",
    }.items()
    for size in sizes.split()
}


class Config:
    """A config's keys with the family's defaults; a missing or ill-typed key is a clear error."""

    def __init__(self, data: Mapping[str, Any], defaults: Mapping[str, Any], model_type: str) -> None:
        self.data = data
        self.defaults = defaults
        self.model_type = model_type
        self.assumed: dict[str, Any] = {}  # sizes that were asked for and are those of the defaults

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of these keys that has a value, else the family's default, else `default`.

        null stands for the default, but for keys where it means "none": no window, no low-rank queries.
        """
        if keys[0] in ("sliding_window", "q_lora_rank", "mamba_d_ssm") and keys[0] in self.data:
            return self.data[keys[0]]
        for source in (self.data, self.defaults):
            for key in keys:
                if source.get(key) is not None:
                    if source is self.defaults:
                        self._assume(keys[0], source[key])
                    return source[key]
        return default

    def _assume(self, key: str, value: Any) -> None:
        """Notes that a size is the default's; raises `LLMHWError` where the config has it in another tool's words."""
        for name in _ELSEWHERE.get(key, ()):
            if name not in self.defaults and self.data.get(name) is not None:
                raise LLMHWError(
                    f"config key {name}={shown(self.data[name])} is not what transformers calls {key} for "
                    f"model_type={self.model_type!r}; rename it, or give the published config.json"
                )
        if key in COLUMNS and value is not None:
            self.assumed[key] = value

    def changed(self, **keys: Any) -> Config:
        """The same with other values; None takes a key out."""
        made = Config({**self.data, **keys}, self.defaults, self.model_type)
        made.assumed = self.assumed
        return made

    def of_layer(self, number: int) -> Config:
        """The keys as they are for one layer, where `per_layer_config` has others."""
        others = self.get("per_layer_config", default={})
        own: Mapping[str, Any] = next((values for key, values in others.items() if int(key) == number), {})
        return self.changed(**own)

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.get(key, default=default))

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(*keys, default=default)
        if value is None:
            raise LLMHWError(
                f"config of model_type={self.model_type!r} has no {' or '.join(keys)}; is it a complete config.json?"
            )
        if isinstance(value, (list, tuple)):  # some configs repeat it for every layer
            if len(set(value)) != 1:
                raise LLMHWError(f"config key {keys[0]}={shown(value)} must be the same number for all layers")
            value = value[0]
        if value < least:  # 0 stands for none in some families, and is none of this one's
            raise LLMHWError(f"config key {keys[0]}={value!r} must be a whole number of at least {least}")
        return int(value)

    @property
    def hidden(self) -> int:
        return self.count("hidden_size", "n_embd", "n_embed", "d_model", "dim")

    @property
    def layers(self) -> int:
        return self.count("num_hidden_layers", "n_layer", "num_layers", "n_layers")

    @property
    def heads(self) -> int:
        return self.count("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")

    @property
    def kv_heads(self) -> int:
        if "num_key_value_heads" in self.data and self.data["num_key_value_heads"] is None:
            return self.heads  # null is none of their own, not the class's default
        found = self.get("num_key_value_heads", "num_attention_groups")
        if found is None:
            self._assume("num_key_value_heads", None)
        return self.count("num_key_value_heads", "num_attention_groups", default=self.heads)

    @property
    def head_dim(self) -> int:
        if self.get("head_dim"):
            return self.count("head_dim")
        if self.hidden % self.heads:
            raise LLMHWError(
                f"heads={self.heads} does not divide hidden_size={self.hidden}, and the config gives no head_dim"
            )
        return self.hidden // self.heads

    @property
    def intermediate(self) -> int:
        return self.count("intermediate_size", "hidden_dim", "n_inner")

    @property
    def vocab(self) -> int:
        return self.count("vocab_size", "padded_vocab_size")

    def layer_types(self, otherwise: Callable[[int], str]) -> list[str]:
        """The attention kind of every layer: from the config's list if it has one."""
        types = self.get("layer_types")
        if types is None:
            return [otherwise(i) for i in range(self.layers)]
        return self.listed("layer_types", types)

    def listed(self, key: str, found: Any) -> list[Any]:
        """A list with one entry for each layer."""
        if len(found) != self.layers:
            raise LLMHWError(f"config key {key} must list one entry for each of num_hidden_layers={self.layers}")
        return list(found)
