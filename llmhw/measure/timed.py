"""A decoder of transformers with random weights, timed; and the time that the library predicts for it on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmhw.engine import Engine, engine_of
from llmhw.hardware import Accelerator, Cluster
from llmhw.job import TrainingJob
from llmhw.measure.clock import Clock
from llmhw.measure.modules import build
from llmhw.model import ModelSpec
from llmhw.step_time import StepTime, time_step

_PRECISION = {"fp32": "fp32", "bf16": "bf16"}
# What an engine's loop does around a pass, which is not run here.
_LOOP = "scheduling"


def decoder_config(
    *, hidden: int, layers: int, vocab: int, heads: int | None = None, kv_heads: int | None = None
) -> dict[str, Any]:
    """The config of a Llama of that size, with the proportions of small ones.

    >>> ModelSpec.from_config(decoder_config(hidden=64, layers=2, vocab=100)).parameters.total
    110400
    """
    count = heads or max(1, hidden // 64)
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 8 * (hidden // 3), "vocab_size": vocab,
        "num_hidden_layers": layers, "num_attention_heads": count, "num_key_value_heads": kv_heads or count,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """A model to be run: its config, the number format of everything in it, and where it runs."""

    config: Mapping[str, Any]
    fmt: str
    device: str

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_config(self.config)

    def made(self) -> Any:
        """The module, with small random weights."""
        found = build(self.config, precision=_PRECISION[self.fmt]).to(self.device)
        with torch.no_grad():
            for p in found.parameters():
                p.normal_(0.0, 0.02)
        return found


def _tokens(decoder: Decoder, batch: int, seq_len: int) -> Any:
    return torch.randint(0, int(decoder.config["vocab_size"]), (batch, seq_len), device=decoder.device)


def step_seconds(decoder: Decoder, clock: Clock, batch: int, seq_len: int) -> float:
    """Seconds of a training step: forward, backward, AdamW."""
    model, ids = decoder.made(), _tokens(decoder, batch, seq_len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return clock.seconds(step)


def pass_seconds(decoder: Decoder, clock: Clock, batch: int, seq_len: int) -> tuple[float, float]:
    """Seconds of reading prompts, and of one more token of each behind them."""
    model, ids = decoder.made().eval(), _tokens(decoder, batch, seq_len)
    with torch.inference_mode():
        prompt = clock.seconds(lambda: model(ids, use_cache=True, logits_to_keep=1))
        cache, one = model(ids, use_cache=True, logits_to_keep=1).past_key_values, ids[:, :1]

        def decode() -> None:
            model(one, past_key_values=cache, use_cache=True)
            cache.crop(-1)

        return prompt, clock.seconds(decode)


# -- predicted --------------------------------------------------------------------------------


def step_job(decoder: Decoder, device: Accelerator, batch: int, seq_len: int) -> TrainingJob:
    """The job that `step_seconds` runs."""
    return TrainingJob(
        model=decoder.spec, cluster=Cluster(device, 1), seq_len=seq_len, micro_batch=batch, global_batch=batch,
        precision=_PRECISION[decoder.fmt], software="eager",
    )  # fmt: skip


def predicted_step(decoder: Decoder, device: Accelerator, batch: int, seq_len: int) -> StepTime:
    """The time of that job."""
    return time_step(step_job(decoder, device, batch, seq_len))


def _engine(decoder: Decoder, device: Accelerator) -> Engine:
    fmt = decoder.fmt
    return engine_of(decoder.spec, Cluster(device, 1), engine="transformers", weights=fmt, kv=fmt)


def _pass(decoder: Decoder, device: Accelerator, **load: Any) -> float:
    parts = _engine(decoder, device).timed(**load, detail="parts").parts
    return sum(float(seconds) for name, seconds in parts.items() if name != _LOOP)


def predicted_prefill(decoder: Decoder, device: Accelerator, batch: int, seq_len: int) -> float:
    """Seconds of reading prompts, without an engine's loop."""
    return _pass(decoder, device, prompts=batch, prompt_tokens=seq_len, logits=batch)


def predicted_decode(decoder: Decoder, device: Accelerator, batch: int, seq_len: int) -> float:
    """Seconds of one more token of each sequence, without an engine's loop."""
    return _pass(decoder, device, decoding=batch, context=seq_len)
