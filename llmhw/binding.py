"""When sending binds: below how many tokens, above how many ranks, a layout waits for its messages.

Computing grows with the tokens on a rank, most messages do not. Both take as long at a number of tokens that hardly
depends on the model, for its parameters are in both: what is left is the rate of a device over that of its network.

Counted: the products of weight matrices, forward and backward, and the bytes that a rank sends in long rings, where
(n - 1) / n is 1. Left out: attention, elementwise work and the share of peak that products reach, which all make
computing longer, and so the numbers a little too careful; latencies, which make them too low for small messages and
long rings. `llmhw.train` counts all of that for one job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.checks import checked
from llmhw.formula import formula
from llmhw.hardware import Accelerator, Link, accelerator_of, link_of, usual_network
from llmhw.messages import group_bandwidth, hiding_tokens
from llmhw.model import ModelSpec, model_of
from llmhw.units import LLMHWError

IN_A_NODE, RAILS, ALONE = "in a node", "over nodes, 8 ranks in each", "over nodes, one rank in each"

# What a rank sends for each parameter in 16 bit, and the FLOPs for each parameter and token that can hide it. DDP's
# all-reduce passes every gradient twice, beside the backward pass alone; FSDP gathers beside the forward pass, and
# gathers and scatters beside the backward one.
DDP, FSDP_FORWARD, FSDP_BACKWARD = (4, 4), (2, 2), (4, 4)


@formula(source="a message takes as long as the arithmetic beside it (scaling-book, Austin et al. 2025)", unit="count")
def network_balance(*, flops_per_second: Any, bytes_per_second: Any) -> Any:
    """FLOPs that a device does while it sends one byte.

    bytes_per_second   that one rank sends in a collective: see `llmhw.messages.group_bandwidth`

    >>> round(network_balance(flops_per_second=989.4e12, bytes_per_second=450e9))
    2199
    """
    return flops_per_second / bytes_per_second


@formula(source="2 N / t FLOPs against two all-reduces of h numbers a token: 2 N / (t C) = 8 h / W", unit="count")
def binding_tp(*, parameters: Any, hidden: Any, balance: Any) -> Any:
    """Tensor-parallel ranks at which a layer's messages in 16 bit take as long as its products, in the forward pass.

    parameters   of one layer, as a token uses them
    balance      FLOPs in the time of a byte, in a group of so many ranks

    In Llama's shapes parameters / (4 x hidden) is about the width f of the MLP: the ranks are f over the balance.

    >>> round(binding_tp(parameters=855_654_400, hidden=8192, balance=2199), 1)
    11.9
    """
    return parameters / (4 * hidden) / balance


@formula(source="6 N / p FLOPs against h numbers sent each way: 6 N / (p C) = 4 h / W", unit="count")
def binding_pp(*, parameters: Any, hidden: Any, balance: Any) -> Any:
    """Pipeline stages at which the sends of a micro-batch in 16 bit take as long as its products.

    parameters   of the model, as a token uses them

    >>> round(binding_pp(parameters=70e9, hidden=8192, balance=19788))
    648
    """
    return 6 * parameters / (4 * hidden) / balance


@dataclass(frozen=True, slots=True)
class Binding:
    """Where the layouts of a model begin to wait, with its ranks at one place of a network.

    place             in words
    bytes_per_second  that a rank sends in a collective there
    balance           FLOPs in the time of a byte
    ddp_tokens, fsdp_tokens   on a rank, of one micro-batch, below which messages are longer than what hides them
    tp                ranks above which they are longer than the products of the forward pass
    pp                stages above which they are longer than the products
    """

    place: str
    bytes_per_second: float
    balance: float
    ddp_tokens: float
    fsdp_tokens: float
    tp: float
    pp: float


@checked
def binding(spec: ModelSpec | str, device: Accelerator | str, link: Link | str | None = None) -> tuple[Binding, ...]:
    """Where the layouts of a model begin to wait for messages: in a node, and over nodes on all adapters and on one.

    link   between nodes, as each device sees it; default: the fastest of a rentable machine with this device

    Rates are those of datasheets. Over nodes is left out where no such link is known, and for devices whose node has
    more than 8 (a pod of TPUs). Raises `LLMHWError` for a device without a network inside.

    >>> for place in binding("llama-3-70b", "h100", "infiniband ndr"):
    ...     print(f"{place.place}: {place.fsdp_tokens:,.0f} tokens, tp {place.tp:.1f}")
    in a node: 2,199 tokens, tp 11.9
    over nodes, 8 ranks in each: 2,474 tokens, tp 10.6
    over nodes, one rank in each: 19,788 tokens, tp 1.3
    """
    spec, device = model_of(spec), accelerator_of(device)
    if device.scale_up_link is None:
        raise LLMHWError(f"device={device.name} has no network of its own that ranks could use; choose another device")
    inside, between = device.scale_up_link.bytes_per_second, link_of("link", link) or usual_network(device)
    rates = {IN_A_NODE: inside}
    if between is not None and device.scale_up_devices <= _NODE:
        for place, ranks in ((RAILS, _NODE), (ALONE, 1)):
            rates[place] = group_bandwidth(
                local_ranks=ranks, inside_bytes_per_second=inside, between_bytes_per_second=between.bytes_per_second
            )
    return tuple(_at(spec, device, place, rate) for place, rate in rates.items())


_NODE = 8  # devices of a usual node


def _at(spec: ModelSpec, device: Accelerator, place: str, rate: float) -> Binding:
    peak = device.peak(device.half_format)
    balance = network_balance(flops_per_second=peak, bytes_per_second=rate)
    used = spec.parameters.active / spec.parameters.total
    layer = max(spec.layer_kinds, key=lambda kind: kind[1])[0]
    sizes = {"hidden": spec.hidden, "balance": balance}

    def tokens(*passes: tuple[int, int]) -> float:
        rates = {"flops_per_second": peak, "bandwidth_bytes_per_second": rate}
        found = [hiding_tokens(bytes_per_param=sent, flops_per_param=used * flops, **rates) for sent, flops in passes]
        return float(max(found))

    return Binding(
        place=place,
        bytes_per_second=rate,
        balance=balance,
        ddp_tokens=tokens(DDP),
        fsdp_tokens=tokens(FSDP_FORWARD, FSDP_BACKWARD),
        tp=binding_tp(parameters=sum(t.active for t in layer.tensors), **sizes),
        pp=binding_pp(parameters=spec.parameters.active, **sizes),
    )
