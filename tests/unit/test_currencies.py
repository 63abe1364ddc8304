"""Currencies: the table against what pegs and bands fix, and amounts that are printed and typed in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmhw.catalog import read_table
from llmhw.currencies import currencies, currency, in_currency
from llmhw.hardware import prices, purchase_prices
from llmhw.price_files import read_prices
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


# -- prices that were quoted in a currency ----------------------------------------------------


def test_prices_in_yuan_count_where_they_are_asked_for_and_read_as_quoted() -> None:
    plain = {*prices(), *purchase_prices()}
    assert not any(price.note.startswith("quoted as") for price in plain)
    there = [*prices(region="cn"), *purchase_prices(region="cn")]
    amounts = [float(row["amount"]) for row in read_table("quoted_prices")]
    assert len(there) == len(amounts)
    with in_currency("CNY"):
        assert {*prices(), *purchase_prices()} == plain | {*there}
        told = " ".join(map(str, there))
    assert sorted(float(text.replace(",", "")) for text in re.findall(r"CNY ([\d.,]+)", told)) == sorted(amounts)
    with in_currency("EUR"):
        assert {*prices(), *purchase_prices()} == plain


def test_the_list_shows_what_was_quoted_and_at_which_rate_it_was_converted(tmp_path: Path) -> None:
    row = next(row for row in read_table("quoted_prices") if row["accelerator"] == "MTT S4000")
    line = next(
        line for line in run("prices", "--region", "cn", "--currency", "rmb").stdout.splitlines() if "MTT" in line
    )
    assert line.split()[-2:] == [row["date"], row["amount"]]
    plain = run("prices", "mtt").stdout  # no dealer asks dollars for it
    assert f"{float(row['amount']) / currency('CNY').per_dollar:.2f}" in plain
    assert f"quoted in CNY are converted at {currency('CNY')}" in plain
    path = tmp_path / "mine.csv"
    assert run("prices", "mtt", "--output", str(path)).returncode == 0
    assert read_prices(path).rent == tuple(prices("MTT S4000", region="cn"))


def test_a_job_is_paid_in_yuan_where_that_is_asked_for() -> None:
    asked = ("serve", "qwen3-8b", "--gpu", "MTT S4000")
    assert "--region cn takes that in another currency" in run(*asked).stdout
    paid = answer(*asked, "--region", "cn")["price"]
    assert paid["note"].startswith("quoted as CNY 1.69, at 1 USD =")
    assert answer(*asked, "--currency", "CNY")["price"] == paid
    assert answer(*SERVE)["price"]["region"] != "cn"
    told = run("cost", "--gpu", "RTX 4090 D", "--currency", "CNY").stdout  # to own and to rent, where it is sold
    assert told == run("cost", "--gpu", "RTX 4090 D", "--currency", "CNY", "--region", "cn").stdout
    assert "CNY 12,999 (launch price, region cn, 2023-12)" in told


def test_the_cheapest_card_of_a_budget_in_yuan() -> None:
    """RTX 4090 D: sold in China alone, at 12,999 yuan when it came."""
    most = 20_000
    found = answer("which", "qwen3-32b", "--budget", str(most), "--currency", "CNY", "--tokens-per-second", "20")
    rate = currency("CNY").per_dollar
    cards = {c["place"].partition(" (")[0].removeprefix("1 x "): c["purchase"] * rate for c in found["choices"]}
    assert cards["RTX 4090 D"] == pytest.approx(12_999)
    assert max(cards.values()) <= most
