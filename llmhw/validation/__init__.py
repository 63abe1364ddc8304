"""Predictions beside published measurements, with errors of one vote a configuration; constants fitted to them."""

from __future__ import annotations

from llmhw.validation.calibrate import calibration, fit
from llmhw.validation.constants import read_constants, write_constants
from llmhw.validation.forms import columns, template
from llmhw.validation.kinds import KINDS, Kind, input_files, validate
from llmhw.validation.statistics import Group, Prediction, Validation, percentile, source_family
from llmhw.validation.table import Row
from llmhw.validation.training_memory import (
    bucket_bytes,
    fit_constants,
    frozen_layer_activations,
    zero1_step_gradient_bytes,
)

__all__ = [
    "KINDS",
    "Group",
    "Kind",
    "Prediction",
    "Row",
    "Validation",
    "bucket_bytes",
    "calibration",
    "columns",
    "fit",
    "fit_constants",
    "frozen_layer_activations",
    "input_files",
    "percentile",
    "read_constants",
    "source_family",
    "template",
    "validate",
    "write_constants",
    "zero1_step_gradient_bytes",
]
