"""Vision and audio towers: what an answer counts and says, and every way that their configs can be wrong."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest

import llmhw
from llmhw import Cluster
from llmhw.catalog import read_model
from llmhw.families.wrappers import WRAPPERS
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.memory import lora_states, told_towers, training_states, weights
from llmhw.model import TOWERS, ModelSpec
from llmhw.precision import weight_bytes
from llmhw.serving import serving_memory
from llmhw.training import memory
from llmhw.units import LLMHWError
from tests.unit.command import answer, run

NAMES = ("gemma-3-4b", "qwen3-vl-8b", "kimi-k2.5", "pixtral-12b", "smolvlm-256m", "voxtral-mini-3b", "blip2-opt-2.7b")
TEXT = {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100}  # fmt: skip
WRONG: tuple[Any, ...] = (-1, 0, 1.5, "x", True, [], {}, [1], [[1]], "", 10**9, 10**30, float("inf"), {"a": 1}, [None])


def spec() -> ModelSpec:
    return llmhw.model("qwen3-vl-8b")


@pytest.mark.parametrize("name", NAMES)
def test_no_value_of_a_towers_config_breaks_it(name: str) -> None:
    """A clear error or a model, whatever a key of an encoder's or of the wrapper's config holds."""
    _, config = read_model(name)
    config = deepcopy(dict(config))
    places = [(key,) for key in config if key != "text_config"]
    places += [(key, inner) for key, part in config.items() if key.endswith("_config") for inner in part]
    for *outer, key in (place for place in places if place[0] != "text_config"):
        for wrong in WRONG:
            tried = deepcopy(config)
            (tried[outer[0]] if outer else tried)[key] = wrong
            with suppress(LLMHWError):
                ModelSpec.from_config(tried)


def test_towers_are_in_the_total_and_not_in_the_text() -> None:
    p = spec().parameters
    assert p.total == p.text + p.towers == 8767123696
    assert p.active == p.text == 8190735360  # the shape of qwen3-8b
    assert sum(p.by_component[kind] for kind in TOWERS) == p.towers == sum(t.params for t in spec().towers)
    assert {t.component for t, _ in spec().all_tensors()}.isdisjoint(TOWERS)


def test_they_stay_in_16_bit_in_weights() -> None:
    whole = 2 * spec().parameters.towers
    assert weights(spec(), "int4-awq").total == weight_bytes(spec(), "int4-awq") + whole
    assert weights(spec(), "fp32")["vision"] == 2 * whole
    assert lora_states(spec())["frozen weights"] == 2 * spec().parameters.total
    assert training_states(spec())["vision tower"] == whole


def test_the_first_stage_serves_them_whole() -> None:
    job = ServingJob(model=spec(), cluster=Cluster("h100", 4), tp=2, pp=2, max_batched_tokens=8192)
    first, last = serving_memory(job).stages
    assert first["vision tower"] == 2 * spec().parameters.towers
    # three layers of the text model are given vectors of their own
    assert first["encoder outputs"] == 16384 * 4 * spec().hidden * 2
    assert {part.name for part in last}.isdisjoint({"vision tower", "encoder outputs"})


def test_training_holds_them_frozen_on_the_first_stage() -> None:
    job = TrainingJob(
        model=spec(), cluster=Cluster("h100", 4), parallelism=Parallelism(tp=2, pp=2), seq_len=1024, recompute="full"
    )
    first, last = memory(job).stages
    assert first["vision tower"] == 2 * spec().parameters.towers
    assert "vision tower" not in {part.name for part in last}
    assert any("frozen, whole on every rank" in line for line in memory(job).warnings())


def test_every_answer_says_what_is_in_it() -> None:
    for asked in ("model", "fit --gpu h100", "serve --gpu h100", "memory --gpu h100"):
        command, *options = asked.split()
        done = run(command, "qwen3-vl-8b", *options)
        assert "with vision tower 1.07 GiB" in done.stdout + done.stderr
    served = answer("serve", "qwen3-vl-8b", "--gpu", "h100")
    assert any("with vision tower 1.07 GiB" in line for line in served["warnings"])
    assert "vision tower 1.07 GiB" in answer("fit", "qwen3-vl-8b", "--gpu", "h100")["towers"][0]
    assert answer("model", "qwen3-vl-8b")["towers"]["vision"]["parameters"] == 576388336


@pytest.mark.parametrize("key", ["llm_config", "language_config", "text_config", "llm_cfg"])
def test_a_text_model_inside_of_an_unknown_wrapper(key: str) -> None:
    """Where no class of transformers tells the towers, the text model is read and they are named."""
    made = ModelSpec.from_config({"model_type": "a_vl", key: TEXT, "vision_config": {"a": 1}, "audio_cfg": {}})
    assert made.parameters.total == ModelSpec.from_config(TEXT).parameters.total
    assert made.left_out == ("vision", "audio")
    assert made.towers == ()
    (line,) = told_towers(made)
    assert line.startswith("not counted: vision, audio part of this model")


def test_a_wrapper_without_sizes_of_its_tower() -> None:
    made = ModelSpec.from_config({"model_type": "llava_onevision", "text_config": TEXT})
    assert made.left_out == ("vision",)
    assert made.towers == ()


def test_an_encoder_that_nobody_knows() -> None:
    config = {"model_type": "llava", "text_config": TEXT, "vision_config": {"model_type": "siglip_vision"}}
    with pytest.raises(LLMHWError, match=r"vision_config.model_type='siglip_vision' is no encoder"):
        ModelSpec.from_config(config)


def test_wrappers_have_text_models() -> None:
    assert len(WRAPPERS) > 90
