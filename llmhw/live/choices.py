"""Controls and choices that several calculators share."""

from __future__ import annotations

from llmhw.live.base import Control

MODEL = Control(name="model", kind="model", default="llama-3.1-8b", label="Model",
                help="A name of the catalog, or your own config.json.")  # fmt: skip
DEVICE = Control(name="device", kind="device", default="RTX 4090", label="Device")

# Devices of one machine that share a model.
COUNTS = tuple((str(n), str(n)) for n in (1, 2, 4, 8))

# Of weights, by name and by what people call them; of them all, `llmhw.number_formats()`.
WEIGHTS = (
    ("checkpoint", "as its files are"), ("bf16", "bf16"), ("fp16", "fp16"), ("fp8", "fp8"), ("int8", "int8 (W8A8)"),
    ("int4-gptq", "int4, GPTQ"), ("int4-awq", "int4, AWQ"), ("nvfp4", "NVFP4"), ("mxfp4", "MXFP4"), ("nf4", "NF4"),
    ("Q8_0", "GGUF Q8_0"), ("Q6_K", "GGUF Q6_K"), ("Q5_K_M", "GGUF Q5_K_M"), ("Q4_K_M", "GGUF Q4_K_M"),
    ("Q3_K_M", "GGUF Q3_K_M"), ("Q2_K", "GGUF Q2_K"), ("IQ4_XS", "GGUF IQ4_XS"), ("IQ2_XXS", "GGUF IQ2_XXS"),
)  # fmt: skip
CACHES = (("", "the engine's own"), ("bf16", "bf16"), ("fp8", "fp8"), ("Q8_0", "GGUF Q8_0"), ("Q4_0", "GGUF Q4_0"))
