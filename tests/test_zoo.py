"""Networks as people have them, to the end: converted, derived, priced, exported, reloaded and searched."""

import pytest
import zoo
from network_trials import LATENCY, OUTPUT, Elsewhere, Trial, Uncompiled, tried
from networks_page import NUM_MEMBERS, NetworkRow
from torch import nn

# The others run by `pytest -m slow`, and in the record of `recipes/results/networks.md`.
QUICK = (
    "torchvision/resnet18",
    "own/yolo",  # concatenations, halves of a split
    "own/timm_pyramid",  # maps of several scales, upsampled and summed
)
# What is known not to work of a network, by the steps that fail, with the reason.
# Random weights find no objects, and torch.export takes no network whose operators depend on what is found.
FAILING: dict[str, dict[str, str]] = {
    "detection/fasterrcnn_mobilenet_v3_large_320_fpn": {
        "export": "GuardOnDataDependentSymNode",
        **dict.fromkeys(("narrower", "prices", "search"), "`hidden_channels` of subgraph"),
    }
}


def names():
    for name in zoo.ZOO:
        marks = [] if name in QUICK else [pytest.mark.slow]
        if not zoo.is_available(name):
            marks.append(pytest.mark.skip(reason="needs pip install segmentation-models-pytorch"))
        yield pytest.param(name, marks=marks)


pytestmark = pytest.mark.usefixtures("few_anchors")


@pytest.fixture(scope="module")
def estimator():
    return Uncompiled.load("ethos_u85_1024", fallback="bytes")


@pytest.fixture(scope="module")
def elsewhere():
    with Elsewhere() as process:
        yield process


@pytest.mark.parametrize("name", [*names()])
def test_a_network_is_searched_to_the_end(name, estimator, elsewhere):
    row = NetworkRow(**tried(name, estimator, elsewhere, budget_use=0.0))
    failing = FAILING.get(name, {})
    assert row.errors.keys() == failing.keys(), row.errors
    assert all(text in row.errors[step] for step, text in failing.items())
    assert row.accepted
    assert row.equal
    assert row.derived == NUM_MEMBERS
    assert row.priced == (0 if "prices" in failing else NUM_MEMBERS)
    assert row.narrower == (0 if "narrower" in failing else NUM_MEMBERS)
    assert row.reloads
    assert row.exports == row.source_exports == ("export" not in failing)
    assert "search" in failing or 0 < row.search_ratio <= LATENCY
    assert not any(OUTPUT in reason for reason in row.reasons)


def test_a_network_of_this_package_is_not_reloaded_without_it(estimator, elsewhere):
    trial = Trial("own/vgg", estimator, elsewhere)
    expected = [trial.network(trial.images).detach()]
    assert elsewhere.computes_the_same(trial.network, trial.images, expected) == "True"
    assert elsewhere.computes_the_same(trial.network, trial.images, [expected[0] + 1]) == "False"
    trial.space(), trial.conversion()
    assert "lightning_nas" in elsewhere.computes_the_same(trial.network, trial.images, expected)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 2, 1)

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_what_fails_is_said_and_does_not_stop_the_rest(estimator, elsewhere, monkeypatch):
    def fail(self):
        raise RuntimeError("no such operator\nat a place")

    monkeypatch.setitem(zoo.ZOO, "own/vgg", Small)
    monkeypatch.setattr(Trial, "members", fail)
    said = []
    row = tried("own/vgg", estimator, elsewhere, said.append, budget_use=0.0)
    # Later steps are of the members that there are not.
    assert row["errors"]["members"] == "RuntimeError: no such operator"
    assert {*row["errors"]} == {"members", "prices", "reloading", "export"}
    assert row["search_ratio"] > 0
    assert [*said[3]["errors"]] == ["conversion"]
    monkeypatch.setattr(Trial, "conversion", fail)
    assert tried("own/vgg", estimator, elsewhere)["errors"] == {"conversion": "RuntimeError: no such operator"}
