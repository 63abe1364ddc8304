"""What a measurement returns: a quantity from PyTorch beside the library's prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.formula import Report, Table
from llmhw.units import format_quantity, unknown_name


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: measured, and predicted where the library has a formula for it (else None)."""

    name: str
    measured: float
    predicted: float | None = None

    @property
    def ratio(self) -> float | None:
        """Predicted / measured; None without a prediction."""
        if self.predicted is None:
            return None
        if not self.measured:
            return 1.0 if not self.predicted else float("inf")
        return self.predicted / self.measured


class Measured(Report):
    """A report of measured and predicted figures; a class gives `title`, `unit`, `notes`, `whole` and `figures()`."""

    __slots__ = ()
    title: str
    unit: str
    notes: tuple[str, ...]

    @property
    def whole(self) -> Row:
        """The quantity itself."""
        raise NotImplementedError

    def figures(self) -> tuple[Row, ...]:
        """What it consists of, or further figures of the same run; the last one is the whole."""
        raise NotImplementedError

    @property
    def measured(self) -> float:
        return self.whole.measured

    @property
    def predicted(self) -> float | None:
        return self.whole.predicted

    @property
    def ratio(self) -> float | None:
        """Predicted / measured."""
        return self.whole.ratio

    def _summary(self, **more: Any) -> dict[str, Any]:
        numbers = {"measured": self.measured, "predicted": self.predicted, "ratio": self.ratio}
        return {"title": self.title, "unit": self.unit, **numbers, **more, "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, measured, predicted and ratio as text; the last row is the whole."""

        def text(row: Row) -> tuple[str, str, str, str]:
            predicted = "" if row.predicted is None else format_quantity(row.predicted, self.unit)
            ratio = "" if row.ratio is None else f"{row.ratio:.4f}"
            return row.name, format_quantity(row.measured, self.unit), predicted, ratio

        return [text(row) for row in self.figures()]

    def tables(self) -> list[Table]:
        aside = f" ({'; '.join(self.notes)})" if self.notes else ""
        return [Table(self.title, ("", "measured", "predicted", "ratio"), self.rows(), aside=aside)]

    def footer(self) -> tuple[str, ...]:
        return self.notes


@dataclass(frozen=True, slots=True, repr=False)
class Measurement(Measured):
    """A quantity taken from PyTorch beside the library's prediction.

    title, unit   what was measured
    total         the quantity itself
    parts         what it consists of, or further figures of the same run
    notes         how it was measured; what could not be, and why
    """

    title: str
    unit: str
    total: Row
    parts: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> Row:
        return self.total

    def figures(self) -> tuple[Row, ...]:
        return (*self.parts, self.total)

    def __getitem__(self, name: str) -> Row:
        for row in self.figures():
            if row.name == name:
                return row
        raise unknown_name("row", name, [row.name for row in self.figures()])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units."""
        parts = {r.name: {"measured": r.measured, "predicted": r.predicted, "ratio": r.ratio} for r in self.parts}
        return self._summary(parts=parts)

    def records(self) -> list[dict[str, Any]]:
        """Measured, predicted and ratio of each part; the last entry is the whole."""
        return [
            {self.unit: r.name, "measured": r.measured, "predicted": r.predicted, "ratio": r.ratio}
            for r in self.figures()
        ]

    @property
    def index(self) -> str:
        return self.unit
