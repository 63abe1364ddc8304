"""The exercises of the book, checked without giving the answers away.

`check(id, answer)` judges an answer, and without one says what is wanted. `variant(id, seed)` sets the same exercise
with other numbers, for a class; `check(id, answer, seed=seed)` judges that. `all_of("6")` gives the exercises of a
chapter. How an exercise is written down is told in `llmhw.exercises.base`.
"""

from llmhw.exercises.base import KINDS, Exercise, Variant, Verdict
from llmhw.exercises.lookup import all_of, chapters, check, exercise, variant

__all__ = ["KINDS", "Exercise", "Variant", "Verdict", "all_of", "chapters", "check", "exercise", "variant"]
