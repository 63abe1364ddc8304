"""The data files: every row loads, says where it comes from, and agrees with its neighbours."""

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import fields, replace
from typing import Any

import pytest

import llmhw
from llmhw import catalog
from llmhw.catalog import check_calibration, read_calibration
from llmhw.rates import ServingConstants, TrainingConstants
from llmhw.units import LLMHWError

TABLES = (
    *("accelerators", "links", "instances", "prices", "purchase_prices", "matmul_efficiency", "failures"),
    *("ownership", "published_costs", "currencies", "grids"),
    "serving_programs",
    "skypilot_names",
    "quoted_prices",
)
STATUS = {"datasheet", "measured", "derived", "published"}
DATE = re.compile(r"20\d\d(-\d\d(-\d\d)?)?")
ROWS = [(table, row) for table in TABLES for row in catalog.read_table(table)]
INDEX = catalog.model_index()
NAMES = {row["name"] for row in catalog.read_table("accelerators")}


def _id(value: object) -> str:
    return value if isinstance(value, str) else ""


def test_the_tables_have_the_rows_they_are_known_to_have() -> None:
    counts = {table: len(catalog.read_table(table)) for table in TABLES}
    assert counts["accelerators"] >= 61
    assert counts["links"] >= 42
    assert counts["instances"] >= 80
    assert counts["prices"] >= 156
    assert counts["matmul_efficiency"] >= 31
    assert counts["failures"] >= 5


@pytest.mark.parametrize(("table", "row"), ROWS, ids=_id)
def test_every_row_has_a_source_a_status_and_a_date(table: str, row: dict[str, str]) -> None:
    assert row["source"].strip()
    assert row["status"] in STATUS
    assert DATE.fullmatch(row["date"])
    assert None not in row, "more cells than the header has"
    assert all(value == value.strip() for value in row.values())


@pytest.mark.parametrize("table", ["accelerators", "links"])
def test_names_are_unique(table: str) -> None:
    names = [row["name"] for row in catalog.read_table(table)]
    assert len(names) == len(set(names))


def test_instances_are_unique_within_a_provider() -> None:
    keys = [(row["provider"], row["name"]) for row in catalog.read_table("instances")]
    assert len(keys) == len(set(keys))


def test_no_row_is_there_twice() -> None:
    for table in TABLES:
        rows = [tuple(row.values()) for row in catalog.read_table(table)]
        assert len(rows) == len(set(rows))


@pytest.mark.parametrize("table", ["instances", "prices", "purchase_prices", "quoted_prices", "skypilot_names"])
def test_every_accelerator_that_a_row_names_exists(table: str) -> None:
    assert {row["accelerator"] for row in catalog.read_table(table)} <= NAMES


def test_every_link_that_a_row_names_exists() -> None:
    links = {row["name"] for row in catalog.read_table("links")}
    for row in catalog.read_table("accelerators"):
        assert {row["link"], row["host_link"]} <= links | {""}
        assert bool(row["link"]) == bool(row["link_gb_per_second"])
        assert (int(row["scale_up_devices"]) > 1) == bool(row["link"])
    assert {row["intra_link"] for row in catalog.read_table("instances")} <= links | {""}


def test_every_price_has_a_region_and_a_device_hour_that_follows() -> None:
    for row in catalog.read_table("prices"):
        assert row["region"]
        assert row["kind"] in {"on_demand", "spot"}
        per_device = float(row["dollars_per_hour"]) / int(row["devices"])
        assert float(row["dollars_per_device_hour"]) == pytest.approx(per_device, rel=1e-4)
    assert all(row["region"] and float(row["dollars"]) > 0 for row in catalog.read_table("purchase_prices"))


def test_a_quoted_price_keeps_its_currency_and_says_whose_it_is() -> None:
    known = {row["code"] for row in catalog.read_table("currencies")} - {"USD"}
    bought = {row["kind"] for row in catalog.read_table("purchase_prices")}
    for row in catalog.read_table("quoted_prices"):
        assert row["currency"] in known
        assert float(row["amount"]) > 0
        assert row["region"]
        assert row["kind"] in ({"on_demand", "spot"} if row["provider"] else bought)


def test_every_priced_instance_exists_with_the_same_devices() -> None:
    machines = {(row["provider"], row["name"]): row for row in catalog.read_table("instances")}
    for row in catalog.read_table("prices"):
        if row["instance"]:
            machine = machines[row["provider"], row["instance"]]
            assert (machine["accelerator"], machine["devices"]) == (row["accelerator"], row["devices"])


def test_a_constant_in_a_package_is_no_measurement() -> None:
    sources = [row["source"] for row in catalog.read_table("matmul_efficiency") if row["measured"]]
    assert not [source for source in sources if source.startswith(("PyPI", "npm"))]


def test_matmul_efficiencies_are_shares_of_the_catalog_peak() -> None:
    peaks = {row["name"]: row for row in catalog.read_table("accelerators")}
    for row in catalog.read_table("matmul_efficiency"):
        # consumer cards run at clocks above the datasheet's
        assert 0 < float(row["efficiency"]) <= (1.15 if row["accelerator"].startswith("RTX") else 1)
        if row["measured"]:
            column = "memory_bandwidth_gb_per_second" if row["unit"] == "GB/s" else f"{row['format']}_tflops"
            assert row["peak"] == peaks[row["accelerator"]][column]
            assert float(row["efficiency"]) == pytest.approx(float(row["measured"]) / float(row["peak"]), abs=1e-3)


def test_failure_rates_follow_from_what_was_published() -> None:
    architectures = {row["architecture"] for row in catalog.read_table("accelerators")}
    for row in catalog.read_table("failures"):
        assert row["architecture"] in architectures | {""}
        assert row["note"]
        rate = row["device_hours_per_interruption"]
        if row["days"] and row["interruptions"]:
            hours = int(row["devices"]) * float(row["days"]) * 24
            assert float(rate) == pytest.approx(hours / float(row["interruptions"]), rel=1e-4)
        assert rate or not row["days"], "a run whose length is known has a rate"


def test_whole_runs_are_published_once_with_their_hours() -> None:
    rows = catalog.read_measurements("training_runs")
    assert len(rows) >= 131
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["source"]
        assert row["source_locator"]
        assert row["source_opened"] == "true"
        assert float(row["gpu_hours"]) > 0
        if row["days"] and row["n_gpus"]:
            hours = 24 * float(row["days"]) * int(row["n_gpus"])
            assert float(row["gpu_hours"]) == pytest.approx(hours, rel=0.012), row["id"]


def test_a_table_is_read_with_or_without_its_ending() -> None:
    assert catalog.read_table("links.csv") == catalog.read_table("links")


def test_changing_a_row_changes_no_later_answer() -> None:
    catalog.read_table("links")[0]["name"] = "changed"
    assert catalog.read_table("links")[0]["name"] == "NVLink 2"


def test_a_misspelt_table_names_the_nearest() -> None:
    with pytest.raises(LLMHWError) as error:
        catalog.read_table("acelerators")
    assert str(error.value) == "table='acelerators' is not known; did you mean accelerators?"


def test_models_are_found_by_short_name_alias_and_hub_id() -> None:
    for row in INDEX:
        for spelling in (row["name"], row["name"].upper(), row["name"].replace("-", " "), row["hf_id"]):
            if spelling:
                short, config = catalog.read_model(spelling)
                assert short == row["name"]
                assert config["model_type"] == row["model_type"]


def test_an_alias_of_a_model_means_one_model() -> None:
    owners: dict[str, str] = {}
    for row in INDEX:
        for alias in filter(None, row["aliases"].split(";")):
            assert owners.setdefault(alias.casefold(), row["name"]) == row["name"]
            assert catalog.read_model(alias)[0] == row["name"]


def test_model_names_are_those_of_the_index_and_an_unknown_one_is_a_key_error() -> None:
    assert catalog.model_names() == [row["name"] for row in INDEX if not row["refused"]]
    with pytest.raises(KeyError):
        catalog.read_model("no-such-model")


# -- constants that are given -----------------------------------------------------------------

GIVEN = {"training_time": "training-throughput", "serving_time": "serving"}


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from leaves(entry, (*path, name))


USED = [
    (subject, path)
    for subject in GIVEN
    for path in leaves(read_calibration(subject))
    if path and path[0] in ("common", "families", "switches", "engines", "interval")
]


def changed(subject: str, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The catalog's constants with one of them changed; `...`: left out. What lies beside its path is not copied."""
    made = inside = dict(read_calibration(subject))
    for name in path[:-1]:
        inside[name] = dict(inside[name])
        inside = inside[name]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return made


@pytest.mark.parametrize("subject", GIVEN)
def test_the_catalogs_own_constants_pass(subject: str) -> None:
    check_calibration(subject, GIVEN[subject], read_calibration(subject))
    check_calibration(subject, GIVEN[subject], deepcopy(read_calibration(subject)))


WRONG_CONSTANTS = (None, "x", -1, -1e-9, float("nan"), float("inf"), 1e300, 10**400, [], [1], {"a": 1}, True, object())


@pytest.mark.parametrize(("subject", "path"), USED, ids=lambda part: ".".join(part) if isinstance(part, tuple) else "")
def test_no_wrong_constant_passes(subject: str, path: tuple[str, ...]) -> None:
    words = path[-1] in ("meaning", "attention_kernel", "class", "architectures", "devices")
    for value in WRONG_CONSTANTS:
        if words and value in ("x", []):
            continue
        with pytest.raises(LLMHWError, match="calibration"):
            check_calibration(subject, GIVEN[subject], changed(subject, path, value))


@pytest.mark.parametrize("subject", GIVEN)
@pytest.mark.parametrize("given", [None, 3, "x", [], {}, object(), {"common": {}}, {1: 2}, {"interval": {}}])
def test_what_is_no_calibration(subject: str, given: Any) -> None:
    with pytest.raises(LLMHWError, match="calibration"):
        check_calibration(subject, GIVEN[subject], given)


def test_constants_that_are_missing_are_named() -> None:
    for path, message in (
        (("common", "bandwidth"), "has no bandwidth for the family 'other'"),
        (("families", "hopper", "matmul"), "has no matmul for the family 'hopper'"),
        (("families", "other"), "for the family 'other'"),
        (("interval",), "has no interval"),
    ):
        with pytest.raises(LLMHWError, match=message):
            check_calibration("training_time", "training-throughput", changed("training_time", path, ...))


@pytest.mark.parametrize("value", [[1.0], [1, 2, 3], [2.0, 1.0], [0, 1], ["a", "b"]])
def test_an_interval_is_two_numbers(value: Any) -> None:
    with pytest.raises(LLMHWError, match=r"calibration interval\.dense"):
        check_calibration(
            "training_time", "training-throughput", changed("training_time", ("interval", "dense"), value)
        )


def test_every_constant_has_its_range() -> None:
    named = {f.name for kind in (TrainingConstants, ServingConstants) for f in fields(kind)}
    assert named <= set(catalog._RANGES)


def test_facts_cannot_be_changed() -> None:
    for write in (
        lambda: read_calibration("training_time").update(a=1),
        lambda: read_calibration("training_time")["common"].__setitem__("bandwidth", 1),
        lambda: read_calibration("training_time")["families"]["hopper"]["architectures"].append("x"),
        lambda: llmhw.accelerator("h100").peaks.__setitem__("bf16", 1),
        lambda: llmhw.accelerator("h100").peaks.pop("bf16"),
        lambda: llmhw.model("gpt2").parameters.by_component.clear(),
        lambda: llmhw.model("gpt2").config.update(n_embd=1),
        lambda: llmhw.model("gpt2").family.defaults.update(n_embd=1),
        lambda: llmhw.formulas()["tokens_per_verification"].most.update(acceptance=2),
    ):
        with pytest.raises(LLMHWError, match="cannot be changed; change a copy of it"):
            write()


def test_a_frozen_fact_is_still_a_dict() -> None:
    peaks = llmhw.accelerator("h100").peaks
    assert json.loads(json.dumps(peaks)) == peaks == dict(peaks)
    again = pickle.loads(pickle.dumps(peaks))
    assert again == peaks
    assert type(again) is type(peaks)
    assert hash(again) == hash(peaks)
    for own in (copy(peaks), deepcopy(peaks), peaks.copy(), peaks | {}):
        own["bf16"] = 1.0  # one's own
    assert llmhw.accelerator("h100").peak("bf16") > 1
    mine = replace(llmhw.accelerator("h100"), peaks={"bf16": 1e15})
    with pytest.raises(LLMHWError):
        mine.peaks["bf16"] = 2  # type: ignore[index]
