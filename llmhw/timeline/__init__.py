"""What happens when: a training step, the passes of an engine, memory over a step; as a Chrome trace, for Perfetto.

Every row of a timeline that stands for a rank or an engine is filled from its beginning to its end, so that its spans
add up to what was estimated. The file is what https://ui.perfetto.dev and chrome://tracing open.
"""

from __future__ import annotations

from llmhw.timeline.serving import serve, simulate
from llmhw.timeline.streams import streams
from llmhw.timeline.trace import Level, Span, Timeline, check_name, write
from llmhw.timeline.training import memory, train

__all__ = ["Level", "Span", "Timeline", "check_name", "memory", "serve", "simulate", "streams", "train", "write"]
