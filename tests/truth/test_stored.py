"""Checkpoints that transformers saves, held against their own config: equal to the byte, component by component."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmhw.families import FAMILIES
from llmhw.stored import check
from tests.truth.families import config_of, sized


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_what_is_saved_is_what_is_predicted(tmp_path: Path, model_type: str) -> None:
    config = config_of(model_type, sized(model_type, 1))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = check(str(tmp_path))
    assert found.equal, str(found)
    saved = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert found.bytes[1] + sum(held for _, held in found.beside.values()) < saved, "the headers beside"
    assert set(found.beside) <= {"buffers"}
