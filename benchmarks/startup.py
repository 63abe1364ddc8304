"""How long `import llmhw` and the command take, as ratios against bare Python in the same run.

Runs each program in turn, many times over, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 20
PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "import llmhw": ["-c", "import llmhw"],
}
LINES = (
    "--help",
    "model llama-3-70b",
    "fit llama-3-70b --gpu h100",
    "memory llama-3-70b --gpu h100 --gpus 64 --tp 8",
    "train llama-3-70b --gpu h100 --gpus 64 --tp 8",
    "serve llama-3-70b --gpu h100 --gpus 8 --tp 8",
    "models",
)
PROGRAMS |= {f"llmhw {line}": ["-m", "llmhw", *line.split()] for line in LINES}


def seconds(arguments: list[str]) -> float:
    # bytecode is written as it is for an installed package
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS + 1):
        for name, arguments in PROGRAMS.items():
            taken[name].append(seconds(arguments))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    bare = medians["python -c pass"]
    print(f"{'program':<52} {'median':>8} {'over bare':>10} {'ratio':>6}")
    for name, median in medians.items():
        print(f"{name:<52} {median * 1e3:>5.0f} ms {(median - bare) * 1e3:>7.0f} ms {median / bare:>6.1f}")


if __name__ == "__main__":
    main()
