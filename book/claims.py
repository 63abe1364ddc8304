"""The article's claims, recomputed: what the claims page shows and what its tests hold.

A claim covers one or more cases: the ends of a range, the formats or the products that its words leave open.
A check computes each case with llmhw. The verdict follows: correct if all cases hold, imprecise if some do,
outdated if none does but one did, wrong otherwise. The claims' own figures stand here; all others come from the
catalog.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import llmhw
from llmhw.catalog import read_table
from llmhw.engines import serving_engine
from llmhw.fit import checkpointed_activations
from llmhw.flops import training_flops_6n
from llmhw.hardware import Price, prices
from llmhw.memory import state_bytes
from llmhw.precision import stored_weight_bytes
from llmhw.rates import stream_seconds
from llmhw.units import GB, GIB, ceil_div, format_quantity

VERDICTS = ("correct", "imprecise", "wrong", "outdated")

# Assumptions of the checks that need time. MFU: good large runs report 35 to 55 %. Tokens: Llama 3's.
MFU = 0.4
TOKENS = 15e12
YEAR = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a claim: in words, whether the claim holds in it, and what was computed."""

    words: str
    holds: bool
    shown: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The cases of a claim as of today, and one of an earlier day if that is known."""

    cases: tuple[Case, ...]
    earlier: Case | None = None

    @property
    def verdict(self) -> str:
        """What follows from the cases."""
        held = [case.holds for case in self.cases]
        if all(held):
            return "correct"
        if any(held):
            return "imprecise"
        return "outdated" if self.earlier is not None and self.earlier.holds else "wrong"


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of `claims.csv`."""

    number: int
    section: str
    original: str
    claim: str
    truth: str
    source: str
    verdict: str
    reason: str
    correction: str


def claims() -> list[Claim]:
    """All claims, in the article's order."""
    return [Claim(**{**row, "number": int(row["number"])}) for row in read_table("claims")]  # type: ignore[arg-type]


def without_numbers(text: str) -> tuple[str, list[str]]:
    """A text of a case with {1}, {2}, ... in place of its numbers, and those: new numbers make no new text of it."""
    found: list[str] = []

    def place(number: re.Match[str]) -> str:
        found.append(number[0])
        return f"{{{len(found)}}}"

    return re.sub(r"\d[\d,.]*\d|\d", place, text), found


CHECKS: dict[int, Callable[[], Finding]] = {}


def check(number: int) -> Callable[[Callable[[], Iterable[Case] | Finding]], Callable[[], Finding]]:
    """Register the computation of one claim; it gives the cases, or a finding."""

    def register(function: Callable[[], Iterable[Case] | Finding]) -> Callable[[], Finding]:
        def run() -> Finding:
            found = function()
            return found if isinstance(found, Finding) else Finding(tuple(found))

        assert number not in CHECKS
        CHECKS[number] = run
        return run

    return register


# -- what several checks ask ------------------------------------------------------------------


def gib(value: float) -> str:
    return f"{value / GIB:,.0f} GiB" if value >= 100 * GIB else f"{value / GIB:.1f} GiB"


def gb(value: float) -> str:
    return f"{value / GB:,.1f} GB"


def near(value: float, stated: float, tolerance: float) -> bool:
    return abs(value / stated - 1) <= tolerance


def room(card: str, count: int = 1) -> float:
    """Memory that may be planned with on so many cards."""
    return serving_engine("vllm").utilization * count * llmhw.accelerator(card).memory_bytes


def holds(words: str, need: float, card: str, count: int = 1) -> Case:
    """Whether the cards hold the need."""
    offer = room(card, count)
    name = llmhw.accelerator(card).name
    return Case(words, need <= offer, f"{gib(need)} needed, {gib(offer)} on {count} × {name}")


def states(params: float, per_param: int = 16, shards: int = 1) -> float:
    """The rule 16 bytes a parameter (ZeRO, section 3.1): bf16 weight and gradient, fp32 master copy and two states."""
    return float(state_bytes(elements=params, bytes_per_element=per_param, shards=shards))


def weight_bytes(params: float, number_format: str) -> float:
    """Weights of a round number of parameters, every one of them in the format."""
    bits = llmhw.number_format(number_format).bits_per_weight
    return float(stored_weight_bytes(elements=params, bits_per_weight=bits))


def served(model: str, number_format: str, batch: int = 1, seq_len: int = 4096) -> float:
    """Weights and cache of a real model."""
    spec = llmhw.model(model)
    cache = llmhw.kv_cache(spec, batch=batch, seq_len=seq_len).total
    return float(llmhw.weights(spec, number_format).total + cache)


def training_seconds(params: float, cards: int, card: str = "h100") -> float:
    """Time of a run of `TOKENS` tokens at `MFU`."""
    rate = MFU * cards * llmhw.accelerator(card).peak("bf16")
    return float(training_flops_6n(params=params, tokens=TOKENS)) / rate


def within_a_year(words: str, params: float, cards: int) -> Case:
    seconds = training_seconds(params, cards)
    shown = f"{seconds / YEAR:.1f} years" if seconds > YEAR else f"{seconds / 86400:.0f} days"
    return Case(words, seconds <= YEAR, f"{shown} for {TOKENS / 1e12:.0f} trillion tokens at {MFU:.0%} MFU")


def rents(card: str, provider: str = "", kind: str = "on_demand") -> list[Price]:
    """Prices of a device-hour, each rate of a provider and day once."""
    found = [p for p in prices(card) if p.kind == kind and p.provider.startswith(provider)]
    return list({(p.provider, p.date, p.dollars_per_device_hour): p for p in found}.values())


def costs(stated: float, offers: list[Price]) -> Case:
    """Whether an hourly rate is within a tenth of any offer."""
    rates = sorted((p.dollars_per_device_hour for p in offers), key=lambda rate: abs(rate - stated))
    nearest = next(p for p in offers if p.dollars_per_device_hour == rates[0])
    shown = (
        f"{len(offers)} offers from ${min(rates):.2f} to ${max(rates):.2f}; "
        f"the nearest is ${rates[0]:.2f} ({nearest.provider}, {nearest.region}, {nearest.date})"
    )
    return Case("an on-demand price of the catalog is within a tenth of it", near(rates[0], stated, 0.1), shown)


def cards_named(start: str) -> list[llmhw.Accelerator]:
    return [card for card in llmhw.accelerators() if f"{card.name} ".startswith(f"{start} ")]


# -- 1 The matching table ---------------------------------------------------------------------


@check(1)
def below_1b_training() -> Iterable[Case]:
    fit = llmhw.fit(llmhw.model("qwen3-0.6b"), "RTX 4090")["full training, AdamW mixed precision"]
    yield holds("states of 1B", states(1e9), "RTX 4090")
    yield holds("Qwen3 0.6B with a sequence of 4,096 tokens", fit.needed_bytes, "RTX 4090")


@check(2)
def below_1b_serving() -> Iterable[Case]:
    need = weight_bytes(1e9, "bf16")
    yield holds("it is enough for 1B in bf16", need, "RTX 3090")
    yield Case("half of it would not be enough", need > room("RTX 3090") / 2, f"{gib(need)} needed")


@check(3)
def below_1b_limit() -> Iterable[Case]:
    spec, card = llmhw.model("qwen3-0.6b"), "RTX 4090"
    longest = llmhw.fit(spec, card)["full training, AdamW mixed precision"].max_seq_len
    for words, need in (("training states", states(1e9)), ("weights in bf16", weight_bytes(1e9, "bf16"))):
        yield Case(f"{words} of 1B fill a 24 GB card", need > room(card), f"{gib(need)} of {gib(room(card))}")
    yield Case(
        "memory limits the sequence on which Qwen3 0.6B is trained",
        longest < (spec.max_seq_len or 0),
        f"{longest:,} of {spec.max_seq_len:,} tokens",
    )


@check(4)
def up_to_7b_training() -> Iterable[Case]:
    card, spec = "A100 40GB SXM4", llmhw.model("mistral-7b")
    yield holds("states of 1B on the fewest cards", states(1e9), card, 4)
    yield holds("states of 7B on the fewest cards, sharded", states(7e9), card, 4)
    yield holds("states of 7B on the most cards, sharded", states(7e9), card, 8)
    each = llmhw.training_states(spec).total / 4 + checkpointed_activations(spec, device=card, seq_len=4096).total
    yield holds("Mistral 7B on 4 cards with a sequence of 4,096 tokens each, per card", each, card)


@check(5)
def up_to_7b_serving() -> Iterable[Case]:
    yield holds("weights of 7B in bf16", weight_bytes(7e9, "bf16"), "A10G")
    yield holds("Mistral 7B in bf16 with 8 conversations of 4,096 tokens", served("mistral-7b", "bf16", 8), "A10G")


@check(6)
def up_to_70b_training() -> Iterable[Case]:
    yield holds("memory: states of 70B on the fewest cards", states(70e9), "h100", 16)
    yield holds("memory: states of 70B on the most cards", states(70e9), "h100", 64)
    yield within_a_year("time: 70B on 64 cards within a year", 70e9, 64)


@check(7)
def up_to_70b_serving() -> Iterable[Case]:
    card = "A100 80GB SXM4"
    yield holds("Llama 3 70B in bf16, one conversation of 4,096 tokens", served("llama-3-70b", "bf16"), card, 2)
    yield holds("Llama 3 70B in bf16, 16 such conversations", served("llama-3-70b", "bf16", 16), card, 2)
    yield holds("the same", served("llama-3-70b", "bf16", 16), card, 4)
    need = weight_bytes(7e9, "bf16")
    yield Case("7B in bf16 needs more than one card", need > room(card), f"{gib(need)} of {gib(room(card))}")


@check(8)
def up_to_70b_limit() -> Iterable[Case]:
    spec, card = llmhw.model("llama-3-70b"), llmhw.accelerator("A100 80GB SXM4")
    weights, node = llmhw.weights(spec).total, 4
    read = weights / (node * card.memory_bandwidth_bytes_per_second)
    # Two sums of a hidden vector in bf16 a layer; a ring sends each about twice.
    sent = 2 * 2 * spec.num_layers * spec.hidden * 2 / card.require("link_bytes_per_second")
    yield Case(
        "text generation, one user on 4 A100: exchanging takes longer than reading the weights",
        sent > read,
        f"{format_quantity(sent, 'seconds')} against {format_quantity(read, 'seconds')} a token",
    )
    # ZeRO-3 gathers the weights twice and scatters the gradients once, all in bf16, in every step.
    network = llmhw.link("InfiniBand NDR 4x").bytes_per_second
    rate = MFU * llmhw.accelerator("h100").peak("bf16")
    step = training_flops_6n(params=spec.parameters.active, tokens=4096) / rate
    yield Case(
        "training with ZeRO-3 over nodes of H100, 4,096 tokens a card: sending takes longer than computing",
        3 * weights / network > step,
        f"{format_quantity(3 * weights / network, 'seconds')} against {format_quantity(step, 'seconds')} a step",
    )


@check(9)
def up_to_1t_training() -> Iterable[Case]:
    needed = int(ceil_div(states(1e12), room("h100")))
    yield Case("memory: states of 1T on hundreds of cards", needed <= 999, f"{needed} cards")
    for name in ("llama-3.1-405b", "deepseek-v3"):
        spec = llmhw.model(name)
        words = f"time: {name}, {format_quantity(spec.parameters.active, 'count')} active, on 999 cards within a year"
        yield within_a_year(words, spec.parameters.active, 999)


@check(10)
def up_to_1t_serving() -> Iterable[Case]:
    for name, number_format in (
        ("llama-3.1-405b", "bf16"),
        ("llama-3.1-405b", "fp8"),
        ("deepseek-v3", "fp8"),
        ("kimi-k2", "fp8"),
        ("kimi-k2", "int4-gptq"),
    ):
        spec = llmhw.model(name)
        words = f"{name} ({format_quantity(spec.parameters.total, 'count')}) in {number_format}"
        yield holds(words, served(name, number_format), "h100", 8)


# -- 2.1 Memory -------------------------------------------------------------------------------


@check(12)
def parts_of_memory() -> Iterable[Case]:
    spec = llmhw.model("llama-2-7b")
    gradients = llmhw.training_states(spec)["gradients"]
    cache = llmhw.kv_cache(spec, seq_len=4096).total
    yield Case("training Llama 2 7B holds nothing else", gradients == 0, f"{gib(gradients)} of gradients")
    yield Case("serving it holds nothing else", cache == 0, f"{gib(cache)} of KV cache for 4,096 tokens")


def bytes_of_a_billion(number_format: str, stated: float) -> Case:
    size = weight_bytes(1e9, number_format)
    return Case(f"{number_format}, decimal GB", near(size, stated * GB, 0.01), f"{gb(size)}, or {size / GIB:.2f} GiB")


@check(13)
def fp32_billion() -> Iterable[Case]:
    yield bytes_of_a_billion("fp32", 4)


@check(14)
def half_billion() -> Iterable[Case]:
    yield bytes_of_a_billion("fp16", 2)
    yield bytes_of_a_billion("bf16", 2)


@check(15)
def adam_extra() -> Iterable[Case]:
    spec = llmhw.model("llama-2-7b")
    for words, optimizer, precision in (
        ("mixed precision with an fp32 master copy", "adamw", "bf16-mixed"),
        ("everything in fp32", "adamw", "fp32"),
        ("bf16 with 8-bit states", "adamw-8bit", "bf16"),
    ):
        made = llmhw.training_states(spec, optimizer=optimizer, precision=precision)
        extra = (made.total - made["weights"] - made["gradients"]) / spec.parameters.total
        yield Case(words, near(extra, 12, 0.01), f"{extra:.1f} bytes a parameter")


@check(16)
def optimizer_of_70b() -> Iterable[Case]:
    spec = llmhw.model("llama-3-70b")
    for words, params in (("70B", 70e9), (f"Llama 3 70B ({spec.parameters.total / 1e9:.2f}B)", spec.parameters.total)):
        size = state_bytes(elements=params, bytes_per_element=12)
        yield Case(words, near(size, 840 * GB, 0.01), gb(size))


@check(17)
def training_7b() -> Iterable[Case]:
    real = llmhw.training_states(llmhw.model("llama-2-7b")).total
    wide = states(7e9, 18)
    for words, size in (("7B", states(7e9)), ("7B, gradients in fp32", wide), ("Llama 2 7B (6.74B)", real)):
        yield Case(f"{words}, states alone", near(size, 100 * GB, 0.05), gb(size))


@check(18)
def needs_several_cards() -> Finding:
    need = states(7e9)
    cards = [card for card in llmhw.accelerators() if card.vendor == "NVIDIA" and card.form not in ("SoC", "socket")]
    enough = [card for card in cards if room(card.name) >= need]
    smallest = min(enough, key=lambda card: card.memory_bytes)
    shown = f"{gib(need)}; {gib(room(smallest.name))} on {smallest.name}"
    then = not [card for card in enough if card.year <= 2022]
    return Finding(
        (Case("no single NVIDIA card holds the states of 7B", not enough, shown),),
        Case("none that appeared until 2022 does", then, f"the first came in {min(card.year for card in enough)}"),
    )


# -- 2.2 Compute ------------------------------------------------------------------------------


def peaks(start: str, stated: float) -> Iterable[Case]:
    for card in cards_named(start):
        rate = card.peak("fp16")
        yield Case(card.name, near(rate, stated, 0.01), format_quantity(rate, "FLOP/s"))


@check(20)
def a100_peak() -> Iterable[Case]:
    return peaks("A100", 312e12)


@check(21)
def h100_peak() -> Iterable[Case]:
    return peaks("H100", 756e12)


@check(22)
def throughput_70b() -> Iterable[Case]:
    spec = llmhw.model("llama-3-70b")
    bandwidth = 8 * llmhw.accelerator("h100").memory_bandwidth_bytes_per_second
    for users, tokens in ((1, 1), (64, 2048)):
        # every weight and cached element is read once a step
        read = llmhw.weights(spec).total + llmhw.kv_cache(spec, batch=users, seq_len=tokens).total
        bound = users / stream_seconds(memory_bytes=read, bandwidth_bytes_per_second=bandwidth)
        who = f"{users} users, {tokens:,} tokens each" if users > 1 else "1 user, short context"
        words = f"{who}, bf16: 50 is within half of the bound"
        yield Case(words, bound <= 2 * 50, f"at most {bound:,.0f} tokens/s in all")


# -- 3.1 One card -----------------------------------------------------------------------------


@check(23)
def a6000_training() -> Iterable[Case]:
    own_rule = float(state_bytes(elements=7e9, bytes_per_element=2 + 12))
    yield holds("7B by the article's own rule, 14 bytes a parameter", own_rule, "RTX A6000")
    yield holds("7B with gradients, 16 bytes a parameter", states(7e9), "RTX A6000")


@check(24)
def a6000_memory() -> Iterable[Case]:
    card = llmhw.accelerator("RTX A6000")
    yield Case("as sold", card.memory_vendor == "48 GB", f"{card.memory_vendor}, {gib(card.memory_bytes)} usable")


@check(25)
def accumulation() -> Iterable[Case]:
    spec = llmhw.model("llama-3.2-1b")
    card = "RTX A6000"
    small, large = (checkpointed_activations(spec, device=card, batch=n, seq_len=4096).total for n in (4, 4 * 8))
    yield Case(
        "8 micro-batches of 4 keep the activations of 4 sequences, an eighth of those of 32",
        near(small * 8, large, 0.01),
        f"{gib(small)} in place of {gib(large)} for Llama 3.2 1B",
    )


@check(26)
def fsdp_on_one_card() -> Iterable[Case]:
    whole, ranks = states(7e9), llmhw.Cluster("RTX A6000", 1).devices
    sharded = states(7e9, shards=ranks)
    shown = f"{gib(sharded)} of {gib(whole)} on {ranks} rank"
    yield Case("sharding 7B leaves less than all of it on the card", sharded < whole, shown)


# -- 3.2 and 3.3 Several cards ----------------------------------------------------------------


@check(28)
def several_cards() -> Iterable[Case]:
    yield holds("states of 7B", states(7e9), "h100", 8)
    yield holds("states of 70B on the fewest cards", states(70e9), "h100", 8)
    yield holds("states of 70B on the most cards", states(70e9), "h100", 32)


@check(34)
def ndv5() -> Iterable[Case]:
    for machine in llmhw.instances():
        if machine.provider == "Azure" and machine.name.startswith("Standard_ND") and machine.name.endswith("_v5"):
            shown = f"{machine.count} × {machine.accelerator.name}"
            yield Case(machine.name, machine.accelerator.name.startswith("A100 80GB"), shown)


# -- 4.1 Quantization -------------------------------------------------------------------------


def ratios(number_format: str, stated: float) -> Iterable[Case]:
    for base in ("fp32", "bf16"):
        ratio = weight_bytes(1, base) / weight_bytes(1, number_format)
        yield Case(f"against {base}", near(ratio, stated, 0.05), f"{ratio:.2f}×")


@check(36)
def fp16_ratio() -> Iterable[Case]:
    return ratios("fp16", 2)


@check(38)
def int8_ratio() -> Iterable[Case]:
    return ratios("int8", 4)


@check(41)
def int4_ratio() -> Iterable[Case]:
    yield from ratios("int4-gptq", 8)
    spec = llmhw.model("llama-3-70b")
    ratio = llmhw.weights(spec).total / llmhw.weights(spec, "int4-gptq").total
    yield Case("the file of Llama 3 70B against its bf16 file", near(ratio, 8, 0.05), f"{ratio:.2f}×")


def sizes_of_70b(number_format: str, stated: float, exact: float) -> Iterable[Case]:
    size = float(stored_weight_bytes(elements=70e9, bits_per_weight=exact))
    real = llmhw.weights(llmhw.model("llama-3-70b"), number_format).total
    yield Case(f"70B at exactly {exact:g} bits", near(size, stated, 0.01), gb(size))
    yield Case(f"Llama 3 70B in {number_format}", near(real, stated, 0.01), f"{gb(real)}, or {gib(real)}")


@check(44)
def fp16_of_70b() -> Iterable[Case]:
    return sizes_of_70b("fp16", 140 * GB, 16)


@check(45)
def int4_of_70b() -> Iterable[Case]:
    return sizes_of_70b("int4-gptq", 17.5 * GB, 4)


# -- 5 Cost -----------------------------------------------------------------------------------


def bought(card: str, stated: float) -> list[Case]:
    return [
        Case(f"{row.kind}, {row.date}", near(row.dollars, stated, 0.05), format_quantity(row.dollars, "dollars"))
        for row in llmhw.accelerator(card).purchase_prices
    ]


@check(51)
def rtx_4090_price() -> Iterable[Case]:
    return bought("RTX 4090", 1600)


@check(52)
def a100_price() -> Finding:
    card, years = llmhw.accelerator("A100 40GB SXM4"), ("2025", "2026")
    later = [row for row in card.purchase_prices if row.date[:4] in years]
    today = Case("it was for sale at that price after 2024", bool(later), f"{len(later)} later prices in the catalog")
    return Finding((today,), bought(card.name, 10_000)[0])


@check(53)
def h100_price() -> Iterable[Case]:
    return bought("h100", 30_000)


@check(54)
def rtx_4090_suits() -> Iterable[Case]:
    yield holds("full training of 3B", states(3e9), "RTX 4090")
    yield holds("serving 3B in bf16", weight_bytes(3e9, "bf16"), "RTX 4090")
    need = weight_bytes(4e9, "bf16")
    yield Case("serving in bf16 ends there: 4B is too large", need > room("RTX 4090"), gib(need))


@check(55)
def a100_suits() -> Iterable[Case]:
    yield holds("full training of 3B on one card", states(3e9), "A100 40GB SXM4")
    yield holds("serving 3B in bf16 on one card", weight_bytes(3e9, "bf16"), "A100 40GB SXM4")
    yield holds("serving 20B in bf16 on one card", weight_bytes(20e9, "bf16"), "A100 40GB SXM4")


@check(56)
def h100_suits() -> Iterable[Case]:
    yield holds("serving 20B in bf16 on one card", weight_bytes(20e9, "bf16"), "h100")
    yield holds("full training of 20B on one card", states(20e9), "h100")
    yield holds("serving 1T in 4 bits on one card", weight_bytes(1e12, "int4-gptq"), "h100")


@check(57)
def rtx_4090_hour() -> Iterable[Case]:
    yield costs(0.8, rents("RTX 4090"))


@check(58)
def a100_hour() -> Iterable[Case]:
    yield costs(3.2, rents("A100 40GB SXM4", "AWS"))


@check(59)
def h100_hour() -> Iterable[Case]:
    yield costs(8.5, rents("h100"))


@check(60)
def p4d() -> Iterable[Case]:
    machine = llmhw.instance("p4d.24xlarge")
    wanted = {"RTX 4090", "A100 40GB SXM4", "H100 SXM5 80GB"}
    shown = f"{machine.count} × {machine.accelerator.name}"
    yield Case("it holds all three cards of the table", wanted == {machine.accelerator.name}, shown)


# -- 6 Choosing -------------------------------------------------------------------------------


@check(61)
def start_up() -> Iterable[Case]:
    lora = llmhw.fit(llmhw.model("mistral-7b"), "A100 40GB SXM4")["LoRA, rank 16"]
    yield holds("A10G serves 7B in bf16", weight_bytes(7e9, "bf16"), "A10G")
    yield holds("one A100 40 GB trains all of 7B", states(7e9), "A100 40GB SXM4")
    yield holds("one trains Mistral 7B by LoRA, 4,096 tokens", lora.needed_bytes, "A100 40GB SXM4")


@check(62)
def lora() -> Iterable[Case]:
    spec = llmhw.model("llama-2-7b")
    full = llmhw.training_states(spec).total
    for words, base in (("LoRA, rank 16, all linear layers", "bf16"), ("QLoRA", "nf4-dq")):
        made = llmhw.lora_states(spec, rank=16, base_format=base)
        share = made["adapters"] / 4 / spec.parameters.total  # adapters are in fp32
        shown = f"{gib(made.total)} in place of {gib(full)} of states; {share:.1%} of the parameters trained"
        yield Case(f"Llama 2 7B, {words}", made.total < full, shown)


@check(63)
def enterprise() -> Iterable[Case]:
    need = {name: served("llama-3-70b", name, 16) for name in ("bf16", "fp8")}
    words = "Llama 3 70B in {} with 16 conversations of 4,096 tokens needs more than {}"
    one, node = room("h100"), room("h100", 8)
    yield Case(words.format("bf16", "one card"), need["bf16"] > one, f"{gib(need['bf16'])} of {gib(one)}")
    for name, size in need.items():
        yield Case(words.format(name, "one node of 8"), size > node, f"{gib(size)} of {gib(node)}")


@check(65)
def providers() -> Iterable[Case]:
    for provider in ("Lambda", "RunPod"):
        offers = rents("h100", provider)
        shown = ", ".join(f"${p.dollars_per_device_hour:.2f}" for p in offers)
        yield Case(f"{provider} rents the H100 SXM5", bool(offers), f"{shown} a card-hour, {offers[0].date}")


# -- Key conclusions --------------------------------------------------------------------------


@check(67)
def watershed() -> Iterable[Case]:
    yield holds("one 24 GB card serves 7B in bf16", weight_bytes(7e9, "bf16"), "RTX 4090")
    need = states(7e9)
    for card in ("h100", "h200", "b200"):
        name = llmhw.accelerator(card).name
        yield Case(f"full training needs more than one {name}", need > room(card), f"{gib(need)} of {gib(room(card))}")


@check(68)
def nvlink() -> Iterable[Case]:
    stated = {"h100": 900 * GB, "A100 40GB SXM4": 600 * GB}
    rate = {card: llmhw.accelerator(card).require("link_bytes_per_second") for card in (*stated, "h100 pcie")}
    for words, directions in (("both directions added, SXM", 2), ("one direction, SXM", 1)):
        values = {card: directions * rate[card] for card in stated}
        shown = " and ".join(f"{value / GB:,.0f}" for value in values.values()) + " GB/s"
        yield Case(words, values == stated, shown)
    bridge = 2 * rate["h100 pcie"]
    yield Case("H100 PCIe, both directions", bridge == stated["h100"], f"{bridge / GB:,.0f} GB/s")


@check(69)
def value_of_h100() -> Iterable[Case]:
    new, old = llmhw.accelerator("h100"), llmhw.accelerator("A100 80GB SXM4")
    gain = new.require("link_bytes_per_second") / old.require("link_bytes_per_second")
    yield Case("NVLink is faster than the A100's", gain > 1, f"{gain:.2f}×")
    others = {
        "memory bandwidth": new.memory_bandwidth_bytes_per_second / old.memory_bandwidth_bytes_per_second,
        "bf16": new.peak("bf16") / old.peak("bf16"),
        "fp8 against the A100's bf16": new.peak("fp8") / old.peak("bf16"),
    }
    for name, ratio in others.items():
        yield Case(f"it gained more than {name}", gain > ratio, f"{gain:.2f}× against {ratio:.2f}×")


@check(70)
def blackwell() -> Finding:
    offers = rents("b200")
    first = min(p.date for p in offers)
    providers = sorted({p.provider for p in offers})
    today = Case("B200 is still to come", not offers, f"for rent from {len(providers)} providers, {first} and later")
    card = llmhw.accelerator("b200")
    then = Case("it was when the H100 appeared", card.year > llmhw.accelerator("h100").year, f"B200: {card.year}")
    return Finding((today,), then)
