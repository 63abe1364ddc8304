"""Public reports of people who sized hardware: what the command says beside what their logs say.

A row of `field_cases.csv` is one number or one verdict of one report:

arguments   what is typed after `llmhw`
quantity    where the answer stands in --json, names and numbers with dots between; `gib` behind it: bytes as GiB
truth       the number of the log, or words that the answer holds
tolerance   the largest |answer / truth - 1|; empty for words
"""

from __future__ import annotations

import csv
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmhw.units import GIB
from tests.unit.command import answer

ROWS = list(csv.DictReader(Path(__file__).with_name("field_cases.csv").read_text(encoding="utf-8").splitlines()))


@cache
def answered(arguments: str) -> Any:
    return answer(*shlex.split(arguments))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['case']} {row['quantity']}" for row in ROWS])
def test_the_log_says_the_same(row: dict[str, str]) -> None:
    path = row["quantity"].removesuffix(" gib")
    found = answered(row["arguments"])
    for name in path.split("."):
        found = found[int(name)] if isinstance(found, list) else found[name]
    if row["tolerance"]:
        size = found / (1 if path == row["quantity"] else GIB)
        assert size == pytest.approx(float(row["truth"]), rel=float(row["tolerance"]))
    else:
        assert row["truth"] in str(found)
