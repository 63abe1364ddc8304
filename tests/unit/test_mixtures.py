"""Mixtures of experts as published: their sizes, and the parameters that their checkpoints state on the Hub.

What a checkpoint holds beside the model and its modules for multi-token prediction is stated for each: a number for
each expert that evens the load of a layer, and copies of the embedding and of the output head in those modules.
"""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.families import FAMILIES
from llmhw.model import ModelSpec
from tests.unit.configs import sizes


def _sizes(
    model_type: str, hidden: int, inner: int, heads: int, kv_heads: int, layers: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return sizes(model_type, hidden, inner, heads, layers, vocab, num_key_value_heads=kv_heads, **more)


def _experts(count: int, used: int, inner: int, **more: Any) -> dict[str, Any]:
    return {"num_experts": count, "num_experts_per_tok": used, "moe_intermediate_size": inner, **more}


_LING = {"head_dim": 128, "num_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True}
_STEP = ["full_attention", *["sliding_attention"] * 3] * 12

# name, config, parameters of the checkpoint, those beside the model and its modules
PUBLISHED: list[tuple[str, dict[str, Any], int, int]] = [
    (
        "GLM-4.7-Flash",
        _sizes("glm4_moe_lite", 2048, 10240, 20, 20, 47, 154880, num_nextn_predict_layers=1),
        31_221_488_576,
        2 * 154880 * 2048 + 47 * 64,
    ),
    (
        "K-EXAONE-236B-A23B",
        _sizes("exaone_moe", 6144, 18432, 64, 8, 48, 153600, head_dim=128, num_nextn_predict_layers=1)
        | _experts(128, 8, 2048, sliding_window=128, tie_word_embeddings=False),
        237_099_669_632,
        47 * 128,
    ),
    (
        "LongCat-Flash-Chat",
        {
            "model_type": "longcat_flash",
            "hidden_size": 6144,
            "num_layers": 28,
            "num_attention_heads": 64,
            "vocab_size": 131072,
            "num_nextn_predict_layers": 1,
        },
        561_862_880_256,
        131072 * 6144 + 28 * 768,
    ),
    (
        "Step-3.5-Flash",
        {
            **_sizes("step3p5", 4096, 11264, 64, 8, 45, 128896, num_attention_groups=8, head_dim=128),
            "moe_num_experts": 288,
            "moe_top_k": 8,
            "moe_intermediate_size": 1280,
            "share_expert_dim": 1280,
            "sliding_window": 512,
            "layer_types": _STEP,
            "num_nextn_predict_layers": 3,
            "moe_layers_enum": ",".join(map(str, range(3, 45))),
            "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 96},
        },
        199_384_301_376,
        3 * 128896 * 4096 + 42 * 288,
    ),
    (
        "ERNIE-4.5-21B-A3B-Thinking",
        _sizes("ernie4_5_moe", 2560, 12288, 20, 4, 28, 103424, moe_layer_end_index=27),
        21_825_437_888,
        0,
    ),
    (
        "dots.llm1.inst",
        _sizes("dots1", 4096, 10944, 32, 32, 62, 152064, n_routed_experts=128, n_shared_experts=2)
        | {"num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_intermediate_size": 1408},
        142_774_381_696,
        61 * 128,
    ),
    (
        "Trinity-Nano-Preview",
        _sizes("afmoe", 1024, 3072, 8, 2, 56, 200192, num_dense_layers=2, num_shared_experts=1)
        | _experts(128, 8, 256, sliding_window=2048),
        6_120_003_328,
        0,
    ),
    (
        "Trinity-Large-Thinking",
        _sizes("afmoe", 3072, 12288, 48, 8, 60, 200192, num_dense_layers=6, num_shared_experts=1)
        | _experts(256, 4, 3072, sliding_window=4096),
        398_635_286_016,
        0,
    ),
    ("Ling-mini-2.0", _sizes("bailing_moe", 2048, 5120, 16, 4, 20, 157184) | _experts(256, 8, 512, **_LING),
        16_255_643_392, 19 * 256),
    ("LLaDA2.1-flash", _sizes("llada2_moe", 4096, 9216, 32, 4, 32, 157184) | _experts(256, 8, 1024, **_LING),
        102_889_705_216, 31 * 256),
    ("Ling-lite", _sizes("bailing_moe", 2048, 5632, 16, 4, 28, 126464) | _experts(64, 6, 1408, num_shared_experts=2),
        16_801_974_272, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "count", "beside"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_counts(name: str, config: dict[str, Any], count: int, beside: int) -> None:
    found = ModelSpec.from_config(config, name=name).parameters
    assert found.total + found.mtp + beside == count


def test_modules_share_no_choice_of_an_indexer() -> None:
    """GLM-5's checkpoint to the last number: 75 layers and a module with an indexer of its own, a number an expert."""
    glm = llmhw.model("glm-5").parameters
    assert glm.total + glm.mtp + 76 * 256 == 753_864_139_008


def test_shared_indexers_cost_nothing() -> None:
    """Of GLM-5.2's 78 layers 21 have an indexer, and only these keep its keys."""
    glm = llmhw.model("glm-5").config
    shared = ModelSpec.from_config({**glm, "index_topk_freq": 4, "index_skip_topk_offset": 3})
    assert sum(1 for layer in shared.layers if layer.attention and layer.attention.index_dim) == 21
    assert llmhw.kv_cache_bytes_per_token(shared) == 2 * (78 * 576 + 21 * 128)
    assert all(layer.attention and layer.attention.index_topk == 2048 for layer in shared.layers)


def test_layers_that_share_caches_are_refused() -> None:
    config = {"model_type": "hunyuan_v1_moe", "use_cla": True}
    with pytest.raises(llmhw.LLMHWError, match="use_cla=true: layers that share keys and values are not covered"):
        ModelSpec.from_config(config)


# Those with a part that no other family has.
UNLIKE = (
    "deepseek_v4 glm5_next_text glm_moe_dsa minimax_m3_vl_text inkling2_text longcat_flash ernie4_5_vl_moe_text laguna"
).split()


@pytest.mark.parametrize("model_type", UNLIKE)
def test_every_command_answers(model_type: str) -> None:
    defaults = dict(FAMILIES[model_type].defaults)
    sizes = _sizes(model_type, 512, 1024, 8, 4, 4, 1000, num_layers=4, max_position_embeddings=4096)
    few = {"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4}
    used = dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k"), 2)
    known = {key: value for key, value in (few | used).items() if key in defaults}
    spec = ModelSpec.from_config(
        {**sizes, **(known or few | used), "moe_intermediate_size": defaults.get("moe_intermediate_size", 256)}
    )
    assert llmhw.fit(spec, "h100").to_dict()
    job = llmhw.job.ServingJob(model=spec, cluster="h100")
    assert llmhw.serve(job, input_tokens=100, output_tokens=10).fits
    assert llmhw.train(llmhw.job.TrainingJob(model=spec, cluster="h100", seq_len=512)).memory.fits
