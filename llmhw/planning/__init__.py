"""What to buy or rent for a job, how to lay it out, and what it will cost: searches held against limits."""

from llmhw.planning.result import Bound, Choice, Figure, Limits, Plan, Refusal, ranked

__all__ = ["Bound", "Choice", "Figure", "Limits", "Plan", "Refusal", "ranked"]
