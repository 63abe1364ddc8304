"""Prices of one's own: a CSV file with the catalog's columns, and the offers of gpuhunt as such a file.

`gpuhunt` (extra `prices`) is a catalogue of cloud offers that is read from the network when `refreshed` is asked for,
never otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from functools import cache
from os import PathLike
from typing import Any

from llmhw.catalog import read_table
from llmhw.hardware import (
    PRICE_KINDS,
    Accelerator,
    Price,
    PriceList,
    PurchasePrice,
    accelerator,
    fitting,
    in_order,
    sold_bytes,
)
from llmhw.units import LLMHWError, check_choice, finite, shown, unknown_name

# -- a file -----------------------------------------------------------------------------------

_NEEDED = ("accelerator", "date")
_COLUMNS = (
    "provider instance accelerator devices kind dollars_per_hour dollars_per_device_hour region date status source note"
).split()
# What `llmhw prices` writes beside these, so that its files can be read again; `dollars` is the price to buy.
_ALSO = ("dollars", "device", "price_kind", "old", "llmhw_version", "catalog_date")
_WAY_OUT = "give a CSV file with the columns of llmhw/catalog/prices.csv, as `llmhw prices --output FILE.csv` writes it"
_MOST_BYTES, _MOST_DOLLARS = 10**8, 1e9
_DATE = re.compile(r"20\d\d(-\d\d(-\d\d)?)?")


def read_prices(path: str | PathLike[str], argument: str = "prices") -> PriceList:
    """The prices of a CSV file, each row checked.

    path   of a file with the columns of `llmhw/catalog/prices.csv`. A row needs accelerator, by any words that name
           one; date; and dollars_per_device_hour, or dollars_per_hour of so many devices [1]. kind is on_demand
           [default], spot, reserved, or purchase with `dollars` of a device. Amounts are in US dollars.

    They stand in for all of the catalog's: a device that the file does not name has no price. `LLMHWError` names the
    line and what is wrong with it.
    """
    from csv import DictReader, Error

    from llmhw.files import read_text

    name = str(path)
    lines = read_text(path, argument=argument, limit=_MOST_BYTES, way_out=_WAY_OUT).splitlines(keepends=True)
    try:
        reader = DictReader(lines, restval="")
        rows = [(reader.line_num, row) for row in reader]
    except Error as error:
        raise LLMHWError(f"{argument}={shown(name)} cannot be read as CSV: {error}; {_WAY_OUT}") from None
    columns = [column.strip() for column in reader.fieldnames or ()]
    missing = [column for column in _NEEDED if column not in columns]
    if not rows or missing:
        what = f"no column {' and '.join(missing)}" if columns and missing else "no row"
        raise LLMHWError(f"{argument}={shown(name)} has {what}; {_WAY_OUT}")
    for column in columns:
        if column not in (*_COLUMNS, *_ALSO):
            wrong = unknown_name("column", column, (*_COLUMNS, "dollars"))
            raise LLMHWError(f"{argument}={shown(name)}: {wrong}")
    rent: list[Any] = []
    buy: list[Any] = []
    for line, row in rows:
        cells = {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
        where = f"{argument}={shown(name)} line {line}"
        if None in row:
            raise LLMHWError(f"{where} has more cells than the header has columns; quote a text that holds a comma")
        made = _row(cells, where, name)
        (buy if isinstance(made, PurchasePrice) else rent).append(made)
    return PriceList(name, in_order(rent), tuple(buy))


def _row(cells: Mapping[str, str], where: str, name: str) -> Price | PurchasePrice:
    """A row as a price."""

    def amount(column: str, most: float = _MOST_DOLLARS) -> float | None:
        text = cells.get(column, "")
        found = finite(text) if text else None
        if text and (found is None or not 0 < found <= most):
            raise LLMHWError(f"{where}: {column}={shown(text)} must be a number above 0 and at most {most:g}")
        return found

    try:
        device = _device(cells["accelerator"])
        kind = cells.get("kind", "").lower() or "on_demand"
        check_choice("kind", kind, (*PRICE_KINDS, "purchase"))
    except LLMHWError as error:
        raise LLMHWError(f"{where}: {error}") from None
    day = cells["date"]
    if not _DATE.fullmatch(day) or _no_day(day):
        raise LLMHWError(f"{where}: date={shown(day)} must be a day or a month, such as 2026-11-28 or 2026-11")
    facts = {
        "region": cells.get("region", ""),
        "date": day,
        "status": cells.get("status") or "given",
        "source": cells.get("source") or name,
        "note": cells.get("note", ""),
    }
    if kind == "purchase":
        dollars = amount("dollars")
        if dollars is None:
            raise LLMHWError(f"{where}: a price to buy needs dollars, of one device")
        return PurchasePrice(device.name, dollars, cells.get("price_kind") or "offer", **facts)
    count = amount("devices", 1e6) or 1
    if not float(count).is_integer():
        raise LLMHWError(f"{where}: devices={shown(cells['devices'])} must be a whole number")
    whole, each = amount("dollars_per_hour"), amount("dollars_per_device_hour")
    if whole is None and each is None:
        raise LLMHWError(f"{where} has no price; give dollars_per_device_hour, or dollars_per_hour and devices")
    if whole is not None and each is not None and abs(whole / count / each - 1) > 5e-3:
        raise LLMHWError(
            f"{where}: dollars_per_hour={whole:g} of {count:g} devices are {whole / count:g} each, not "
            f"dollars_per_device_hour={each:g}; leave one out"
        )
    each = whole / count if each is None else each  # type: ignore[operator]
    return Price(
        provider=cells.get("provider") or name,
        instance=cells.get("instance", ""),
        accelerator=device.name,
        devices=int(count),
        kind=kind,
        dollars_per_hour=each * count if whole is None else whole,
        dollars_per_device_hour=each,
        **facts,
    )


def _no_day(text: str) -> bool:
    try:
        date.fromisoformat(f"{text}-01-01"[:10])
    except ValueError:
        return True
    return False


@cache
def _device(name: str) -> Accelerator:
    return accelerator(name)


def price_list(argument: str, value: Any) -> PriceList | None:
    """Prices of one's own as they are given: a list, or the path of its file; None stays None."""
    if value is None or isinstance(value, PriceList):
        return value
    if isinstance(value, (str, PathLike)):
        return read_prices(value, argument)
    raise LLMHWError(f"{argument}={shown(value)} must be the path of a CSV file, or what read_prices gives")


# -- gpuhunt ----------------------------------------------------------------------------------

# How its providers are called here; others keep its name.
_PROVIDERS = {
    "aws": "AWS",
    "azure": "Azure",
    "gcp": "GCP",
    "lambdalabs": "Lambda",
    "nebius": "Nebius",
    "oci": "OCI",
    "runpod": "RunPod",
    "verda": "Verda",
    "cloudrift": "CloudRift",
    "crusoe": "Crusoe",
    "vastai": "Vast.ai",
    "vultr": "Vultr",
}
# What its names leave out, first choice first: clouds rent modules on a board, and cards made for servers.
_FORMS = ("SXM", "OAM", "Server", "NVL", "PCIe")
# Its memory is what is sold, or what a driver shows.
_SAME_MEMORY = 0.09
_SECONDS = 20.0


@cache
def device_of_offer(name: str, memory_gb: float | None = None, vendor: str = "") -> tuple[Accelerator, str] | None:
    """The device that gpuhunt calls so, and what had to be assumed; None where the catalog has no such device.

    >>> device_of_offer("A100", 40.0)[0].name, device_of_offer("RTX4090", 24.0)[0].name
    ('A100 40GB SXM4', 'RTX 4090')
    >>> device_of_offer("n150", 12.0) is None
    True
    """
    spoken = name.replace("litepod", "e").split("-")[0] if vendor == "google" else name
    try:
        found = fitting(f"TPU {spoken}" if vendor == "google" else spoken)
    except LLMHWError:
        return None
    if memory_gb:
        sizes = {a.name: (*sold_bytes(a), a.memory_bytes, a.memory_bytes / 1.073741824) for a in found}
        near = {n: min(abs(s / (memory_gb * 1e9) - 1) for s in known) for n, known in sizes.items()}
        best = min(near.values())
        if best > _SAME_MEMORY:
            return None
        found = [a for a in found if near[a.name] <= max(best + 1e-3, 0.01)]
    if len(found) == 1:
        return found[0], ""
    for form in _FORMS:
        chosen = [a for a in found if form.casefold() in f"{a.form} {a.name}".casefold()]
        if chosen:
            return chosen[0], f"form not stated by the source; {form} assumed"
    return None


@cache
def _machines() -> dict[tuple[str, str], str]:
    return {(row["provider"], row["name"]): row["accelerator"] for row in read_table("instances")}


def priced(offers: Iterable[Any], day: str, unknown: Counter[str] | None = None) -> Iterator[Price]:
    """Offers of gpuhunt (`CatalogItem`) as prices, without those of devices that the catalog does not have.

    day       when they were read
    unknown   counts offers by the names of those devices
    """
    for offer in offers:
        if not offer.gpu_count or not offer.gpu_name or not offer.price > 0:
            continue
        provider = _PROVIDERS.get(offer.provider, offer.provider)
        vendor = getattr(offer.gpu_vendor, "value", "") or ""
        machine = _machines().get((provider, offer.instance_name))
        found = (_device(machine), "") if machine else device_of_offer(offer.gpu_name, offer.gpu_memory, vendor)
        if found is None:
            if unknown is not None:
                unknown[f"{offer.gpu_name} {offer.gpu_memory or 0:g}GB"] += 1
            continue
        device, note = found
        count = int(offer.gpu_count)
        if vendor == "google" and offer.gpu_name.rpartition("-")[2].isdecimal():
            count = max(count, int(offer.gpu_name.rpartition("-")[2]))  # v5litepod-4: four chips
        yield Price(
            provider=provider,
            instance=offer.instance_name,
            accelerator=device.name,
            devices=count,
            kind="spot" if offer.spot else "on_demand",
            dollars_per_hour=float(offer.price),
            dollars_per_device_hour=float(f"{offer.price / count:.6g}"),
            region=offer.location,
            date=day,
            status="published",
            source=f"PyPI gpuhunt, catalog of {offer.provider}",
            note=note,
        )


def refreshed(day: date) -> tuple[PriceList, Counter[str], list[str]]:
    """What gpuhunt's published catalogs offer now, read from the network.

    Gives the prices, how many offers were of devices that the catalog does not have, by name, and the providers that
    did not answer. Where none does, or gpuhunt is missing, `LLMHWError` says so in a line.
    """
    import logging
    import socket

    try:
        from gpuhunt import Catalog, GPUHuntError
    except ImportError:
        raise LLMHWError("prices are refreshed by gpuhunt; install it with: pip install 'llmhw[prices]'") from None
    catalog = Catalog(auto_reload=False)
    log, before = logging.getLogger("gpuhunt"), socket.getdefaulttimeout()
    level = log.level
    log.setLevel(logging.CRITICAL + 1)  # it logs a traceback for each provider
    socket.setdefaulttimeout(_SECONDS)  # it has none
    try:
        catalog.load()
        there = list(catalog.catalog)
        offers = catalog.query(provider=there, min_gpu_count=1)
    except GPUHuntError as error:
        cause = str(getattr(error.__cause__, "reason", None) or error.__cause__ or error)
        raise LLMHWError(
            f"prices cannot be refreshed: gpuhunt's catalogs cannot be reached ({' '.join(cause.split())[:120]}); "
            "the catalog's own prices stay, or give --prices FILE.csv"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
        log.setLevel(level)
    unknown: Counter[str] = Counter()
    made = in_order(priced(offers, day.isoformat(), unknown))
    from gpuhunt._internal.catalog import OFFLINE_PROVIDERS

    return PriceList("gpuhunt", made), unknown, [name for name in OFFLINE_PROVIDERS if name not in there]
