"""Tries again the models that the index calls refused: `python benchmarks/model_index.py`, after a family was added.

Rows that can be read now lose the word in `refused`, and get their parameters. It prints their names.
"""

from csv import DictWriter
from pathlib import Path

from llmhw import ModelSpec
from llmhw.catalog import model_index, read_model
from llmhw.units import LLMHWError

PATH = Path(__file__).parents[1] / "llmhw" / "catalog" / "models" / "INDEX.csv"


def main() -> None:
    rows = [dict(row) for row in model_index()]
    for row in rows:
        if not row["refused"]:
            continue
        try:
            spec = ModelSpec.from_config(read_model(row["name"])[1], name=row["name"])
        except LLMHWError:
            continue
        row |= {"refused": "", "parameters_transformers": str(spec.parameters.total)}
        print(row["name"], f"{spec.parameters.total:,}", row["published_kind"], row["parameters_published"])
    with PATH.open("w", encoding="utf-8", newline="") as file:
        writer = DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
