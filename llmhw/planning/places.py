"""Where a job could run: machines for rent, each with its own price and networks, in sensible numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from llmhw.checks import check_items
from llmhw.cost import RunOptions, newest_prices, price_of
from llmhw.hardware import (
    Accelerator,
    Cluster,
    Instance,
    Price,
    PriceList,
    accelerators,
    cluster_of,
    instance,
    instances,
    prices,
    usual_network,
)
from llmhw.units import LLMHWError

ANY = RunOptions()


@dataclass(frozen=True)
class Place:
    """Devices that a job could run on, and what they cost.

    price     of a device-hour; None where none is known
    machine   what is rented, as in "AWS p5.48xlarge"; "" where the devices are one's own
    machines  how many of it
    """

    cluster: Cluster
    price: Price | None = None
    machine: str = ""
    machines: int = 1

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.cluster.devices

    @property
    def kind(self) -> tuple[str, str]:
        """What it is more or fewer of: the device, and what is rented."""
        return self.cluster.accelerator.name, self.machine

    @property
    def dollars_per_hour(self) -> float | None:
        """Of all devices together."""
        return None if self.price is None else self.price.dollars_per_device_hour * self.devices

    def __str__(self) -> str:
        name = f"{self.devices:,} x {self.cluster.accelerator.name}"
        if not self.machine:
            return name
        return f"{name} ({f'{self.machines:,} x ' if self.machines > 1 else ''}{self.machine})"


@dataclass(frozen=True)
class Offer:
    """One way to have a device, in any number that `counts` gives.

    machine   the machine for rent that it is in; None: devices are had one by one
    """

    device: Accelerator
    price: Price | None
    machine: Instance | None = None
    own: Cluster | None = None

    @property
    def step(self) -> int:
        """Devices that are had together."""
        return self.machine.count if self.machine else 1

    @property
    def most(self) -> int:
        """Most devices that are joined: without a network that is known those of one machine or node.

        Machines of a single device are for jobs of one: their networks are not made for training.
        """
        if self.machine and self.step == 1 and self._per_node() == 1:
            return 1
        joined = self._network() is not None
        return 10**6 if joined else self.machine.count if self.machine else self._per_node()

    def _network(self) -> Any:
        return self.own.inter_link if self.own else self.machine.cluster().inter_link if self.machine else None

    def counts(self, least: float, most: float) -> list[int]:
        """Powers of two of what is had together, from `least` to `most`; whole fast networks beyond one."""
        found, number, node = [], self.step, self._per_node()
        while number <= min(most, self.most):
            if number <= node or number % node == 0:
                found.append(number)
                number *= 2
            else:  # 64 of 72: the next is the whole
                number = node
        return [n for n in found if n >= least]

    def _per_node(self) -> int:
        if self.own:
            return self.own.devices_per_node if self.own.intra_link else _node(self.device)
        domain, step = self.device.scale_up_devices, self.step
        # a rack whose machines are joined by the devices' own network is one node, and so is a slice of a TPU's pod
        own = self.machine is not None and self.machine.intra_link == self.device.link
        racked = domain % step == 0 and (own or self.device.architecture.startswith("TPU"))
        return domain if racked and domain > step else step if self.machine else _node(self.device)

    def place(self, devices: int) -> Place:
        """So many of them; a number that cannot be had raises `LLMHWError`."""
        if devices > self.most or devices % self.step:
            name = f"{self.machine.provider} {self.machine.name}" if self.machine else self.device.name
            way = "give inter_link, such as 'InfiniBand NDR 4x'"
            some = f"come in {self.step}s" if devices % self.step else f"are joined up to {self.most}"
            raise LLMHWError(f"gpus={devices} cannot be had of {name}: these {some}; {way}")
        if self.own:
            c = self.own
            made = Cluster(c.accelerator, devices, c.devices_per_node, c.intra_link, c.inter_link)
            return Place(made, self.price, self.price.provider if self.price else "")
        if self.machine is None:
            name = f"{self.price.provider}".strip() if self.price else ""
            return Place(Cluster(self.device, devices), self.price, name)
        one = self.machine.cluster()
        made = Cluster(self.device, devices, self._per_node(), one.intra_link, one.inter_link)
        name = f"{self.machine.provider} {self.machine.name}"
        return Place(made, self.price, name, -(-devices // self.machine.count))


def _node(device: Accelerator) -> int:
    """Devices that are had together where nobody says of which machine: what their link joins."""
    two = Cluster(device, 2)
    return two.devices_per_node if two.intra_link else 1


@cache
def _machines(device: str) -> dict[tuple[str, str], Instance]:
    return {(m.provider, m.name): m for m in instances(device)}


def priced(listed: PriceList | None = None, quoted: bool = False) -> list[Accelerator]:
    """The devices of the catalog that have a price for rent, in its order.

    listed   prices of one's own instead
    quoted   as in `llmhw.hardware.prices`
    """
    rented = {price.accelerator for price in prices(listed=listed, quoted=quoted)}
    return [device for device in accelerators() if device.name in rented]


def offers(device: Accelerator, run: RunOptions = ANY, like: Cluster | None = None) -> tuple[list[Offer], str]:
    """Ways to have a device, without those that another beats in price and networks; and why there is no price.

    like   a cluster of one's own: its networks and nodes, in any number
    """
    if run.price is not None or like is not None:
        paid, unpaid = price_of(device, 1, run.price, run.provider, run.region, run.kind, run.prices)
        machine = _machines(device.name).get((paid.provider, paid.instance)) if paid and like is None else None
        own = None if machine else like or Cluster(device, 1, None, None, usual_network(device))
        return [Offer(device, paid, machine, own)], unpaid
    found, unpaid = newest_prices(device, run.provider, run.region, run.kind, run.prices)
    if not found:
        return [Offer(device, None, own=Cluster(device, 1, None, None, usual_network(device)))], unpaid
    machines = _machines(device.name)
    made = [Offer(device, price, machines.get((price.provider, price.instance))) for price in found]
    # a price of several devices is one of a machine: without its facts it holds for a node
    kept: list[Offer] = []
    for offer in sorted(made, key=lambda o: (_dollars(o), -o.most, -_speed(o))):
        if not any(_covers(other, offer) for other in kept):
            kept.append(offer)
    return kept, ""


def rentable(run: RunOptions = ANY) -> list[Offer]:
    """All that can be rented of a provider, in a region; a device that has no price there is left out."""
    found, errors = [], []
    for device in priced(run.prices, quoted=bool(run.provider or run.region)):
        try:
            found += [offer for offer in offers(device, run)[0] if offer.price is not None]
        except LLMHWError as error:
            errors.append(error)
    where = " and ".join(f"{name}={value!r}" for name in ("provider", "region") if (value := getattr(run, name)))
    if not found and errors and not where:
        raise errors[0]
    if not found:
        raise LLMHWError(
            f"{where or f'kind={run.kind!r}'} has no price of any device; `llmhw prices` lists those known"
        )
    return found


def _dollars(offer: Offer) -> float:
    return offer.price.dollars_per_device_hour if offer.price else float("inf")


def _speed(offer: Offer) -> float:
    network = offer._network()
    return float(network.bytes_per_second) if network else 0.0


def _covers(one: Offer, other: Offer) -> bool:
    """Whether an offer that costs no more is as good in all else: in any number that the other comes in, as fast."""
    return (
        other.step % one.step == 0
        and one.most >= other.most
        and _speed(one) >= _speed(other)
        and (one._per_node() >= other._per_node())
    )


def rented(name: str, run: RunOptions = ANY) -> Offer:
    """The machine of that name, at its price."""
    found = instance(name, run.provider, run.region)
    if run.price is not None:
        paid, _ = price_of(found.accelerator, found.count, run.price, None, None, run.kind, run.prices)
        return Offer(found.accelerator, paid, found)
    own, _ = newest_prices(found.accelerator, run.provider, run.region, run.kind, run.prices)
    paid = next((p for p in own if (p.provider, p.instance) == (found.provider, found.name)), None)
    return Offer(found.accelerator, paid, found)


def given(clusters: Any, run: RunOptions = ANY) -> list[Place]:
    """Places of clusters, of names of devices, or of names with counts, as `llmhw.search` takes them."""
    single = isinstance(clusters, (str, Cluster, Accelerator))
    places = []
    for one in [clusters] if single else check_items("clusters", clusters, empty=False):
        c = cluster_of(one)
        if c.nodes > 1 and c.inter_link is None:
            c = Cluster(c.accelerator, c.devices, c.devices_per_node, c.intra_link, usual_network(c.accelerator))
        paid, _ = price_of(c.accelerator, c.devices, run.price, run.provider, run.region, run.kind, run.prices)
        places.append(Place(c, paid, paid.provider if paid and paid.provider else ""))
    return places


def spot(place: Place, listed: PriceList | None = None) -> Place | None:
    """The same machines at the provider's spot price, if they have one; `listed`: prices of one's own."""
    paid = place.price
    if paid is None or paid.kind != "on_demand":
        return None
    found, _ = newest_prices(place.cluster.accelerator, kind="spot", listed=listed)
    same = (p for p in found if (p.provider, p.instance) == (paid.provider, paid.instance))
    price = min(same, key=lambda p: p.dollars_per_device_hour, default=None)
    return None if price is None else replace(place, price=price)


def grown(place: Place, times: int) -> Place:
    """So many times as many of the same."""
    c = place.cluster
    per_node = c.devices_per_node if c.devices * times > c.devices_per_node else None
    made = Cluster(c.accelerator, c.devices * times, per_node or c.devices_per_node, c.intra_link, c.inter_link)
    return replace(place, cluster=made, machines=place.machines * times)
