"""Models whose code lies on the Hub: their sizes as published, and the parameters that their checkpoints state.

Counts are of the checkpoints' own metadata; ChatGLM's there has 32 more, the frequencies of its rotary embedding.
"""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.families import REMOTE
from llmhw.model import ModelSpec
from tests.unit.configs import sizes

_GLM: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
}


PUBLISHED: list[tuple[str, dict[str, Any], int]] = [
    ("chatglm3-6b", {**_GLM, "num_layers": 28, "padded_vocab_size": 65024}, 6_243_584_032 - 32),
    ("glm-4-9b-chat", {**_GLM, "num_layers": 40, "padded_vocab_size": 151552}, 9_399_951_392 - 32),
    ("internlm2_5-7b-chat", sizes("internlm2", 4096, 14336, 32, 32, 92544, num_key_value_heads=8), 7_737_708_544),
    ("internlm2-chat-20b", sizes("internlm2", 6144, 16384, 48, 48, 92544, num_key_value_heads=8), 19_861_149_696),
    ("Qwen-7B", sizes("qwen", 4096, 22016, 32, 32, 151936, architectures=["QWenLMHeadModel"]), 7_721_324_544),
    ("EXAONE-Deep-7.8B", sizes("exaone", 4096, 14336, 32, 32, 102400, num_key_value_heads=8), 7_818_448_896),
    (
        "EXAONE-3.5-2.4B",
        sizes("exaone", 2560, 7168, 32, 30, 102400, num_key_value_heads=8, tie_word_embeddings=True),
        2_405_327_360,
    ),
    (
        "MiniCPM4-8B",
        sizes("minicpm", 4096, 16384, 32, 32, 73448, num_key_value_heads=2, tie_word_embeddings=False),
        8_185_253_888,
    ),
    ("Baichuan2-7B", sizes("baichuan", 4096, 11008, 32, 32, 125696), 7_505_973_248),
]


@pytest.mark.parametrize(("name", "config", "count"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_counts(name: str, config: dict[str, Any], count: int) -> None:
    spec = ModelSpec.from_config(config, name=name)
    assert spec.parameters.total == count
    assert spec.makes == "tokens"


@pytest.mark.parametrize("model_type", sorted(REMOTE))
def test_every_command_answers(model_type: str) -> None:
    config = sizes(model_type, 512, 1024, 8, 4, 1000, ffn_hidden_size=1024, ffn_dim=1024, multi_query_group_num=2)
    missing = {"attention": {"no_op": True}, "ffn": {"no_op": True}}
    config["block_configs"] = [{"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 2.0}}] * 3 + [missing]
    config["cross_attention_layers"] = [1]
    config |= dict.fromkeys(("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim"), 32)
    spec = ModelSpec.from_config({**config, "max_position_embeddings": 4096, "kv_channels": 64})
    assert llmhw.fit(spec, "rtx 4090").to_dict()
    job = llmhw.job.ServingJob(model=spec, cluster="h100")
    assert llmhw.serve(job, input_tokens=100, output_tokens=10).fits
    assert llmhw.train(llmhw.job.TrainingJob(model=spec, cluster="h100", seq_len=512)).memory.fits
