"""Sizes that a config leaves out because they are those of transformers' configuration class."""

from __future__ import annotations

from functools import cache
from typing import Any

COLUMNS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)

# A row for each model_type: the columns, `.` where the class has none or the family's entry says it already, `-` where
# the class has none but the family; then further keys. A synonym's row holds what differs from its family's.
_ROWS = """
llama 32000 4096 11008 32 32 . 2048
internlm3 128512 4096 10240 48 32 . 32768
iquestcoder 76800 5120 27648 80 40 . 131072
emu3_text_model 184622 4096 14336 32 32 . 9216
helium 48000 2560 7040 24 20 20 4096
hyperclovax 32000 4096 11008 32 32 . 2048
cwm 128256 6144 21504 64 48 . 131072
arcee 32000 2560 18432 32 32 . 4096
jais2 150272 3328 26624 32 26 . 8192
cosmos3_edge_text 131072 2048 9216 28 16 . 131072
apertus 131072 4096 14336 32 32 . 65536
bitnet 128256 2560 6912 30 20 . 2048
nanochat 50304 768 8192 12 6 . 2048
hunyuan_v1_dense 290943 4096 11008 32 32 . 2048
hunyuan_vl_text 290943 4096 11008 32 32 . 2048
molmo2_text 151936 4096 12288 36 32 . 36864
muse_glimmer_text 202048 6656 19968 52 32 . 131072
diffllama 32000 2048 8192 16 32 . 2048
doge 32768 1024 2048 32 8 . 2048 num_experts=16384 num_experts_per_tok=64
persimmon 262144 4096 16384 36 64 . 16384
mistral 32000 4096 14336 32 32 . 131072
ministral3 131072 4096 14336 34 32 . 262144
ministral 32000 4096 14336 32 32 . 131072
voxtral_realtime_text 32000 4096 14336 32 32 . 131072
qwen2 151936 4096 22016 32 32 32 32768
qwen2_vl_text 152064 8192 29568 80 64 8 . max_window_layers=80
qwen2_5_vl_text 152064 8192 29568 80 64 8 . max_window_layers=80
qwen2_5_omni_text 152064 3584 18944 28 28 4 . sliding_window=32768 tie_word_embeddings=true
qwen3 151936 4096 22016 32 32 32 32768
qwen3_vl_text . . . . . . 128000
gemma 256000 3072 24576 28 16 16 8192
gemma2 256000 2304 9216 26 8 4 8192
gemma3_text . 2304 9216 26 . . 131072
vaultgemma 256000 2304 9216 26 8 . 8192
glm 151552 4096 13696 40 32 2 131072
glm4 151552 4096 13696 40 32 2 131072
glm4v_text 151552 4096 13696 40 32 . 32768
glm_ocr_text 59392 1024 4096 16 16 . 131072
olmo 50304 4096 11008 32 32 . 2048
olmo2 50304 4096 11008 32 32 . 2048
olmo3 50304 4096 11008 32 32 . 2048
granite 32000 4096 11008 32 32 . 2048
granite_docling_text 133800 1024 2048 28 16 4 32768 tie_word_embeddings=true
granite_swa 100352 2560 8192 24 20 4 8192
cohere 256000 8192 22528 40 64 . 8192
cohere2 256000 8192 22528 40 64 . 8192
cohere_compass_text 256000 8192 22528 40 64 . 8192
exaone4 102400 4096 16384 32 32 32 2048
seed_oss 155136 4096 27648 64 80 8 524288
ernie4_5 103424 1024 3072 18 16 2 131072
smollm3 128256 2048 11008 36 16 . 32768
stablelm 50304 2560 6912 32 32 32 4096
starcoder2 49152 3072 12288 30 24 . 4096
nemotron 256000 6144 24576 32 48 . 4096
gemma4_unified_text . . . . . . 262144 sliding_window=1024
kolibri1 128000 2560 . 50 48 . 262144
  shared_expert_intermediate_size=512 num_experts=384 num_experts_per_tok=6 moe_intermediate_size=512
llama4_text 202048 5120 8192 48 40 8 131072
mixtral 32000 4096 14336 32 32 . 131072
qwen2_moe 151936 2048 5632 24 16 16 32768 decoder_sparse_step=1
qwen3_moe 151936 2048 6144 24 32 . 32768
  decoder_sparse_step=1 num_experts=128 num_experts_per_tok=8 moe_intermediate_size=768
qwen3_vl_moe_text . . 5632 . 16 16 128000
  num_experts=60 num_experts_per_tok=4 moe_intermediate_size=1408 tie_word_embeddings=true
qwen3_omni_moe_text 3584 . 18944 28 28 . .
phimoe 32064 4096 6400 32 32 . 131072 num_local_experts=16 num_experts_per_tok=2
gpt_oss 201088 2880 2880 36 64 8 131072 num_local_experts=128 num_experts_per_tok=4
glm4_moe 151552 4096 10944 46 96 8 131072 n_routed_experts=128 num_experts_per_tok=8 moe_intermediate_size=1408
glm4v_moe_text 151424 4096 10944 46 96 . 65536
minimax_m2 200064 3072 1536 62 48 . 196608 num_local_experts=256 num_experts_per_tok=8
olmoe 50304 2048 2048 16 16 . 4096 num_experts=64 num_experts_per_tok=8
granitemoe 32000 4096 11008 32 32 . 2048 num_local_experts=8 num_experts_per_tok=2
ernie4_5_moe 103424 2560 12288 28 20 . 131072
minimax_m3_vl_text 200064 6144 3072 60 64 . 524288
step3p5 128815 4096 11264 45 64 . 128000 num_local_experts=128
hunyuan_v1_moe 290943 4096 11008 32 32 . 2048
hy_v3 120832 4096 13312 80 64 . 131072
dots1 152064 4608 10944 62 32 32 2048
solar_open 196608 4096 . 48 64 . 131072
exaone_moe 102400 4096 16384 32 32 32 2048 first_k_dense_replace=1
granitemoeshared 32000 4096 11008 32 32 . 2048
granitemoe_swa 32000 4096 11008 32 32 . 2048
afmoe 200192 2048 6144 32 16 . 16384
aria_text 32000 4096 . 32 32 . 2048
cohere2_moe 256000 8192 22528 40 64 . 8192
deepseek_ocr2_text 102400 4096 11008 32 32 . 2048
unlimited_ocr_text 129280 1280 6848 12 10 10 32768 sliding_window=128 moe_intermediate_size=896
ernie4_5_vl_moe_text 103424 2560 12288 28 20 . 131072
muse_spark_text 202048 8192 16384 62 128 . 1048576
flex_olmo 100352 4096 11008 32 32 . 4096
flint 150144 2048 6144 49 32 . 262144 decoder_sparse_step=1
laguna 100352 2048 8192 40 48 . 131072
mellum 98304 2304 7168 28 32 . 131072
mimo_v2_flash 152576 4096 16384 48 64 . 131072 n_routed_experts=256 num_experts_per_tok=8 moe_intermediate_size=2048
deepseek_v2 102400 4096 11008 32 32 . 2048
deepseek_v3 129280 7168 18432 61 128 128 4096
deepseek_v32 129280 7168 18432 61 128 128 163840
deepseek_v4 129280 4096 . 43 64 . 1048576
glm_moe_dsa 154880 6144 12288 78 64 64 202752
glm5_next_text 154880 4096 12288 45 64 64 1048576
glm4_moe_lite 154880 2048 10240 47 20 20 202752
mistral4 131072 4096 12288 36 32 32 1048576
youtu 128256 2048 6144 32 16 16 131072
minicpm3 73448 2560 6400 62 40 40 32768
axk1 163840 7168 18432 61 64 64 32768
axk2 163840 2048 5120 48 32 32 131072
hy_v4 120832 2816 6912 34 32 32 262144
mistral_large4_text 204800 6144 24576 72 64 64 1048576 first_k_dense_replace=1
dots3_note_text 152064 5120 13824 46 128 128 524288
longcat_flash 131072 6144 . 28 64 . 131072
inkling_text 201024 6144 24576 66 64 . 131072
inkling2_text 201024 4608 . 48 48 . 1048576
qwen3_next 151936 2048 5632 48 16 . .
  decoder_sparse_step=1 shared_expert_intermediate_size=512 num_experts=512 num_experts_per_tok=10
  moe_intermediate_size=512
qwen3_5_text 248320 4096 12288 32 16 . .
qwen3_5_moe_text 248320 2048 . 40 16 . .
  shared_expert_intermediate_size=512 num_experts=256 num_experts_per_tok=8 moe_intermediate_size=512
qwen4_exp_text 248320 2048 . 40 . . .
olmo_hybrid 100352 3840 . 32 . . .
kimi_linear 163840 2304 . 27 . 32 .
bailing_hybrid 157184 2560 . 42 . 32 .
zaya 262272 2048 . 40 . . .
minimax 32000 4096 . 32 . . .
nemotron_h 131072 4096 . . . . 4096 n_shared_experts=1 expand=2
zamba 32000 3712 . 76 . . .
zamba2 32000 2560 . 54 . . .
lfm2 65536 2560 . 32 . . .
lfm2_moe 65536 2048 . 32 . . .
lfm3 128000 2048 . 24 . . .
granitemoehybrid 32000 4096 . 32 . . .
bamba 128000 4096 . 32 . . .
falcon_h1 128000 4096 . 32 . . .
jamba 65536 4096 . 32 . . .
mamba 50280 768 . 32 . . .
falcon_mamba 50280 768 . 32 . . .
mamba2 32768 4096 . 64 . . .
recurrent_gemma 256000 2560 . 26 . . .
rwkv 50277 4096 . 32 . . .
xlstm 50304 4096 . 32 . . .
phi 51200 2048 8192 24 32 . 2048
phi3 32064 3072 8192 32 32 . 4096
gpt2 50257 768 . 12 12 . .
gpt_bigcode 50257 768 . 12 12 . .
gpt_neo 50257 2048 . 24 16 . .
gptj 50400 4096 . 28 16 . 2048
gpt_neox 50432 6144 24576 44 64 . 2048
opt 50272 768 . 12 12 . . ffn_dim=3072
bloom 250880 64 . 2 8 . .
falcon 65024 4544 . 32 71 . 2048
mpt 50368 2048 . 24 16 . 2048
"""


@cache
def sizes_of(model_type: str) -> dict[str, Any]:
    """The row of a model type; empty for one that has none.

    >>> sizes_of("llama")["hidden_size"]
    4096
    """
    rows = _ROWS.replace("\n  ", " ").splitlines()
    row = next((line.split() for line in rows if line.split(" ")[0] == model_type), [])
    pairs = [*zip(COLUMNS, row[1:8], strict=False), *(entry.split("=") for entry in row[8:])]
    return {key: _value(value) for key, value in pairs if value != "."}


def _value(text: str) -> Any:
    return int(text) if text.isdecimal() else {"-": None, "true": True, "false": False}[text]
