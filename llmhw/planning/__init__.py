"""What to buy or rent for a job, how to lay it out, and what it will cost: searches held against limits."""

from __future__ import annotations

from typing import Any

from llmhw.job import ServingJob
from llmhw.planning.demand import Demand
from llmhw.planning.result import Bound, Choice, Figure, Limits, Plan, Refusal, ranked

__all__ = ["Bound", "Choice", "Demand", "Figure", "Limits", "Plan", "Refusal", "plan", "ranked"]


def plan(job: Any, clusters: Any = None, **how: Any) -> Plan:
    """What to take for a job, how to lay it out, what it costs: `plan_training` or `plan_serving` of this package."""
    if isinstance(job, ServingJob):
        from llmhw.planning.serving import plan_serving

        return plan_serving(job, clusters, **how)
    from llmhw.planning.training import plan_training

    return plan_training(job, clusters, **how)
