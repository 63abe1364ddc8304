"""Throughput of training beside published measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.units import LLMHWError
from llmhw.validation.statistics import Prediction
from llmhw.validation.table import Row

# Columns without which no row can be predicted
REQUIRED = ("model_name", "gpu", "n_gpus", "measured_kind", "measured_value")
# What `llmhw validate --fit` calls, if it is not None
fit = None


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The throughput of one row. Raises `LLMHWError` with the reason if it is not predicted."""
    raise LLMHWError("training throughput is not predicted yet")


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    return (row["model_name"], row["gpu"], row["n_gpus"])
