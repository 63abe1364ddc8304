"""Predictions beside published measurements, with errors of one vote a configuration; constants fitted to them."""

from __future__ import annotations

from llmhw.validation.calibrate import calibration, fit
from llmhw.validation.constants import read_constants, write_constants
from llmhw.validation.forms import columns, template
from llmhw.validation.kinds import KINDS, Kind, input_files, validate
from llmhw.validation.statistics import Group, Prediction, Validation, error_summary, groups, percentile, source_family
from llmhw.validation.table import Row
from llmhw.validation.training_memory import Verdict, fit_constants, verdicts

__all__ = [
    "KINDS",
    "Group",
    "Kind",
    "Prediction",
    "Row",
    "Validation",
    "Verdict",
    "calibration",
    "columns",
    "error_summary",
    "fit",
    "fit_constants",
    "groups",
    "input_files",
    "percentile",
    "read_constants",
    "source_family",
    "template",
    "validate",
    "verdicts",
    "write_constants",
]
