"""Loaded before any test."""

# In this order doctests find the package whole: pytest would otherwise import `llmhw/formula.py` first, by its path,
# and the formulas would register in a second copy of the module.
import llmhw  # noqa: F401
