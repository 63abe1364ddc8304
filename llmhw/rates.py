"""What a device and a software reach: rates, and the constants that no datasheet gives.

The roofline says which limit binds, arithmetic or memory bandwidth; tiles, power and gaps between kernels say how near
to it real kernels come. Training and serving share formulas, tiles and the meaning of their constants; the values, with
data, date and what they leave over, are in `catalog/calibration.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import exp, log
from typing import Any, ClassVar, TypeVar

from llmhw.block import Core, Matmul
from llmhw.catalog import read_calibration
from llmhw.checks import checked
from llmhw.formula import formula
from llmhw.hardware import Accelerator, Link
from llmhw.model import ModelSpec
from llmhw.trainers import Trainer
from llmhw.units import ceil_div, check_choice, maximum, minimum, smallest, where


@formula(source="the energy of an operation does not depend on the clock, to a first approximation", unit="fraction")
def power_share(*, watts: Any, flops_per_joule: Any, flops_per_second: Any) -> Any:
    """Share of a rate that the board's power can feed; at most 1.

    >>> power_share(watts=350, flops_per_joule=1e12, flops_per_second=500e12)
    0.7
    """
    return minimum(1.0, watts * flops_per_joule / flops_per_second)


# -- constants --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What neither training nor serving can derive.

    matmul, matmul8, matmul4   share of the dense peak that large products reach in 16, 8 and 4 bit
    attention                  share of the 16-bit peak that fused attention reaches in the forward pass
    per_joule                  FLOP in 16 bit that a joule of board power pays for, where power is the limit
    state                      share of the 16-bit peak that linear attention's kernels reach
    bandwidth                  share of the memory bandwidth that streaming kernels reach, and reading weights
    fill                       inner length that a tile loses while its pipeline fills
    passes                     elementwise traffic over that of fused kernels
    gap                        seconds from the end of one kernel to the full speed of the next
    inside                     share of the links' bandwidth that collectives reach in a node
    """

    matmul: float
    matmul8: float
    matmul4: float
    attention: float
    per_joule: float = 1e15
    state: float = 0.1
    bandwidth: float = 0.85
    fill: float = 128.0
    passes: float = 1.0
    gap: float = 3e-6
    inside: float = 0.8

    calibration: ClassVar[str] = ""  # where `calibration.json` has them


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConstants(Constants):
    """Those of a training step.

    host                       seconds that the host takes to launch a kernel
    blocking                   seconds a kernel, where the host waits for each before it launches the next
    gather_exposed             share of the weight gathering of ZeRO-3 that nothing hides
    accumulate                 bytes that a kernel of its own moves to add up a weight's gradient after each micro-batch
    sync                       seconds that a layer of experts waits for the host in each pass
    ramp, unaligned            see `Rates`
    recurrence                 rate of linear attention's kernels over that of the ordinary cores in fp32
    grouped                    share of the rate of a plain product that the grouped products of experts reach
    launches                   kernels that an elementwise operation takes, for the host that launches them
    routed                     traffic of rows of experts (sorted, put back, activated) over that of fused kernels
    cast                       traffic of scaling and rounding operands over what it takes at least, see `CAST_BYTES`
    between                    share of the adapters' bandwidth that collectives reach between nodes
    through_host               share of that where what devices send each other passes through the host's memory
    inside_latency, between_latency   seconds of a hop
    contention                 time that hidden communication takes from what hides it, as a share of the shorter one
    tp_exposed, ep_exposed, pp_exposed, dp_exposed   share of that communication that nothing hides
    jitter                     standard deviation of a node's step time, over the step time
    step                       seconds of a step outside forward and backward passes and the optimizer
    """

    host: float = 0.0
    blocking: float = 0.0
    gather_exposed: float = 0.0
    accumulate: float = 0.0
    sync: float = 0.0
    ramp: float = 350.0
    unaligned: float = 0.08
    routed: float = 1.0
    cast: float = 1.0
    recurrence: float = 1.2
    grouped: float = 1.0
    launches: float = 1.0
    between: float = 0.85
    through_host: float = 0.6
    inside_latency: float = 3e-6
    between_latency: float = 10e-6
    contention: float = 0.1
    tp_exposed: float = 1.0
    ep_exposed: float = 1.0
    pp_exposed: float = 1.0
    dp_exposed: float = 1.0
    jitter: float = 0.005
    step: float = 0.0

    calibration: ClassVar[str] = "training_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConstants(Constants):
    """Those of an engine's pass.

    weight_only       share of the 16-bit rate that kernels reach which expand 4- or 8-bit weights first
    attention8        how much faster attention over a prompt is where the cache is in 8 bit
    scores            bytes that attention over a prompt moves for each pair of a head that the masks leave; fused: 0
    per_unit          bytes that one multiprocessor's loads in flight can fetch in a cycle (Little's law)
    tiled             1 where few rows are multiplied by the tiles of cuBLAS, 0 where kernels of their own read a vector
    packed            traffic of a matrix that several rows are multiplied by, over reading it once: libraries for CPUs
                      lay it out anew
    widen             bytes of an 8-bit cache that a multiprocessor without such numbers widens in a cycle
    cache             share of the memory bandwidth at which attention reads the cache
    reread            1 where every query head fetches its keys and values itself, from the L2 cache; 0: shared
    level2            bytes per second that one multiprocessor fetches from the L2 cache
    grouped           share of the rate of a plain product that the grouped products of experts reach
    uneven            tokens of the busiest rank of experts beyond the mean, as a share
    launch            seconds that the host takes to launch a kernel; a pass takes at least all of them
    eager             the same in a pass that reads prompts, where graphs of launches are for decoding only
    expand            kernels more for each product whose weights are expanded by kernels of their own
    host              seconds of a step that the engine's loop takes: scheduling, sampling
    each              seconds of that for each sequence
    arrive            seconds more for each prompt
    overlap           1 where the loop runs beside the device: the slower of both counts
    meet, inside      of the links inside a node: seconds of an all-reduce of nothing; share of the bandwidth
    between_meet, between   the same between nodes
    sends             seconds of handing a step's tokens to the next stage
    skew              time that the slowest of several ranks takes more than all on average, as a share
    running           sequences that run on average, over those that the cache has room for
    """

    weight_only: float
    attention8: float = 1.0
    scores: float = 0.0
    per_unit: float = 1e6
    tiled: float = 0.0
    packed: float = 1.0
    widen: float = 0.5
    cache: float = 0.7
    reread: float = 0.0
    level2: float = 4e10
    grouped: float = 0.8
    uneven: float = 0.1
    launch: float = 0.0
    eager: float = 0.0
    expand: float = 0.0
    host: float = 5e-4
    each: float = 0.0
    arrive: float = 0.0
    overlap: float = 0.0
    meet: float = 2e-5
    inside: float = 0.7
    between_meet: float = 3e-5
    between: float = 0.8
    sends: float = 1e-4
    skew: float = 0.0
    running: float = 0.9

    calibration: ClassVar[str] = "serving_time"


C = TypeVar("C", bound=Constants)
_PERFECT: dict[str, Any] = {
    **dict.fromkeys(("matmul", "matmul8", "matmul4", "attention", "state", "bandwidth", "inside"), 1.0),
    **dict.fromkeys(("fill", "gap"), 0.0),
}
# Every datasheet's peak, nothing lost and all that can be hidden hidden: no measurement is faster.
IDEAL = TrainingConstants(
    **_PERFECT,
    **dict.fromkeys(("unaligned", "between", "through_host"), 1.0),
    **dict.fromkeys(("ramp", "cast", "inside_latency", "between_latency", "contention", "jitter"), 0.0),
    **dict.fromkeys(("tp_exposed", "ep_exposed", "pp_exposed", "dp_exposed"), 0.0),
    recurrence=1e9,  # as fast as tensor cores
)
BOUND = ServingConstants(
    **_PERFECT,
    **dict.fromkeys(("weight_only", "cache", "running", "grouped", "between"), 1.0),
    **dict.fromkeys(("passes", "launch", "eager", "host", "meet", "between_meet", "sends", "uneven"), 0.0),
    attention8=2.0,
)


def family_of(kind: type[Constants], device: Accelerator, calibration: Mapping[str, Any] | None = None) -> str:
    """The family of devices whose constants hold for this one; `other` where none was fitted."""
    return device.family((calibration or read_calibration(kind.calibration))["families"])


@lru_cache(maxsize=256)
def spec_kind(spec: ModelSpec) -> str:
    """Models whose speed has the same limits: dense, experts, or with states in place of a cache.

    >>> from llmhw.model import model
    >>> spec_kind(model("llama-3-8b")), spec_kind(model("mixtral-8x7b"))
    ('dense', 'experts')
    """
    if any(layer.linear_attention is not None for layer in spec.layers):
        return "states"
    return "experts" if spec.parameters.active < spec.parameters.total else "dense"


def interval_of(calibration: Mapping[str, Any], meter: str, new: Iterable[str] = ()) -> tuple[float, float] | None:
    """Least and most of measured over predicted time of 80 % of measurements, wider by what was never fitted.

    Widths, as logarithms, add up as independent errors do.

    >>> known = {"interval": {"decode": [0.8, 1.25]}, "distance": {"decode": {"family": 0.3}}}
    >>> [round(end, 2) for end in interval_of(known, "decode", ["family"])]
    [0.69, 1.45]
    """
    found = calibration["interval"].get(meter)
    if not found:
        return None
    distance = calibration.get("distance", {}).get(meter, {})
    more = sum(distance.get(name, 0.0) ** 2 for name in new)
    low, high = (exp((log(end) ** 2 + more) ** 0.5) for end in found)
    return 1 / low, high


@checked(link=None)
def serving_constants(
    device: Accelerator,
    engine: str,
    calibration: Mapping[str, Any] | None = None,
    link: Link | None = None,
) -> ServingConstants:
    """The constants of an engine on a device: what is common to all, the link's, the family's, the engine's, then those
    that were measured on this very device.

    engine        a name under `engines` in `calibration.json`
    calibration   other constants, as `llmhw validate --fit` writes them
    link          between the devices of a node, where its kind has constants of its own
    """
    known = calibration or read_calibration(ServingConstants.calibration)
    check_choice("engine", engine, known["engines"])
    running = known["engines"][on_device(engine, device, known["engines"])]
    family = known["families"][family_of(ServingConstants, device, known)]
    own = (device.reached.get(name, {}) for name in ("serving_time", f"serving_time {engine}"))
    return _merged(ServingConstants, (known["common"], known["links"].get(link_kind(link), {}), family, running, *own))


@checked(link=None)
def training_constants(
    device: Accelerator,
    software: Trainer,
    calibration: Mapping[str, Any] | None = None,
    link: Link | None = None,
) -> TrainingConstants:
    """The constants of a trainer on a device: what is common to all, the link's, the family's, those of switches, then
    those that were measured on this very device.

    software      with what a job switches otherwise: `llmhw.job.TrainingJob.trainer`
    calibration   other constants, as `llmhw validate --fit` writes them
    link          between nodes, where its kind has constants of its own
    """
    known = calibration or read_calibration(TrainingConstants.calibration)
    family = known["families"][family_of(TrainingConstants, device, known)]
    switched = (known["switches"].get(name, {}).get(word, {}) for name, word in software.switches)
    between = known.get("links", {}).get(link_kind(link), {})
    own = (device.reached.get(name, {}) for name in ("training_time", f"training_time {software.elementwise}"))
    return _merged(TrainingConstants, (known["common"], between, family, *switched, *own))


def _merged(kind: type[C], groups: Iterable[Mapping[str, Any]]) -> C:
    """Constants of these groups, the later over the earlier; `_share`: a factor on what is known by then."""
    names, chosen, seen = {f.name for f in fields(kind)}, dict[str, Any](), dict[str, Any]()
    for group in groups:
        seen |= group
        chosen |= {name: value for name, value in group.items() if name in names}
        if "attention_kernel" in group:
            # the kernel for attention that runs, where the family has a rate of its own for it
            chosen["attention"] = seen.get(group["attention_kernel"], chosen["attention"])
        for name, value in group.items():
            if name.endswith("_share"):
                whole = name.removesuffix("_share")
                chosen[whole] = chosen.get(whole, kind.__dataclass_fields__[whole].default) * value
    return kind(**chosen)


def on_device(software: str, device: Accelerator, known: Mapping[str, Any]) -> str:
    """The name of the software's back end for a device, where it has constants of its own.

    >>> from llmhw import accelerator
    >>> on_device("llama-cpp", accelerator("mi300x"), read_calibration("serving_time")["engines"])
    'llama-cpp-hip'
    """
    backends = {"AMD": ("hip",), "Apple": ("metal",), "Intel": ("xpu", "vulkan")}.get(device.vendor, ())
    return next((name for one in backends if (name := f"{software}-{one}") in known), software)


def link_kind(link: Link | None) -> str:
    """Links that collectives use alike: nvlink, pcie, fabric (AMD's), efa, infiniband, roce, tcp (TCPX), or other.

    >>> from llmhw.hardware import accelerator, usual_network
    >>> link_kind(accelerator("h100").scale_up_link), link_kind(usual_network("h100")), link_kind(None)
    ('nvlink', 'efa', 'other')
    """
    name = f" {link.name}" if link else ""
    return next((kind for word, kind in _LINK_KINDS.items() if word in name), "other")


# Words in a link's name, and the kind that they mean.
_LINK_KINDS = {
    " NVLink": "nvlink", " PCIe": "pcie", " Infinity Fabric": "fabric", "EFA": "efa", " AWS": "efa",
    "InfiniBand": "infiniband", " Azure": "infiniband", "RoCE": "roce", "TCPX": "tcp", " GCP a3-ultra": "roce",
    " GCP a4": "roce", " GCP": "tcp",
}  # fmt: skip


def cautious(constants: TrainingConstants) -> TrainingConstants:
    """The same constants at the poor end of what was measured, with nothing hidden.

    Rates: the worst of the shapes that `matmul_efficiency.csv` has, and of NCCL's own tuning model, are about that much
    below the best. Latencies and the host: NCCL's and PyTorch's published ones differ by a factor of two.
    """
    c = constants
    shares = ("matmul", "matmul8", "matmul4", "attention", "bandwidth", "inside", "between", "per_joule")
    changed = {name: 0.8 * getattr(c, name) for name in shares}
    changed |= {name: 2 * getattr(c, name) for name in ("gap", "host", "jitter", "inside_latency", "between_latency")}
    exposed = ("tp_exposed", "ep_exposed", "pp_exposed", "dp_exposed", "gather_exposed")
    changed |= {name: max(1.0, getattr(c, name)) for name in exposed}
    return replace(c, **changed)


# -- formulas of time -------------------------------------------------------------------------

# Output tiles that matrix kernels offer (rows, columns), and the share of the best rate that each reaches: a larger
# tile reuses what it loads more often. Shapes are CUTLASS's and those of cuBLAS for few rows; shares are [inferred]
# from the products in `matmul_efficiency.csv`.
TILES = (
    (256, 128, 1.0), (128, 256, 1.0), (128, 128, 0.94), (64, 128, 0.9), (32, 128, 0.85), (16, 128, 0.8),
    (128, 64, 0.78), (64, 64, 0.5),
)  # fmt: skip
_FEWEST_ROWS = 16  # rows of the smallest matrix instruction
# Fused attention's backward pass over its forward pass: the rate that long sequences reach, the length at which half of
# it is reached, and the rate where heads are longer than 128 (their tiles no longer fit). cuDNN 9.19 and 9.22 on H200,
# GB200 and GB300 (NVIDIA/cudnn-frontend, benchmark/sdpa_benchmark_training/results: Llama 3.1, DeepSeek-V3), 2k to 32k
# tokens: 0.77 to 0.85, 1.2 to 1.5, 0.82 to 0.92; FlashAttention-2 (Dao 2023), figures 4 to 6, has 0.8 on an A100.
BACKWARD_ATTENTION = 0.84
BACKWARD_RAMP = 1.25
BACKWARD_LONG = 0.88
# The head size that a rate of attention is given for. Shorter ones compute as many exponentials for fewer products.
HEAD = 128
# FLOP of tensor cores in the time of one exponential, 16 a cycle and multiprocessor, for heads of 128 (512 FLOP
# a pair). FlashAttention-3 (Shah et al. 2024), section 3.1: they limit as tensor cores get faster.
_EXPONENTIALS = 16 * 4 * HEAD
_CYCLES = 1.8e9  # a usual clock, for the FLOPs of a cycle
BITS = {
    "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16,
    "fp8": 8, "fp8-row": 8, "fp8-block": 8, "mxfp8": 8, "nvfp4": 4,
}  # fmt: skip
# Bytes moved to make an operand of 16 bit ready, along rows and along columns: read for its largest value where one
# scale follows from many (a tensor: 2; rows and columns apart: 2 + 2), read and written once more each way or both in
# one kernel. With one scale a tensor norms and activations write it themselves in part: between 2 and 6. NVFP4 is read
# twice for its columns, which a Hadamard transform mixes first (Transformer Engine's recipes; torchao.float8).
CAST_BYTES = {"fp8": 4.0, "fp8-row": 8.0, "fp8-block": 4.1, "mxfp8": 4.1, "nvfp4": 7.1}
# Products with a scale for each row and column of the result, over those with one for all: torchao's float8 README has
# 8B on H100 1.25 times as fast as bf16 with one scale, 1.10 times with row scales; two fifths of the step are products.
SCALED = {"fp8-row": 0.8}
# Rows of an expert, whose number data decide, are padded to a multiple of so many before their gradients are
# multiplied: what Transformer Engine asks for in FP8 and MXFP8, and the 16 bytes that tensor cores load at a time.
ROW_MULTIPLE = {fmt: 8 if bits > 8 else 16 if bits == 8 else 32 for fmt, bits in BITS.items()}
# Bytes of an element that a product reads in each format; scales of blocks are counted in.
OPERAND_BYTES = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8-row": 1.0,
    "fp8-block": 1.0 + 4 / 128,
    "mxfp8": 1.0 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}


@formula(source="tile and wave quantization: NVIDIA, Matrix Multiplication Background User's Guide (2023)", unit="FLOP")
def tiled_flops(
    *, m: Any, n: Any, k: Any, groups: Any = 1, tile_m: Any, tile_n: Any, fill: Any = 0, units: Any = 1
) -> Any:
    """FLOPs that a matrix product costs once it is cut into tiles and the tiles are dealt to the multiprocessors.

    m, n, k   rows, columns and inner length
    groups    products of that size done together
    tile_m, tile_n   output tile of one multiprocessor
    fill      inner length that a tile loses while its pipeline fills and its result is written
    units     multiprocessors; the last wave of tiles may leave some of them idle

    >>> tiled_flops(m=4096, n=4096, k=4096, tile_m=256, tile_n=128, units=108) / (2 * 4096**3)
    1.0546875
    """
    tiles = groups * ceil_div(m, tile_m) * ceil_div(n, tile_n)
    waves = ceil_div(tiles, units)
    return waves * units * 2 * tile_m * tile_n * (k + fill)


@formula(source="every operand once from memory, the result once to it", unit="bytes")
def matmul_bytes(
    *, m: Any, n: Any, k: Any, groups: Any = 1, a_bytes: Any = 2, b_bytes: Any = 2, out_bytes: Any = 2
) -> Any:
    """Least memory traffic of a matrix product, with the bytes of an element of each operand and of the result.

    >>> matmul_bytes(m=1, n=4096, k=4096)
    33570816
    """
    return groups * (m * k * a_bytes + k * n * b_bytes + m * n * out_bytes)


@formula(source="roofline over the best tile; few rows stream past the ordinary cores", unit="seconds")
def matmul_seconds(
    *,
    m: Any,
    n: Any,
    k: Any,
    groups: Any = 1,
    flops_per_second: Any,
    vector_flops_per_second: Any = None,
    bandwidth_bytes_per_second: Any,
    units: Any = None,
    fill: Any = 0,
    unaligned: Any = 1,
    gap_seconds: Any = 0,
    a_bytes: Any = 2,
    b_bytes: Any = 2,
    out_bytes: Any = 2,
    a_row: Any = None,
    b_row: Any = None,
) -> Any:
    """Time of a matrix product on a device: the best tile shape, or the memory traffic if that takes longer.

    flops_per_second          of large products in the format
    vector_flops_per_second   of the ordinary cores, which need no tile; None: they are not used
    units                     multiprocessors that tiles are dealt to; None: not known, no waves
    unaligned                 share of the rate where rows of an operand are no multiple of 8 elements: tensor cores
                              read 16 bytes at a time
    a_, b_, out_bytes         of an element of the rows, of the matrix and of the result
    a_row, b_row              elements of the first and the second operand that lie side by side; default: k, and n

    >>> round(1e6 * matmul_seconds(m=8192, n=8192, k=8192, flops_per_second=8e14, bandwidth_bytes_per_second=3e12))
    1374
    """
    if units is None:
        cost = 2.0 * groups * maximum(m, _FEWEST_ROWS) * n * (k + fill)
    else:
        cost = smallest(
            [
                tiled_flops(m=m, n=n, k=k, groups=groups, tile_m=tm, tile_n=tn, fill=fill, units=units) / share
                for tm, tn, share in TILES
            ]
        )
    odd = ((k if a_row is None else a_row) % 8 != 0) | ((n if b_row is None else b_row) % 8 != 0)
    seconds = cost / flops_per_second / where(odd, unaligned, 1)
    if vector_flops_per_second is not None:
        seconds = minimum(seconds, 2.0 * groups * m * n * k / vector_flops_per_second)
    moved = matmul_bytes(m=m, n=n, k=k, groups=groups, a_bytes=a_bytes, b_bytes=b_bytes, out_bytes=out_bytes)
    return maximum(seconds, moved / bandwidth_bytes_per_second) + gap_seconds


@formula(source="FLOPs over a rate that long sequences reach: half of it at `ramp` pairs a query", unit="seconds")
def attention_seconds(
    *, flops: Any, flops_per_second: Any, pairs: Any = 1, ramp: Any = 0, head: Any = 1, gap_seconds: Any = 0
) -> Any:
    """Time of attention's core in one fused kernel.

    pairs   that each query has on average, twice: the length of a causal sequence
    head    share of the rate that heads of this size reach

    >>> attention_seconds(flops=1e12, flops_per_second=5e14, pairs=350, ramp=350)
    0.004
    """
    return flops / (flops_per_second * head) * (1 + ramp / pairs) + gap_seconds


@formula(source="products of a pair grow with the head, its one exponential does not", unit="fraction")
def head_share(*, head_dim: Any, exponentials: Any) -> Any:
    """Share of attention's rate that heads of this size reach; longer ones than 128 gain nothing.

    exponentials   share of the time of heads of 128 that goes into exponentials

    cuDNN and FlashAttention-3 on an H100 reach 0.72 and 0.77 of the rate of 128 with heads of 64.

    >>> round(head_share(head_dim=64, exponentials=1 / 3), 2), head_share(head_dim=256, exponentials=1 / 3)
    (0.75, 1.0)
    """
    size = minimum(1.0, head_dim / HEAD)
    return size / (size * (1 - exponentials) + exponentials)


@formula(source="memory traffic over the bandwidth", unit="seconds")
def stream_seconds(*, memory_bytes: Any, bandwidth_bytes_per_second: Any) -> Any:
    """Time of kernels that only stream.

    >>> stream_seconds(memory_bytes=3e9, bandwidth_bytes_per_second=3e12)
    0.001
    """
    return memory_bytes / bandwidth_bytes_per_second


@formula(source="FLOPs over a rate", unit="seconds")
def compute_seconds(*, flops: Any, flops_per_second: Any) -> Any:
    """Time of arithmetic that nothing else limits.

    >>> compute_seconds(flops=1e12, flops_per_second=5e14)
    0.002
    """
    return flops / flops_per_second


@formula(source="what takes time beside computing, and takes some from it", unit="seconds")
def exposed_seconds(*, message_seconds: Any, busy_seconds: Any, exposed: Any = 0, contention: Any = 0) -> Any:
    """Time that messages add to what could hide them.

    message_seconds   of the messages alone
    busy_seconds      of the computing meanwhile
    exposed           share of the messages that nothing hides
    contention        time that hidden ones take from computing, as a share of the shorter of the two

    >>> exposed_seconds(message_seconds=3.0, busy_seconds=10.0, exposed=0.5, contention=0.2)
    1.8
    """
    bare = message_seconds * exposed
    hidden = minimum(message_seconds - bare, busy_seconds)
    return maximum(bare, message_seconds - busy_seconds) + contention * maximum(hidden, 0)


@formula(source="a device that is done waits for the next launch", unit="seconds")
def waiting_seconds(*, kernels: Any, host_seconds: Any, sync_seconds: Any = 0, busy_seconds: Any) -> Any:
    """Time in which a device waits for the host to launch kernels.

    >>> waiting_seconds(kernels=100, host_seconds=1e-5, busy_seconds=0.0005)
    0.0005
    """
    return maximum(0.0, kernels * host_seconds + sync_seconds - busy_seconds)


# -- what a device reaches --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What operations reach on one device.

    flops_per_second       large matrix products, by number format
    vector_flops_per_second   the ordinary cores; None: products of few rows use tensor cores too
    forward_, backward_flops_per_second   attention's core, over the pairs that the masks leave
    exponentials                 see `head_share`
    state_flops_per_second       linear attention's state
    bandwidth_bytes_per_second   streaming kernels
    units                        multiprocessors that tiles are dealt to; None: not known, no waves
    fill                         see `tiled_flops`
    ramp                         tokens of a sequence at which attention's core reaches half of its rate
    unaligned                    see `matmul_seconds`
    grouped                      share of a plain product's rate that products of several experts at once reach
    gap_seconds                  from the end of one kernel to the full speed of the next
    """

    flops_per_second: Mapping[str, float]
    vector_flops_per_second: float | None = None
    forward_flops_per_second: float
    backward_flops_per_second: float
    exponentials: float = 0.0
    state_flops_per_second: float
    bandwidth_bytes_per_second: float
    units: int | None
    fill: float
    ramp: float = 0.0
    unaligned: float = 1.0
    grouped: float = 1.0
    gap_seconds: float

    def product(self, fmt: str, op: Matmul, **sizes: Any) -> dict[str, Any]:
        """Inputs of `matmul_seconds` for a product of these sizes; others than the operation's may be given."""
        return {
            "m": op.m,
            "n": op.n,
            "k": op.k,
            "groups": op.groups,
            **sizes,
            "flops_per_second": self.flops_per_second[fmt]
            * (where(op.groups > 1, self.grouped, 1.0) if op.split == "experts" else 1.0),
            "vector_flops_per_second": self.vector_flops_per_second,
            "bandwidth_bytes_per_second": self.bandwidth_bytes_per_second,
            "units": self.units,
            "fill": self.fill,
            "unaligned": self.unaligned,
            "gap_seconds": self.gap_seconds,
        }

    def core(self, core: Core, *, backward: bool = False) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The formula that times fused attention, and what goes into it.

        Backward, scores are computed again, and the gradients of queries, keys, probabilities and values.
        """
        d, v = core.head_dim, core.v_head_dim
        head = head_share(head_dim=d, exponentials=self.exponentials)
        return attention_seconds, {
            "flops": core.flops * ((3 * d + 2 * v) / (d + v) if backward else 1.0),
            "flops_per_second": self.backward_flops_per_second if backward else self.forward_flops_per_second,
            "pairs": 2 * core.pairs / maximum(core.queries * core.parts, 1.0),
            "ramp": self.ramp * (BACKWARD_RAMP if backward else 1.0),
            "head": head * (BACKWARD_LONG if backward and d > HEAD else 1.0),
            "gap_seconds": self.gap_seconds * core.parts,
        }


def powered_peak(device: Accelerator, constants: Constants, peak: float) -> Any:
    """What the board's power can feed of a 16-bit peak: a card whose power does not, runs all tensor cores slower."""
    share = power_share(
        watts=device.tdp_watts or float("inf"),
        flops_per_joule=constants.per_joule,
        flops_per_second=peak * constants.matmul,
    )
    return peak * share


def training_rates(device: Accelerator, c: TrainingConstants, compute: str) -> Rates:
    """What a training step's operations reach. A format that the device does not multiply raises `LLMHWError`."""
    half = device.half_format
    share = {32: c.matmul, 16: c.matmul, 8: c.matmul8, 4: c.matmul4}
    peak = device.peak(half)
    power = powered_peak(device, c, peak) / peak
    # by itself attention, slower than large products, is fed in full; but clocks follow the power of all kernels,
    # slower than kernels change [inferred: between the two]
    fed = (power * minimum(1.0, power * c.matmul / c.attention)) ** 0.5
    exponentials = 0.0
    if device.multiprocessors:
        each = peak / (device.multiprocessors * _CYCLES)
        # Blackwell Ultra has twice the units for exponentials
        exponentials = each / (each + _EXPONENTIALS * (2 if "Ultra" in device.architecture else 1))
    formats = dict.fromkeys((half, compute))
    return Rates(
        flops_per_second={
            f: device.peak(f.partition("-")[0]) * share[BITS[f]] * SCALED.get(f, 1.0) * power for f in formats
        },
        forward_flops_per_second=peak * c.attention * fed,
        backward_flops_per_second=peak * c.attention * fed * BACKWARD_ATTENTION,
        exponentials=exponentials,
        state_flops_per_second=minimum(peak, device.peaks.get("fp32", peak / 15) * c.recurrence),
        bandwidth_bytes_per_second=device.memory_bandwidth_bytes_per_second * c.bandwidth,
        units=device.multiprocessors,
        fill=c.fill,
        ramp=c.ramp,
        unaligned=c.unaligned,
        grouped=c.grouped,
        gap_seconds=c.gap + c.blocking,
    )
