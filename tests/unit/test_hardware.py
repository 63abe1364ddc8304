"""Accelerators, links, clusters, instances: known figures, forgiving names, the text of every error."""

import dataclasses
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw import hardware
from llmhw.hardware import (
    Accelerator,
    Cluster,
    accelerator,
    accelerators,
    instance,
    instances,
    link,
    links,
    old_price,
    prices,
    purchase_prices,
)
from llmhw.units import MIB, LLMHWError

ROWS = hardware.read_table("accelerators")
NAMES = [row["name"] for row in ROWS]
ALIASES = [(alias.strip(), row["name"]) for row in ROWS for alias in row["aliases"].split(";") if alias.strip()]


def error_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    with pytest.raises(LLMHWError) as error:
        call(*args, **kwargs)
    return str(error.value)


# -- figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fmt", "tflops"),
    [
        ("A100 40GB PCIe", "bf16", 312),  # 624 is sparse
        ("A100 80GB SXM4", "bf16", 312),
        ("H100 PCIe", "bf16", 756),  # 1513 is sparse; 756 is this part, not "the H100"
        ("H100 SXM5", "bf16", 989.4),  # 1979 is sparse
        ("H100 SXM5", "fp8", 1978.9),  # 3958 is sparse
        ("L4", "fp8", 242),  # 485 is sparse
        ("RTX 4090", "fp16", 165.2),  # 330.3 accumulates in fp16
        ("A10G", "bf16", 70),  # 125 is the A10
        ("B200", "fp4", 9000),
        ("MI300X", "bf16", 1307.4),
        ("TPU v5e", "bf16", 197),
        ("V100 SXM2 16GB", "fp16", 125),
    ],
)
def test_dense_peaks(name: str, fmt: str, tflops: float) -> None:
    assert accelerator(name).peak(fmt) == tflops * 1e12


@pytest.mark.parametrize(
    ("name", "mib"),
    [("h100", 81559), ("h200", 143771), ("b200", 183359), ("rtx 4090", 24564), ("a10g", 22888), ("mi300x", 196592)],
)
def test_memory_is_what_the_driver_offers(name: str, mib: int) -> None:
    assert accelerator(name).memory_bytes == mib * MIB


def test_memory_is_near_the_capacity_as_sold() -> None:
    for device in accelerators():
        if device.form not in ("SoC", "APU"):  # their memory is shared with the CPU
            sold = float(device.memory_vendor.split()[0])
            assert sold * 0.93e9 < device.memory_bytes <= sold * 2**30 * 1.01, device.name


# What vendors print with sparsity, by device and format: none of it may be in the catalog.
SPARSE = {
    "A100 80GB SXM4": {"tf32": 312, "bf16": 624, "fp16": 624, "int8": 1248},
    "H100 SXM5 80GB": {"tf32": 989, "bf16": 1979, "fp16": 1979, "fp8": 3958, "int8": 3958},
    "H100 PCIe 80GB": {"tf32": 756, "bf16": 1513, "fp16": 1513, "fp8": 3026, "int8": 3026},
    "H100 NVL 94GB": {"tf32": 835, "bf16": 1671, "fp16": 1671, "fp8": 3341, "int8": 3341},
    "H200 SXM5 141GB": {"tf32": 989, "bf16": 1979, "fp16": 1979, "fp8": 3958, "int8": 3958},
    "L4": {"tf32": 120, "bf16": 242, "fp16": 242, "fp8": 485, "int8": 485},
    "L40S": {"tf32": 366, "bf16": 733, "fp16": 733, "fp8": 1466, "int8": 1466},
    "RTX 4090": {"fp16": 661, "fp8": 1321, "int8": 1321},
    "RTX 5090": {"fp4": 3352},
    "RTX 6000 Ada": {"fp8": 1457},
    "B200 SXM 180GB": {"bf16": 4500, "fp8": 9000, "fp4": 18000},
    "GB200 NVL72": {"bf16": 5000, "fp8": 10000, "fp4": 20000},
    "MI300X": {"bf16": 2615, "fp8": 5230},
    "Trainium2": {"bf16": 1334, "fp8": 2563},
}


@pytest.mark.parametrize("name", SPARSE)
def test_no_peak_is_the_sparse_figure(name: str) -> None:
    for fmt, tflops in SPARSE[name].items():
        assert accelerator(name).peak(fmt) < 0.6 * tflops * 1e12


@pytest.mark.parametrize("name", NAMES)
def test_half_the_bits_at_most_double_the_rate(name: str) -> None:
    # Dense tensor rates double from one width to the next. A sparse figure among dense ones would make it four.
    peaks = accelerator(name).peaks
    wider = {"fp8": "bf16", "int8": "bf16", "bf16": "tf32", "fp4": "fp8"}
    faster_by_design = {
        ("Gaudi 3", "bf16"),  # its fp32-class rates are a quarter
        ("B300 SXM 288GB", "fp4"),  # Blackwell Ultra triples fp4
        ("GB300 NVL72", "fp4"),
        ("Rubin NVL72", "fp8"),
        ("Trainium3", "fp8"),
        ("MLU370-X8", "int8"),
        # bf16 runs at a lower rate than fp16, which int8 doubles
        *((row["name"], "int8") for row in ROWS if row["architecture"] == "Da Vinci 910"),
    }
    for narrow, wide in wider.items():
        if narrow not in peaks or wide not in peaks or (name, narrow) in faster_by_design:
            continue
        # GeForce halves the rates that accumulate in fp32, but not int8 and fp4.
        most = 4.05 if accelerator(name).fp16_accumulate_peak and narrow in ("int8", "fp4") else 2.06
        assert peaks[narrow] <= most * peaks[wide], (narrow, wide)


def test_one_chip_has_one_ratio_of_formats() -> None:
    for fmt in ("fp8", "int8", "tf32"):
        ratios = {
            round(accelerator(name).peak(fmt) / accelerator(name).peak("bf16"), 2)
            for name in ("H100 SXM5 80GB", "H100 PCIe 80GB", "H100 NVL 94GB", "H200 SXM5 141GB", "H20 96GB")
        }
        assert len(ratios) == 1


def test_links_are_per_direction() -> None:
    # The figures that vendors print count both directions.
    printed = {"v100 sxm2 16gb": 300, "a100 80gb sxm": 600, "h100": 900, "b200": 1800, "mi300x": 896, "a40": 112.5}
    for name, both in printed.items():
        assert accelerator(name).link_bytes_per_second == both / 2 * 1e9
    for row in hardware.read_table("links"):
        both_text = row["note"].split(" GB/s bidirectional")[0]
        if both_text != row["note"] and "datasheet;" not in row["note"]:
            assert float(both_text) == 2 * float(row["gb_per_second"])


def test_a_device_without_a_network_has_no_link() -> None:
    assert accelerator("rtx 4090").scale_up_link is None
    assert accelerator("rtx 4090").host_link == "PCIe 4.0 x16"


def test_a_cut_link_keeps_its_own_bandwidth_and_no_measurement_of_the_full_one() -> None:
    cut = accelerator("h800").scale_up_link
    assert cut is not None
    assert (cut.name, cut.bytes_per_second, cut.measured_bytes_per_second) == ("NVLink 4", 200e9, None)


def test_ridge_is_peak_over_bandwidth() -> None:
    assert accelerator("h100").ridge("bf16") == pytest.approx(989.4e12 / 3.35e12)


@pytest.mark.parametrize(
    ("spoken", "fmt"),
    [("bfloat16", "bf16"), ("torch.float16", "fp16"), ("FP8_E4M3", "fp8"), ("float32", "fp32"), ("TF32", "tf32")],
)
def test_formats_have_other_words(spoken: str, fmt: str) -> None:
    assert accelerator("h100").peak(spoken) == accelerator("h100").peak(fmt)


def test_a_missing_rate_is_an_error_that_lists_the_rates() -> None:
    assert error_of(accelerator("T4").peak, "bf16") == (
        "format='bf16' has no dense rate on T4; it has fp32, fp16, int8"
    )
    assert error_of(accelerator("h100").ridge, "int4") == (
        "format='int4' has no dense rate on H100 SXM5 80GB; it has fp64, fp64_tensor, fp32, tf32, fp16, bf16, fp8, int8"
    )


def test_an_unknown_fact_is_none_and_an_error_where_it_is_needed() -> None:
    device = accelerator("tpu v5e")
    assert device.tdp_watts is None
    assert error_of(device.require, "tdp_watts") == (
        "tdp_watts of accelerator TPU v5e is not known; use dataclasses.replace(..., tdp_watts=...) to set it"
    )
    assert error_of(device.require, "tdp") == "what='tdp' is not known; did you mean tdp_watts?"
    assert dataclasses.replace(device, tdp_watts=200.0).require("tdp_watts") == 200


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_device_is_found_by_its_name(name: str) -> None:
    assert accelerator(name).name == name


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_every_alias_means_its_device(alias: str, name: str) -> None:
    assert accelerator(alias).name == name


def test_every_link_is_found_by_its_name_and_aliases() -> None:
    for row in hardware.read_table("links"):
        for call in [row["name"], *filter(None, map(str.strip, row["aliases"].split(";")))]:
            assert link(call).name == row["name"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("h100", "H100 SXM5 80GB"),
        ("H100 SXM5 80GB", "H100 SXM5 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB"),
        ("80 GB Nvidia h100_SXM gpu", "H100 SXM5 80GB"),
        ("h100sxm580gb", "H100 SXM5 80GB"),
        ("h100-pcie", "H100 PCIe 80GB"),
        ("h100 nvl", "H100 NVL 94GB"),
        ("h200", "H200 SXM5 141GB"),
        ("b200", "B200 SXM 180GB"),
        ("HGX B200", "B200 SXM 180GB"),
        ("gb200", "GB200 NVL72"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM4"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("v100-sxm2-32gb", "V100 SXM2 32GB"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4060 Ti 16GB", "RTX 4060 Ti 16GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell Workstation"),
        ("a10", "A10"),
        ("a10g", "A10G"),
        ("l40", "L40"),
        ("l40s", "L40S"),
        ("mi300x", "MI300X"),
        ("AMD Instinct MI300X", "MI300X"),
        ("tpu v5e", "TPU v5e"),
        ("tpu7x", "TPU v7"),
        ("gaudi3", "Gaudi 3"),
        ("trn1", "Trainium1"),
        ("Apple M2 Ultra 192GB", "M2 Ultra 192GB"),
        ("m3 max 40-core 64gb", "M3 Max 40-core 64GB"),
    ],
)
def test_forgiving_names(query: str, name: str) -> None:
    assert accelerator(query).name == name


@given(st.sampled_from([*NAMES, *(alias for alias, _ in ALIASES)]), st.integers(0, 2**32))
def test_case_separators_and_order_do_not_matter(call: str, seed: int) -> None:
    chance = random.Random(seed)
    words = call.split()
    chance.shuffle(words)
    words.insert(chance.randrange(len(words) + 1), chance.choice(["", "NVIDIA", "gpu", "AMD"]))
    text = "".join(word + chance.choice([" ", "-", "_", "  ", "/", ", "]) for word in words)
    mixed = "".join(chance.choice([letter.lower(), letter.upper()]) for letter in text)
    assert accelerator(mixed) is accelerator(call)


@given(st.sampled_from(NAMES), st.sampled_from([str.lower, str.upper]))
def test_separators_may_be_left_out(name: str, case: Callable[[str], str]) -> None:
    assert accelerator(case("".join(name.split()))).name == name


@given(st.text(max_size=30))
def test_any_text_is_a_device_or_a_clear_error(text: str) -> None:
    try:
        answer = accelerator(text).name
    except LLMHWError as error:
        answer = str(error)
    assert answer in NAMES or answer.startswith(f"accelerator={text!r} "[:70])


def test_an_ambiguous_name_lists_the_choices() -> None:
    assert error_of(accelerator, "a100") == (
        "accelerator='a100' is ambiguous; use one of A100 40GB PCIe, A100 40GB SXM4, A100 80GB PCIe, A100 80GB SXM4"
    )
    assert error_of(accelerator, "A100 80GB") == (
        "accelerator='A100 80GB' is ambiguous; use one of A100 80GB PCIe, A100 80GB SXM4"
    )
    assert error_of(link, "infiniband") == (
        "link='infiniband' is ambiguous; use one of InfiniBand HDR 4x, InfiniBand NDR 4x, InfiniBand XDR 4x"
    )


def test_a_misspelt_name_suggests_the_nearest() -> None:
    assert error_of(accelerator, "rtx 4091") == (
        "accelerator='rtx 4091' is not known; did you mean RTX 4090, RTX 4090 D?"
    )
    assert error_of(accelerator, "h1000").startswith("accelerator='h1000' is not known; did you mean H100 SXM5 80GB,")
    assert error_of(accelerator, "xyzzy") == "accelerator='xyzzy' is not known; run `llmhw gpus` for the list"
    assert error_of(accelerator, "") == "accelerator='' is not known; run `llmhw gpus` for the list"


def test_a_part_that_was_never_made_is_not_known() -> None:
    assert error_of(accelerator, "h100 40gb") == (
        "accelerator='h100 40gb' is not known; did you mean"
        " A100 40GB PCIe, A100 40GB SXM4, A800 40GB PCIe, H100 PCIe 80GB, H100 SXM5 64GB, H100 SXM5 80GB?"
    )


# -- clusters ---------------------------------------------------------------------------------


def test_a_cluster_adds_up_its_devices() -> None:
    cluster = Cluster("h100", 64, inter_link="infiniband ndr")
    assert (cluster.nodes, cluster.devices_per_node) == (8, 8)
    assert cluster.memory_bytes == 64 * 81559 * MIB
    assert cluster.peak("bf16") == pytest.approx(64 * 989.4e12)
    assert cluster.memory_bandwidth_bytes_per_second == 64 * 3.35e12
    assert cluster.link_for(8).name == "NVLink 4"
    assert cluster.link_for(9).name == "InfiniBand NDR 4x"
    assert str(cluster) == "64 x H100 SXM5 80GB, 8 nodes of 8 (NVLink 4; between nodes: InfiniBand NDR 4x), 4.98 TiB"


def test_a_cluster_takes_objects_as_well_as_names() -> None:
    by_name = Cluster("h100", 16, 8, "nvlink 4", "ndr")
    assert by_name == Cluster(accelerator("h100"), 16, 8, link("nvlink 4"), link("ndr"))
    assert len({by_name, Cluster("h100", 16, 8, "nvlink 4", "ndr")}) == 1


def test_the_network_inside_a_node_reaches_all_of_it() -> None:
    assert Cluster("a100 80gb pcie", 2).link_for(2).name == "NVLink 3"  # a bridge joins two cards
    assert Cluster("a100 80gb pcie", 4).link_for(2).name == "PCIe 4.0 x16"
    assert Cluster("rtx 4090", 8).link_for(8).name == "PCIe 4.0 x16"
    assert Cluster("gb200", 72).link_for(72).name == "NVLink 5"
    assert Cluster("h100", 1).nodes == 1


def test_a_node_may_be_partly_filled() -> None:
    cluster = Cluster("h100", 4, devices_per_node=8)
    assert (cluster.nodes, cluster.link_for(4).name) == (1, "NVLink 4")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), "devices=0 must be a whole number of at least 1"),
        ((-8,), "devices=-8 must be a whole number of at least 1"),
        ((8, 0), "devices_per_node=0 must be a whole number of at least 1"),
        ((16, 3), "devices_per_node=3 does not divide devices=16; use one of 1, 2, 4, 8, 16"),
        ((12,), "devices=12 is not a multiple of 8, a usual node of H100 SXM5 80GB; give devices_per_node"),
    ],
)
def test_a_wrong_count_is_a_clear_error(arguments: tuple[int, ...], text: str) -> None:
    assert error_of(Cluster, "h100", *arguments) == text


def test_a_link_that_is_not_known_is_a_clear_error() -> None:
    assert error_of(Cluster("h100", 16).link_for, 16) == (
        "inter_link of 16 x H100 SXM5 80GB is not known; give it, as in inter_link='InfiniBand NDR 4x'"
    )
    assert error_of(Cluster("m2 ultra 192gb", 2).link_for, 2) == (
        "intra_link of 2 x M2 Ultra 192GB is not known; give it, as in intra_link='PCIe 5.0 x16'"
    )
    assert error_of(Cluster("h100", 8).link_for, 9) == "group=9 exceeds devices=8 of the cluster"
    assert error_of(hardware.Link, "mine", "host", 0.0) == "bytes_per_second=0.0 must be a number above 0"


def test_a_cluster_of_misspelt_things_names_them() -> None:
    assert error_of(Cluster, "a100", 8).startswith("accelerator='a100' is ambiguous")
    assert error_of(Cluster, "h100", 8, inter_link="infinband ndr").startswith("link='infinband ndr' is not known")


# -- instances and prices ---------------------------------------------------------------------


def test_an_instance_has_its_newest_on_demand_price() -> None:
    machine = instance("P5-48xlarge", provider="aws")
    assert (machine.accelerator.name, machine.count) == ("H100 SXM5 80GB", 8)
    assert (machine.price_per_hour, machine.region, machine.date) == (55.04, "us-east-1", "2026-10-10")
    assert machine.price_per_hour / machine.count == pytest.approx(6.88)
    assert machine.network_bytes_per_second == 400e9


def test_an_old_price_stays_with_its_date() -> None:
    history = {
        price.date: price.dollars_per_hour for price in instance("p5.48xlarge").prices if price.kind == "on_demand"
    }
    assert history["2023-08-30"] == 98.32
    assert history["2026-10-10"] == 55.04


def test_an_instance_without_a_price_has_none() -> None:
    machine = instance("p5e.48xlarge")
    assert (machine.price_per_hour, machine.region, machine.date) == (None, "", "")
    assert error_of(machine.require, "price_per_hour").startswith(
        "price_per_hour of instance p5e.48xlarge is not known"
    )


def test_instances_become_clusters() -> None:
    cluster = instance("p5.48xlarge").cluster(4)
    assert (cluster.devices, cluster.nodes, cluster.link_for(32).bytes_per_second) == (32, 4, 50e9)
    assert instance("a2-megagpu-16g").cluster().link_for(16).name == "NVLink 3"
    for machine in instances():
        assert machine.cluster(2).devices == 2 * machine.count


def test_instances_can_be_listed_by_accelerator() -> None:
    assert {machine.accelerator.name for machine in instances("mi300x")} == {"MI300X"}
    assert len(instances()) == len(hardware.read_table("instances"))


def test_the_usual_network_is_the_fastest_for_rent() -> None:
    for name in ("h100", "A100 80GB SXM", "b300", "l4"):
        found = hardware.usual_network(name)
        rates = [m.network_bytes_per_second / m.count for m in instances(name) if m.network_bytes_per_second]
        assert found is not None
        assert found.bytes_per_second == max(rates)
        assert found.name.removesuffix(" network") in {f"{m.provider} {m.name}" for m in instances(name)}
        assert found.kind == "scale-out"
    # nobody rents it, and nobody says what network it has
    assert hardware.usual_network("rtx 4090") is hardware.usual_network("H100 PCIe") is None
    with pytest.raises(LLMHWError, match="did you mean"):
        hardware.usual_network("h10")


def test_errors_of_instances() -> None:
    assert error_of(instance, "p5.48xlarg") == (
        "instance='p5.48xlarg' is not known; did you mean p5.48xlarge, p5e.48xlarge, p5.4xlarge, p5en.48xlarge?"
    )
    assert (
        error_of(instance, "p5.48xlarge", provider="googel")
        == "provider='googel' is not known; use one of AWS, Azure, GCP, CoreWeave, Lambda, OCI"
    )
    assert error_of(instance, "p5.48xlarge", region="mars") == (
        "region='mars' has no price of AWS p5.48xlarge; it has prices for us-east-1"
    )
    assert error_of(instance, "p5e.48xlarge", region="mars") == (
        "region='mars' has no price of AWS p5e.48xlarge; it has no on-demand price"
    )


def test_prices_are_dated_have_a_region_and_come_newest_first() -> None:
    rows = prices("h100")
    assert rows
    assert all(row.region and row.date and row.accelerator == "H100 SXM5 80GB" for row in rows)
    assert [row.date for row in rows] == sorted((row.date for row in rows), reverse=True)
    assert rows == accelerator("h100").prices
    assert "2026-10-10)" in str(rows[0])
    assert accelerator("rtx 4090").purchase_prices[0].dollars == 1599


# -- shape of the things ----------------------------------------------------------------------


def test_everything_prints_and_becomes_plain_data() -> None:
    for device in accelerators():
        assert str(device).startswith(device.name)
        assert "<table>" in device._repr_html_()
        assert json.loads(json.dumps(device.to_dict()))["memory_bytes"] == device.memory_bytes
        assert pickle.loads(pickle.dumps(device)) == device
        assert hash(device) == hash(accelerator(device.name))
    for thing in [*links(), *instances(), *prices("h100"), *accelerator("h100").purchase_prices]:
        assert str(thing)
        assert json.dumps(thing.to_dict())
    assert json.dumps(Cluster("h100", 16, inter_link="ndr").to_dict())


def test_a_device_of_ones_own_needs_no_catalog() -> None:
    mine = Accelerator("mine", "me", "none", 2026, "PCIe", 16 * 2**30, "16 GB", "HBM", 1e12, {"bf16": 1e14})
    assert mine.ridge("bf16") == 100
    assert Cluster(mine, 4, intra_link="pcie 5").link_for(4).name == "PCIe 5.0 x16"


def test_things_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        accelerator("h100").memory_bytes = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cluster("h100", 8).devices = 1  # type: ignore[misc]


def test_importing_reads_no_file_and_no_third_party_module() -> None:
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
before = set(sys.modules)
import llmhw.hardware
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"llmhw"}), [name for name in opened if name.endswith((".csv", ".json"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_prices_of_all_devices_are_filtered() -> None:
    every = prices()
    assert {p.accelerator for p in every} >= {p.accelerator for p in prices("h100")}
    assert [p.date for p in every] == sorted((p.date for p in every), reverse=True)
    spot = prices(provider="aws", kind="spot")
    assert spot
    assert all((p.provider, p.kind) == ("AWS", "spot") for p in spot)
    assert {p.region for p in prices("h100", region="US East 1")} == {"us-east-1"}
    bought = purchase_prices()
    assert {p.accelerator for p in bought} <= {a.name for a in accelerators()}
    assert purchase_prices("RTX 4090") == accelerator("RTX 4090").purchase_prices
    assert {p.kind for p in purchase_prices(kind=bought[0].kind)} == {bought[0].kind}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"provider": "Nobody"}, "provider='Nobody' is not known"),
        ({"region": "mars"}, "region='mars' is not known"),
        ({"kind": "reserved"}, "kind='reserved' is not known; use one of on_demand, spot"),
    ],
)
def test_prices_that_there_are_not(asked: dict[str, str], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        prices(**asked)


def test_the_age_of_a_price() -> None:
    newest = prices()[0]
    assert old_price(None) == old_price(newest) == old_price(dataclasses.replace(newest, date="")) == ""
    year = int(newest.date[:4])
    assert old_price(dataclasses.replace(newest, date=f"{year - 2}")).startswith(f"price of {year - 2}: ")
    assert "1 year older" in old_price(dataclasses.replace(newest, date=f"{year - 1}-{newest.date[5:7]}-01"))
