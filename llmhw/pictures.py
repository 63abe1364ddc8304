"""Pictures in a prompt: tokens that they become, and the time of the tower that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any

from llmhw.checks import check_text
from llmhw.engine import Engine
from llmhw.formula import Ledger, formula
from llmhw.model import ModelSpec, Tower
from llmhw.rates import compute_seconds
from llmhw.units import LLMHWError, ceil_div, check_count, minimum, shown

# Families whose towers take a picture at its own size: a token for every square of merged patches.
_OWN_SIZE = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "glm4v",
    "glm46v",
    "ernie4_5_vl",
    "exaone4_5",
    "ministral3",
)
_LARGEST = 65_536  # pixels of an edge


@formula(
    source="Qwen2-VL (Wang et al. 2024), section 2: patches of the picture's own size, neighbours merged", unit="tokens"
)
def picture_tokens(*, width: Any, height: Any, square: Any, most: Any) -> Any:
    """Tokens of a prompt that a picture becomes.

    width, height   in pixels
    square          edge of what one token stands for: a patch's, times the patches that are merged in a row
    most            tokens of the largest picture; a larger one is made smaller

    >>> picture_tokens(width=1024, height=768, square=28, most=16384)
    1036
    """
    return minimum(most, ceil_div(width, square) * ceil_div(height, square))


@formula(source="two FLOPs for every weight and row; every patch attends to all of its picture", unit="FLOP")
def tower_flops(*, patches: Any, tokens: Any, in_blocks: Any, behind: Any, width: Any, blocks: Any) -> Any:
    """FLOPs of a vision tower on one picture.

    in_blocks, behind   weights that patches pass through, and those that the merged ones do
    width, blocks       of its attention; windows, which some towers have, make it less

    >>> sizes = {"patches": 4096, "tokens": 1024, "in_blocks": 600e6, "behind": 40e6}
    >>> round(tower_flops(**sizes, width=1280, blocks=32) / 1e12, 2)
    7.75
    """
    return 2 * (patches * in_blocks + tokens * behind) + 4 * patches**2 * width * blocks


@dataclass(frozen=True)
class Pictures:
    """The pictures of each prompt.

    count            of them
    width, height    in pixels
    tokens           of the prompt that one of them becomes
    sizes            inputs of `tower_flops`
    """

    count: int
    width: int
    height: int
    tokens: int
    sizes: dict[str, Any]

    def add(self, ledger: Ledger, engine: Engine) -> None:
        """The time of the tower, which is whole on every device."""
        behind = Ledger(ledger.detail)
        flops = behind.add("", "of a picture", tower_flops, **self.sizes)
        ledger.add(
            "encoders",
            "pictures",
            compute_seconds,
            self.count,
            flops=flops,
            flops_per_second=engine.wide,
            because=behind,
        )

    def __str__(self) -> str:
        return f"{self.count:,} of {self.width} x {self.height} in each prompt: {self.tokens:,} tokens each"


def pictures_of(spec: ModelSpec, images: int = 0, size: str | None = None) -> Pictures | None:
    """The pictures of each prompt of a model with a vision tower; None for none.

    size   in pixels, "1024x768"; default: 1024x1024

    >>> from llmhw import model
    >>> pictures_of(model("qwen3-vl-2b"), 2, "1024x768").tokens, pictures_of(model("gemma-3-12b"), 1).tokens
    (768, 256)
    """
    count = check_count("images", images, 0)
    if not count:
        if size is not None:
            raise LLMHWError(f"image_size={shown(size)} has no effect without images; give images=1")
        return None
    tower = next((t for t in spec.towers if t.kind == "vision"), None)
    if tower is None:
        raise LLMHWError(f"images={images}: {spec.name} has no vision tower; use 0")
    width, height = _edges("1024x1024" if size is None else size)
    patches = 0
    patch, merged, inside, behind, across, blocks = _measures(tower)
    if spec.model_type.startswith(_OWN_SIZE) and patch:
        square = patch * isqrt(merged)
        tokens = int(picture_tokens(width=width, height=height, square=square, most=tower.tokens or 16384))
    elif tower.tokens:
        # the picture is made as large as the tower wants it, and has as many patches as there are positions
        tokens = tower.tokens
        patches = max(t.shape[0] if "position" in t.name else 0 for t, _ in tower.tensors)
    else:
        raise LLMHWError(
            f"images={images}: how many tokens {spec.name} makes of a picture is not known; count them in input_tokens"
        )
    sizes = {"patches": max(patches, tokens * merged), "tokens": tokens, "in_blocks": inside, "behind": behind}
    return Pictures(count, width, height, tokens, sizes | {"width": across, "blocks": blocks})


def _edges(size: str) -> tuple[int, int]:
    parts = check_text("image_size", size).lower().replace(" ", "").split("x")
    if len(parts) != 2 or not all(p.isdecimal() and 0 < int(p) <= _LARGEST for p in parts):
        raise LLMHWError(f"image_size={shown(size)} must be a width and a height in pixels, such as 1024x768")
    return int(parts[0]), int(parts[1])


@lru_cache(maxsize=64)
def _measures(tower: Tower) -> tuple[int, int, int, int, int, int]:
    """Edge of a patch, patches of a token, weights of all blocks, those behind them, width and number of blocks.

    As its tensors say: the first matrix reads a patch of three colours, the widest behind the blocks what is merged.
    """
    matrices = [(t, n) for t, n in tower.tensors if t.matmul]
    first = next((t for t, _ in matrices if "*" not in t.name and "patch" in t.name), matrices[0][0])
    width, pixels = first.shape[0], first.numel // first.shape[0]
    patch = first.shape[-1] if len(first.shape) > 2 else isqrt(pixels // 3)
    blocks = [(t, n) for t, n in matrices if "*" in t.name]
    outside = [(t, n) for t, n in matrices if "*" not in t.name and t is not first]
    joined = [t.numel // t.shape[0] // width for t, _ in outside if not t.numel // t.shape[0] % width]
    merged = max((n for n in joined if isqrt(n) ** 2 == n), default=1)
    inside = sum(t.numel * n for t, n in blocks) + first.numel
    behind = sum(t.numel * n for t, n in outside)
    return patch, merged, inside, behind, width, max((n for _, n in blocks), default=0)
