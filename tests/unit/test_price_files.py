"""Prices of one's own, and gpuhunt's offers as such: its own objects, its own files, its own loader, and no network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.cost import common_provider, price_of
from llmhw.hardware import accelerator, prices, purchase_prices, stale_on
from llmhw.price_files import device_of_offer, priced, read_prices, refreshed
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run

HEAD = "accelerator,devices,kind,dollars_per_hour,date\n"
SERVE = ("serve", "llama-3-8b", "--gpu", "h100", "--concurrency", "4")


def written(folder: Path, text: str) -> str:
    path = folder / "prices.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


# -- a file -----------------------------------------------------------------------------------


def test_the_list_that_the_command_writes_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    assert run("prices", "h100", "--output", str(path)).returncode == 0
    found = read_prices(path)
    newest: dict[tuple[str, ...], Any] = {}
    for p in prices():
        if "H100" in p.accelerator:
            newest.setdefault((p.accelerator, p.kind, p.provider, p.instance, p.region), p)
    assert set(found.rent) == set(newest.values())
    assert {p.dollars for p in found.purchase} == {p.dollars for p in purchase_prices("h100")}


def test_a_file_stands_for_the_whole_catalog(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "h100,8,,24,2026-11-01\nNVIDIA H100 80GB HBM3,8,reserved,16,2026-11\n")
    listed = read_prices(path)
    assert [(p.kind, p.dollars_per_device_hour) for p in listed.rent] == [("on_demand", 3.0), ("reserved", 2.0)]
    paid, _ = price_of(accelerator("h100"), 8, None, None, None, "on_demand", listed)
    assert paid is not None
    assert (paid.dollars_per_device_hour, paid.source, paid.status) == (3.0, path, "given")
    none, why = price_of(accelerator("h200"), 8, None, None, None, "on_demand", path)
    assert none is None
    assert path in why
    with pytest.raises(LLMHWError, match=r"price=2\.0 is given: leave prices="):
        price_of(accelerator("h100"), 8, 2.0, None, None, "on_demand", path)
    assert common_provider([accelerator("h100")], listed=listed) == path


def test_train_and_serve_are_paid_by_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "h100,8,on_demand,24,2026-11-01\n")
    assert (
        answer(*SERVE, "--prices", path)["dollars_per_million_tokens"]
        == answer(*SERVE, "--price", "3")["dollars_per_million_tokens"]
    )
    train = ("train", "gpt2", "--gpu", "h100", "--tokens", "1B")
    assert answer(*train, "--prices", path)["run"]["dollars"] == answer(*train, "--price", "3")["run"]["dollars"]
    several = run("serve", "llama-3-8b", "--gpu", "h100", "-c", "1,2", "--prices", path, "--csv").stdout
    assert several.count("\n") == 3
    assert "--prices" in refused(*SERVE, "--prices", path, "--price", "3")


def test_each_kind_of_a_file_can_be_asked_for(tmp_path: Path) -> None:
    rows = "h100,1,on_demand,4,2026-11-01\nh100,1,spot,1,2026-11-01\nh100,1,reserved,2,2026-11-01\n"
    path = written(tmp_path, HEAD + rows)
    for flags, dollars in (((), 4.0), (("--spot",), 1.0), (("--reserved",), 2.0)):
        assert answer(*SERVE, "--prices", path, *flags)["price"]["dollars_per_device_hour"] == dollars
    assert "no reserved price of H100" in run(*SERVE, "--reserved").stdout
    assert refused(*SERVE, "--reserved", "--provider", "AWS").startswith("llmhw: --reserved has no price of H100")
    assert run("prices", "h100", "--prices", path, "--currency", "EUR").stdout.splitlines()[2].endswith("EUR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no row"),
        ("accelerator,devices\nh100,8\n", "has no column date"),
        (HEAD, "has no row"),
        (HEAD.replace("devices", "count") + "h100,8,,24,2026-11-01\n", "column='count' is not known"),
        (HEAD + "h100,8,,24,2026-11-01\nh10O0,8,,24,2026-11-01\n", "line 3: accelerator='h10O0' is not known"),
        (HEAD + "a100,8,,24,2026-11-01\n", "line 2: accelerator='a100' is ambiguous"),
        (HEAD + "h100,8,,24,last week\n", "line 2: date='last week' must be a day or a month"),
        (HEAD + "h100,8,,24,2026-13\n", "line 2: date='2026-13' must be a day or a month"),
        (HEAD + "h100,8,,24,\n", "line 2: date='' must be a day or a month"),
        (HEAD + "h100,8,weekly,24,2026-11-01\n", "line 2: kind='weekly' is not known; use one of on_demand, spot"),
        (HEAD + "h100,8,,-3,2026-11-01\n", "line 2: dollars_per_hour='-3' must be a number above 0"),
        (HEAD + "h100,8,,nan,2026-11-01\n", "line 2: dollars_per_hour='nan' must be a number above 0"),
        (HEAD + "h100,8,,,2026-11-01\n", "line 2 has no price; give dollars_per_device_hour"),
        (HEAD + "h100,1.5,,24,2026-11-01\n", "line 2: devices='1.5' must be a whole number"),
        (HEAD + "h100,8,,24,2026-11-01,x\n", "line 2 has more cells than the header"),
        (HEAD + "h100,8,purchase,24,2026-11-01\n", "line 2: a price to buy needs dollars, of one device"),
        (
            "accelerator,devices,dollars_per_hour,dollars_per_device_hour,date\nh100,8,24,2,2026\n",
            "dollars_per_hour=24 of 8 devices are 3 each, not dollars_per_device_hour=2",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LLMHWError) as error:
        read_prices(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert refused(*SERVE, "--prices", path).startswith("llmhw: --prices ")


def test_a_file_that_is_not_there_or_no_path() -> None:
    assert "does not exist" in refused(*SERVE, "--prices", "none.csv")
    with pytest.raises(LLMHWError, match="prices=3 must be the path of a CSV file"):
        llmhw.serve(llmhw.ServingJob(model="gpt2", cluster="h100"), input_tokens=9, output_tokens=9, prices=3)


def test_a_file_of_prices_is_never_written_onto(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "h100,8,on_demand,24,2026-11-01\n")
    assert "output" in refused(*SERVE, "--prices", path, "--output", path)
    assert Path(path).read_text(encoding="utf-8").startswith(HEAD)


# -- age --------------------------------------------------------------------------------------


def test_a_year_is_old() -> None:
    assert stale_on(date(2026, 10, 10), "2025-10-10") == ""
    assert stale_on(date(2026, 10, 11), "2025-10-10").endswith("of 2025-10-10, 12 months ago")
    assert stale_on(date(2026, 6, 1), "2024").endswith("29 months ago")


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(("terminal", "told"), [(True, True), (False, False)])
def test_only_a_person_is_told_what_the_clock_says(terminal: bool, told: bool, tmp_path: Path) -> None:
    """The file's newest price is of 2025-11-01: for every clock that runs this test a year ago and more."""
    import pty

    path = written(tmp_path, HEAD + "h100,8,on_demand,24,2025-11-01\n")
    command = [sys.executable, "-m", "llmhw", *SERVE, "--prices", path, "-q"]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs if terminal else subprocess.PIPE, check=True)
    os.close(theirs)
    text = done.stderr or b""
    while terminal:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    assert (b"the newest of these prices is of 2025-11-01" in text) is told
    assert b"2025" not in done.stdout


# -- gpuhunt ----------------------------------------------------------------------------------

gpuhunt = pytest.importorskip("gpuhunt", reason="the extra `prices`")


def test_its_accelerators_are_found_in_the_catalog() -> None:
    """All that NVIDIA, Google and nearly all that AMD make; Tenstorrent is not in the catalog."""
    known: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for info in gpuhunt.KNOWN_ACCELERATORS:
        vendor = info.vendor.value
        known[vendor] += 1
        got = device_of_offer(info.name, float(info.memory) or None, vendor)
        if got is not None:
            found[vendor] += 1
            sold = float(got[0].memory_vendor.split()[0])
            assert info.memory == 0 or sold == pytest.approx(info.memory, rel=0.13), (info.name, got[0].name)
            digits = "".join(c for c in info.name.replace("litepod", "e") if c.isdigit())
            assert digits in got[0].name.replace(" ", ""), (info.name, got[0].name)
    assert (found["nvidia"], found["google"]) == (known["nvidia"], known["google"])
    assert found["amd"] >= known["amd"] - 1
    assert sum(found.values()) >= 0.89 * sum(known.values())


def item(**facts: Any) -> Any:
    """An offer, as gpuhunt itself has it."""
    usual = {"location": "us-east-1", "cpu": 8, "memory": 64.0, "gpu_count": 8, "spot": False, "disk_size": None}
    usual |= {"gpu_vendor": gpuhunt.AcceleratorVendor.NVIDIA, "provider": "aws"}
    return gpuhunt.CatalogItem(**usual | facts)


OFFERS = {
    "aws": [
        item(instance_name="p5.48xlarge", price=55.04, gpu_name="H100", gpu_memory=80.0),
        item(instance_name="p5.48xlarge", price=20.0, gpu_name="H100", gpu_memory=80.0, spot=True),
        item(instance_name="m7i.large", price=0.1, gpu_name=None, gpu_memory=None, gpu_count=0, gpu_vendor=None),
    ],
    "azure": [
        item(
            instance_name="Standard_NC24ads_A100_v4",
            price=3.673,
            gpu_name="A100",
            gpu_memory=80.0,
            gpu_count=1,
            location="eastus",
            provider="azure",
        )
    ],
    "gcp": [
        item(
            instance_name="v5litepod-4",
            price=4.8,
            gpu_name="v5litepod-4",
            gpu_memory=16.0,
            gpu_count=1,
            gpu_vendor=gpuhunt.AcceleratorVendor.GOOGLE,
            provider="gcp",
            location="us-central1",
        )
    ],
    "runpod": [
        item(instance_name="4090", price=0.69, gpu_name="RTX4090", gpu_memory=24.0, gpu_count=1, provider="runpod"),
        item(
            instance_name="n150",
            price=0.5,
            gpu_name="n150",
            gpu_memory=12.0,
            gpu_count=1,
            provider="runpod",
            gpu_vendor=gpuhunt.AcceleratorVendor.TENSTORRENT,
        ),
    ],
}


def test_offers_become_prices() -> None:
    unknown: Counter[str] = Counter()
    found = list(priced([offer for offers in OFFERS.values() for offer in offers], "2026-11-28", unknown))
    told = [(p.provider, p.accelerator, p.devices, p.kind, p.dollars_per_device_hour) for p in found]
    assert told == [
        ("AWS", "H100 SXM5 80GB", 8, "on_demand", 6.88),
        ("AWS", "H100 SXM5 80GB", 8, "spot", 2.5),
        ("Azure", "A100 80GB PCIe", 1, "on_demand", 3.673),  # the form is that of the machine, which the catalog knows
        ("GCP", "TPU v5e", 4, "on_demand", 1.2),
        ("RunPod", "RTX 4090", 1, "on_demand", 0.69),
    ]
    assert unknown == {"n150 12GB": 1}
    catalog = next(p for p in prices("h100", provider="AWS", kind="on_demand") if p.instance == "p5.48xlarge")
    assert found[0].dollars_per_device_hour == catalog.dollars_per_device_hour


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Catalogs as gpuhunt publishes them, in a folder that it reads them from."""
    from gpuhunt._internal import storage

    for provider, offers in OFFERS.items():
        folder = tmp_path / provider
        (folder / "v").mkdir(parents=True)
        (folder / "version").write_text("v", encoding="utf-8")
        storage.dump(offers, str(tmp_path / "one.csv"))
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as file:
            file.write(tmp_path / "one.csv", f"{provider}.csv")
        (folder / "v" / "catalog.zip").write_bytes(made.getvalue())
    monkeypatch.setenv("GPUHUNT_CATALOG_URL", tmp_path.as_uri())
    return tmp_path


@pytest.mark.usefixtures("served")
def test_a_refreshed_list_is_written_and_paid_by(tmp_path: Path) -> None:
    found, unknown, silent = refreshed(date(2026, 11, 28))
    assert len(found.rent) == 5
    assert unknown["n150 12GB"] == 1
    assert {"nebius", "oci"} <= set(silent)
    path = tmp_path / "today.csv"
    done = run("prices", "refresh", "--output", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert {p.dollars_per_device_hour for p in read_prices(path).rent} == {6.88, 2.5, 3.673, 1.2, 0.69}
    assert answer(*SERVE, "--prices", str(path))["price"]["dollars_per_device_hour"] == 6.88
    shown = run("prices", "refresh", "--kind", "spot").stdout
    assert "p5.48xlarge" in shown
    assert "without an answer: verda" in shown


def test_offline_it_says_so_in_a_line_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:  # a port of this machine where nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GPUHUNT_CATALOG_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        path = tmp_path / "today.csv"
        line = refused("prices", "refresh", "--output", str(path))
    assert "gpuhunt's catalogs cannot be reached" in line
    assert not path.exists()


def test_without_gpuhunt_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['gpuhunt'] = None; from llmhw.cli import main; sys.argv[1:] = "
    code += "['prices', 'refresh']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "llmhw: prices are refreshed by gpuhunt; install it with: pip install 'llmhw[prices]'\n"
