"""The carbon dioxide of a kilowatt-hour, by country or state, from a dated table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from llmhw.catalog import read_table
from llmhw.checks import check_text
from llmhw.formula import formula
from llmhw.language import said
from llmhw.units import unknown_name


@formula(source="definition; what is emitted where power is made, of the year's mean kilowatt-hour", unit="kg")
def emitted_kg(*, energy_kwh: Any, kg_per_kwh: Any) -> Any:
    """Carbon dioxide (equivalents) of so much electricity.

    kg_per_kwh   of the grid; making and moving the hardware is not in it

    BLOOM's published 433,196 kWh in France made 24.7 t, at 57 g:

    >>> round(emitted_kg(energy_kwh=433_196, kg_per_kwh=0.057) / 1000, 1)
    24.7
    """
    return energy_kwh * kg_per_kwh


@dataclass(frozen=True, slots=True)
class Grid:
    """What a kilowatt-hour of a country, or a state of the US, emitted in one year on average."""

    name: str
    code: str
    kg_co2_per_kwh: float
    date: str
    status: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        text = "{kg:g} kg a kWh in {name}, {date}"
        return said(text, kg=self.kg_co2_per_kwh, name=said(self.name), date=self.date)


@cache
def _grids() -> dict[str, Grid]:
    """By every name, in lower case; the first row that has a name keeps it."""
    found: dict[str, Grid] = {}
    for r in read_table("grids"):
        made = Grid(r["name"], r["code"], float(r["kg_co2_per_kwh"]), r["date"], r["status"], r["source"], r["note"])
        for call in (made.name, made.code, *r["aliases"].split("; ")):
            found.setdefault(call.casefold(), made)
    return found


def grids() -> list[Grid]:
    """All grids of the catalog, the world first.

    >>> grids()[0].name
    'World'
    """
    return list(dict.fromkeys(_grids().values()))


def grid(name: str) -> Grid:
    """The grid of that name or code: a country, a state of the US, or the world.

    >>> grid("france").kg_co2_per_kwh < 0.1 < grid("US-VA").kg_co2_per_kwh < grid("CHN").kg_co2_per_kwh
    True
    >>> grid("Frence")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: grid='Frence' is not known; did you mean France, French Guiana, French Polynesia?
    """
    found = _grids().get(check_text("grid", name).strip().casefold())
    if found is None:
        known = [one.name for one in grids()]
        raise unknown_name("grid", name, known, "give a country, a state of the US, or World")
    return found
