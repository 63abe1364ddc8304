"""What a service must do: lengths, load, service level, quality."""

from __future__ import annotations

from dataclasses import dataclass

from llmhw.job import check_fields, choice, count, documented, number
from llmhw.units import LLMHWError

# Least bits of a weight, and of an element of the cache. Kurtic et al. 2024 (arXiv 2411.02355), Llama 3.1 on the Open
# LLM Leaderboards: 8-bit floats lose nothing that is measured, 8-bit integers 1 to 3 %, 4-bit weights come near them;
# below 4 bits perplexity rises fast (llama.cpp, tools/quantize/README.md). A checkpoint's own formats are no loss.
QUALITY = {"lossless": (16, 16), "high": (8, 8), "usable": (4, 8), "any": (0, 0)}


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a service must do.

    Requests are alike and in steady state. Without users and rate, what one instance serves within the level counts,
    at its price a million tokens.
    """

    input_tokens: int = count("Of each prompt.", 1000)
    output_tokens: int = count("Of each answer.", 500)
    users: int | None = count("People who ask again when they are answered.", None)
    rate: float | None = number("Requests that arrive in a second, instead.", above=True, most=1e9)
    slo_ttft: float | None = number(
        "Most seconds until the first token; default: 2, or none with the other.", above=True, most=600
    )
    slo_tpot: float | None = number(
        "Most seconds between two tokens; default: 0.05, or none with the other.", above=True, most=10
    )
    percentile: float | None = number(
        "Of requests at random that must keep both limits, as 99; default: the mean request.", least=1, most=99.9
    )
    context: int | None = count("Tokens of the longest sequence that must fit; default: those of a request.", None)
    quality: str | None = choice(QUALITY, "Weight formats: at least 16, 8 or 4 bits, or any; default: high.", None)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.users is not None and self.rate is not None:
            raise LLMHWError(f"users={self.users} and rate={self.rate:g} are two ways to say the load; give one")
        if self.percentile is not None and self.users is None and self.rate is None:
            raise LLMHWError(f"percentile={self.percentile:g} is one of requests that come: give users or rate too")
        if self.context is not None and self.context < self.tokens:
            raise LLMHWError(
                f"context={self.context} is less than the {self.tokens} tokens of a request; give that or more"
            )

    @property
    def tokens(self) -> int:
        """Of a request, in and out."""
        return self.input_tokens + self.output_tokens

    @property
    def loaded(self) -> bool:
        """Whether the load is said."""
        return self.users is not None or self.rate is not None
