"""The accelerators of this machine: what real tools print, put on PATH as small scripts."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmhw import here
from llmhw.hardware import accelerator
from llmhw.units import MIB, LLMHWError
from tests.unit.command import run

Tools = Callable[..., None]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Put programs that print these texts on PATH, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, text: str = "", code: int = 0, only: str = "", other: str = "", wait: float = 0) -> None:
        program = folder / name
        source = (
            f"#!{sys.executable}\nimport sys, time\ntime.sleep({wait!r})\n"
            f"line = ' '.join(sys.argv[1:])\n"
            f"sys.stdout.write({text!r} if {only!r} in line else {other!r})\nsys.exit({code})\n"
        )
        program.write_text(source)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return put


def refused() -> str:
    with pytest.raises(LLMHWError) as error:
        here.devices_here()
    text = str(error.value)
    assert "\n" not in text
    return text


# -- nvidia-smi -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("NVIDIA GeForce RTX 4090, 24564, [N/A]\n", "RTX 4090", 1),
        ("NVIDIA GeForce RTX 3090, 24576, [N/A]\nNVIDIA GeForce RTX 3090, 24576, [N/A]\n", "RTX 3090", 2),
        ("NVIDIA H100 80GB HBM3, 81559, Disabled\n" * 8, "H100 SXM5 80GB", 8),
        ("NVIDIA A100-SXM4-40GB, 40960, Disabled\n", "A100 40GB SXM4", 1),
        ("NVIDIA GeForce RTX 3060, 12288, [N/A]\n", "RTX 3060 12GB", 1),  # two sizes: the memory says which
        ("NVIDIA GeForce RTX 4060 Ti, 8188, [N/A]\n", "RTX 4060 Ti 8GB", 1),
        ("NVIDIA GeForce RTX 4060 Laptop GPU, 8188 MiB, [N/A]\n", "RTX 4060 Laptop", 1),
        ("NVIDIA H20, 143771, Disabled\n", "H20 141GB", 1),
        ("Tesla V100-SXM2-32GB, 32768, [N/A]\n", "V100 SXM2 32GB", 1),  # drivers before R510 print 32510
        ("NVIDIA GB10, [N/A], [N/A]\n", "GB10 128GB", 1),
        ("NVIDIA GB10, [Not Supported], [N/A]\n", "GB10 128GB", 1),
        ("NVIDIA RTX A6000, 49140, [N/A]\n", "RTX A6000", 1),
    ],
)
def test_cards_of_nvidia(tools: Tools, text: str, name: str, count: int) -> None:
    tools("nvidia-smi", text)
    device, found = here.devices_here()
    assert (device.name, found) == (name, count)
    assert device is accelerator(name)


@pytest.mark.parametrize(
    ("text", "name", "mib"),
    [
        ("NVIDIA RTX A6000, 46068, [N/A]\n", "RTX A6000 [46068MiB]", 46068),  # ECC is on
        ("NVIDIA GeForce RTX 4090, 49140, [N/A]\n", "RTX 4090 [49140MiB]", 49140),  # memory was exchanged
    ],
)
def test_a_card_with_other_memory_than_the_catalogs(tools: Tools, text: str, name: str, mib: int) -> None:
    tools("nvidia-smi", text)
    device, _ = here.devices_here()
    assert (device.name, device.memory_bytes, device.memory_status) == (name, mib * MIB, "measured")
    assert device.peaks == accelerator(name.split(" [")[0]).peaks


def test_a_driver_that_knows_no_mig(tools: Tools) -> None:
    unknown = 'Field "mig.mode.current" is not a valid field to query.\n'
    script = f"old = 'mig' in ' '.join(sys.argv)\nprint({unknown!r} if old else 'Tesla T4, 15360')\nsys.exit(2 * old)"
    folder = Path(os.environ["PATH"])
    (folder / "nvidia-smi").write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    assert here.devices_here() == (accelerator("t4"), 1)


MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""


LOST = (
    "Unable to determine the device handle for GPU 0000:0A:00.0: GPU is lost.  Reboot the system to recover this GPU\n"
)
FAILED = """\
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is
installed and running.

"""
TWO = "NVIDIA GeForce RTX 4090, 24564, [N/A]\nNVIDIA GeForce RTX 3090, 24576, [N/A]\n"


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (TWO, 0, "nvidia-smi shows 1 x NVIDIA GeForce RTX 4090 with 24,564 MiB and 1 x NVIDIA GeForce RTX 3090 with"),
        (TWO, 0, "give one of them by --gpu, and how many by --gpus"),
        ("NVIDIA Quantum 9000, 65536, [N/A]\n", 0, "shows NVIDIA Quantum 9000 with 65,536 MiB, which the catalog does"),
        ("NVIDIA Quantum 9000, 65536, [N/A]\n", 0, "give --gpu-memory 65536MiB with --gpu-bandwidth and --gpu-tflops"),
        ("ERR!, ERR!, ERR!\n", 0, "nvidia-smi printed what cannot be read: 'ERR!, ERR!, ERR!'"),
        ("[Unknown Error], 24564, [N/A]\n", 0, "printed what cannot be read"),
        ("NVIDIA GeForce RTX 4090, [Unknown Error], [N/A]\n", 0, "printed what cannot be read"),
        (LOST, 15, "nvidia-smi failed: Unable to determine the device handle"),
        (FAILED, 9, "nvidia-smi failed: NVIDIA-SMI has failed because it couldn't"),
        ("No devices were found\n", 6, "no accelerator is here"),
        ("", 0, "no accelerator is here"),
        ("\x00\xff\x1b[31m garbage \n", 0, "printed what cannot be read"),
    ],
)
def test_what_is_no_single_card(tools: Tools, text: str, code: int, told: str) -> None:
    tools("nvidia-smi", text, code)
    assert told in refused()


def test_slices_are_no_card(tools: Tools) -> None:
    tools("nvidia-smi", "NVIDIA A100-SXM4-40GB, 40960, Enabled\n", only="query", other=MIG)
    assert "cut by MIG: 2 x 3g.20gb; give what a slice has by --gpu-memory" in refused()


def test_a_tool_that_hangs_is_left(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "SECONDS", 0.2)
    tools("nvidia-smi", "NVIDIA GeForce RTX 4090, 24564, [N/A]\n", wait=30)
    assert refused().startswith("nvidia-smi did not answer in 0.2 seconds; give the device by hand")


# -- amd-smi, rocm-smi, macOS -----------------------------------------------------------------

AMD_SMI = [
    {
        "gpu": i,
        "asic": {
            "market_name": "AMD Instinct MI300X",
            "vendor_id": "0x1002",
            "num_compute_units": 304,
            "target_graphics_version": "gfx942",
        },
        "vram": {"type": "HBM3", "vendor": "HYNIX", "size": {"value": 196592, "unit": "MB"}},
    }
    for i in range(8)
]
ROCM_SMI = {
    "card0": {
        "VRAM Total Memory (B)": "25753026560",
        "VRAM Total Used Memory (B)": "27901952",
        "Card Series": "Radeon RX 7900 XTX",
        "Card Model": "0x744c",
        "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
        "GFX Version": "gfx1100",
    },
    "system": {"Driver version": "6.7.0"},
}


def test_cards_of_amd(tools: Tools) -> None:
    tools("amd-smi", json.dumps(AMD_SMI))
    assert here.devices_here() == (accelerator("mi300x"), 8)
    tools("amd-smi", json.dumps({"gpu_data": AMD_SMI[:2]}))
    assert here.devices_here() == (accelerator("mi300x"), 2)


def test_cards_of_an_older_rocm(tools: Tools) -> None:
    tools("rocm-smi", "WARNING: AMD GPU device(s) is/are in a low-power state.\n" + json.dumps(ROCM_SMI))
    device, count = here.devices_here()
    assert (device.name, count) == ("RX 7900 XTX", 1)


@pytest.mark.parametrize("text", ["{", '[{"gpu": 0, "asic": {"market_name": "N/A"}}]', "[" * 100_000, '[{"gpu": 0}]'])
def test_what_amd_smi_should_not_print(tools: Tools, text: str) -> None:
    tools("amd-smi", text)
    assert "amd-smi printed what cannot be read" in refused()


def test_a_tool_that_fails_beside_one_that_works(tools: Tools) -> None:
    tools("nvidia-smi", "NVIDIA-SMI has failed\n", 9)
    tools("rocm-smi", json.dumps(ROCM_SMI))
    assert here.devices_here()[0].name == "RX 7900 XTX"


PROFILE = json.dumps(
    {"SPDisplaysDataType": [{"_name": "Apple M4 Pro", "sppci_cores": "20", "sppci_model": "Apple M4 Pro"}]}
)


def test_a_mac(tools: Tools) -> None:
    tools("sysctl", "Apple M4 Pro\n51539607552\n")
    tools("system_profiler", PROFILE)
    device, count = here.devices_here()
    assert (device.name, count) == ("M4 Pro 20-core 48GB", 1)


def test_a_mac_whose_cores_are_not_told(tools: Tools) -> None:
    tools("sysctl", "Apple M4 Pro\n51539607552\n")
    assert "may be M4 Pro 16-core 48GB or M4 Pro 20-core 48GB; give one of them by --gpu" in refused()


def test_the_sysctl_of_linux_is_no_mac(tools: Tools) -> None:
    tools("sysctl", "sysctl: cannot stat /proc/sys/machdep/cpu/brand_string: No such file or directory\n", 255)
    assert here.cards() == []


# -- the command ------------------------------------------------------------------------------


def test_auto_takes_all_cards(tools: Tools) -> None:
    tools("nvidia-smi", "NVIDIA GeForce RTX 3090, 24576, [N/A]\n" * 2)
    done = run("fit", "llama-3-8b", "--gpu", "auto", "--json")
    found = json.loads(done.stdout)
    assert (found["device"], found["devices"]) == ("RTX 3090", 2)
    one = json.loads(run("fit", "llama-3-8b", "--gpu", "AUTO", "--gpus", "1", "--json").stdout)
    assert one["devices"] == 1
    assert "2 x RTX 3090" in run("serve", "llama-3-8b", "--gpu", "auto", "--tp", "2", "--concurrency", "1").stdout
    listed = run("gpus", "--here").stdout
    assert "2 accelerators here" in listed
    assert listed.count("NVIDIA GeForce RTX 3090") == 2


@pytest.mark.parametrize(
    "line", ["fit gpt2 --gpu auto", "memory gpt2 --gpu auto", "serve gpt2 --gpu auto", "gpus --here"]
)
def test_nothing_is_here(tools: Tools, line: str) -> None:
    done = run(*line.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no accelerator is here" in done.stderr
    assert "--gpu NAME" in done.stderr


def test_here_shows_cards_that_are_not_in_the_catalog(tools: Tools) -> None:
    tools("nvidia-smi", "NVIDIA Quantum 9000, 65536, [N/A]\nNVIDIA GeForce RTX 4090, 24564, [N/A]\n")
    rows = json.loads(run("gpus", "--here", "--json").stdout)
    assert [row["device"] for row in rows] == [None, "RTX 4090"]
    assert "which the catalog does not have" in rows[0]["refused"]


def test_importing_runs_nothing() -> None:
    code = "import sys, llmhw.here; print('subprocess' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
