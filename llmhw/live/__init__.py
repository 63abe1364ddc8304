"""The calculators of the book: settings in, a page's worth of answer out. The same code runs in the reader's browser.

`respond` is what the browser's worker calls. A calculator is a `Calculator` in a module of its own; `CALCULATORS` has
them all. Only the standard library is imported: NumPy is not there in the browser.
"""

from llmhw.live.base import Answer, Calculator, Control, Figure, Picture
from llmhw.live.desk import CALCULATORS, answer, respond
from llmhw.live.html import answer_html, calculator_html
from llmhw.live.models import header

__all__ = [
    "CALCULATORS",
    "Answer",
    "Calculator",
    "Control",
    "Figure",
    "Picture",
    "answer",
    "answer_html",
    "calculator_html",
    "header",
    "respond",
]
