"""Accelerators, links, clusters, cloud instances and prices, read from the catalog.

Every figure comes from a row of `llmhw/catalog/` with its source, date and status. What a row does not
know is `None`; asking for it raises `LLMHWError`. No device stands in for another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import cache
from typing import Any, TypeVar

from llmhw.catalog import read_table
from llmhw.checks import check_made, check_prose, check_text, checked, found_by_name, number, whole
from llmhw.formula import Report, Table
from llmhw.frozen import FrozenDict
from llmhw.units import (
    GB,
    MIB,
    MOST_LETTERS,
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    check_divides,
    check_number,
    format_quantity,
    nearest,
    plain_fields,
    shown,
    unknown_name,
)

FORMATS = ("fp64", "fp64_tensor", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")

# Other words for a format that name the same multiplier; a storage format such as int4 is none of them.
_FORMAT_WORDS = {
    word: fmt
    for fmt, words in {
        "fp64": "float64 double",
        "fp64_tensor": "fp64tensor",
        "fp32": "float32 float",
        "fp16": "float16 half",
        "bf16": "bfloat16",
        "fp8": "float8 fp8e4m3 fp8e5m2 mxfp8",
        "fp4": "float4 mxfp4 nvfp4",
    }.items()
    for word in words.split()
}

# [inferred] A machine without a scale-up network for more than two devices: as many cards as a usual server takes.
_USUAL_NODE = 8


_EFFICIENCY = number(above=True, most=2.0)

F = TypeVar("F", bound="_Fact")

# -- what exists ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fact:
    """A row of the catalog."""

    def require(self, what: str) -> Any:
        """The field of that name; `LLMHWError` if the catalog does not know it.

        >>> accelerator("tpu v5e").require("tdp_watts")
        Traceback (most recent call last):
        llmhw.units.LLMHWError: tdp_watts of accelerator TPU v5e is not known; use \
dataclasses.replace(..., tdp_watts=...) to set it
        """
        names = [entry.name for entry in fields(self)]
        value = getattr(self, check_choice("what", what, names))
        if value is None:
            kind, name = type(self).__name__.lower(), getattr(self, "name", "")
            raise LLMHWError(
                f"{what} of {kind} {name} is not known; use dataclasses.replace(..., {what}=...) to set it"
            )
        return value

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain values in base units."""
        return plain_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(_Fact):
    """What one hour of a machine cost, at one provider, in one region, on one date.

    dollars_per_hour          the whole machine
    dollars_per_device_hour   the same for one of its `devices`
    kind                      on_demand or spot
    """

    provider: str = ""
    instance: str = ""
    accelerator: str
    devices: int
    kind: str
    dollars_per_hour: float
    dollars_per_device_hour: float
    region: str = ""
    date: str = ""
    status: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        machine = f" {self.instance}" if self.instance else ""
        rate = format_quantity(self.dollars_per_device_hour, "dollars")
        if self.kind == "given":
            return f"{rate} a device-hour, as given"
        return f"{rate} a device-hour ({self.provider}{machine}, {self.kind}, {self.region}, {self.date})"


@dataclass(frozen=True, slots=True)
class PurchasePrice(_Fact):
    """What one device cost to buy: a launch, list or street price, or that of a whole system."""

    accelerator: str
    dollars: float
    kind: str
    region: str
    date: str
    status: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        return f"{format_quantity(self.dollars, 'dollars')} ({self.kind}, region {self.region}, {self.date})"


@dataclass(frozen=True, slots=True)
class Link(_Fact):
    """A connection, as one device sees it.

    bytes_per_second            per direction and device, at full rate
    latency_seconds             one message over one hop; None if not known
    measured_bytes_per_second   what a benchmark reached (`condition`); None if nobody measured
    efficiency                  share of `bytes_per_second` that collectives reach; `efficiency_status` says
                                whether it was measured or is a figure that others model with
    kind                        scale-up, scale-out, host or chip-to-chip
    """

    name: str
    kind: str
    bytes_per_second: float
    latency_seconds: float | None = None
    measured_bytes_per_second: float | None = None
    efficiency: float | None = None
    efficiency_status: str = ""
    condition: str = ""
    applies_to: str = ""
    status: str = ""
    date: str = ""
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        texts = dict.fromkeys(("kind", "efficiency_status", "condition", "applies_to", "status", "date"), check_prose)
        rates = dict.fromkeys(("bytes_per_second", "measured_bytes_per_second"), number(above=True))
        # above 1 where switches add up: fewer bytes travel than a ring sends
        check_made(self, **texts, **rates, **dict.fromkeys(("source", "note"), check_prose), efficiency=_EFFICIENCY)

    def __str__(self) -> str:
        return f"{self.name}: {format_quantity(self.bytes_per_second, 'bytes/s')} per direction and device"


@dataclass(frozen=True, slots=True)
class Accelerator(_Fact, Report):
    """One GPU, TPU or other accelerator.

    memory_bytes                        what the device's driver offers for use: at most this can be allocated
    memory_vendor                       the capacity as sold, in the vendor's words
    memory_bandwidth_bytes_per_second   to and from its own memory
    peaks                               dense matrix rates in FLOP/s, by number format; with fp32 accumulation
    multiprocessors                     SMs or compute units, which matrix tiles are dealt to; None if not known
    fp16_accumulate_peak                the fp16 rate with fp16 accumulation, where the device has a second one
    link, link_bytes_per_second         its scale-up network, and what it has of it per direction
    scale_up_devices                    most devices that this network joins; 1 if there is none
    host_link                           how it hangs on its host
    tdp_watts                           board power, None if not published
    status, memory_status               datasheet, measured, derived or published: of the rates, of memory_bytes
    date                                when the source was published, or read if it bears no date

    Rates with sparsity are not stored.

    >>> h100 = accelerator("h100")
    >>> h100.name, h100.peak("bf16"), round(h100.ridge("bf16"))
    ('H100 SXM5 80GB', 989400000000000.0, 295)
    """

    name: str
    vendor: str
    architecture: str
    year: int
    form: str
    memory_bytes: int
    memory_vendor: str
    memory_type: str
    memory_bandwidth_bytes_per_second: float
    peaks: Mapping[str, float] = field(hash=False)
    multiprocessors: int | None = None
    fp16_accumulate_peak: float | None = None
    link: str | None = None
    link_bytes_per_second: float | None = None
    scale_up_devices: int = 1
    host_link: str | None = None
    tdp_watts: float | None = None
    status: str = ""
    memory_status: str = ""
    date: str = ""
    source: str = ""
    memory_source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        facts = ("vendor", "architecture", "form", "memory_vendor", "memory_type", "status", "memory_status", "date")
        texts = dict.fromkeys((*facts, "source", "memory_source", "note"), check_prose)
        rates = ("memory_bandwidth_bytes_per_second", "fp16_accumulate_peak", "link_bytes_per_second", "tdp_watts")
        check_made(self, **texts, **dict.fromkeys(rates, number(above=True)))
        peaks = {
            check_text("peaks", fmt): check_number(f"peaks[{fmt!r}]", v, above=True) for fmt, v in self.peaks.items()
        }
        object.__setattr__(self, "peaks", FrozenDict(peaks))

    def family(self, families: Mapping[str, Mapping[str, Any]]) -> str:
        """Which of these families of constants, each with its `architectures`, is the device's; else `other`."""
        found = (name for name, family in families.items() if self.architecture in family.get("architectures", ()))
        return next(found, "other")

    def peak(self, fmt: str) -> float:
        """Dense peak of a number format, FLOP/s (operations per second for int8).

        fmt   one of `FORMATS`; torch's words ("bfloat16") and "mxfp8", "nvfp4" work too

        Raises `LLMHWError` if the device has no such rate, or the catalog does not know it.

        >>> accelerator("A100 80GB SXM").peak("fp8")
        Traceback (most recent call last):
        llmhw.units.LLMHWError: format='fp8' has no dense rate on A100 80GB SXM4; it has fp64, fp64_tensor, fp32, \
tf32, fp16, bf16, int8
        """
        word = re.sub(r"[^a-z0-9]", "", str(fmt)[:MOST_LETTERS].removeprefix("torch.").lower())
        key = _FORMAT_WORDS.get(word, word)
        if key in self.peaks:
            return self.peaks[key]
        raise LLMHWError(f"format={shown(fmt)} has no dense rate on {self.name}; it has {', '.join(self.peaks)}")

    def ridge(self, fmt: str) -> float:
        """FLOPs per byte of memory traffic above which arithmetic, not bandwidth, limits the device."""
        return self.peak(fmt) / self.memory_bandwidth_bytes_per_second

    @property
    def scale_up_link(self) -> Link | None:
        """Its scale-up network as a `Link`, at this device's bandwidth; None if it has none."""
        return _own(self.link, self.link_bytes_per_second)

    @property
    def prices(self) -> list[Price]:
        """Dated rental prices of this device, newest first."""
        return prices(self)

    @property
    def purchase_prices(self) -> list[PurchasePrice]:
        """Dated purchase prices of this device."""
        return purchase_prices(self)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of the main figures, as text."""
        memory = (
            f"{format_quantity(self.memory_bytes, 'bytes')} usable ({self.memory_status}), sold as {self.memory_vendor}"
        )
        found = [
            ("architecture", f"{self.vendor} {self.architecture}, {self.form}, {self.year}"),
            ("memory", f"{memory} {self.memory_type}"),
            ("bandwidth", format_quantity(self.memory_bandwidth_bytes_per_second, "bytes/s")),
            *((f"{fmt} dense", format_quantity(rate, "FLOP/s")) for fmt, rate in self.peaks.items()),
        ]
        if self.link is not None and self.link_bytes_per_second is not None:
            rate = format_quantity(self.link_bytes_per_second, "bytes/s")
            found.append(("link", f"{self.link}, {rate} per direction, up to {self.scale_up_devices:,} devices"))
        if self.host_link is not None:
            found.append(("host link", self.host_link))
        found.append(("power", "unknown" if self.tdp_watts is None else f"{self.tdp_watts:,.0f} W"))
        found.append(("status", f"{self.status}, {self.date}"))
        return found

    def tables(self) -> list[Table]:
        return [Table(self.name, (), self.rows(), right=2)]

    def __str__(self) -> str:
        name, *lines = Report.__str__(self).splitlines()
        return "\n".join([name, *(f"  {line}" for line in lines)])


@dataclass(frozen=True, slots=True, init=False)
class Cluster:
    """Equal devices in equal nodes.

    accelerator        a device or its name
    devices            how many, in all; default: one
    devices_per_node   how many share a node, that is the fast network; default: the device's scale-up domain,
                       or 8 if it joins fewer than three
    intra_link         the network inside a node, a link or its name; default: the device's scale-up network
                       (bridges counted as fitted), or its host link where that does not reach all of a node
    inter_link         the network between nodes, as each device sees it; no default

    `devices` is a multiple of `devices_per_node`, or below it.

    >>> cluster = Cluster("h100", 64, inter_link="infiniband ndr")
    >>> cluster.nodes, cluster.link_for(8).name, cluster.link_for(16).name
    (8, 'NVLink 4', 'InfiniBand NDR 4x')
    """

    accelerator: Accelerator
    devices: int
    devices_per_node: int
    intra_link: Link | None
    inter_link: Link | None

    def __init__(
        self,
        accelerator: Accelerator | str,
        devices: int = 1,
        devices_per_node: int | None = None,
        intra_link: Link | str | None = None,
        inter_link: Link | str | None = None,
    ) -> None:
        device = accelerator_of(accelerator)
        count = check_count("devices", devices)
        domain = device.scale_up_devices
        usual = domain if domain > 2 else _USUAL_NODE
        per_node = usual if devices_per_node is None else check_count("devices_per_node", devices_per_node)
        if devices_per_node is None and count > per_node and count % per_node:
            raise LLMHWError(
                f"devices={count} is not a multiple of {per_node}, a usual node of {device.name}; give devices_per_node"
            )
        if count > per_node:
            check_divides("devices_per_node", per_node, "devices", count)
        inside = link_of("intra_link", intra_link)
        if inside is None and per_node > 1:
            inside = device.scale_up_link if min(per_node, count) <= domain else _own(device.host_link, None)
        values = (device, count, per_node, inside, link_of("inter_link", inter_link))
        for entry, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, entry.name, value)

    @property
    def nodes(self) -> int:
        """Nodes, the last one perhaps not full."""
        return int(ceil_div(self.devices, self.devices_per_node))

    @property
    def memory_bytes(self) -> int:
        """Usable memory of all devices together."""
        return self.devices * self.accelerator.memory_bytes

    @property
    def memory_bandwidth_bytes_per_second(self) -> float:
        """Memory bandwidth of all devices together."""
        return self.devices * self.accelerator.memory_bandwidth_bytes_per_second

    def peak(self, fmt: str) -> float:
        """Dense peak of all devices together, FLOP/s."""
        return self.devices * self.accelerator.peak(fmt)

    def link_for(self, group: int) -> Link:
        """The slowest link that a group of so many neighbouring devices must use.

        group   devices in the group; above `devices_per_node` it spans nodes

        Raises `LLMHWError` if the cluster was given no such link and its device has none.
        """
        size = check_count("group", group)
        if size > self.devices:
            raise LLMHWError(f"group={size} exceeds devices={self.devices} of the cluster")
        which = "intra_link" if size <= self.devices_per_node else "inter_link"
        found: Link | None = getattr(self, which)
        if found is None:
            example = "PCIe 5.0 x16" if which == "intra_link" else "InfiniBand NDR 4x"
            raise LLMHWError(
                f"{which} of {self.devices} x {self.accelerator.name} is not known; give it, as in {which}={example!r}"
            )
        return found

    def __str__(self) -> str:
        inside = self.intra_link.name if self.intra_link else "no link"
        between = self.inter_link.name if self.inter_link else "not given"
        nodes = f"{self.nodes:,} nodes of {self.devices_per_node}" if self.nodes > 1 else "one node"
        network = f"; between nodes: {between}" if self.nodes > 1 else ""
        memory = format_quantity(self.memory_bytes, "bytes")
        return f"{self.devices:,} x {self.accelerator.name}, {nodes} ({inside}{network}), {memory}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units; device and links in full."""
        totals = ("nodes", "memory_bytes", "memory_bandwidth_bytes_per_second")
        return plain_fields(self) | {name: getattr(self, name) for name in totals}


@dataclass(frozen=True, slots=True)
class Instance(_Fact):
    """A machine for rent, with its newest on-demand price.

    count                        accelerators in it
    price_per_hour               dollars for the whole machine, on demand; None if not known
    region, date                 of that price; empty without one
    intra_link                   what joins its accelerators; None if there is one, or it is not known
    network_bytes_per_second     of the whole machine, per direction; None if not known
    """

    provider: str
    name: str
    accelerator: Accelerator
    count: int
    price_per_hour: float | None
    region: str
    date: str
    network_bytes_per_second: float | None
    vcpus: int | None
    host_memory_vendor: str
    intra_link: str | None
    status: str
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        facts = ("provider", "region", "date", "host_memory_vendor", "status", "source", "note")
        rates = {"network_bytes_per_second": number(above=True)}
        check_made(self, **dict.fromkeys(facts, check_prose), **rates, vcpus=whole(0))

    @property
    def prices(self) -> list[Price]:
        """All dated prices of this machine, newest first."""
        return _instance_prices(self.provider, self.name)

    def cluster(self, nodes: int = 1) -> Cluster:
        """So many of these machines as a `Cluster`; the network is shared evenly by a machine's devices."""
        machines = check_count("nodes", nodes)
        network = None
        if self.network_bytes_per_second is not None:
            network = Link(
                name=f"{self.provider} {self.name} network",
                kind="scale-out",
                bytes_per_second=self.network_bytes_per_second / self.count,
                status=self.status,
                date=self.date,
                source=self.source,
            )
        own = self.intra_link == self.accelerator.link
        inside = self.accelerator.scale_up_link if own else _own(self.intra_link, None)
        return Cluster(self.accelerator, machines * self.count, self.count, inside, network)

    def __str__(self) -> str:
        price = "no on-demand price known"
        if self.price_per_hour is not None:
            price = f"{format_quantity(self.price_per_hour, 'dollars')} an hour ({self.region}, {self.date})"
        return f"{self.provider} {self.name}: {self.count} x {self.accelerator.name}, {price}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain numbers in base units; the accelerator by name."""
        return plain_fields(self) | {"accelerator": self.accelerator.name}


# -- forgiving names --------------------------------------------------------------------------

# Words that name no device: who makes or sells it, what it is in general.
_FILLER = frozenset(
    (
        *("nvidia", "geforce", "tesla", "quadro", "amd", "radeon", "instinct", "google", "intel", "habana", "apple"),
        *("aws", "amazon", "azure", "gpu", "gpus", "card", "chip", "accelerator", "per", "hgx", "dgx"),
        *("generation", "edition", "announced"),
    )
)


def _words(text: str) -> list[str]:
    # "80 GB", "80GiB" and "80G" are one word, whichever way they are written.
    joined = re.sub(r"(\d)\s*(?:gb|gib|g)(?![a-z0-9])", r"\1gb", text.casefold())
    return re.findall(r"[a-z0-9]+", joined)


def _split(word: str, vocabulary: frozenset[str]) -> list[str] | None:
    """`word` cut into known words, the longest first ("h100sxm5" -> h100, sxm5); None if it cannot be."""
    # from the end: what is left behind each place is cut once, however many ways lead there
    cuts: list[list[str] | None] = [None] * len(word) + [[]]
    for begin in range(len(word) - 1, -1, -1):
        for end in range(len(word), begin, -1):
            rest = cuts[end]
            if rest is not None and word[begin:end] in vocabulary:
                cuts[begin] = [word[begin:end], *rest]
                break
    return cuts[0]


class _Names:
    """How the things of one table may be called.

    spellings    each name and alias, as it is written -> that name
    exact        the words of a name or alias -> that name
    described    name -> every word that describes it, in any order; names in the order of the table
    """

    def __init__(self, argument: str, see: str, rows: Iterable[Mapping[str, str]], described_by: Iterable[str]) -> None:
        self.argument, self.see = argument, see
        self.spellings: dict[str, str] = {}
        self.exact: dict[frozenset[str], str] = {}
        self.described: dict[str, set[str]] = {}
        for row in rows:
            name = row["name"]
            calls = [name, *(alias.strip() for alias in row["aliases"].split(";") if alias.strip())]
            for call in calls:
                self.spellings[call] = name
                self.exact.setdefault(frozenset(_words(call)) - _FILLER, name)
            words = set(_words(" ".join([*calls, *(row[column] for column in described_by)])))
            # "sxm" finds an SXM5 part.
            words |= {form.group() for word in _words(row.get("form", "")) if (form := re.match(r"[a-z]{3,}", word))}
            self.described[name] = words
        self.vocabulary = _FILLER.union(*self.described.values())

    def find(self, query: str, argument: str = "") -> str:
        if not isinstance(query, str) or len(query) > MOST_LETTERS:
            check_text(argument or self.argument, query)
        cut = [_split(word, self.vocabulary) for word in _words(query)]
        key = frozenset(word for parts in cut for word in parts or ()) - _FILLER
        if None in cut or not key:
            raise self._unknown(query)
        if key in self.exact:
            return self.exact[key]
        fitting = [name for name, words in self.described.items() if key <= words]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            shown = ", ".join(fitting[:12]) + (f", ... ({len(fitting)} in all)" if len(fitting) > 12 else "")
            raise LLMHWError(f"{self.argument}={query!r} is ambiguous; use one of {shown}")
        # Every word is known, but no one thing has them all: name those that have the most.
        most = max(len(key & words) for words in self.described.values())
        raise self._unknown(query, [name for name, words in self.described.items() if len(key & words) == most])

    def _unknown(self, query: str, close: Iterable[str] = ()) -> LLMHWError:
        found = list(close)
        if not found:
            # The beginnings of long names ("V100" of "V100 PCIe 16GB") are near to a short misspelt name.
            begin: dict[str, list[str]] = {}
            for name in self.described:
                words = name.split()
                for n in range(1, len(words)):
                    if re.search(r"\d", words[n - 1]):
                        begin.setdefault(" ".join(words[:n]), []).append(name)
            spoken = " ".join(word for word in _words(query) if word not in _FILLER)
            for choice in nearest(spoken or query, [*self.spellings, *begin], most=3):
                found += begin.get(choice) or [self.spellings[choice]]
        if not found:
            return unknown_name(self.argument, query, self.described, self.see)
        return LLMHWError(
            f"{self.argument}={query!r} is not known; did you mean {', '.join(list(dict.fromkeys(found))[:6])}?"
        )


# -- reading the catalog ----------------------------------------------------------------------


def _rate(text: str, unit: float) -> Any:
    # Figures are written with few digits: 3350 x 1e9 and 989.4 x 1e12 are meant exactly.
    return float(round(float(text) * unit)) if text else None


def _cell(text: str, kind: str) -> Any:
    """A cell as a field of this type has it; an empty one is None where the type allows it."""
    if not text and kind.endswith("| None"):
        return None
    return {"int": int, "float": float, "str": str}[kind.removesuffix(" | None")](text)


def _made(kind: type[F], row: Mapping[str, str], **converted: Any) -> F:
    """A fact from a row: what was converted, and the cells that its other fields are named after."""
    named = [entry for entry in fields(kind) if entry.name in row.keys() - converted]
    return kind(**converted, **{entry.name: _cell(row[entry.name], str(entry.type)) for entry in named})


@cache
def _rows(table: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in read_table(table)}


@cache
def _accelerator_names() -> _Names:
    columns = ("form", "memory_vendor", "memory_type", "architecture")
    return _Names("accelerator", "run `llmhw gpus` for the list", _rows("accelerators").values(), columns)


@cache
def _accelerator(name: str) -> Accelerator:
    row = _rows("accelerators")[name]
    return _made(
        Accelerator,
        row,
        memory_bytes=int(row["memory_mib"]) * MIB,
        memory_bandwidth_bytes_per_second=_rate(row["memory_bandwidth_gb_per_second"], GB),
        peaks={fmt: _rate(row[f"{fmt}_tflops"], 1e12) for fmt in FORMATS if row[f"{fmt}_tflops"]},
        fp16_accumulate_peak=_rate(row["fp16_accumulate_tflops"], 1e12),
        link_bytes_per_second=_rate(row["link_gb_per_second"], GB),
    )


@cache
def _link_names() -> _Names:
    return _Names("link", "see llmhw.links()", _rows("links").values(), ("kind",))


@cache
def _link(name: str) -> Link:
    row = _rows("links")[name]
    return _made(
        Link,
        row,
        bytes_per_second=_rate(row["gb_per_second"], GB),
        # Divided, not multiplied by 1e-6: 0.6 us is then the float nearest to 6e-07.
        latency_seconds=float(row["latency_microseconds"]) / 1e6 if row["latency_microseconds"] else None,
        measured_bytes_per_second=_rate(row["measured_gb_per_second"], GB),
    )


def _own(name: str | None, bytes_per_second: float | None) -> Link | None:
    """The link of that name, at a device's own bandwidth; a benchmark at another bandwidth is left out."""
    if name is None:
        return None
    table = _link(name)
    if bytes_per_second is None or bytes_per_second == table.bytes_per_second:
        return table
    return replace(table, bytes_per_second=bytes_per_second, measured_bytes_per_second=None)


@cache
def _prices() -> tuple[Price, ...]:
    found = [_made(Price, row) for row in read_table("prices")]
    found.sort(key=lambda price: price.dollars_per_device_hour)
    return tuple(sorted(found, key=lambda price: price.date, reverse=True))


@cache
def _purchase_prices() -> tuple[PurchasePrice, ...]:
    return tuple(_made(PurchasePrice, row) for row in read_table("purchase_prices"))


def _instance_prices(provider: str, name: str) -> list[Price]:
    return [price for price in _prices() if (price.provider, price.instance) == (provider, name)]


def _instance(row: Mapping[str, str], region: str | None) -> Instance:
    offers = [price for price in _instance_prices(row["provider"], row["name"]) if price.kind == "on_demand"]
    if region is not None:
        regions = sorted({price.region for price in offers})
        offers = [price for price in offers if _plain(price.region) == _plain(region)]
        if not offers:
            known = f"it has prices for {', '.join(regions)}" if regions else "it has no on-demand price"
            raise LLMHWError(f"region={region!r} has no price of {row['provider']} {row['name']}; {known}")
    newest = offers[0] if offers else None
    return _made(
        Instance,
        row,
        accelerator=_accelerator(row["accelerator"]),
        count=int(row["devices"]),
        price_per_hour=newest and newest.dollars_per_hour,
        region=newest.region if newest else "",
        date=newest.date if newest else "",
        network_bytes_per_second=_rate(row["network_gbit_per_second"], GB / 8),
        host_memory_vendor=f"{row['host_memory_gb']} GB" if row["host_memory_gb"] else "",
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def accelerator_of(wanted: Accelerator | str) -> Accelerator:
    """An accelerator, or the one of that name."""
    return wanted if isinstance(wanted, Accelerator) else accelerator(wanted)


def link_of(argument: str, wanted: Link | str | None) -> Link | None:
    """A link, or the one of that name; None stays None."""
    return wanted if wanted is None or isinstance(wanted, Link) else _link(_link_names().find(wanted, argument))


def cluster_of(wanted: Cluster | Accelerator | str | Sequence[Any]) -> Cluster:
    """A cluster; or that of one device, by its name; or of a name and a count, as in ("h100", 8).

    >>> cluster_of(("h100", 8)).devices, cluster_of("h100").devices
    (8, 1)
    """
    if isinstance(wanted, Cluster):
        return wanted
    if isinstance(wanted, (str, Accelerator)):
        return Cluster(wanted)
    if isinstance(wanted, (tuple, list)) and 1 <= len(wanted) <= 5:
        return Cluster(*wanted)
    raise LLMHWError(
        f"cluster={shown(wanted)} must be a Cluster, the name of a device, or its name and how many, as in ('h100', 8)"
    )


found_by_name("Accelerator", lambda _, value: accelerator_of(value))
found_by_name("Cluster", lambda _, value: cluster_of(value))
found_by_name("Link", link_of)


# -- what a reader asks for -------------------------------------------------------------------


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name.

    name   any words that describe one device, in any order and case, with or without separators:
           "h100", "H100 SXM5 80GB", "NVIDIA H100 80GB HBM3", "rtx4090", "v100-32gb"

    "h100", "h200" and "b200" mean the SXM parts. A name that fits several devices ("a100") raises
    `LLMHWError` with the choices; a misspelt one suggests the nearest.

    >>> accelerator("rtx4090").name, accelerator("v100-32gb").name
    ('RTX 4090', 'V100 SXM2 32GB')
    >>> accelerator("v100")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: accelerator='v100' is ambiguous; use one of V100 SXM2 16GB, V100 SXM2 32GB, V100 PCIe 16GB
    """
    return _accelerator(_accelerator_names().find(name))


def accelerators() -> list[Accelerator]:
    """All accelerators of the catalog, in its order."""
    return [_accelerator(name) for name in _rows("accelerators")]


def link(name: str) -> Link:
    """The link of that name, as forgiving as `accelerator`.

    >>> link("nvlink4").bytes_per_second, link("PCIe Gen5").name
    (450000000000.0, 'PCIe 5.0 x16')
    """
    return _link(_link_names().find(name))


def links() -> list[Link]:
    """All links of the catalog."""
    return [_link(name) for name in _rows("links")]


def instance(name: str, provider: str | None = None, region: str | None = None) -> Instance:
    """The rentable machine of that name, with its newest on-demand price.

    name       the provider's name for it; case and separators do not matter
    provider   AWS, Azure, GCP, ...; needed only where two providers use one name
    region     the price of that region; default: the newest price of any

    >>> machine = instance("p5.48xlarge")
    >>> machine.accelerator.name, machine.count, machine.region
    ('H100 SXM5 80GB', 8, 'us-east-1')
    """
    for argument, value in (("instance", name), ("provider", provider), ("region", region)):
        if value is not None or argument == "instance":
            check_text(argument, value)
    rows = read_table("instances")
    if provider is not None:
        providers = list(dict.fromkeys(row["provider"] for row in rows))
        rows = [row for row in rows if _plain(row["provider"]) == _plain(provider)]
        if not rows:
            raise unknown_name("provider", provider, providers)
    found = [row for row in rows if _plain(row["name"]) == _plain(name)]
    if not found:
        raise unknown_name("instance", name, [row["name"] for row in rows], "see llmhw.instances()")
    if len(found) > 1:
        choices = ", ".join(f"provider={row['provider']!r}" for row in found)
        raise LLMHWError(f"instance={name!r} is ambiguous; add one of {choices}")
    return _instance(found[0], region)


@checked
def instances(accelerator: Accelerator | str | None = None) -> list[Instance]:
    """All rentable machines of the catalog, or those with one accelerator."""
    wanted = None if accelerator is None else accelerator_of(accelerator).name
    return [_instance(row, None) for row in read_table("instances") if wanted in (None, row["accelerator"])]


@checked
def usual_network(accelerator: Accelerator | str) -> Link | None:
    """The fastest network between nodes that a rentable machine with this device has, as each device sees it.

    None if no machine of the catalog has this device, or none says what network it has.

    >>> found = usual_network("h100")
    >>> found.name, found.bytes_per_second / 1e9
    ('AWS p5.48xlarge network', 50.0)
    """
    found = [machine.cluster().inter_link for machine in instances(accelerator)]
    return max((network for network in found if network), key=lambda network: network.bytes_per_second, default=None)


PRICE_KINDS = ("on_demand", "spot")


@checked
def prices(
    accelerator: Accelerator | str | None = None,
    *,
    provider: str | None = None,
    region: str | None = None,
    kind: str | None = None,
) -> list[Price]:
    """What an hour of a device cost, everywhere the catalog knows: newest first, then cheapest.

    accelerator        a device or its name; default: all of them
    provider, region   only these; case and separators do not matter
    kind               on_demand or spot; default: both

    Rows are list prices for rent, each with its date and region. A provider, region or kind that no row has raises
    `LLMHWError` with those that there are.

    >>> {price.kind for price in prices("mi300x")} == {"on_demand", "spot"}
    True
    >>> {price.provider for price in prices(provider="aws", kind="spot")}
    {'AWS'}
    """
    wanted = None if accelerator is None else accelerator_of(accelerator).name
    found = [price for price in _prices() if wanted in (None, price.accelerator)]
    if kind is not None:
        check_choice("kind", kind, PRICE_KINDS)
    for argument, value in (("kind", kind), ("provider", provider), ("region", region)):
        found = _only(found, argument, value)
    return found


def purchase_prices(
    accelerator: Accelerator | str | None = None, *, region: str | None = None, kind: str | None = None
) -> list[PurchasePrice]:
    """What devices cost to buy, in the order of the catalog; the arguments are those of `prices`.

    kind   launch price, list price, street price, ...: what the catalog has

    >>> len(purchase_prices()) > len(purchase_prices("h100")) > 0
    True
    """
    wanted = None if accelerator is None else accelerator_of(accelerator).name
    found = [price for price in _purchase_prices() if wanted in (None, price.accelerator)]
    for argument, value in (("kind", kind), ("region", region)):
        found = _only(found, argument, value)
    return found


P = TypeVar("P", Price, PurchasePrice)


def _only(rows: list[P], argument: str, value: str | None) -> list[P]:
    """The prices of that provider, region or kind."""
    if value is None or not rows:
        return rows
    known = {_plain(getattr(row, argument)): getattr(row, argument) for row in rows}
    if _plain(value) not in known:
        raise unknown_name(argument, value, sorted(filter(None, known.values())))
    return [row for row in rows if _plain(getattr(row, argument)) == _plain(value)]


def old_price(price: Price | None) -> str:
    """How old a price is, where it is more than a year older than the newest of the catalog; "" otherwise.

    >>> old_price(prices("h100")[0])
    ''
    """
    if price is None or not price.date:
        return ""
    # a date may lack its day or its month
    then, newest = (date.fromisoformat(f"{day}-01-01"[:10]) for day in (price.date, _prices()[0].date))
    days = (newest - then).days
    if days <= 365:
        return ""
    years = round(days / 365)
    return f"price of {price.date}: {years} year{'s' if years > 1 else ''} older than the newest of the catalog"
