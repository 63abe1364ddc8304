"""Orders of pipelines, and their idle slots against the published formulas."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llmhw.job import SCHEDULES
from llmhw.schedule import (
    bubble_seconds,
    idle_slots,
    micro_batches_in_flight,
    pipeline_actions,
    stages_in_flight,
    time_slots,
)
from llmhw.units import LLMHWError

CASES = [
    (schedule, pp, vpp, rounds * pp)
    for schedule in ("gpipe", "1f1b", "interleaved", "zero-bubble")
    for pp in (2, 3, 4, 8)
    for vpp in ((2, 3) if schedule == "interleaved" else (1,))
    for rounds in (1, 2, 5)
]


@pytest.mark.parametrize(("schedule", "pp", "vpp", "count"), CASES)
def test_every_pass_runs_once_and_idle_slots_are_as_published(schedule: str, pp: int, vpp: int, count: int) -> None:
    actions = pipeline_actions(schedule, pp, vpp, count)
    kinds = ("F", "I", "W") if schedule == "zero-bubble" else ("F", "B")
    for stage, order in enumerate(actions):
        expected = [f"{k}{v * pp + stage}.{m}" for k in kinds for v in range(vpp) for m in range(count)]
        assert Counter(order) == Counter(expected)
    idle = idle_slots(time_slots(actions))
    others = {"forward": pp - 1, "backward": 2 * (pp - 1), "chunks": vpp}
    if schedule == "zero-bubble":
        if count >= 2 * pp:  # the table's bubble is that of enough micro-batches
            assert idle == (bubble_seconds(**others, zero_bubble=1),) * pp
            assert idle[0] == pp - 1, "Zero Bubble (Qi et al. 2023), table 1: (p - 1) (F + B - W)"
    else:
        assert idle == (vpp * bubble_seconds(**others),) * pp
        # Megatron-LM (Narayanan et al. 2021), section 2.2: idle over working time is (p - 1) / (v m)
        assert idle[0] / (3 * vpp * count) == pytest.approx((pp - 1) / (vpp * count))


def test_micro_batches_in_flight() -> None:
    assert micro_batches_in_flight(pipeline_actions("gpipe", 4, micro_batches=8)) == (8, 8, 8, 8)
    assert micro_batches_in_flight(pipeline_actions("1f1b", 4, micro_batches=2)) == (2, 2, 2, 1)
    # Megatron's interleaved schedule holds more than 1F1B: L (1 + (p - 1) / (p m)) in Korthikanti et al. 2022
    assert micro_batches_in_flight(pipeline_actions("interleaved", 4, 2, 8)) == (11, 9, 7, 5)
    assert micro_batches_in_flight(pipeline_actions("zero-bubble", 4, micro_batches=8)) == (4, 4, 4, 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("pp", range(1, 9))
def test_the_closed_form_counts_what_the_order_holds(schedule: str, pp: int) -> None:
    """Every stage, up to four chunks on each, fewer micro-batches than stages and many more; then all at once."""
    for vpp in {"interleaved": (2, 3, 4), "zero-bubble": (1, 2, 3, 4)}.get(schedule, (1,)):
        counts = [pp * rounds for rounds in (1, 2, 3, 7)] if vpp > 1 else list(range(1, 4 * pp + 3))
        held = [micro_batches_in_flight(pipeline_actions(schedule, pp, vpp, m)) for m in counts]
        for stage in range(pp):
            found = [stages_in_flight(schedule, pp, vpp, m, stage) for m in counts]
            assert [vpp * copies for copies in found] == [chunks[stage] for chunks in held]
            assert stages_in_flight(schedule, pp, vpp, np.array(counts), stage).tolist() == found


def test_events_keep_their_order() -> None:
    slots = time_slots(pipeline_actions("1f1b", 2, micro_batches=2))
    assert [(s.action, s.start, s.end) for s in slots[1]] == [
        ("F1.0", 1, 2),
        ("B1.0", 2, 4),
        ("F1.1", 4, 5),
        ("B1.1", 5, 7),
    ]
    assert idle_slots(()) == ()


def test_errors() -> None:
    with pytest.raises(LLMHWError, match="schedule='1f1b1' is not known"):
        pipeline_actions("1f1b1", 2)
    with pytest.raises(LLMHWError, match="micro_batches=7 does not make whole rounds of pp=2"):
        pipeline_actions("interleaved", 2, 2, 7)
    with pytest.raises(LLMHWError, match=r"actions: F1\.0 waits for something that never comes"):
        time_slots((("F1.0", "B1.0"),))
