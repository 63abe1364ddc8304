"""`benchmarks/gpu/measure.py` at toy size on this CPU: it runs with torch alone, and its rows are whole."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra torch")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "measure.py"
# no package but torch may be needed on the machine with the GPU
ALONE = "import sys; sys.modules |= dict.fromkeys(('llmhw', 'transformers', 'numpy', 'pandas'), None)\nimport runpy\n"


def test_toy_size(tmp_path: Path) -> None:
    asked = ["measure.py", "--toy", "--out", str(tmp_path)]
    code = f"{ALONE}sys.argv = {asked}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    files = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.csv")}
    tables = {name: list(csv.DictReader(text.splitlines())) for name, text in files.items()}
    assert set(tables) == {"kernels", "training", "inference"}
    assert {row["kind"] for row in tables["kernels"]} == {
        "copy", "matmul", "attention_forward", "attention_forward_backward",
    }  # fmt: skip
    assert all(float(row["rate"]) > 0 and row["device"] and row["torch"] for row in tables["kernels"])
    assert [float(row["step_time_s"]) > 0 and row["notes"] for row in tables["training"]] == ["", ""]
    # keys and values of 2 layers, 32 tokens, 2 heads of 16, in 2 bytes
    assert [int(row["cache_bytes"]) for row in tables["inference"]] == [b * 2 * 2 * 32 * 2 * 16 * 2 for b in (1, 2)]
