"""The desk where questions from a page are answered: by name, in the reader's language, errors as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmhw.language import in_language
from llmhw.live.base import PATIENCE, Answer, Calculator
from llmhw.live.buy import PLAN
from llmhw.live.cost import COST
from llmhw.live.curve import CURVE
from llmhw.live.fit import FIT
from llmhw.live.formats import FORMATS
from llmhw.live.html import answer_html
from llmhw.live.interval import CHECKPOINT
from llmhw.live.layout import LAYOUT
from llmhw.live.load import LOAD
from llmhw.live.pages import PAGES
from llmhw.live.pipeline import PIPELINE
from llmhw.live.quantization import QUANTIZATION
from llmhw.live.serving import SERVING
from llmhw.live.shards import SHARDS
from llmhw.live.step import STEP
from llmhw.units import LLMHWError, unknown_name

_TRIES = 8  # loads that are timed before an answer: some 20 ms in a browser

# Those for many questions first, then those of chapters.
_ALL = (FIT, PLAN, LAYOUT, SERVING, QUANTIZATION, COST, FORMATS, STEP, SHARDS, PIPELINE, CHECKPOINT, PAGES, CURVE, LOAD)
CALCULATORS: Mapping[str, Calculator] = {one.name: one for one in _ALL}


def _calculator(name: Any) -> Calculator:
    if name not in CALCULATORS:
        raise unknown_name("calculator", name, CALCULATORS)
    return CALCULATORS[name]


def answer(name: str, settings: Mapping[str, Any] | None = None) -> Answer:
    """The answer of a calculator to settings; what they do not say is as the page has it at first.

    >>> answer("formats", {"format": "fp8"}).figures[0].value
    8
    """
    return _calculator(name).answer(settings or {})


def respond(question: str) -> str:
    """Answer a question of the page, JSON to JSON: what the worker in the browser calls.

    question   {"calculator": name, "settings": {...}, "language": "en" or "zh", "explain": label of a figure, if one
               is asked for}

    Gives {"html": ..., "verdict": text}, {"explanation": text}, or {"error": text}; it never raises for what a reader
    can type. {"more": true} beside an answer: the same question, asked again, is answered further.
    """
    try:
        asked = json.loads(question)
        with in_language(asked.get("language", "en")):
            token = PATIENCE.set(_TRIES)
            try:
                found = answer(asked["calculator"], asked.get("settings"))
            finally:
                PATIENCE.reset(token)
            if "explain" not in asked:
                more = {"more": True} if found.more else {}
                return json.dumps({"html": answer_html(found), "verdict": found.verdict, **more})
            for figure in found.figures:
                if figure.label == asked["explain"] and figure.explain:
                    return json.dumps({"explanation": figure.explain()})
            raise LLMHWError(f"{asked['explain']!r} is not explained")
    except LLMHWError as error:
        return json.dumps({"error": str(error)})
