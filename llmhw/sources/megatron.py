"""Arguments of Megatron-LM, and the same in the words of NeMo and Megatron-Bridge.

They come as a command line or a script that holds one, as YAML, or as JSON. Each is one family of transformers or none:
what no family has is refused by the argument that says it, and so is what is missing. Where an argument is not given,
Megatron's own default holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.files import MOST_DEPTH, depth_of
from llmhw.units import LLMHWError, ceil_div, shown

Config = dict[str, Any]

_MOST_YAML = 100_000  # letters; PyYAML reads about as many in a second
_MOST_SCRIPT = 10**6
_MOST_ALIASES = 20  # more of them can stand for a text without end
_MOST = 10**9
# The arguments' names, and what NeMo and Megatron-Bridge call them.
_NAMES = {
    "num_moe_experts": "num_experts",
    "n_layers": "num_layers",
    "encoder_seq_length": "seq_length",
    "rotary_percentage": "rotary_percent",
    "qk_layernorm_type": "qk_layernorm",
    "override_vocab_size": "padded_vocab_size",
    "tensor_parallel_size": "tensor_model_parallel_size",
    "moe_shared_expert_intermediate": "moe_shared_expert_intermediate_size",
    "qk_norm": "qk_layernorm",
    "moe_router_top_k": "moe_router_topk",
}
# Arguments that mean another kind of model than those below.
_OTHERS = """encoder_num_layers decoder_num_layers bert_binary_head vision_pretraining retro_add_retriever
    heterogeneous_layers_config_path heterogeneous_layers_config_encoded_json is_hybrid_model hybrid_override_pattern
    hybrid_attention_ratio mamba_num_heads linear_attention_freq experimental_attention_variant window_size
    use_mup multi_latent_attention_gate moe_latent_size""".split()
_SKIPPED = ("", None, False, "none", "None", "null", "False", "false")


def is_arguments(data: Mapping[str, Any]) -> bool:
    """Whether an object's keys are those of Megatron, at its top or a level or two below."""
    return bool(_flat(data))


def from_arguments(text: str, what: str) -> Config:
    """The config of a command line, or of a script that holds one; variables of the script are put in."""
    from re import findall, sub

    if len(text) > _MOST_SCRIPT:
        raise LLMHWError(f"{what} has {len(text):,} letters of arguments; at most {_MOST_SCRIPT:,} are read")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    variables: dict[str, set[str]] = {}
    for name, value in findall(r"(?m)(?:^|[\s;])([A-Za-z_]\w*)=[\"']?([\w.+-]+)[\"']?(?=\s|;|$)", lines):
        variables.setdefault(name, set()).add(value)
    data: Config = {}
    for flag, rest in findall(r"--([a-z][a-z0-9-]*)(?:[= \t\\\n]+(?!--)([^\s\\]+))?", lines):
        value = rest.strip("\"'),;")
        found = sub(r"^\$\{?(\w+)(?::?-([^}]*))?\}?$", r"$\1 \2", value)
        if found.startswith("$"):
            name, _, otherwise = found[1:].partition(" ")
            values = variables.get(name, {otherwise} if otherwise else set())
            if len(values) != 1 and flag.replace("-", "_") in _READ:
                said = "is not set there" if not values else f"is set to {' and to '.join(sorted(values)[:3])}"
                raise LLMHWError(f"{what}: --{flag} is the variable {shown(name, 40)}, which {said}; write the number")
            value = next(iter(values), "")
        data[flag.replace("-", "_")] = _typed(value)
    if "num_query_groups" in data and "group_query_attention" not in data:
        raise LLMHWError(
            f"{what}: --num-query-groups counts only with --group-query-attention; add it, or leave it out"
        )
    return from_mapping(data, what)


def from_yaml(text: str, what: str) -> Config:
    """The object that a text of YAML holds, through PyYAML."""
    from re import findall

    try:
        import yaml
    except ImportError:
        raise LLMHWError(f"{what} is YAML, which needs PyYAML; pip install 'llmhw[yaml]', or give it as JSON") from None
    if len(text) > _MOST_YAML:
        raise LLMHWError(f"{what} has {len(text):,} letters of YAML; at most {_MOST_YAML:,} are read")
    if depth_of(text) > MOST_DEPTH or len(findall(r"(?m)(?:[:,\[-]|^)\s*\*\w", text)) > _MOST_ALIASES:
        raise LLMHWError(f"{what} is YAML that is too deep, or has more than {_MOST_ALIASES} aliases; give it as JSON")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise LLMHWError(
            f"{what} is not YAML ({where}{shown(getattr(error, 'problem', None) or 'no text', 60)})"
        ) from None
    except (RecursionError, ValueError, OverflowError, MemoryError):
        raise LLMHWError(f"{what} is YAML that cannot be read: too deep, or with a value out of range") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise LLMHWError(f"{what} holds YAML of a {type(data).__name__}, not an object with names; give a config.json")
    return data


def _typed(text: str) -> Any:
    """A value of a command line as YAML would have it."""
    from re import fullmatch

    if fullmatch(r"[+-]?\d{1,15}", text):
        return int(text)
    return {"": True, "true": True, "True": True, "false": False, "False": False}.get(text, text)


def _flat(data: Mapping[str, Any]) -> Config:
    """The arguments of an object: those of the level that says how many layers there are."""
    level: list[Mapping[str, Any]] = [data]
    for _ in range(4):
        for one in level[:100]:
            named = {_name(key): value for key, value in one.items() if isinstance(key, str)}
            if "num_layers" in named and ({"hidden_size", "num_attention_heads"} & set(named)):
                return named
        level = [value for one in level[:100] for value in one.values() if isinstance(value, Mapping)]
    return {}


def _name(key: str) -> str:
    name = key.lstrip("-").replace("-", "_")
    return _NAMES.get(name, name)


# -- one family, or none ----------------------------------------------------------------------


class _Arguments:
    """The arguments by their names, each of the kind that it must be."""

    def __init__(self, data: Mapping[str, Any], what: str) -> None:
        self.data, self.what = data, what

    def refuse(self, reason: str) -> LLMHWError:
        return LLMHWError(f"{self.what}: {reason}; give the model's config.json")

    def given(self, key: str) -> bool:
        return self.data.get(key) not in _SKIPPED

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.data.get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) < 15:
            value = int(value)
        if value is None or value == "null":
            if default is None:
                raise LLMHWError(f"{self.what} does not say --{key.replace('_', '-')}, which is needed; add it")
            return default
        if type(value) is not int or not 0 <= value <= _MOST:
            raise LLMHWError(f"{self.what}: --{key.replace('_', '-')} {shown(value, 40)} must be a whole number")
        return value

    def word(self, *keys: str) -> str:
        """The first of these that is given, in lower case and without separators."""
        found = next((self.data[key] for key in keys if self.given(key)), "")
        return str(found).rsplit(".", 1)[-1].lower().replace("-", "").replace("_", "") if found is not True else ""

    def flag(self, yes: str, no: str = "", default: bool = False) -> bool:
        """Whether the argument is there; `no` is its opposite, which NeMo has in its place."""
        if yes and yes in self.data:
            return self.data[yes] not in _SKIPPED
        return (self.data[no] in _SKIPPED) if no and no in self.data else default


# What is read: variables of a script are looked up for these alone.
_READ = frozenset(
    """num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels vocab_size
    padded_vocab_size make_vocab_size_divisible_by tensor_model_parallel_size max_position_embeddings seq_length
    num_experts moe_router_topk moe_ffn_hidden_size moe_shared_expert_intermediate_size moe_layer_freq
    q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim mtp_num_layers rotary_percent
    normalization position_embedding_type""".split()
)


def from_mapping(data: Mapping[str, Any], what: str) -> Config:
    """The config of arguments by name, as Megatron, NeMo or Megatron-Bridge call them."""
    a = _Arguments(_flat(data) or {_name(key): value for key, value in data.items()}, what)
    for key in _OTHERS:
        if a.given(key):
            raise a.refuse(f"--{key.replace('_', '-')} makes a model that is not covered in this form")
    gated, squared = _activation(a)
    norm = a.word("normalization") or "layernorm"
    norm += "1p" if norm == "layernorm" and a.flag("apply_layernorm_1p") else ""
    rotary = _rotary(a)
    a.data = {**a.data, "gated": gated}
    common = _common(a)
    if a.flag("multi_latent_attention"):
        return common | _latent(a, gated, norm)
    if norm == "rmsnorm" and gated and rotary:
        return common | _like_llama(a)
    if a.given("num_experts"):
        raise a.refuse("experts are covered with --normalization RMSNorm, --swiglu and rotary positions")
    if a.flag("qk_layernorm"):
        raise a.refuse("--qk-layernorm is covered with --normalization RMSNorm, --swiglu and rotary positions")
    if norm == "layernorm1p" and squared and rotary:
        return common | _plain(a, "nemotron", {"attention_bias": _biases(a)[1], "mlp_bias": _biases(a)[1]})
    if norm == "layernorm" and not squared:
        return common | _like_gpt(a, gated, rotary)
    activation = "--swiglu" if gated else "--squared-relu" if squared else "gelu"
    raise a.refuse(
        f"--normalization {shown(a.data.get('normalization', 'LayerNorm'), 40)} with {activation} and "
        f"{'rotary' if rotary else 'learned'} positions is no family that is covered"
    )


def _activation(a: _Arguments) -> tuple[bool, bool]:
    """Whether the feed-forward part is gated, and whether its activation is the squared ReLU."""
    word = a.word("activation", "activation_func")
    gated = (
        a.flag("swiglu")
        or a.flag("gated_linear_unit")
        or word in ("swiglu", "fastswiglu", "geglu", "fastgeglu", "reglu")
    )
    squared = a.flag("squared_relu") or word in ("squaredrelu", "relu2")
    return gated, squared


def _rotary(a: _Arguments) -> bool:
    kind = a.word("position_embedding_type") or (
        "rope" if a.flag("use_rotary_position_embeddings") else "learnedabsolute"
    )
    if a.flag("multi_latent_attention"):
        return True
    if kind in ("rope", "yarn", "mrope"):
        return True
    if kind != "learnedabsolute":
        raise a.refuse(f"--position-embedding-type {shown(a.data.get('position_embedding_type'))} is not covered")
    return False


def _common(a: _Arguments) -> Config:
    heads = a.whole("num_attention_heads")
    hidden = a.whole("hidden_size")
    grouped = a.given("num_query_groups") and ("group_query_attention" not in a.data or a.flag("group_query_attention"))
    groups = a.whole("num_query_groups") if grouped else 1 if a.flag("group_query_attention") else heads
    if not heads or (hidden % heads and not a.given("kv_channels")):
        raise LLMHWError(
            f"{a.what}: --num-attention-heads {heads} does not divide --hidden-size {hidden}; add --kv-channels"
        )
    return {
        "hidden_size": hidden,
        "num_hidden_layers": a.whole("num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": a.whole("kv_channels") if a.given("kv_channels") else hidden // heads,
        "intermediate_size": _feed_forward(a, hidden),
        "vocab_size": _vocabulary(a),
        "max_position_embeddings": a.whole("max_position_embeddings", a.whole("seq_length", 4096)),
        "tie_word_embeddings": not a.flag("untie_embeddings_and_output_weights", "share_embeddings_and_output_weights"),
    }


def _feed_forward(a: _Arguments, hidden: int) -> int:
    """Megatron's default is 4 times the hidden size; where it is gated two thirds of that, down to a multiple of 64."""
    usual = int(4 * hidden * 2 / 3) // 64 * 64 if a.data["gated"] else 4 * hidden
    return a.whole("ffn_hidden_size") if a.given("ffn_hidden_size") else usual


def _vocabulary(a: _Arguments) -> int:
    """Rows of the embedding table, padded as Megatron does."""
    if a.given("padded_vocab_size"):
        return a.whole("padded_vocab_size")
    if not a.given("vocab_size"):
        raise LLMHWError(
            f"{a.what} leaves the vocabulary to its tokenizer; add --padded-vocab-size, or --vocab-size and "
            "--make-vocab-size-divisible-by"
        )
    words = a.whole("vocab_size") + (a.word("tokenizer_type") == "nulltokenizer")  # that one adds the end of a text
    multiple = a.whole("make_vocab_size_divisible_by", 128) * a.whole("tensor_model_parallel_size", 1)
    return ceil_div(words, multiple) * multiple if multiple else words


def _biases(a: _Arguments) -> tuple[bool, bool]:
    """Whether queries, keys and values have biases, and whether all linear layers do."""
    every = not a.flag("disable_bias_linear", "add_bias_linear" if "add_bias_linear" in a.data else "bias")
    return every or a.flag("add_qkv_bias") or a.flag("qkv_bias"), every


def _plain(a: _Arguments, model_type: str, more: Config) -> Config:
    """A family without experts; partial rotary positions where they are given."""
    share = a.data.get("rotary_percent")
    turned = {"partial_rotary_factor": share} if isinstance(share, (int, float)) and 0 < share < 1 else {}
    if a.given("mtp_num_layers"):
        raise a.refuse("--mtp-num-layers is covered with --multi-latent-attention")
    return {"model_type": model_type, **more, **turned}


def _like_llama(a: _Arguments) -> Config:
    qkv, every = _biases(a)
    normed = a.flag("qk_layernorm")
    if a.given("num_experts"):
        return _experts(a, qkv, every, normed)
    if normed:
        if every or qkv:
            raise a.refuse("--qk-layernorm with biases is not covered; add --disable-bias-linear")
        return _plain(a, "qwen3", {"attention_bias": False})
    if qkv and not every:
        return _plain(a, "qwen2", {})
    return _plain(a, "llama", {"attention_bias": every, "mlp_bias": every})


def _experts(a: _Arguments, qkv: bool, every: bool, normed: bool) -> Config:
    if every:
        raise a.refuse("experts with biases of all linear layers are not covered; add --disable-bias-linear")
    used = a.whole("moe_router_topk", 2)
    inner = (
        a.whole("moe_ffn_hidden_size") if a.given("moe_ffn_hidden_size") else _feed_forward(a, a.whole("hidden_size"))
    )
    dense = [i for i, sparse in enumerate(_sparse(a)) if not sparse]
    shared = a.whole("moe_shared_expert_intermediate_size", 0)
    gated = {"num_experts": a.whole("num_experts"), "num_experts_per_tok": used, "moe_intermediate_size": inner}
    if shared:
        if normed or not a.flag("moe_shared_expert_gate"):
            raise a.refuse("shared experts are covered with --multi-latent-attention, or with --moe-shared-expert-gate")
        more = {"shared_expert_intermediate_size": shared, "qkv_bias": qkv, "mlp_only_layers": dense}
        return _plain(a, "qwen2_moe", gated | more)
    if normed and not qkv:
        return _plain(a, "qwen3_moe", {**gated, "attention_bias": False, "mlp_only_layers": dense})
    if normed or qkv or dense:
        raise a.refuse("this mix of experts with --add-qkv-bias, --qk-layernorm or dense layers is not covered")
    local = {"num_local_experts": a.whole("num_experts"), "num_experts_per_tok": used, "intermediate_size": inner}
    return _plain(a, "mixtral", local)


def _sparse(a: _Arguments) -> list[bool]:
    """For each layer, whether it has experts, by --moe-layer-freq: every n-th, or a list such as ([0]*1+[1]*26)."""
    from re import fullmatch

    layers, found = a.whole("num_layers"), a.data.get("moe_layer_freq", 1)
    if layers > 10**4:
        raise LLMHWError(f"{a.what}: --num-layers {layers} is more than any model has")
    if isinstance(found, str):
        text = "".join(found.split()).strip("()\"'")
        parts = [fullmatch(r"\(*\[([01](?:,[01])*)\]\)*(?:\*(\d{1,4}))?\)*", part) for part in text.split("+")]
        if text.isdecimal() and len(text) < 5:
            found = int(text)
        elif all(parts):
            found = [int(x) for part in parts if part for x in part[1].split(",") * int(part[2] or 1)]
    if type(found) is int and found > 0:
        return [i % found == 0 for i in range(layers)]
    if isinstance(found, list) and len(found) == layers and all(x in (0, 1) for x in found):
        return [bool(x) for x in found]
    raise LLMHWError(
        f"{a.what}: --moe-layer-freq {shown(found, 60)} must be a whole number, or a list of 0 and 1, one for each of "
        f"--num-layers {layers}"
    )


def _latent(a: _Arguments, gated: bool, norm: str) -> Config:
    """DeepSeek's: multi-head latent attention, shared experts, dense first layers."""
    if not gated or norm != "rmsnorm" or any(_biases(a)):
        raise a.refuse(
            "--multi-latent-attention is covered with --swiglu, --normalization RMSNorm and --disable-bias-linear"
        )
    third = a.flag("moe_router_enable_expert_bias") or a.word("moe_router_score_function") == "sigmoid"
    found: Config = {
        "model_type": "deepseek_v3" if third else "deepseek_v2",
        "head_dim": None,
        "num_key_value_heads": a.whole("num_attention_heads"),
        "q_lora_rank": a.whole("q_lora_rank", 0) or None,
        "kv_lora_rank": a.whole("kv_lora_rank", 512),
        "qk_nope_head_dim": a.whole("qk_head_dim", 128),
        "qk_rope_head_dim": a.whole("qk_pos_emb_head_dim", 64),
        "v_head_dim": a.whole("v_head_dim", 128),
        "num_nextn_predict_layers": a.whole("mtp_num_layers", 0),
    }
    if not a.flag("qk_layernorm"):  # without it Megatron leaves out the norms inside
        raise a.refuse("--multi-latent-attention is covered with --qk-layernorm")
    if not a.given("num_experts"):
        return found | {"first_k_dense_replace": a.whole("num_layers"), "n_routed_experts": 1, "num_experts_per_tok": 1}
    sparse = _sparse(a)
    first = sparse.index(True) if True in sparse else len(sparse)
    if not all(sparse[first:]):
        raise a.refuse("dense layers are covered before those with experts, not between")
    inner, shared = a.whole("moe_ffn_hidden_size"), a.whole("moe_shared_expert_intermediate_size", 0)
    if not inner or shared % inner:
        raise a.refuse(
            f"--moe-shared-expert-intermediate-size {shared} must be a multiple of --moe-ffn-hidden-size {inner}"
        )
    return found | {
        "n_routed_experts": a.whole("num_experts"),
        "num_experts_per_tok": a.whole("moe_router_topk", 2),
        "moe_intermediate_size": inner,
        "n_shared_experts": shared // inner,
        "first_k_dense_replace": first,
    }


def _like_gpt(a: _Arguments, gated: bool, rotary: bool) -> Config:
    """Layer norms with biases: GPT-2 with learned positions, GPT-NeoX, StarCoder 2 and StableLM with rotary ones."""
    qkv, every = _biases(a)
    heads, groups, hidden = a.whole("num_attention_heads"), _common(a)["num_key_value_heads"], a.whole("hidden_size")
    alike = groups == heads and _common(a)["head_dim"] * heads == hidden
    if not rotary:
        if gated or not every or not alike:
            raise a.refuse("learned positions are covered with biases, without --swiglu and --group-query-attention")
        inner = _feed_forward(a, hidden)
        positions = a.whole("max_position_embeddings")
        return _plain(a, "gpt2", {"n_inner": inner, "n_positions": positions, "activation_function": "gelu_new"})
    if gated:
        if every:
            raise a.refuse("LayerNorm with --swiglu is covered with --disable-bias-linear")
        return _plain(a, "stablelm", {"use_qkv_bias": qkv, "use_parallel_residual": False})
    if qkv != every:
        raise a.refuse("--add-qkv-bias is covered with --normalization RMSNorm, or with --swiglu")
    if every and alike:
        return _plain(a, "gpt_neox", {"use_parallel_residual": False, "attention_bias": True})
    return _plain(a, "starcoder2", {"use_bias": every, "sliding_window": None})


# -- the other way ----------------------------------------------------------------------------

# Arguments whose value a config has as it is; what a config lacks, or has as None, is left out.
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "max_position_embeddings": "max_position_embeddings",
}
_MIXTURES = {"qwen2_moe", "qwen3_moe", "mixtral"}
_LATENT = {"deepseek_v2", "deepseek_v3"}
_WRITTEN = {"llama", "mistral", "qwen2", "qwen3", "gpt2"} | _MIXTURES | _LATENT


def to_arguments(config: Mapping[str, Any], what: str) -> Config:
    """Megatron's arguments of a Hugging Face config, by name; a flag is True.

    Of the vocabulary only the size of the tokenizer's: padding is for the caller, who knows the layout.
    Raises `LLMHWError` for a family that Megatron has no arguments for.

    >>> found = to_arguments({"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096,
    ...     "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    ...     "max_position_embeddings": 8192}, "a model")
    >>> found["num_query_groups"], found["swiglu"], found["untie_embeddings_and_output_weights"]
    (8, True, True)
    """
    kind = config.get("model_type")
    if kind not in _WRITTEN:
        raise LLMHWError(f"{what}: Megatron's arguments are written for {', '.join(sorted(_WRITTEN))}, not for {kind}")
    if kind == "gpt2":
        return _gpt2_arguments(config)
    found: Config = {name: config[key] for name, key in _SIZES.items() if config.get(key) is not None}
    found["vocab_size"] = config["vocab_size"]
    found |= {"normalization": "RMSNorm", "swiglu": True, "position_embedding_type": "rope"}
    found |= {"norm_epsilon": config.get("rms_norm_eps"), "rotary_base": _rotary_base(config)}
    scaled = config.get("rope_scaling") or {}
    if scaled.get("rope_type", scaled.get("type")) == "llama3":
        found |= {"use_rope_scaling": True, "rope_scaling_factor": scaled.get("factor")}
    if not config.get("tie_word_embeddings", False):
        found["untie_embeddings_and_output_weights"] = True
    if kind in _LATENT:
        return _filled(found | _latent_arguments(config, str(kind)))
    groups, heads = config.get("num_key_value_heads"), config["num_attention_heads"]
    if groups not in (None, heads):
        found |= {"group_query_attention": True, "num_query_groups": groups}
    head = config.get("head_dim")
    if head is not None and head * heads != config["hidden_size"]:
        found["kv_channels"] = head
    if kind != "llama" or not config.get("mlp_bias"):
        found["disable_bias_linear"] = True
    found["add_qkv_bias"] = kind in ("qwen2", "qwen2_moe") or None
    found["qk_layernorm"] = kind in ("qwen3", "qwen3_moe") or None
    if kind in _MIXTURES:
        found |= _mixture_arguments(config, str(kind))
    return _filled(found)


def _filled(found: Config) -> Config:
    return {name: value for name, value in found.items() if value is not None}


def _rotary_base(config: Mapping[str, Any]) -> Any:
    stated = config.get("rope_parameters") or {}
    base = config.get("rope_theta") or stated.get("rope_theta")
    return int(base) if base else None


def _gpt2_arguments(config: Mapping[str, Any]) -> Config:
    hidden = config["n_embd"]
    return {
        "num_layers": config["n_layer"],
        "hidden_size": hidden,
        "ffn_hidden_size": config.get("n_inner") or 4 * hidden,
        "num_attention_heads": config["n_head"],
        "max_position_embeddings": config["n_positions"],
        "vocab_size": config["vocab_size"],
        "position_embedding_type": "learned_absolute",
    }


def _mixture_arguments(config: Mapping[str, Any], kind: str) -> Config:
    if kind == "mixtral":
        return {
            "num_experts": config["num_local_experts"],
            "moe_router_topk": config["num_experts_per_tok"],
            "moe_ffn_hidden_size": config["intermediate_size"],
        }
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step", 1)
    layers = range(config["num_hidden_layers"])
    sparse = [int(i not in dense and (i + 1) % step == 0) for i in layers]
    shared = config.get("shared_expert_intermediate_size") if kind == "qwen2_moe" else None
    return {
        "num_experts": config["num_experts"],
        "moe_router_topk": config["num_experts_per_tok"],
        "moe_ffn_hidden_size": config["moe_intermediate_size"],
        "moe_shared_expert_intermediate_size": shared,
        "moe_shared_expert_gate": True if shared else None,
        "moe_layer_freq": None if all(sparse) else f"[{','.join(map(str, sparse))}]",
    }


def _latent_arguments(config: Mapping[str, Any], kind: str) -> Config:
    layers, first = config["num_hidden_layers"], config.get("first_k_dense_replace", 0)
    experts, inner = config.get("n_routed_experts"), config.get("moe_intermediate_size")
    return {
        "disable_bias_linear": True,
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": config.get("q_lora_rank"),
        "kv_lora_rank": config["kv_lora_rank"],
        "qk_head_dim": config["qk_nope_head_dim"],
        "qk_pos_emb_head_dim": config["qk_rope_head_dim"],
        "v_head_dim": config["v_head_dim"],
        "num_experts": experts,
        "moe_router_topk": config.get("num_experts_per_tok"),
        "moe_ffn_hidden_size": inner,
        "moe_shared_expert_intermediate_size": (config.get("n_shared_experts") or 0) * (inner or 0) or None,
        "moe_layer_freq": f"([0]*{first}+[1]*{layers - first})" if first else None,
        "moe_router_score_function": "sigmoid" if kind == "deepseek_v3" else None,
        "moe_router_enable_expert_bias": True if kind == "deepseek_v3" else None,
    }
