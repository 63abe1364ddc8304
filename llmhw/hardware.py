"""Accelerators, links, clusters, cloud instances and prices, read from the catalog.

Every figure comes from a row of `llmhw/catalog/` with its source, date and status. What a row does not
know is `None`; asking for it raises `LLMHWError`. No device stands in for another.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import cache
from typing import Any, TypeVar, cast

from llmhw.catalog import check_constants, read_table
from llmhw.checks import check_made, check_mapping, check_prose, check_text, checked, found_by_name, number, whole
from llmhw.currencies import currency
from llmhw.formula import Report, Table
from llmhw.frozen import FrozenDict
from llmhw.language import said
from llmhw.units import (
    GB,
    MIB,
    MOST_LETTERS,
    PRINTED_CURRENCY,
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    check_divides,
    check_number,
    finite,
    format_quantity,
    nearest,
    parse_number,
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


TOPOLOGIES = ("", "mesh", "torus 2", "torus 3")
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
    kind                      on_demand, spot, or reserved: paid whether it is used or not
    note                      begins with the price of a device-hour as quoted, where that was not in dollars
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

    @property
    def origin(self) -> str:
        """Whose price it is, of which kind, where and when."""
        if self.kind == "given":
            return said("as given")
        machine = f" {self.instance}" if self.instance else ""
        return ", ".join(filter(None, (f"{self.provider}{machine}", said(self.kind), said(self.region), self.date)))

    def __str__(self) -> str:
        rate = format_quantity(self.dollars_per_device_hour, "dollars")
        text = "{rate} a device-hour, {origin}" if self.kind == "given" else "{rate} a device-hour ({origin})"
        return said(text, rate=rate, origin=self.origin)


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
        price, region = format_quantity(self.dollars, "dollars"), said(self.region)
        return said(
            "{price} ({kind}, region {region}, {date})",
            price=price,
            kind=said(self.kind),
            region=region,
            date=self.date,
        )


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices that stand in for those of the catalog: see `llmhw.price_files.read_prices`.

    name       of the file
    rent       newest first, then cheapest
    purchase   what devices cost to buy
    """

    name: str
    rent: tuple[Price, ...] = ()
    purchase: tuple[PurchasePrice, ...] = ()

    @property
    def path(self) -> str:
        """Where they were read from."""
        return self.name

    @property
    def newest(self) -> str:
        """Date of the newest rent, or of the newest offer to buy; "" without any."""
        dates = [price.date for price in self.rent] or [price.date for price in self.purchase]
        return max(dates, default="")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Link(_Fact):
    """A connection, as one device sees it.

    bytes_per_second            per direction and device, at full rate
    latency_seconds             one message over one hop; None if not known
    measured_bytes_per_second   what a benchmark reached (`condition`); None if nobody measured
    efficiency                  share of `bytes_per_second` that collectives reach; `efficiency_status` says
                                whether it was measured or is a figure that others model with
    kind                        scale-up, scale-out, host or chip-to-chip
    topology                    "mesh": a part of the rate for each peer; "torus 2", "torus 3": a part for each axis;
                                "": a switch, all of it for any peer
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
    topology: str = ""

    def __post_init__(self) -> None:
        texts = dict.fromkeys(("kind", "efficiency_status", "condition", "applies_to", "status", "date"), check_prose)
        rates = dict.fromkeys(("bytes_per_second", "measured_bytes_per_second"), number(above=True))
        # above 1 where switches add up: fewer bytes travel than a ring sends
        named = {
            "topology": lambda argument, value: check_choice(argument, value, TOPOLOGIES),
            "efficiency": _EFFICIENCY,
        }
        check_made(self, **texts, **rates, **dict.fromkeys(("source", "note"), check_prose), **named)

    def __str__(self) -> str:
        return f"{self.name}: {format_quantity(self.bytes_per_second, 'bytes/s')} per direction and device"


@dataclass(frozen=True, slots=True)
class Accelerator(_Fact, Report):
    """One GPU, TPU or other accelerator.

    memory_bytes                        what the device's driver offers for use: at most this can be allocated
    memory_ecc_bytes                    what is left of it once ECC is switched on; None if that takes nothing, if it is
                                        on as sold, or is not known
    memory_vendor                       the capacity as sold, in the vendor's words
    memory_bandwidth_bytes_per_second   to and from its own memory
    peaks                               dense matrix rates in FLOP/s, by number format; with fp32 accumulation
    multiprocessors                     SMs or compute units, which matrix tiles are dealt to; None if not known
    fp16_accumulate_peak                the fp16 rate with fp16 accumulation, where the device has a second one
    link, link_bytes_per_second         its scale-up network, and what it has of it per direction
    scale_up_devices                    most devices that this network joins; 1 if there is none
    host_link                           how it hangs on its host
    peer_access                         whether devices on such links copy to each other directly; False: through the
                                        host's memory, as GeForce cards do; None if not known
    tdp_watts                           board power, None if not published
    status, memory_status               datasheet, measured, derived or published: of the rates, of memory_bytes
    date                                when the source was published, or read if it bears no date
    reached                             constants measured on it, over all fitted ones: see `llmhw.machine`

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
    peer_access: bool | None = None
    tdp_watts: float | None = None
    status: str = ""
    memory_status: str = ""
    date: str = ""
    source: str = ""
    memory_source: str = ""
    note: str = ""
    memory_ecc_bytes: int | None = None
    reached: Mapping[str, Mapping[str, float]] = field(default_factory=FrozenDict, hash=False, repr=False)

    def __post_init__(self) -> None:
        facts = ("vendor", "architecture", "form", "memory_vendor", "memory_type", "status", "memory_status", "date")
        texts = dict.fromkeys((*facts, "source", "memory_source", "note"), check_prose)
        rates = ("memory_bandwidth_bytes_per_second", "fp16_accumulate_peak", "link_bytes_per_second", "tdp_watts")
        check_made(self, **texts, **dict.fromkeys(rates, number(above=True)), year=whole(0))
        peaks = {
            check_text("peaks", fmt): check_number(f"peaks[{fmt!r}]", v, above=True) for fmt, v in self.peaks.items()
        }
        object.__setattr__(self, "peaks", FrozenDict(peaks))
        reached = {}
        for subject, constants in check_mapping("reached", self.reached).items():
            check_constants(f"reached.{check_text('reached', subject)}", constants)
            reached[subject] = FrozenDict(constants)
        object.__setattr__(self, "reached", FrozenDict(reached))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str = "row") -> Accelerator:
        """A device of one's own from cells named as the columns of `catalog/accelerators.csv`.

        row     name, memory_mib, memory_bandwidth_gb_per_second and at least one rate are needed; the others may be
                left out or empty
        where   what an error calls it

        >>> mine = {"name": "mine", "memory_mib": 24576, "memory_bandwidth_gb_per_second": 1008, "bf16_tflops": 165}
        >>> Accelerator.from_row(mine).peak("bf16")
        165000000000000.0
        """
        return _from_row(_own_row(row, where))

    def family(self, families: Mapping[str, Mapping[str, Any]]) -> str:
        """Which of these families of constants is the device's: by its name (`devices`), by its `architectures`; else
        `other`.
        """
        name = self.name.split(" [")[0]
        found = (
            family
            for what, value in (("devices", name), ("architectures", self.architecture))
            for family, constants in families.items()
            if value in constants.get(what, ())
        )
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

    def to_dict(self) -> dict[str, Any]:
        """Its facts; what was measured on it is in the file that it was read from."""
        return plain_fields(self, "reached")

    @property
    def half_format(self) -> str:
        """The 16-bit format that it multiplies: bf16, or fp16 on what came before it.

        >>> accelerator("h100").half_format, accelerator("t4").half_format
        ('bf16', 'fp16')
        """
        return "fp16" if "fp16" in self.peaks and "bf16" not in self.peaks else "bf16"

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
            (
                "architecture",
                ", ".join(
                    filter(None, (f"{self.vendor} {self.architecture}".strip(), self.form, f"{self.year or ''}"))
                ),
            ),
            ("memory", f"{memory} {self.memory_type}"),
            *([("with ECC on", format_quantity(self.memory_ecc_bytes, "bytes"))] if self.memory_ecc_bytes else []),
            ("bandwidth", format_quantity(self.memory_bandwidth_bytes_per_second, "bytes/s")),
            *((f"{fmt} dense", format_quantity(rate, "FLOP/s")) for fmt, rate in self.peaks.items()),
        ]
        if self.link is not None and self.link_bytes_per_second is not None:
            rate = format_quantity(self.link_bytes_per_second, "bytes/s")
            found.append(("link", f"{self.link}, {rate} per direction, up to {self.scale_up_devices:,} devices"))
        if self.host_link is not None:
            through = ", no peer access" if self.peer_access is False else ""
            found.append(("host link", f"{self.host_link}{through}"))
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
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    @property
    def nodes(self) -> int:
        """Nodes, the last one perhaps not full."""
        return int(ceil_div(self.devices, self.devices_per_node))

    @property
    def through_host(self) -> bool:
        """Whether what devices of a node send each other passes through the host's memory."""
        link = self.intra_link
        return link is not None and link.kind == "host" and self.accelerator.peer_access is False

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
        network = self.intra_link.name if self.intra_link else said("no link")
        nodes = said("one node")
        if self.nodes > 1:
            nodes = said("{nodes:,} nodes of {devices}", nodes=self.nodes, devices=self.devices_per_node)
            between = self.inter_link.name if self.inter_link else said("not given")
            network += said("; between nodes: {link}", link=between)
        memory = format_quantity(self.memory_bytes, "bytes")
        return f"{self.devices:,} x {self.accelerator.name}, {nodes} ({network}), {memory}"

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
        *("nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "google", "intel", "habana", "apple"),
        *("aws", "amazon", "azure", "gpu", "gpus", "card", "chip", "accelerator", "per", "hgx", "dgx"),
        *(
            "huawei",
            "ascend",
            "generation",
            "edition",
            "announced",
            "with",
            "design",
            "graphics",
            "processor",
            "r",
            "tm",
        ),
    )
)
_SIZE = re.compile(r"\d+gb")
_FORM = re.compile(r"[a-z]{3,}")
# Words of a series: "4090" says as much as "RTX 4090".
_SERIES = frozenset(("rtx", "gtx", "rx", "arc"))


def _words(text: str) -> list[str]:
    # "80 GB", "80GiB" and "80G" are one word, whichever way they are written.
    joined = re.sub(r"(\d)\s*(?:gb|gib|g)(?![a-z0-9])", r"\1gb", text.casefold())
    return re.findall(r"[a-z0-9]+", joined)


def _split(word: str, vocabulary: frozenset[str]) -> list[str] | None:
    """`word` cut into the fewest known words ("h100sxm5" -> h100, sxm5), no number in two; None if it cannot be."""
    # from the end: what is left behind each place is cut once, however many ways lead there
    cuts: list[list[str] | None] = [None] * len(word) + [[]]
    for begin in range(len(word) - 1, -1, -1):
        for end in range(len(word), begin, -1):
            rest, best, piece = cuts[end], cuts[begin], word[begin:end]
            if rest is None or piece not in vocabulary or (rest and piece.isdecimal() and rest[0].isdecimal()):
                continue
            if best is None or len(rest) + 1 < len(best):
                cuts[begin] = [piece, *rest]
    return cuts[0]


def _apart(words: Sequence[str]) -> frozenset[str]:
    """Those words of a name that tell it from its kin: "M4 Max 40-core 64GB" -> 40, core, 64gb."""
    cores = {words[i - 1] for i, word in enumerate(words) if word == "core" and i}
    return _SERIES.union(("core",), cores, (word for word in words if _SIZE.fullmatch(word)))


def _aliases(row: Mapping[str, str]) -> list[str]:
    return [alias.strip() for alias in row["aliases"].split(";") if alias.strip()]


class _Names:
    """How the things of one table may be called.

    spellings    each name and alias, as it is written -> that name
    exact        the words of a name or alias -> that name
    described    name -> every word that describes it, in any order; names in the order of the table
    bare         the words of a name or alias, and those of them that tell its kin apart: size, cores, series -> names
    """

    def __init__(self, argument: str, see: str, rows: Iterable[Mapping[str, str]], described_by: Iterable[str]) -> None:
        self.argument, self.see = argument, see
        self.spellings: dict[str, str] = {}
        self.exact: dict[frozenset[str], str] = {}
        self.described: dict[str, set[str]] = {}
        self.bare: list[tuple[str, frozenset[str], frozenset[str]]] = []
        for row in rows:
            name = row["name"]
            calls = [name, *_aliases(row)]
            every: set[str] = set()
            for call in calls:
                words = _words(call)
                every.update(words)
                key = frozenset(words) - _FILLER
                self.spellings[call] = name
                self.exact.setdefault(key, name)
                self.bare.append((name, key, _apart(words)))
            every.update(_words(" ".join([row[column] for column in described_by])))
            # "sxm" finds an SXM5 part.
            every.update(form.group() for word in _words(row.get("form", "")) if (form := _FORM.match(word)))
            self.described[name] = every
        self.vocabulary = _FILLER.union(*self.described.values())

    def find(self, query: str, argument: str = "") -> str:
        """The one name that a query means."""
        fitting = self.fitting(query, argument)
        if len(fitting) == 1:
            return fitting[0]
        shown = ", ".join(fitting[:12]) + (f", ... ({len(fitting)} in all)" if len(fitting) > 12 else "")
        raise LLMHWError(f"{self.argument}={query!r} is ambiguous; use one of {shown}")

    def fitting(self, query: str, argument: str = "") -> list[str]:
        """The names that a query may mean: that which it spells, else its kin, else all that its words describe."""
        if not isinstance(query, str) or len(query) > MOST_LETTERS:
            check_text(argument or self.argument, query)
        cut = [_split(word, self.vocabulary) for word in _words(query)]
        key = frozenset(word for parts in cut for word in parts or ()) - _FILLER
        if None in cut or not key:
            raise self._unknown(query)
        if key in self.exact:
            return [self.exact[key]]
        fitting = [name for name, words in self.described.items() if key <= words]
        plain = {word for word in key if not _SIZE.fullmatch(word)}
        kin = {name for name, words, apart in self.bare if plain - apart == words - apart}
        if fitting:
            return [name for name in fitting if name in kin] or fitting
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
                found += [self.spellings[choice]] if choice in self.spellings else begin[choice]
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
    made: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": lambda cell: cell == "yes"}
    return made[kind.removesuffix(" | None")](text)


def _made(kind: type[F], row: Mapping[str, str], **converted: Any) -> F:
    """A fact from a row: what was converted, and the cells that its other fields are named after."""
    types = _field_types(cast(Hashable, kind))
    named = {name: of for name, of in types.items() if name in row and name not in converted}
    return kind(**converted, **{name: _cell(row[name], of) for name, of in named.items()})


@cache
def _field_types(kind: Any) -> dict[str, str]:
    return {entry.name: str(entry.type) for entry in fields(kind)}


@cache
def _rows(table: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in read_table(table)}


@cache
def _accelerator_names() -> _Names:
    columns = ("form", "memory_vendor", "memory_type", "architecture")
    return _Names("accelerator", "run `llmhw gpus` for the list", _rows("accelerators").values(), columns)


@cache
def _spelled() -> dict[str, str]:
    """Names and aliases as the catalog writes them, in lower case, for which no words must be taken apart."""
    called = ((call, row["name"]) for row in _rows("accelerators").values() for call in (row["name"], *_aliases(row)))
    return {call.casefold(): name for call, name in called}


@cache
def _accelerator(name: str) -> Accelerator:
    return _from_row(_rows("accelerators")[name])


def _from_row(row: Mapping[str, str]) -> Accelerator:
    ecc = row["memory_ecc_mib"]
    return _made(
        Accelerator,
        row,
        memory_bytes=int(row["memory_mib"]) * MIB,
        memory_ecc_bytes=int(ecc) * MIB if ecc else None,
        memory_bandwidth_bytes_per_second=_rate(row["memory_bandwidth_gb_per_second"], GB),
        peaks={fmt: _rate(row[f"{fmt}_tflops"], 1e12) for fmt in FORMATS if row[f"{fmt}_tflops"]},
        fp16_accumulate_peak=_rate(row["fp16_accumulate_tflops"], 1e12),
        link_bytes_per_second=_rate(row["link_gb_per_second"], GB),
    )


# What a device of one's own must state, and what it is where it does not say it.
_NEEDED = ("name", "memory_mib", "memory_bandwidth_gb_per_second")
_UNKNOWN = "an unknown architecture"
_USUAL = {"scale_up_devices": "1", "year": "0", "architecture": _UNKNOWN, "status": "given", "memory_status": "given"}
_WHOLE = ("memory_mib", "memory_ecc_mib", "scale_up_devices", "multiprocessors", "year")


def _own_row(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """The cells of a device of one's own as the catalog has them, each checked."""
    columns = list(next(iter(_rows("accelerators").values())))
    cells = dict.fromkeys(columns, "") | _USUAL
    for column, value in check_mapping(where, row).items():
        if not isinstance(column, str) or column not in columns:
            raise unknown_name(f"column of {where}", column, columns)
        text = "" if value is None else str(value).strip()
        if text and (column in _WHOLE or column == "tdp_watts" or column.endswith(("_tflops", "_per_second"))):
            found = finite(text)
            whole = column not in _WHOLE or (found is not None and found.is_integer())
            if found is None or not whole or not 0 < found <= 1e9:
                kind = "a whole number" if column in _WHOLE else "a number"
                raise LLMHWError(f"{column}={shown(text)} of {where} must be {kind} above 0 and at most 1e9")
            text = f"{int(found)}" if column in _WHOLE else text
        cells[column] = text or cells[column]
    missing = [column for column in _NEEDED if not cells[column]]
    if not any(cells[f"{fmt}_tflops"] for fmt in FORMATS):
        missing.append("bf16_tflops or another rate")
    if missing:
        raise LLMHWError(f"{where} has no {', '.join(missing)}; see the columns of llmhw/catalog/accelerators.csv")
    if cells["peer_access"]:
        check_choice(f"peer_access of {where}", cells["peer_access"], ("yes", "no"))
    for column in ("link", "host_link"):
        if cells[column]:
            cells[column] = link(cells[column]).name
    return cells


def _from_file(path: str) -> Accelerator:
    """The device of a CSV file with the catalog's columns and one row."""
    from csv import DictReader, Error

    from llmhw.files import read_text

    way_out = "give a CSV file with a row of llmhw/catalog/accelerators.csv's columns"
    lines = read_text(path, argument="accelerator", limit=10**6, way_out=way_out).splitlines(keepends=True)
    try:
        rows = [{k: v for k, v in row.items() if v} for row in DictReader(lines, restval="")]
    except Error as error:
        raise LLMHWError(f"accelerator={shown(path)} cannot be read as CSV: {error}; {way_out}") from None
    rows = [row for row in rows if row]
    if len(rows) != 1:
        raise LLMHWError(f"accelerator={shown(path)} has {len(rows)} rows; {way_out}, one device a file")
    return Accelerator.from_row(rows[0], path)


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
    return in_order(_made(Price, row) for row in read_table("prices"))


def in_order(found: Iterable[Price]) -> tuple[Price, ...]:
    """Prices, newest first, then cheapest."""
    cheapest = sorted(found, key=lambda price: price.dollars_per_device_hour)
    return tuple(sorted(cheapest, key=lambda price: price.date, reverse=True))


@cache
def _purchase_prices() -> tuple[PurchasePrice, ...]:
    return tuple(_made(PurchasePrice, row) for row in read_table("purchase_prices"))


@cache
def _quoted() -> dict[str, tuple[tuple[Price, ...], tuple[PurchasePrice, ...]]]:
    """Prices quoted in another currency than dollars, by its code: of rent, and to buy; at its dated rate."""
    found: dict[str, tuple[list[Price], list[PurchasePrice]]] = {}
    for row in read_table("quoted_prices"):
        money = currency(row["currency"])
        dollars = float(row["amount"]) / money.per_dollar
        quote = f"quoted as {money.code} {float(row['amount']):,.12g}, at {money}"
        row = row | {"note": "; ".join(filter(None, (quote, row["note"])))}
        rent, buy = found.setdefault(money.code, ([], []))
        if row["kind"] in PRICE_KINDS:
            each = dollars / int(row["devices"])
            rent.append(_made(Price, row, dollars_per_hour=dollars, dollars_per_device_hour=each))
        else:
            buy.append(_made(PurchasePrice, row, dollars=dollars))
    return {code: (in_order(rent), tuple(buy)) for code, (rent, buy) in found.items()}


def quoted_in(note: str) -> tuple[str, str] | None:
    """The currency that a price was quoted in, by its note, and the rate it was converted at; None: in dollars.

    >>> quoted_in(prices("RTX 4090", region="cn")[0].note)
    ('CNY', '1 USD = 6.65288 CNY (2026-10-30, ECB euro foreign exchange reference rates)')
    >>> quoted_in(prices("RTX 4090")[0].note)
    """
    found = re.match(r"quoted as ([A-Z]{3}) [^;]*?, at ([^;]*)", note)
    return (found[1], found[2]) if found else None


def _codes(quoted: bool) -> list[str]:
    """Currencies whose quotes count: all where they are asked for, else the one that amounts are printed in."""
    printed = PRINTED_CURRENCY.get()[0].strip()
    return [code for code in _quoted() if quoted or code == printed]


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


def accelerator(name: str, memory: str | None = None) -> Accelerator:
    """The accelerator of that name.

    name     any words that describe one device, in any order and case, with or without separators:
             "h100", "H100 SXM5 80GB", "NVIDIA H100 80GB HBM3", "rtx4090", "v100-sxm2-32gb"; or a file: "my_card.csv"
             with one row of the catalog's columns, or "here.json" as `llmhw measure device --fit` writes it
    memory   which of the sizes that a name is sold with: "96 GB"; or another one, which the device then has

    "h100", "h200" and "b200" mean the SXM parts. A name that fits several devices ("a100") raises
    `LLMHWError` with the choices, or their sizes; a misspelt one suggests the nearest.

    >>> accelerator("rtx4090").name, accelerator("h20", memory="96 GB").name
    ('RTX 4090', 'H20 96GB')
    >>> accelerator("v100 pcie")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: accelerator='v100 pcie' has 16 GB or 32 GB of memory; add memory='32GB', or use one of \
V100 PCIe 16GB, V100 PCIe 32GB
    """
    if isinstance(name, str) and len(name) <= MOST_LETTERS and name.lower().endswith(".csv"):
        return given(_from_file(name), memory=memory)
    if isinstance(name, str) and len(name) <= MOST_LETTERS and name.lower().endswith(".json"):
        from llmhw.machine import read_machine

        return given(read_machine(name), memory=memory)
    found = fitting(name)
    if memory is not None:
        return _of_size(name, found, memory)
    if len(found) > 1:
        raise _which(name, found)
    return found[0]


def fitting(name: str) -> list[Accelerator]:
    """All accelerators that a name may mean: one, or the sizes and kinds of it.

    >>> [a.name for a in fitting("h20")]
    ['H20 96GB', 'H20 141GB']
    """
    spelled = _spelled().get(name.casefold()) if isinstance(name, str) else None
    return [_accelerator(one) for one in ([spelled] if spelled else _accelerator_names().fitting(name))]


def _which(name: str, found: list[Accelerator]) -> LLMHWError:
    """Ask which of several devices a name means: which size, where they differ in nothing else."""
    sizes = list(dict.fromkeys(a.memory_vendor for a in found))
    listed = ", ".join(a.name for a in found[:12]) + (f", ... ({len(found)} in all)" if len(found) > 12 else "")
    kin = {re.sub(r" ?\b\d+GB\b", "", a.name) for a in found}
    if len(kin) > 1 or len(sizes) < len(found):
        return LLMHWError(f"accelerator={name!r} is ambiguous; use one of {listed}")
    one = sizes[-1].replace(" ", "")
    return LLMHWError(
        f"accelerator={name!r} has {' or '.join(sizes)} of memory; add memory='{one}', or use one of {listed}"
    )


def memory_bytes(memory: str, name: str = "memory") -> int:
    """An amount of memory as a person writes it; GB are decimal, GiB binary. `name`: of the argument, for errors."""
    text = check_text(name, memory)
    if not re.search(r"[bB]\s*$", text):
        raise LLMHWError(f"{name}={shown(text)} must be an amount of memory with its unit, such as 24GB or 22.5GiB")
    return int(parse_number(name, text, least=1e6))


def _of_size(name: str, found: list[Accelerator], memory: str) -> Accelerator:
    """The one that is sold with so much memory, or the only one there is with that memory instead of its own."""
    size = memory_bytes(memory)
    sized = [a for a in found if size in sold_bytes(a)] or [a for a in found if abs(size / a.memory_bytes - 1) < 5e-3]
    if len(sized) == 1:
        return sized[0]
    if not sized and len(found) == 1:
        words = frozenset(_words(name)) - _FILLER
        others = [
            a for a in accelerators() if size in sold_bytes(a) and words <= _accelerator_names().described[a.name]
        ]
        if others:
            listed = ", ".join(a.name for a in others)
            raise LLMHWError(
                f"memory={memory!r} is not that of {found[0].name}, sold with {found[0].memory_vendor}; use {listed}"
            )
        return given(found[0], memory=memory)
    raise _which(name, sized or found)


def sold_bytes(device: Accelerator) -> tuple[int, ...]:
    """The capacity as sold: vendors write GB where they count GiB."""
    count = finite(device.memory_vendor.split(" ")[0])
    return (int(count * 10**9), int(count * 2**30)) if count else ()


def given(
    device: Accelerator | None = None,
    *,
    memory: str | None = None,
    bandwidth: str | None = None,
    tflops: Iterable[str] | Mapping[str, float] = (),
) -> Accelerator:
    """A device with facts of one's own, which its name then says; those of the device given are kept otherwise.

    device      None: all of it is one's own, and memory, bandwidth and a rate are needed
    memory      "24GB", "22.5GiB": what can be allocated
    bandwidth   "1008GB/s" of its memory
    tflops      dense rates: ("bf16=165", "fp8=330"), or {"bf16": 165}

    >>> given(accelerator("rtx 4090"), memory="48 GB").name
    'RTX 4090 [48GB]'
    >>> given(memory="24GB", bandwidth="1TB/s", tflops={"bf16": 165}).ridge("bf16")
    165.0
    """
    rates = _rates(tflops)
    if memory is None and bandwidth is None and not rates:
        if device is None:
            raise LLMHWError("accelerator is missing; give one, or its memory, bandwidth and tflops")
        return device
    said = [text.replace(" ", "") for text in (memory, bandwidth) if text]
    said += [f"{fmt}={rate / 1e12:g}" for fmt, rate in rates.items()]
    changes: dict[str, Any] = {"status": "given", "memory_ecc_bytes": None} if memory or device is None else {}
    if memory is not None:
        size = memory_bytes(memory)
        changes |= {"memory_bytes": size, "memory_vendor": memory, "memory_status": "given", "memory_source": "given"}
    if bandwidth is not None:
        changes["memory_bandwidth_bytes_per_second"] = _bandwidth(bandwidth)
    if device is not None:
        name = f"{device.name} [{', '.join(said)}]"
        return replace(device, name=name, peaks={**device.peaks, **rates}, **changes)
    examples = {"memory": (memory, "24GB"), "bandwidth": (bandwidth, "1008GB/s"), "tflops": (rates, "bf16=165")}
    lacking = [f"{what}={example!r}" for what, (there, example) in examples.items() if not there]
    if lacking:
        raise LLMHWError(f"a device without a name needs memory, bandwidth and a rate; add {', '.join(lacking)}")
    facts: dict[str, Any] = {"vendor": "", "architecture": _UNKNOWN, "year": 0, "form": "", "memory_type": ""}
    return Accelerator(name=f"own [{', '.join(said)}]", peaks=rates, **facts, **changes)


def _bandwidth(text: str) -> float:
    """Bytes a second, as in 1008GB/s or 1.8TB/s."""
    found = re.fullmatch(r"\s*(.+?[bB])\s*/\s*s\s*", check_text("bandwidth", text))
    if not found:
        raise LLMHWError(f"bandwidth={shown(text)} must be an amount a second, such as 1008GB/s or 1.8TB/s")
    return float(parse_number("bandwidth", found[1], least=1e6))


def _rates(tflops: Iterable[str] | Mapping[str, float]) -> dict[str, float]:
    """Dense rates in FLOP/s by number format."""
    pairs = tflops.items() if isinstance(tflops, Mapping) else [_pair(one) for one in tflops]
    rates = {}
    for fmt, value in pairs:
        word = re.sub(r"[^a-z0-9_]", "", str(fmt)[:MOST_LETTERS].lower())
        key = check_choice("format of tflops", _FORMAT_WORDS.get(word, word), FORMATS)
        rates[key] = check_number(f"tflops[{key!r}]", value, above=True, most=1e9) * 1e12
    return rates


def _pair(text: str) -> tuple[str, float]:
    fmt, _, number = check_text("tflops", text).partition("=")
    rate = finite(number.strip())
    if rate is None or not 0 < rate <= 1e9:
        raise LLMHWError(f"tflops={shown(text)} must be a format and a rate in TFLOP/s, such as bf16=165")
    return fmt.strip(), rate


def _place(form: str) -> str:
    """Where a device of this form is built in: cards of all forms are alike."""
    return form if form in ("laptop", "SoC", "APU", "socket") else "card"


def larger(device: Accelerator) -> Iterator[Accelerator]:
    """Devices of its vendor that one could take in its place for more memory, the smallest first.

    A card is not replaced by a laptop, a CPU or a chip that shares its memory with one.

    >>> {a.form for a in larger(accelerator("rtx 4090"))} & {"laptop", "SoC"}
    set()
    """
    for mib, name in _by_memory(device.vendor, _place(device.form)):
        if mib * MIB > device.memory_bytes:
            yield _accelerator(name)


def cards(vendor: str = "NVIDIA") -> Iterator[Accelerator]:
    """A vendor's cards and modules of servers that can be had, the smallest memory first.

    >>> sizes = [card.memory_bytes for card in cards()]
    >>> sizes == sorted(sizes), "laptop" in {card.form for card in cards()}
    (True, False)
    """
    return (_accelerator(name) for _, name in _by_memory(vendor, "card"))


@cache
def _by_memory(vendor: str, place: str) -> list[tuple[int, str]]:
    """Memory in MiB and names of a vendor's devices that are built in alike and can be had, the smallest first."""
    rows = [row for row in _rows("accelerators").values() if row["vendor"] == vendor and _place(row["form"]) == place]
    had = (row for row in rows if not row["note"].startswith("Announced"))
    return sorted((int(row["memory_mib"]), row["name"]) for row in had)


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


# The catalog has no reserved prices; a file of one's own may.
PRICE_KINDS = ("on_demand", "spot", "reserved")


@checked
def prices(
    accelerator: Accelerator | str | None = None,
    *,
    provider: str | None = None,
    region: str | None = None,
    kind: str | None = None,
    listed: PriceList | None = None,
    quoted: bool = False,
) -> list[Price]:
    """What an hour of a device cost, everywhere the catalog knows: newest first, then cheapest.

    accelerator        a device or its name; default: all of them
    provider, region   only these; case and separators do not matter
    kind               on_demand, spot or reserved; default: all
    listed             prices of one's own, from `llmhw.price_files.read_prices`, instead of the catalog's
    quoted             with those that were quoted in another currency, such as yuan: they count anyway where a provider
                       or region is given, and where amounts are printed in that currency

    Rows are list prices for rent, each with its date and region. A provider, region or kind that no row has raises
    `LLMHWError` with those that there are.

    >>> {price.kind for price in prices("mi300x")} == {"on_demand", "spot"}
    True
    >>> {price.provider for price in prices(provider="aws", kind="spot")}
    {'AWS'}
    >>> prices("RTX 4090", region="cn")[0].note.split(",")[0]
    'quoted as CNY 1.24'
    """
    wanted = None if accelerator is None else accelerator_of(accelerator).name
    every = _prices() if listed is None else listed.rent
    codes = _codes(quoted or provider is not None or region is not None) if listed is None else []
    if codes:
        every = in_order((*every, *(price for code in codes for price in _quoted()[code][0])))
    found = [price for price in every if wanted in (None, price.accelerator)]
    if kind is not None:
        check_choice("kind", kind, PRICE_KINDS)
    for argument, value in (("kind", kind), ("provider", provider), ("region", region)):
        found = _only(found, argument, value)
    return found


def purchase_prices(
    accelerator: Accelerator | str | None = None,
    *,
    region: str | None = None,
    kind: str | None = None,
    listed: PriceList | None = None,
    quoted: bool = False,
) -> list[PurchasePrice]:
    """What devices cost to buy, in the order of the catalog; the arguments are those of `prices`.

    kind     launch price, list price, street price, ...: what the catalog has
    listed   as in `prices`; the catalog's where it has none to buy

    >>> len(purchase_prices()) > len(purchase_prices("h100")) > 0
    True
    """
    wanted = None if accelerator is None else accelerator_of(accelerator).name
    own = listed is not None and listed.purchase
    every = listed.purchase if listed is not None and own else _purchase_prices()
    for code in [] if own else _codes(quoted or region is not None):
        every += _quoted()[code][1]
    found = [price for price in every if wanted in (None, price.accelerator)]
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
    days = (_day(_prices()[0].date) - _day(price.date)).days
    if days <= 365:
        return ""
    years = round(days / 365)
    text = "price of {date}: 1 year older than the newest of the catalog"
    if years > 1:
        text = "price of {date}: {years} years older than the newest of the catalog"
    return said(text, date=price.date, years=years)


def _day(text: str) -> date:
    """The first day that a date may mean: it may lack its day or its month."""
    return date.fromisoformat(f"{text}-01-01"[:10])


def stale_on(day: date, newest: str) -> str:
    """What to say on a day when the newest of some prices, of that date, is more than a year old; "" otherwise.

    >>> stale_on(date(2027, 12, 1), "2026-10-10")
    'the newest of these prices is of 2026-10-10, 14 months ago'
    >>> stale_on(date(2026, 12, 1), "2026-10-10")
    ''
    """
    days = (day - _day(newest)).days
    return f"the newest of these prices is of {newest}, {round(days / 30.44)} months ago" if days > 365 else ""
