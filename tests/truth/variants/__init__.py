"""Small random configs: for each family, what is drawn beside the common sizes.

A module for each one of `llmhw.families`; an entry is a function that draws keyword arguments of transformers' config.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from hypothesis import strategies as st

VARIANTS: dict[str, Callable[[st.DrawFn], dict[str, Any]]] = {
    name: draw
    for module in iter_modules(__path__)
    if module.name != "common"
    for name, draw in import_module(f"{__name__}.{module.name}").VARIANTS.items()
}
