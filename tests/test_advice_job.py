"""The recipe `advise`, from the command line to its files."""

import html
import json
import re

import pytest
import torch
from commands import run

from lightning_nas import Estimator, load_subnet
from lightning_nas.jobs.advice_job import AdvicePlan
from lightning_nas.supernet import stock_network

BRIEF = ["--config-name", "advise", "image_size=64", "stock=false"]
NARROW = "+network.width_mult=0.35"


def run_dir(folder):
    return next((folder / "outputs").glob("*/*"))


def test_prices_alone_and_the_changed_network(tmp_path):
    done = run(tmp_path, *BRIEF, "num_classes=5", "network=mobilenet_v2", NARROW, "apply=true")
    assert done.returncode == 0, done.stderr
    folder = run_dir(tmp_path)
    found = json.loads((folder / "advice.json").read_text())
    assert (found["network"], found["device"]) == ("MobileNetV2", "ethos_u85_1024")
    estimator, example = Estimator.load("ethos_u85_1024"), torch.zeros(1, 3, 64, 64)
    source = stock_network("mobilenet_v2", num_classes=5, width_mult=0.35)
    assert found["cost"]["latency_ms"] == pytest.approx(estimator.latency_ms(source, example))
    assert {one["kind"] for one in found["suggestions"]} >= {"fuse", "skip", "input"}
    subnet = load_subnet(folder)
    assert subnet.classifier[1].out_features == 5
    last = found["steps"][-1]["cost"]
    assert last["latency_ms"] == pytest.approx(estimator.latency_ms(subnet, example))
    assert f"The changed network, {last['latency_ms']:.4g} ms" in done.stdout
    page = html.unescape((folder / "report.html").read_text())
    for text in ("Where the time goes", "Together, one after the other", "leave this residual block out"):
        assert text in page
        assert text in done.stdout


def test_harm_is_measured_by_images(tmp_path):
    network = stock_network("mobilenet_v2", num_classes=10, width_mult=0.35)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options = ["num_images=6", "most_harm=100", "network.weights=weights.pth", NARROW, "apply=true"]
    done = run(tmp_path, *BRIEF, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((run_dir(tmp_path) / "advice.json").read_text())
    assert any(one["harm"] for one in found["suggestions"])
    assert "skip" in {step["suggestion"]["kind"] for step in found["steps"]}
    harms = [step["harm"] for step in found["steps"]]
    assert harms == sorted(harms)
    assert "near chance on these images" in found["notes"][0]
    assert load_subnet(run_dir(tmp_path)).classifier[1].out_features == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=abacus"], "ethos_u85_1024(.|\n)*abacus"),
        (["num_images=8"], "`network.weights` must name the weights of a trained network .*; got null. HINT: num_im"),
        (["data.root=nowhere", "network.weights=w.pth"], "nowhere"),
    ],
    ids=str,
)
def test_bad_input_gets_one_message_and_leaves_nothing(tmp_path, arguments, message):
    done = run(tmp_path, *BRIEF, *arguments)
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 1}, "`num_images` must be 0, or 2 and more, for fitting and for judging; got 1"),
        ({"most_harm": -1}, "`most_harm` must be at least 0; got -1"),
        ({"image_size": [64, 64, 64]}, r"`image_size` must be one side, or height and width; got \[64, 64, 64\]"),
        ({"image_size": [64, 0]}, r"`image_size\[1\]` must be at least 1; got 0"),
    ],
    ids=str,
)
def test_settings_are_checked_when_they_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvicePlan(**settings)
