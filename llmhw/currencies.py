"""Currencies by a dated table: in which one amounts are printed. Inside the library everything is in US dollars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmhw.catalog import read_table
from llmhw.checks import check_text
from llmhw.units import PRINTED_CURRENCY, unknown_name


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency, and how many of it a US dollar was worth on one date."""

    code: str
    name: str
    per_dollar: float
    date: str
    status: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        return f"1 USD = {self.per_dollar:g} {self.code} ({self.date}, {self.source.partition(',')[0]})"


def currencies() -> list[Currency]:
    """All currencies of the catalog, the dollar first.

    >>> [found.code for found in currencies()][:2]
    ['USD', 'EUR']
    """
    return [
        Currency(r["code"], r["name"], float(r["per_dollar"]), r["date"], r["status"], r["source"], r["note"])
        for r in read_table("currencies")
    ]


def currency(name: str) -> Currency:
    """The currency of that code or name; case does not matter.

    >>> currency("yuan") == currency("cny") == currency("RMB")
    True
    >>> currency("EUX")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: currency='EUX' is not known; did you mean EUR?
    """
    wanted = check_text("currency", name).strip().casefold()
    for found, row in zip(currencies(), read_table("currencies"), strict=True):
        if wanted in (found.code.casefold(), found.name.casefold(), *row["aliases"].casefold().split("; ")):
            return found
    raise unknown_name("currency", name, [found.code for found in currencies()])


@contextmanager
def in_currency(name: str) -> Iterator[Currency]:
    """Print amounts in that currency, as long as the block lasts; numbers stay in dollars.

    >>> from llmhw.units import format_quantity
    >>> with in_currency("EUR") as euro:
    ...     format_quantity(100 / euro.per_dollar, "dollars")
    'EUR 100.00'
    """
    found = currency(name)
    own = found.code == "USD"
    token = PRINTED_CURRENCY.set(("$", 1.0, "") if own else (f"{found.code} ", found.per_dollar, str(found)))
    try:
        yield found
    finally:
        PRINTED_CURRENCY.reset(token)
