"""Which hardware a language model needs, what it will do there, and what it will cost.

>>> import llmhw
>>> llmhw.model("llama-3-70b").parameters.total
70553706496
"""

from llmhw.model import ModelSpec, model

__all__ = ["ModelSpec", "model"]
