"""The devices that come with the package: what is recorded of them, and the page that is written from it."""

from pathlib import Path

import pytest
from devices_page import devices_page

from lightning_nas.estimator.device import ANALYTIC, Device
from lightning_nas.estimator.files import TARGETS, available_devices, read_device
from lightning_nas.estimator.measurements import read_measurements

PAGE = Path(__file__).parents[1] / "recipes" / "results" / "estimator.md"
DEVICES = [read_device(TARGETS / f"{name}.json") for name in available_devices()]
MEASURED = [device for device in DEVICES if device.backend != ANALYTIC]

# Mean error, and least shares within 5 % and 10 %, on networks that are in no table.
GOALS = {"ethos_u55_128": (0.01, 0.98, 1.0), "ethos_u85_1024": (0.02, 0.0, 0.99)}


def test_what_is_promised_is_there():
    names = {"ethos_u85_1024", "ethos_u55_128", "ethos_u55_256", "ethos_u65_512", "edge_tpu", "analytic_array"}
    assert names <= set(available_devices())


@pytest.mark.parametrize("device", MEASURED, ids=lambda device: device.name)
class TestRecord:
    def test_networks_in_no_table_are_told_as_near_as_promised(self, device):
        error = device.record["error"]
        assert error["subnets"]["count"] >= 200
        assert error["stock"]["count"] >= 20
        mape, within_5, within_10 = GOALS.get(device.name, (0.02, 0.0, 0.0))
        assert error["networks"]["mape"] <= mape
        assert error["networks"]["within_5"] >= within_5
        assert error["networks"]["within_10"] >= within_10
        assert error["networks"]["spearman"] >= 0.997
        assert sum("off" in row for row in error.values()) == error["stock"]["count"]

    def test_the_faster_block_is_told(self, device):
        pairs = device.record["error"]["pairs"]
        assert pairs["count"] >= 200
        assert pairs["right"] >= 0.97

    def test_intervals_hold_what_they_say(self, device):
        interval = device.record["error"]["interval"]
        assert interval["coverage"] >= interval["level"]

    def test_lanes_are_found_as_documented(self, device):
        assert device.record["staircase"]["found"] == device.lanes

    def test_peak_memory_is_the_compilers(self, device):
        if device.backend != "vela":
            pytest.skip("Only Vela plans memory.")
        assert device.record["memory"]["count"] >= 150
        assert device.record["memory"]["equal"] == 1

    def test_the_better_granularity_is_used(self, device):
        if device.backend != "vela":
            pytest.skip("Simulated operators add up exactly.")
        found = device.record["granularity"]
        assert device.is_split == (found["operators"] <= found["subgraphs"])

    def test_the_table_is_whole_and_of_known_origin(self, device):
        tables = (TARGETS / f"{device.name}{suffix}.csv" for suffix in ("", "_operators"))
        rows = {}
        for table in tables:
            rows |= read_measurements(table).subgraphs
        assert len(rows) == device.record["rows"]
        assert {"date", "measured_by", "units"} <= set(device.record)


def test_the_page_is_what_the_files_say():
    if not PAGE.exists():
        pytest.skip("Recorded results are not installed.")
    assert PAGE.read_text(encoding="utf-8") == devices_page(DEVICES)


def test_the_page_shows_what_is_recorded_and_nothing_else():
    error = {"networks": {"count": 3, "mape": 0.012, "within_5": 1.0, "within_10": 1.0, "max": 0.02}}
    error["net@224"] = {"count": 1, "true_ms": 2.0, "predicted_ms": 1.9, "off": -0.05}
    record = {"error": error, "rows": 30, "date": "2026-11-23", "measured_by": {"clock": "1"}}
    page = devices_page([Device("own", "csv", 8, record=record), Device("unjudged", "csv", 8)])
    assert "| all | **1.20 %** of 3; 100.0 % / 100.0 %; 2.0 % |" in page
    assert "| net@224 | 2 ms, \u22125.0 % |" in page
    assert "unjudged" not in page
    assert "stock" not in page.split("## Stock networks")[0].split("table.")[1]
