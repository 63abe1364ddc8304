"""Currencies: the table against what pegs and bands fix, and amounts that are printed and typed in them."""

from __future__ import annotations

import re

import pytest

from llmhw.currencies import currencies, currency, in_currency
from llmhw.units import LLMHWError, format_quantity
from tests.unit.command import answer, refused, run

SERVE = ("serve", "llama-3-8b", "--gpu", "h100", "--concurrency", "4")


def test_rates_keep_to_what_central_banks_promise() -> None:
    """The Hong Kong dollar between 7.75 and 7.85 to the US dollar; the krone within 2.25 % of 7.46038 to the euro."""
    assert 7.75 <= currency("HKD").per_dollar <= 7.85
    assert currency("DKK").per_dollar / currency("EUR").per_dollar == pytest.approx(7.46038, rel=0.0225)
    assert currency("USD").per_dollar == 1
    assert len({found.code for found in currencies()}) == len(currencies()) >= 30
    assert {found.date for found in currencies()} == {"2026-10-30"}


def test_a_rate_follows_from_the_two_that_its_note_has() -> None:
    for found in currencies():
        if ": " in found.note:
            amount, dollars = re.findall(r"[\d.]+", found.note.partition(": ")[2])
            assert found.per_dollar == pytest.approx(float(amount) / float(dollars.rstrip(".")), rel=1e-5)


def test_amounts_are_printed_in_it_only_inside_the_block() -> None:
    with in_currency("yuan") as found:
        assert format_quantity(10, "dollars") == f"CNY {10 * found.per_dollar:.2f}"
        with in_currency("USD"):
            assert format_quantity(10, "dollars") == "$10.00"
        assert format_quantity(10, "bytes") == "10.0 B"
    assert format_quantity(10, "dollars") == "$10.00"


def test_the_command_prints_and_reads_amounts_in_it() -> None:
    euro = currency("EUR").per_dollar
    told = run(*SERVE, "--price", "2", "--currency", "eur").stdout
    assert "EUR 2.00 a device-hour" in told
    assert "$" not in told
    assert f"amounts at 1 USD = {euro:g} EUR (2026-10-30, ECB euro foreign exchange reference rates)" in told
    found = answer(*SERVE, "--price", "2", "--currency", "EUR")
    assert found["price"]["dollars_per_device_hour"] == pytest.approx(2 / euro)
    assert found["versions"]["currency"] == "EUR"
    assert float(found["versions"]["currency_per_dollar"]) == pytest.approx(euro)
    assert run("prices", "h200", "--max", "4", "--currency", "JPY").returncode == 2  # nothing costs four yen
    assert "currency" not in answer(*SERVE)["versions"]  # the next line is in dollars again


def test_a_wrong_amount_is_told_as_it_was_typed() -> None:
    assert "--price -3 must be" in refused(*SERVE, "--price", "-3", "--currency", "EUR")
    assert "--currency EURO0 is not known" in refused(*SERVE, "--currency", "EURO0")
    with pytest.raises(LLMHWError, match="currency='' must be a name"):
        currency("")
