"""Devices by the names that drivers print and people write, by size, and devices of one's own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import read_table
from llmhw.hardware import Accelerator, accelerator, accelerators, fitting, given, larger
from llmhw.here import Card, device_of
from llmhw.units import GIB, MIB, LLMHWError
from tests.unit.command import refused, run


def error_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    with pytest.raises(LLMHWError) as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    return text


# What `nvidia-smi --query-gpu=name,memory.total` prints in public logs, and the device that it is.
NVIDIA = """
NVIDIA GeForce GTX 1060 6GB, 6144 | GTX 1060 6GB
NVIDIA GeForce GTX 1070, 8192 | GTX 1070
NVIDIA GeForce GTX 1080 Ti, 11264 | GTX 1080 Ti
NVIDIA GeForce GTX 1650, 4096 | GTX 1650
NVIDIA GeForce GTX 1660 SUPER, 6144 | GTX 1660 SUPER
NVIDIA GeForce GTX 1660 Ti, 6144 | GTX 1660 Ti
NVIDIA GeForce RTX 2060, 6144 | RTX 2060 6GB
NVIDIA GeForce RTX 2060, 12288 | RTX 2060 12GB
NVIDIA GeForce RTX 2060 SUPER, 8192 | RTX 2060 SUPER
NVIDIA GeForce RTX 2080 SUPER, 8192 | RTX 2080 SUPER
NVIDIA GeForce RTX 2080 Ti, 11264 | RTX 2080 Ti 11GB
NVIDIA GeForce RTX 2080 Ti, 22528 | RTX 2080 Ti 22GB
NVIDIA GeForce RTX 3050, 8192 | RTX 3050 8GB
NVIDIA GeForce RTX 3050 Laptop GPU, 4096 | RTX 3050 Laptop 4GB
NVIDIA GeForce RTX 3060, 12288 | RTX 3060 12GB
NVIDIA GeForce RTX 3060 Laptop GPU, 6144 | RTX 3060 Laptop
NVIDIA GeForce RTX 3060 Ti, 8192 | RTX 3060 Ti
NVIDIA GeForce RTX 3070, 8192 | RTX 3070
NVIDIA GeForce RTX 3070 Ti Laptop GPU, 8192 | RTX 3070 Ti Laptop
NVIDIA GeForce RTX 3080, 10240 | RTX 3080 10GB
NVIDIA GeForce RTX 3080, 12288 | RTX 3080 12GB
NVIDIA GeForce RTX 3080 Ti, 12288 | RTX 3080 Ti
NVIDIA GeForce RTX 3080 Laptop GPU, 16384 | RTX 3080 Laptop 16GB
NVIDIA GeForce RTX 3090, 24576 | RTX 3090
NVIDIA GeForce RTX 3090 Ti, 24564 | RTX 3090 Ti
NVIDIA GeForce RTX 4050 Laptop GPU, 6141 | RTX 4050 Laptop
NVIDIA GeForce RTX 4060, 8188 | RTX 4060
NVIDIA GeForce RTX 4060 Ti, 8188 | RTX 4060 Ti 8GB
NVIDIA GeForce RTX 4060 Ti, 16380 | RTX 4060 Ti 16GB
NVIDIA GeForce RTX 4060 Laptop GPU, 8188 | RTX 4060 Laptop
NVIDIA GeForce RTX 4070, 12282 | RTX 4070
NVIDIA GeForce RTX 4070 SUPER, 12282 | RTX 4070 SUPER
NVIDIA GeForce RTX 4070 Ti, 12282 | RTX 4070 Ti
NVIDIA GeForce RTX 4070 Ti SUPER, 16376 | RTX 4070 Ti SUPER
NVIDIA GeForce RTX 4080, 16376 | RTX 4080
NVIDIA GeForce RTX 4080 SUPER, 16376 | RTX 4080 SUPER
NVIDIA GeForce RTX 4090, 24564 | RTX 4090
NVIDIA GeForce RTX 4090 D, 24564 | RTX 4090 D
NVIDIA GeForce RTX 4090 Laptop GPU, 16376 | RTX 4090 Laptop
NVIDIA GeForce RTX 5050, 8151 | RTX 5050
NVIDIA GeForce RTX 5060, 8151 | RTX 5060
NVIDIA GeForce RTX 5060 Ti, 8151 | RTX 5060 Ti 8GB
NVIDIA GeForce RTX 5060 Ti, 16311 | RTX 5060 Ti 16GB
NVIDIA GeForce RTX 5070, 12227 | RTX 5070
NVIDIA GeForce RTX 5070 Ti, 16303 | RTX 5070 Ti
NVIDIA GeForce RTX 5080, 16303 | RTX 5080
NVIDIA GeForce RTX 5090, 32607 | RTX 5090
NVIDIA GeForce RTX 5090 D, 32607 | RTX 5090 D
NVIDIA GeForce RTX 5090 Laptop GPU, 24463 | RTX 5090 Laptop
NVIDIA TITAN V, 12288 | TITAN V
NVIDIA TITAN X (Pascal), 12288 | TITAN X Pascal
NVIDIA TITAN Xp, 12288 | TITAN Xp
NVIDIA TITAN RTX, 24576 | TITAN RTX
Quadro P6000, 24576 | Quadro P6000
Quadro RTX 4000, 8192 | Quadro RTX 4000
Quadro RTX 6000, 24576 | Quadro RTX 6000
Quadro RTX 8000, 49152 | Quadro RTX 8000
NVIDIA RTX A2000, 6138 | RTX A2000 6GB
NVIDIA RTX A2000 12GB, 12282 | RTX A2000 12GB
NVIDIA RTX A4000, 16376 | RTX A4000
NVIDIA RTX A4500, 20470 | RTX A4500
NVIDIA RTX A5000, 24564 | RTX A5000
NVIDIA RTX A5500 Laptop GPU, 16384 | RTX A5500 Laptop
NVIDIA RTX A6000, 49140 | RTX A6000
NVIDIA RTX 2000 Ada Generation, 16380 | RTX 2000 Ada
NVIDIA RTX 4000 Ada Generation, 20475 | RTX 4000 Ada
NVIDIA RTX 4000 SFF Ada Generation, 20475 | RTX 4000 SFF Ada
NVIDIA RTX 4500 Ada Generation, 24570 | RTX 4500 Ada
NVIDIA RTX 5000 Ada Generation, 32760 | RTX 5000 Ada
NVIDIA RTX 5000 Ada Generation Laptop GPU, 16376 | RTX 5000 Ada Laptop
NVIDIA RTX 5880 Ada Generation, 49140 | RTX 5880 Ada
NVIDIA RTX 6000 Ada Generation, 49140 | RTX 6000 Ada
NVIDIA RTX PRO 2000 Blackwell, 16311 | RTX PRO 2000 Blackwell
NVIDIA RTX PRO 4000 Blackwell, 24467 | RTX PRO 4000 Blackwell
NVIDIA RTX PRO 4000 Blackwell SFF Edition, 24467 | RTX PRO 4000 Blackwell SFF
NVIDIA RTX PRO 4500 Blackwell, 32623 | RTX PRO 4500 Blackwell
NVIDIA RTX PRO 5000 Blackwell, 48935 | RTX PRO 5000 Blackwell 48GB
NVIDIA RTX PRO 6000 Blackwell Workstation Edition, 97887 | RTX PRO 6000 Blackwell Workstation
NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887 | RTX PRO 6000 Blackwell Server
NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition, 97887 | RTX PRO 6000 Blackwell Max-Q
Tesla M40 24GB, 24576 | M40 24GB
Tesla P4, 8192 | P4
Tesla P40, 24576 | P40
Tesla P100-PCIE-12GB, 12288 | P100 PCIe 12GB
Tesla P100-PCIE-16GB, 16384 | P100 PCIe 16GB
Tesla P100-SXM2-16GB, 16384 | P100 SXM2 16GB
Tesla V100-PCIE-16GB, 16384 | V100 PCIe 16GB
Tesla V100-PCIE-32GB, 32768 | V100 PCIe 32GB
Tesla V100-SXM2-16GB, 16384 | V100 SXM2 16GB
Tesla V100-SXM2-32GB, 32768 | V100 SXM2 32GB
Tesla V100-SXM3-32GB, 32768 | V100 SXM3 32GB
Tesla V100S-PCIE-32GB, 32768 | V100S PCIe 32GB
Tesla T4, 15360 | T4
NVIDIA A2, 15356 | A2
NVIDIA A10, 23028 | A10
NVIDIA A10G, 23028 | A10G
NVIDIA A16, 15356 | A16
NVIDIA A30, 24576 | A30
NVIDIA A40, 46068 | A40
NVIDIA A100-PCIE-40GB, 40960 | A100 40GB PCIe
NVIDIA A100-SXM4-40GB, 40960 | A100 40GB SXM4
NVIDIA A100 80GB PCIe, 81920 | A100 80GB PCIe
NVIDIA A100-SXM4-80GB, 81920 | A100 80GB SXM4
NVIDIA A800-SXM4-80GB, 81920 | A800 80GB SXM4
NVIDIA A800 80GB PCIe, 81920 | A800 80GB PCIe
NVIDIA A800 40GB Active, 40960 | A800 40GB PCIe
NVIDIA L4, 23034 | L4
NVIDIA L20, 46068 | L20
NVIDIA L40, 46068 | L40
NVIDIA L40S, 46068 | L40S
NVIDIA H20, 97871 | H20 96GB
NVIDIA H20, 143771 | H20 141GB
NVIDIA H20-3e, 143771 | H20 141GB
NVIDIA H100 PCIe, 81559 | H100 PCIe 80GB
NVIDIA H100 80GB HBM3, 81559 | H100 SXM5 80GB
NVIDIA H100 NVL, 95830 | H100 NVL 94GB
NVIDIA H800, 81559 | H800 SXM5 80GB
NVIDIA H800 PCIe, 81559 | H800 PCIe 80GB
NVIDIA H200, 143771 | H200 SXM5 141GB
NVIDIA H200 NVL, 143771 | H200 NVL 141GB
NVIDIA GH200 480GB, 97871 | GH200 96GB
NVIDIA GH200 144G HBM3e, 146831 | GH200 144GB
NVIDIA B200, 183359 | B200 SXM 180GB
NVIDIA GB200, 189471 | GB200 NVL72
NVIDIA B300 SXM6 AC, 275040 | B300 SXM 288GB
NVIDIA GB300, 284208 | GB300 NVL72
"""
PRINTED = [tuple(part.strip() for part in line.split("|")) for line in NVIDIA.strip().splitlines()]


@pytest.mark.parametrize(("line", "name"), PRINTED)
def test_what_nvidia_smi_prints_is_a_device(line: str, name: str) -> None:
    printed, _, mib = line.rpartition(", ")
    found = device_of(Card("nvidia-smi", printed, int(mib) * MIB))
    assert found is accelerator(name)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("geforce rtx 4090", "RTX 4090"),
        ("GeForce RTX 4090", "RTX 4090"),
        ("4090d", "RTX 4090 D"),
        ("RTX 4090D", "RTX 4090 D"),
        ("5090 laptop", "RTX 5090 Laptop"),
        ("RTX 4070 mobile", "RTX 4070 Laptop"),
        ("4070 ti super", "RTX 4070 Ti SUPER"),
        ("4070tisuper", "RTX 4070 Ti SUPER"),
        ("3090ti", "RTX 3090 Ti"),
        ("2080 ti 22gb", "RTX 2080 Ti 22GB"),
        ("3060 12g", "RTX 3060 12GB"),
        ("RTX 5070 12GB", "RTX 5070"),
        ("rtx 4090 laptop 16gb", "RTX 4090 Laptop"),
        ("RX 6800 16 GB", "RX 6800"),
        ("a6000", "RTX A6000"),
        ("6000 ada", "RTX 6000 Ada"),
        ("7900 xtx", "RX 7900 XTX"),
        ("Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("AMD Radeon PRO W7900", "Radeon Pro W7900"),
        ("w7900", "Radeon Pro W7900"),
        ("AMD Instinct MI100", "MI100"),
        ("mi355x", "MI355X"),
        ("strix halo 128gb", "Ryzen AI Max+ 395 128GB"),
        ("Intel Arc B580", "Arc B580"),
        ("b60", "Arc Pro B60 24GB"),
        ("Intel Data Center GPU Max 1550", "Max 1550"),
        ("dgx spark", "GB10 128GB"),
        ("NVIDIA Jetson AGX Orin 64GB", "Jetson AGX Orin 64GB"),
        ("jetson thor", "Jetson T5000 128GB"),
        ("ironwood", "TPU v7"),
        ("tpu v5 lite", "TPU v5e"),
        ("trn2", "Trainium2"),
        ("inf2", "Inferentia2"),
        ("ascend 910b3", "Ascend 910B3"),
        ("Ascend910B4-1", "Ascend 910B4-1"),
        ("910c", "Ascend 910C"),
        ("m3 max 40-core 64gb", "M3 Max 40-core 64GB"),
        ("Apple M4 Pro 20 core 48 GB", "M4 Pro 20-core 48GB"),
        ("EPYC 9654", "EPYC 9654"),
        ("AMD EPYC 9965", "EPYC 9965"),
        ("AMD EPYC 9654 96-Core Processor", "EPYC 9654"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "Ryzen 9 7950X"),
        ("Intel(R) Xeon(R) Platinum 8480+", "Xeon Platinum 8480+"),
        ("Intel(R) Arc(TM) B580 Graphics", "Arc B580"),
        ("threadripper 7995wx", "Threadripper PRO 7995WX"),
        ("xeon 8480+", "Xeon Platinum 8480+"),
        ("grace cpu", "Grace"),
    ],
)
def test_names_as_people_write_them(query: str, name: str) -> None:
    assert accelerator(query).name == name


def test_every_name_is_found_without_separators() -> None:
    for device in accelerators():
        for text in (
            "".join(device.name.split()),
            device.name.replace(" ", "-"),
            f"{device.name} {device.memory_vendor}",
        ):
            assert accelerator(text.lower()) is device


# -- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "memory", "name"),
    [
        ("h20", "96 GB", "H20 96GB"),
        ("H20", "141GB", "H20 141GB"),
        ("rtx 3060", "8GB", "RTX 3060 8GB"),
        ("3060", "12GiB", "RTX 3060 12GB"),
        ("m2 ultra 76", "192GB", "M2 Ultra 192GB"),
        ("m3 max 40-core", "64GB", "M3 Max 40-core 64GB"),
        ("v100 pcie", "32 GB", "V100 PCIe 32GB"),
        ("h100", "80GB", "H100 SXM5 80GB"),
        ("rtx 4090", "24GB", "RTX 4090"),
        ("rtx 4090", "24564MiB", "RTX 4090"),
    ],
)
def test_a_size_says_which(query: str, memory: str, name: str) -> None:
    assert accelerator(query, memory=memory) is accelerator(name)
    assert accelerator(query, memory) is accelerator(name)


def test_a_name_with_two_sizes_asks_which() -> None:
    told = "accelerator='H20' has 96 GB or 141 GB of memory; add memory='141GB', or use one of H20 96GB, H20 141GB"
    assert error_of(accelerator, "H20") == told
    assert "add --gpu-memory 141GB, or use one of" in refused("fit", "gpt2", "--gpu", "h20")
    assert [a.name for a in fitting("rtx 4060 ti")] == ["RTX 4060 Ti 8GB", "RTX 4060 Ti 16GB"]
    # kinds that differ in more than their size are named
    assert error_of(accelerator, "m3 max").startswith(
        "accelerator='m3 max' is ambiguous; use one of M3 Max 30-core 36GB"
    )
    assert "A100 80GB PCIe, A100 80GB SXM4" in error_of(accelerator, "a100", memory="80GB")


def test_every_size_of_a_name_can_be_asked_for() -> None:
    for device in accelerators():
        kin = [a for a in accelerators() if a.name.rpartition(" ")[0] == device.name.rpartition(" ")[0]]
        if len(kin) > 1 and device.name.endswith("GB"):
            name, size = device.name.rsplit(" ", 1)
            if name == "H100 SXM5":  # the usual one is meant
                continue
            assert device in fitting(name)
            if len({a.memory_vendor for a in fitting(name)}) == len(fitting(name)):
                assert accelerator(name, memory=size) is device


def test_a_size_that_another_device_has_is_asked_for_by_its_name() -> None:
    told = "memory='94GB' is not that of H100 SXM5 80GB, sold with 80 GB; use H100 NVL 94GB"
    assert error_of(accelerator, "h100", memory="94GB") == told


@pytest.mark.parametrize("memory", ["", "24", "x", "-1GB", "24GHz", "nanGB", "1e99GB", "0GB"])
def test_what_is_no_memory(memory: str) -> None:
    assert "memory=" in error_of(accelerator, "rtx 4090", memory=memory)


# -- a device of one's own --------------------------------------------------------------------


def test_a_memory_of_ones_own_is_said_in_the_name() -> None:
    mine = accelerator("rtx 4090", memory="48 GB")
    assert (mine.name, mine.memory_bytes, mine.memory_status) == ("RTX 4090 [48GB]", 48 * 10**9, "given")
    assert mine.peaks == accelerator("rtx 4090").peaks
    assert accelerator("rtx 4090", memory="44GiB").memory_bytes == 44 * GIB


def test_facts_of_ones_own() -> None:
    mine = given(accelerator("l4"), bandwidth="0.4 TB/s", tflops=["bf16=100", "fp8=200"])
    assert mine.name == "L4 [0.4TB/s, bf16=100, fp8=200]"
    assert mine.memory_bandwidth_bytes_per_second == 4e11
    assert (mine.peak("fp8"), mine.peak("tf32")) == (2e14, accelerator("l4").peak("tf32"))
    own = given(memory="24GB", bandwidth="1008GB/s", tflops={"bf16": 165, "float8": 330})
    assert (own.memory_bytes, own.ridge("bf16"), own.peak("fp8")) == (24 * 10**9, 165e12 / 1008e9, 330e12)
    assert given(own) is own


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"memory": "24GB"}, "needs memory, bandwidth and a rate; add bandwidth='1008GB/s', tflops='bf16=165'"),
        ({}, "accelerator is missing"),
        ({"bandwidth": "1008"}, "bandwidth='1008' must be an amount a second, such as 1008GB/s"),
        ({"bandwidth": "fast"}, "bandwidth='fast' must be"),
        ({"bandwidth": "-3GB/s"}, "bandwidth='-3GB' must be a number"),
        ({"tflops": ["bf16"]}, "tflops='bf16' must be a format and a rate in TFLOP/s, such as bf16=165"),
        ({"tflops": ["bf16=-1"]}, "tflops='bf16=-1' must be"),
        ({"tflops": ["bf16=nan"]}, "tflops='bf16=nan' must be"),
        ({"tflops": ["bf17=1"]}, "format of tflops='bf17' is not known; did you mean bf16"),
        ({"tflops": {"bf16": "x"}}, "tflops['bf16']='x' must be a number"),
    ],
)
def test_errors_of_facts(facts: dict[str, object], told: str) -> None:
    assert told in error_of(given, **facts)


ROW = {"name": "mine", "memory_mib": "24576", "memory_bandwidth_gb_per_second": "1008", "bf16_tflops": "165"}


def test_a_row_of_ones_own() -> None:
    mine = Accelerator.from_row(ROW)
    assert (mine.name, mine.memory_bytes, mine.peak("bf16"), mine.status) == ("mine", 24 * GIB, 165e12, "given")
    assert Accelerator.from_row(
        ROW | {"link": "nvlink4", "link_gb_per_second": 450, "scale_up_devices": 8}
    ).scale_up_link
    again = Accelerator.from_row({k: v for k, v in read_table("accelerators")[0].items() if k != "aliases"})
    assert again == accelerators()[0]
    assert str(mine)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"memory_mib": ""}, "row has no memory_mib"),
        ({"bf16_tflops": None}, "row has no bf16_tflops or another rate"),
        ({"name": " "}, "row has no name"),
        ({"memory_mib": "24.5"}, "memory_mib='24.5' of row must be a whole number above 0"),
        ({"memory_mib": "24GB"}, "memory_mib='24GB' of row must be a whole number above 0"),
        ({"fp8_tflops": "fast"}, "fp8_tflops='fast' of row must be a number above 0"),
        ({"tdp_watts": "-1"}, "tdp_watts='-1' of row must be a number above 0"),
        ({"bf16": "165"}, "column of row='bf16' is not known; did you mean bf16_tflops"),
        ({"host_link": "a wire"}, "link='a wire' is not known"),
    ],
)
def test_errors_of_a_row(change: dict[str, object], told: str) -> None:
    assert told in error_of(Accelerator.from_row, ROW | change)


def test_a_row_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my card.csv"
    file.write_text(f"{','.join(ROW)}\n{','.join(ROW.values())}\n")
    assert accelerator(str(file)) == Accelerator.from_row(ROW)
    assert accelerator(str(file), memory="48GB").name == "mine [48GB]"
    done = run("serve", "gpt2", "--gpu", str(file), "--input-tokens", "100")
    assert (done.returncode, "on 1 x mine, vllm" in done.stdout) == (0, True)
    assert "not fitted on this " in done.stdout
    file.write_text(f"{','.join(ROW)}\n")
    assert "has 0 rows; give a CSV file with a row of" in error_of(accelerator, str(file))
    file.write_text("\0")
    assert "my card.csv" in error_of(accelerator, str(file))
    assert "no.csv" in error_of(accelerator, str(tmp_path / "no.csv"))


def test_the_command_takes_a_device_of_ones_own() -> None:
    facts = ["--gpu-memory", "24GB", "--gpu-bandwidth", "1008GB/s", "--gpu-tflops", "bf16=165,fp8=330"]
    name = "own [24GB, 1008GB/s, bf16=165, fp8=330]"
    found = json.loads(run("fit", "llama-3-8b", *facts, "--json").stdout)
    assert found["device"] == name
    for command in ("memory", "train", "serve"):
        done = run(command, "llama-3.2-1b", *facts)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
    done = run("fit", "gpt2", "--gpu", "4090", "--gpu-memory", "24GB,48GB")
    assert "2 combinations of gpu-memory" in done.stdout
    assert "add --gpu-bandwidth 1008GB/s, --gpu-tflops bf16=165" in refused("fit", "gpt2", "--gpu-memory", "24GB")
    assert "--gpu-memory 24 must be an amount of memory" in refused(
        "fit", "gpt2", "--gpu", "4090", "--gpu-memory", "24"
    )
    assert "--gpu is missing, as in: " in refused("fit", "gpt2")


def test_time_on_a_device_without_measurements_says_so() -> None:
    for name in ("EPYC 9654", "RX 7900 XTX", "TPU v6e", "Ascend 910B3"):
        done = run("serve", "llama-3.2-1b", "--gpu", name, "--concurrency", "1")
        words = "not fitted on this ", " is in the measurements: those of other"
        assert any(text in done.stdout for text in words), (name, done.stderr)
    for name in ("EPYC 9654", "RX 7900 XTX", "TPU v6e", "RTX 5080"):
        assert "few or no training runs" in run("train", "gpt2", "--gpu", name, "--seq-len", "512").stdout
    assert "few or no training runs" not in run("train", "gpt2", "--gpu", "h100", "--seq-len", "512").stdout


# -- the catalog ------------------------------------------------------------------------------


def test_larger_devices_are_of_the_same_make() -> None:
    for name in ("RTX 4090", "RTX 4090 Laptop", "M1 8-core 8GB", "EPYC 7763", "MI210", "Jetson Orin Nano 8GB"):
        device = accelerator(name)
        found = list(larger(device))
        assert found, name
        assert [a.memory_bytes for a in found] == sorted(a.memory_bytes for a in found)
        assert {a.vendor for a in found} == {device.vendor}
        shared = {"laptop", "SoC", "APU", "socket"}
        assert {a.form for a in found} <= (
            {device.form} if device.form in shared else {a.form for a in accelerators()} - shared
        )


# Dense rates that vendors print, in TFLOP/s: those of rows whose rates are derived from clocks must come near them.
DATASHEETS: dict[str, dict[str, float]] = {
    "RTX 2080 Ti 11GB": {"fp16": 53.8, "int8": 215.2},  # Turing whitepaper, reference clock
    "Quadro RTX 6000": {"fp16": 130.5, "int8": 261},
    "TITAN RTX": {"fp16": 130.5},
    "RTX 5080": {"fp4": 900.5, "fp8": 225.1, "int8": 450.2},  # Blackwell whitepaper: 1801 sparse fp4
    "RTX 5070": {"fp4": 494, "bf16": 61.7},
    "RTX A5000": {"fp16": 111.1, "tf32": 55.6},
    "RTX A4000": {"fp16": 76.7},
    "RX 7900 XTX": {"fp16": 122.8},
    "RX 9070 XT": {"fp16": 195, "fp8": 389},
    "MI100": {"fp16": 184.6, "bf16": 92.3, "fp32": 23.1},
    "MI300A": {"bf16": 980.6, "fp8": 1961.2},
    "Max 1550": {"bf16": 839, "tf32": 419},
    "A2": {"fp16": 18, "int8": 36},
    "A16": {"fp16": 17.9, "int8": 35.9},
    "Jetson AGX Orin 64GB": {"int8": 85},  # 170 sparse
    "Jetson T5000 128GB": {"fp4": 1035},
    "P40": {"int8": 47, "fp32": 12},
    "P100 SXM2 16GB": {"fp32": 10.6, "fp64": 5.3},
}


@pytest.mark.parametrize("name", DATASHEETS)
def test_derived_rates_are_near_the_printed_ones(name: str) -> None:
    for fmt, tflops in DATASHEETS[name].items():
        assert accelerator(name).peak(fmt) == pytest.approx(tflops * 1e12, rel=0.025), fmt


def test_geforce_accumulates_in_fp32_at_half_rate() -> None:
    for device in accelerators():
        if device.vendor == "NVIDIA" and device.fp16_accumulate_peak:
            assert device.fp16_accumulate_peak == pytest.approx(2 * device.peak("fp16"), rel=0.01), device.name


def test_the_catalog_is_wide() -> None:
    devices = accelerators()
    assert len(devices) >= 400
    for vendor, least in (("NVIDIA", 190), ("AMD", 70), ("Apple", 80), ("Intel", 20), ("Google", 7), ("Huawei", 9)):
        assert sum(a.vendor == vendor for a in devices) >= least
    for device in devices:
        assert device.peaks.keys() & {"bf16", "fp16"}, device.name  # without one nothing can be timed
        assert not device.memory_ecc_bytes or device.memory_ecc_bytes < device.memory_bytes


def test_gpus_are_filtered_and_fit_into_80_columns() -> None:
    done = run("gpus")
    table = done.stdout.partition("\n\nNote")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert f"{len(accelerators())} accelerators" in done.stdout

    def names(*words: str) -> list[str]:
        return [row["name"] for row in json.loads(run("gpus", *words, "--json").stdout)]

    assert names("h100") == names("H100") == [a.name for a in accelerators() if a.name.startswith("H100")]
    assert set(names("rtx", "40")) >= {"RTX 4060", "RTX 4090", "RTX 4090 Laptop"}
    assert all("40" in name for name in names("rtx", "40"))
    assert names("rtx 40") == names("rtx", "40")
    assert {llmhw.accelerator(name).vendor for name in names("--vendor", "amd")} == {"AMD"}
    large = names("--vendor", "nvidia", "--memory-at-least", "80GB")
    assert "A100 80GB SXM4" in large
    assert "RTX PRO 5000 Blackwell 72GB" not in large
    assert "matches no accelerator" in refused("gpus", "xyzzy")
    assert "--vendor foo is not known" in refused("gpus", "--vendor", "foo")
    assert "must be an amount of memory" in refused("gpus", "--memory-at-least", "80")
