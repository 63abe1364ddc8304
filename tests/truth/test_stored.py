"""Checkpoints that transformers saves, held against their own config: equal to the byte, component by component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmhw.families import FAMILIES
from llmhw.stored import check
from tests.truth.families import WithHead, causal, config_of, sized


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_what_is_saved_is_what_is_predicted(tmp_path: Path, model_type: str) -> None:
    made = causal(config_of(model_type, sized(model_type, 1)), dtype=torch.bfloat16)
    model: Any = made.model if isinstance(made, WithHead) else made  # the head is the wrapper's
    model.save_pretrained(tmp_path)
    found = check(str(tmp_path))
    # a few that transformers keeps in fp32, as the files do, whatever the config says
    wider = sum(p.numel() * (p.element_size() - 2) for p in model.parameters())
    if wider:
        assert found.verdict.startswith("not equal: bytes differs"), str(found)
    assert all(mine == theirs for mine, theirs in (found.elements or {}).values()), str(found)
    assert found.tensors[0] == found.tensors[1], str(found)
    assert found.bytes[0] + wider == found.bytes[1], str(found)
    held = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert found.bytes[1] + sum(size for _, size in found.beside.values()) < held, "the headers beside"
    assert set(found.beside) <= {"buffers"}
