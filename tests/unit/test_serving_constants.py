"""Constants of engines: what holds for all, for a family of devices, and for an engine."""

from __future__ import annotations

from dataclasses import fields

import pytest

from llmhw import accelerator
from llmhw.catalog import read_calibration
from llmhw.rates import BOUND, ServingConstants, serving_constants

KNOWN = read_calibration("serving_time")


@pytest.mark.parametrize("engine", KNOWN["engines"])
def test_a_more_special_constant_wins(engine: str) -> None:
    device = accelerator("h100")
    found = serving_constants(device, engine, link=device.scale_up_link)
    running, family = KNOWN["engines"][engine], KNOWN["families"]["hopper"]
    for f in fields(ServingConstants):
        groups = running, family, KNOWN["links"]["nvlink"], KNOWN["common"]
        given = [group[f.name] for group in groups if f.name in group]
        told = given[0] if given else f.default
        if f.name == "attention":
            told = family.get(running.get("attention_kernel"), told)
        assert getattr(found, f.name) == pytest.approx(told * running.get(f"{f.name}_share", 1.0)), f.name


def test_links_without_data_have_constants_of_their_own() -> None:
    assert serving_constants(accelerator("h100"), "litgpt").inside == KNOWN["links"]["other"]["inside"]


def test_at_the_bound_nothing_is_lost() -> None:
    """No constant of an engine is better than that of the bound."""
    shares = ("matmul", "matmul8", "matmul4", "attention", "state", "bandwidth", "inside", "cache", "running")
    lost = ("fill", "passes", "gap", "launch", "expand", "host", "each", "meet", "skew")
    for engine in KNOWN["engines"]:
        for device in ("a100 80gb sxm", "h100", "b200", "rtx 4090", "mi300x"):
            found = serving_constants(accelerator(device), engine)
            for name in shares:
                assert getattr(found, name) <= getattr(BOUND, name), name
            for name in lost:
                assert getattr(found, name) >= getattr(BOUND, name) == 0, name
