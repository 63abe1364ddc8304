"""Encoders that people serve beside language models: BERT and its kin. Every token sees all others; none is cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each
from llmhw.families.config import Config
from llmhw.families.family import Family, family
from llmhw.families.heads import MAKES, architecture_of
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError, shown


def _attention(c: Config, window: int | None = None) -> Attention:
    return replace(attention_of(c), window=window, causal=False)


# -- heads ------------------------------------------------------------------------------------


def _task(c: Config) -> str:
    """What the config's architecture is for; an encoder without one makes embeddings."""
    architecture = architecture_of(c.data)
    if not architecture:
        return "Model"
    known = {str(name).replace("-", "").replace("_", "") for name in (c.model_type, c.data.get("model_type"))}
    found = next((task for task in (*MAKES, "Model") if architecture.endswith(task)), "")
    if not found or architecture.removesuffix(found).casefold() not in known:
        raise LLMHWError(
            f"config key architectures={shown([architecture])} of model_type={c.model_type!r} is not covered, and is "
            f"not taken for another; known are Model, {', '.join(MAKES)}"
        )
    return found


def _labels(c: Config) -> int:
    named = c.data.get("id2label")
    return len(named) if isinstance(named, Mapping) and named else c.count("num_labels", default=2)


@dataclass(frozen=True)
class _Head:
    """Where the families of encoders differ behind their blocks.

    pooler    "" or the name of the layer that makes one vector of a text
    masked    names of the layer and the norm that predict masked tokens; the table they end in is the embedding's
    bias      name of its bias
    dense     a further layer before a classifier of texts; "" where the pooler stands there
    classes   the classifier
    """

    pooler: str
    masked: tuple[str, str]
    bias: str
    dense: str = ""
    classes: str = "classifier"


def _finish(c: Config, layers: list[Layer], outer: Builder, head: _Head, *, narrow: int | None = None) -> Body:
    """The head that the config's architecture has."""
    task, hidden = _task(c), c.hidden
    if head.pooler and (task == "Model" or (task == "ForSequenceClassification" and not head.dense)):
        outer.linear(head.pooler, "project_out", hidden, hidden, bias=True)
    if task == "ForMaskedLM":
        width = narrow or hidden
        outer.linear(head.masked[0], "project_out", width, hidden, bias=True)
        outer.norm(head.masked[1], width, bias=True)
        if not c.flag("tie_word_embeddings"):
            outer.linear("decoder", "head", c.vocab, width)
        outer.plain(head.bias, "head", (c.vocab,))
    elif task == "ForSequenceClassification":
        if head.dense:
            outer.linear(head.dense, "project_out", hidden, hidden, bias=True)
        outer.linear(head.classes, "head", _labels(c), hidden, bias=True)
    elif task == "ForTokenClassification":
        outer.linear("classifier", "head", _labels(c), hidden, bias=True)
    elif task == "ForQuestionAnswering":
        outer.linear("qa_outputs", "head", _labels(c), hidden, bias=True)
    return Body(layers, outer, c.intermediate, makes=MAKES.get(task, "embeddings"))


# -- BERT -------------------------------------------------------------------------------------


def _embeddings(c: Config, width: int, *, positions: bool = True, types: bool = True) -> Builder:
    outer = Builder()
    outer.plain("embeddings.word_embeddings.weight", "tokens", (c.vocab, width))
    kind = c.get("position_embedding_type", default="absolute")
    if positions and kind != "absolute":
        raise LLMHWError(
            f"config key position_embedding_type={shown(kind)} of model_type={c.model_type!r} is not covered; learned "
            "positions are: absolute"
        )
    if positions:
        rows = c.count("max_position_embeddings")
        outer.plain("embeddings.position_embeddings.weight", "positions", (rows, width))
    if types:
        rows = c.count("type_vocab_size", default=2, least=0)
        if rows:
            outer.plain("embeddings.token_type_embeddings.weight", "positions", (rows, width))
    outer.norm("embeddings.LayerNorm", width, "embedding_norm", bias=True)
    return outer


def _block(c: Config, names: Mapping[str, str]) -> Layer:
    """A block with norms behind its two parts and biases everywhere; `names` of its modules by their parts."""
    a, b = _attention(c), Builder()
    for part in ("q", "k", "v"):
        b.linear(names[part], part, c.hidden, c.hidden, bias=True)
    b.linear(names["o"], "o", c.hidden, c.hidden, bias=True)
    b.norm(names["norm"], c.hidden, bias=True)
    b.plain_mlp(names["up"], names["down"], c.hidden, c.intermediate, bias=True)
    b.norm(names["norm_out"], c.hidden, "norm_out", bias=True)
    return b.layer(a)


def _names(query: str, out: str, **others: str) -> Mapping[str, str]:
    q, k, v = query.split()
    return {"q": q, "k": k, "v": v, "o": out, **others}


_BERT = _names(
    "attention.self.query attention.self.key attention.self.value",
    "attention.output.dense",
    norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm_out="output.LayerNorm",
)
_DISTIL = _names(
    "attention.q_lin attention.k_lin attention.v_lin",
    "attention.out_lin",
    norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm_out="output_layer_norm",
)
_MPNET = {
    **_names("attention.attn.q attention.attn.k attention.attn.v", "attention.attn.o"),
    **{key: _BERT[key] for key in ("up", "down", "norm_out")},
    "norm": "attention.LayerNorm",
}
_PREDICTIONS = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm")
_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm")


def _bert(c: Config) -> Body:
    if c.data.get("use_task_id"):
        raise LLMHWError("config key use_task_id=True of model_type='ernie' is not covered: it embeds tasks, too")
    head = _Head("pooler.dense", _PREDICTIONS, "cls.predictions.bias")
    return _finish(c, [_block(c, _BERT)] * c.layers, _embeddings(c, c.hidden), head)


def _roberta(c: Config) -> Body:
    head = _Head("pooler.dense", _LM_HEAD, "lm_head.bias", "classifier.dense", "classifier.out_proj")
    return _finish(c, [_block(c, _BERT)] * c.layers, _embeddings(c, c.hidden), head)


def _distilbert(c: Config) -> Body:
    head = _Head("", ("vocab_transform", "vocab_layer_norm"), "vocab_projector.bias", "pre_classifier")
    return _finish(c, [_block(c, _DISTIL)] * c.layers, _embeddings(c, c.hidden, types=False), head)


def _mpnet(c: Config) -> Body:
    outer = _embeddings(c, c.hidden, types=False)
    buckets = c.count("relative_attention_num_buckets", default=32)
    outer.plain("encoder.relative_attention_bias.weight", "positions", (buckets, c.heads))
    head = _Head("pooler.dense", _LM_HEAD, "lm_head.bias", "classifier.dense", "classifier.out_proj")
    return _finish(c, [_block(c, _MPNET)] * c.layers, outer, head)


def _electra(c: Config) -> Body:
    width = c.count("embedding_size", default=128)
    outer = _embeddings(c, width)
    if width != c.hidden:
        outer.linear("embeddings_project", "project_in", c.hidden, width, bias=True)
    names = ("generator_predictions.dense", "generator_predictions.LayerNorm")
    head = _Head("", names, "generator_lm_head.bias", "classifier.dense", "classifier.out_proj")
    return _finish(c, [_block(c, _BERT)] * c.layers, outer, head, narrow=width)


def _nomic_bert(c: Config) -> Body:
    """Rotary embedding, a gated feed-forward part and no biases."""
    b = Builder()
    b.qkvo("self_attn", c.hidden, a := _attention(c))
    b.norm("post_attention_layernorm", c.hidden, bias=True)
    b.gated_mlp("mlp", c.hidden, c.intermediate)
    b.norm("post_mlp_layernorm", c.hidden, "norm_out", bias=True)
    names = ("cls.predictions.transform.dense", "cls.predictions.transform.layer_norm")
    head = _Head("", names, "cls.predictions.bias", "pooler.dense")
    return _finish(c, [b.layer(a)] * c.layers, _embeddings(c, c.hidden, positions=False), head)


def _jina_v3(c: Config) -> Body:
    """XLM-RoBERTa with a rotary embedding; the adapters for tasks are left out, as in transformers."""
    names = _names(
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "self_attn.o_proj",
        norm="post_attention_layernorm",
        up="mlp.fc1",
        down="mlp.fc2",
        norm_out="post_mlp_layernorm",
    )
    head = _Head("pooler.dense", _LM_HEAD, "lm_head.bias", "classifier.dense", "classifier.out_proj")
    return _finish(c, [_block(c, names)] * c.layers, _embeddings(c, c.hidden, positions=False), head)


def _modernbert(c: Config) -> Body:
    """ModernBERT: norms before, fused gate, and windows in two layers of three."""
    bias, norm_bias, mlp_bias = c.flag("attention_bias"), c.flag("norm_bias"), c.flag("mlp_bias")
    every = c.count("global_attn_every_n_layers", default=3)
    types = c.layer_types(lambda i: "sliding_attention" if i % every else "full_attention")

    def make(kind: str, first: bool) -> Layer:
        b = Builder()
        # half of the window lies before a token, half behind
        a = _attention(c, c.count("local_attention") if kind == "sliding_attention" else None)
        b.linear("attn.Wqkv", "qkv", 3 * c.hidden, c.hidden, bias=bias)
        b.linear("attn.Wo", "o", c.hidden, c.hidden, bias=bias)
        if not first:
            b.norm("attn_norm", c.hidden, "norm_in", bias=norm_bias)
        b.norm("mlp_norm", c.hidden, bias=norm_bias)
        b.linear("mlp.Wi", "gate_up", 2 * c.intermediate, c.hidden, bias=mlp_bias)
        b.linear("mlp.Wo", "down", c.hidden, c.intermediate, bias=mlp_bias)
        return b.layer(a)

    layers = each(make, types, (i == 0 for i in range(c.layers)))
    outer = Builder()
    outer.plain("embeddings.tok_embeddings.weight", "tokens", (c.vocab, c.hidden))
    outer.norm("embeddings.norm", c.hidden, "embedding_norm", bias=norm_bias)
    outer.norm("final_norm", c.hidden, bias=norm_bias)
    task = _task(c)
    if task != "Model":
        outer.linear("head.dense", "project_out", c.hidden, c.hidden, bias=c.flag("classifier_bias"))
        outer.norm("head.norm", c.hidden, bias=norm_bias)
        if task == "ForMaskedLM":
            if not c.flag("tie_word_embeddings"):
                outer.linear("decoder", "head", c.vocab, c.hidden)
            if c.flag("decoder_bias"):
                outer.plain("decoder.bias", "head", (c.vocab,))
        else:
            outer.linear("classifier", "head", _labels(c), c.hidden, bias=True)
    return Body(layers, outer, c.intermediate, makes=MAKES.get(task, "embeddings"))


_BASE: dict[str, Any] = {
    "rotary": 0,
    "dropout": True,
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}

# Known, and too unlike the others: why.
REFUSED: dict[str, str] = {
    name: why
    for names, why in {
        """t5 mt5 umt5 longt5 t5gemma switch_transformers bart mbart marian pegasus pegasus_x bigbird_pegasus blenderbot
        blenderbot-small plbart mvp led prophetnet m2m_100 nllb-moe fsmt encoder-decoder rag""": (
            "it is an encoder, and a decoder that attends to it"
        ),
        "trocr": "it is a decoder that attends to an encoder of pictures",
        """whisper speech_to_text moonshine musicgen musicgen_melody moshi bark speecht5 seamless_m4t seamless_m4t_v2
        wav2vec2 wav2vec2-bert hubert wavlm mimi encodec dac""": "it hears or makes sound, and is no language model",
        """clip clip_text_model clip_vision_model siglip siglip_text_model siglip_vision_model siglip2 vit dinov2
        dinov3_vit align altclip""": "it is an encoder of pictures, and is no language model",
        "albert": "its layers are one, which runs many times",
        "xlnet": "its attention has two streams",
        "reformer big_bird": "its attention is of hashes and blocks",
    }.items()
    for name in names.split()
}

# fmt: off
TABLE: dict[str, Family] = {
    "bert": family(_bert, "BERT", synonyms=("ernie",), **_BASE),
    "roberta": family(_roberta, "RoBERTa", synonyms=("camembert", "data2vec-text"), **{**_BASE, "vocab_size": 50265}),
    "xlm-roberta": family(_roberta, "XLM-RoBERTa", **_BASE),
    "distilbert": family(_distilbert, "DistilBERT", **{**_BASE, "num_hidden_layers": 6}),
    "mpnet": family(_mpnet, "MPNet", **{**_BASE, "vocab_size": 30527}),
    "electra": family(_electra, "ELECTRA", **{**_BASE, "hidden_size": 256, "num_attention_heads": 4,
        "intermediate_size": 1024}),
    "nomic_bert": family(_nomic_bert, "Nomic BERT", **{**_BASE, "rotary": 1, "vocab_size": 30528,
        "max_position_embeddings": 2048, "dropout": False}),
    "jina_embeddings_v3": family(_jina_v3, "Jina embeddings 3", **{**_BASE, "rotary": 1, "vocab_size": 250002,
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "max_position_embeddings": 8194, "type_vocab_size": 1}),
    "modernbert": family(_modernbert, "ModernBERT", **{**_BASE, "rotary": 1, "vocab_size": 50368,
        "num_hidden_layers": 22, "intermediate_size": 1152, "max_position_embeddings": 8192, "local_attention": 128,
        "decoder_bias": True, "dropout": False}),
}
# fmt: on
