"""Pictures: tokens by the family's rule, weights of the tower read off its tensors, time in the first token alone."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.pictures import pictures_of
from llmhw.service import serve


# Qwen2.5-VL: a token for 28 x 28 pixels, Qwen3-VL for 32 x 32; Pixtral merges 2 x 2 patches of 14; Gemma 3 has 256
# tokens of 4,096 patches, PaliGemma 256 of 256, Granite Docling 64 of 1,024.
@pytest.mark.parametrize(
    ("name", "tokens", "patches"),
    [
        ("olmocr-2-7b", 1036, 4144),
        ("qwen3-vl-2b", 768, 3072),
        ("glm-4.1v-9b", 1036, 4144),
        ("ernie-4.5-vl-28b-a3b", 1036, 4144),
        ("devstral-small-2-24b", 1036, 4144),
        ("gemma-3-12b", 256, 4096),
        ("paligemma-3b", 256, 256),
        ("granite-docling-258m", 64, 1024),
    ],
)
def test_tokens_and_patches(name: str, tokens: int, patches: int) -> None:
    found = pictures_of(llmhw.model(name), 1, "1024x768")
    assert found is not None
    assert (found.tokens, found.sizes["patches"]) == (tokens, patches)
    tower = next(t for t in llmhw.model(name).towers if t.kind == "vision")
    weights = found.sizes["in_blocks"] + found.sizes["behind"]
    assert 0.95 * tower.params < weights + sum(t.numel for t, _ in tower.tensors if "position" in t.name)
    assert weights <= tower.params


def asked(**more: Any) -> Any:
    job = llmhw.ServingJob(model=llmhw.model("qwen3-vl-2b"), cluster=llmhw.Cluster("l4", 1), max_model_len=16384)
    return serve(job, input_tokens=100, output_tokens=100, concurrency=1, **more)


def test_pictures_come_before_the_first_token() -> None:
    none, one, two = (asked(images=n, image_size="1024x1024") if n else asked() for n in (0, 1, 2))
    assert one.input_tokens == 100 + 1024
    longer = serve(one.job, input_tokens=1124, output_tokens=100, concurrency=1)
    encoder = one.point.ttft_seconds - longer.point.ttft_seconds
    assert encoder >= 2 * 4096 * 300e6 / 121e12  # the tower's 0.4 billion weights at the device's peak
    assert two.point.ttft_seconds > one.point.ttft_seconds + encoder > none.point.ttft_seconds
    assert one.point.tpot_seconds == pytest.approx(longer.point.tpot_seconds)
    assert dict(one.summary())["pictures"].startswith("1 of 1024 x 1024 in each prompt: 1,024 tokens each; ")
    assert "tower_flops" in one.explain("encoders")


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("llama-3-8b", {"images": 1}, "images=1: llama-3-8b has no vision tower"),
        ("qwen3-vl-2b", {"images": 1, "size": "large"}, "image_size='large' must be a width and a height in pixels"),
        ("qwen3-vl-2b", {"size": "10x10"}, "image_size='10x10' has no effect without images"),
        ("kimi-k2.5", {"images": 1}, "images=1: how many tokens kimi-k2.5 makes of a picture is not known"),
        ("qwen3-vl-2b", {"images": -1}, "images=-1 must be a whole number of at least 0"),
    ],
)
def test_errors_name_the_argument(name: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as found:
        pictures_of(llmhw.model(name), **how)
    assert message in str(found.value)
