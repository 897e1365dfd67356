"""Stock networks within a budget, of which the best is what a search has to beat."""

import json
import logging
from functools import partial

import commands
import pytest
import torch
from torch import nn

from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.trace import trace
from lightning_nas.jobs import rivals as stock
from lightning_nas.jobs.networks import stock_variant
from lightning_nas.jobs.plan import Epochs, Model, Run
from lightning_nas.jobs.rivals import RIVALS, Rival, _ranked, best_rival, stock_rivals
from lightning_nas.jobs.stock_comparison import stock_comparison
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import stock_network
from lightning_nas.supernet.stock import is_stock_name
from lightning_nas.tasks.detector import detector
from lightning_nas.tasks.segmenter import segmenter

IMAGE = torch.zeros(1, 3, 64, 64)
NAMES = ("mobilenetv2_035", "mobilenetv2_050", "mobilenet_v2", "regnet_x_400mf")
ARRAY = Estimator.load("analytic_array", lanes=8)
ANY = {"latency_ms": 1e9}


def classifier(name):
    return stock_network(name, 3)


def latencies(rivals):
    return {rival.name: rival.latency_ms for rival in rivals}


def test_all_rivals_are_networks_that_there_are():
    assert len(RIVALS) == len(set(RIVALS)) > 40
    assert all(map(is_stock_name, RIVALS))


def test_rivals_are_priced_as_the_networks_themselves(estimator):
    found = stock_rivals(NAMES, classifier, IMAGE, estimator, ANY)
    assert {rival.name for rival in found} == set(NAMES)
    for rival in found[:2]:
        assert rival.latency_ms == estimator.predict_ms(decompose(classifier(rival.name), IMAGE)).sum()


@pytest.mark.parametrize("make", [partial(detector, 2, head="ssdlite"), partial(segmenter, 3, head_width=16)])
def test_backbones_are_priced_with_their_heads(estimator, caplog, make):
    caplog.set_level(logging.INFO)
    # Its modules run in no chain, so no head can read them.
    names = ["mobilenetv2_035", "inception_v3"]
    found = stock_rivals(names, lambda name: make(backbone=name), IMAGE, estimator, ANY)
    whole = estimator.predict_ms(decompose(make(backbone="mobilenetv2_035"), IMAGE)).sum()
    assert latencies(found) == {"mobilenetv2_035": pytest.approx(whole)}
    assert "cannot be priced at this size: inception_v3 (" in caplog.text


def test_those_over_the_budget_are_left_out_and_the_dearest_is_first(estimator):
    names = ["mobilenetv2_035", "mobilenetv2_075", "mobilenetv2_050"]
    full = stock_rivals(names, classifier, IMAGE, estimator, ANY)
    assert [rival.name for rival in full] == ["mobilenetv2_075", "mobilenetv2_050", "mobilenetv2_035"]
    assert [rival.imagenet_accuracy for rival in full] == [None] * 3
    assert [rival.has_weights for rival in full] == [False, True, False]
    within = stock_rivals(names, classifier, IMAGE, estimator, {"latency_ms": full[1].latency_ms})
    assert within == full[1:]
    assert stock_rivals(names, classifier, IMAGE, estimator, {"latency_ms": 1e-6}) == []


@pytest.mark.parametrize("cost", ["parameter_bytes", "peak_activation_bytes"])
def test_other_limits_count_too(estimator, cost):
    names = ["mobilenetv2_035", "mobilenetv2_140"]
    most = getattr(network_memory(trace(classifier(names[0]), IMAGE)), cost)
    bounds = [{**ANY, cost: bound} for bound in (most, most - 1)]
    found = [list(latencies(stock_rivals(names, classifier, IMAGE, estimator, bound))) for bound in bounds]
    assert found == [names[:1], []]


@pytest.mark.parametrize(
    ("measured_ms", "name"),
    [([3.0, 1.0], "mobilenetv2_035"), ([3.0, 2.5], None), ([None, 1.0], "mobilenetv2_050")],
)
def test_what_the_backend_finds_too_slow_is_passed_over(measured_ms, name):
    class Backend:
        def verify_ms(self, network, images):
            assert images.device == next(network.parameters()).device == torch.device("meta")
            return measured_ms.pop(0)

    rivals = [Rival("mobilenetv2_050", 2.0), Rival("mobilenetv2_035", 1.0)]
    best = best_rival(rivals, classifier, IMAGE, Backend(), 2.0)
    assert (best and best.name) == name


def test_what_is_known_to_be_more_accurate_is_earlier():
    rivals = [Rival("a", 1.0, 75.0), Rival("b", 2.0), Rival("c", 3.0, 70.0), Rival("d", 0.5, 60.0)]
    assert [rival.name for rival in _ranked(rivals)] == ["a", "b", "c", "d"]


def test_accuracies_are_those_of_the_library(estimator):
    (rival,) = stock_rivals(["torchvision/resnet18"], classifier, IMAGE, estimator, ANY)
    assert rival.imagenet_accuracy == pytest.approx(69.758)
    assert rival.has_weights


def test_what_cannot_be_priced_is_logged_and_left_out(estimator, caplog):
    caplog.set_level(logging.INFO)
    names = ["mobilenetv2_035", "vit_tiny_patch16_224"]
    assert list(latencies(stock_rivals(names, classifier, IMAGE, estimator, ANY))) == ["mobilenetv2_035"]
    assert "cannot be priced at this size: vit_tiny_patch16_224 (" in caplog.text
    assert "1 of 1 stock networks are within" in caplog.text


def test_unknown_names_and_bounds_are_told(estimator):
    with pytest.raises(ValueError, match="Unknown network 'mobilenetv9'"):
        stock_rivals(["mobilenetv9"], classifier, IMAGE, estimator, ANY)
    for bounds, message in [
        ({}, "`bounds` must hold latency_ms; got none"),
        ({"latency_ms": 0}, "`latency_ms` must be"),
        ({**ANY, "joules": 1}, "`bounds` can hold latency_ms, .*; got 'joules'"),
    ]:
        with pytest.raises(ValueError, match=message):
            stock_rivals([], classifier, IMAGE, estimator, bounds)


def test_a_recipes_head_stays_and_options_of_its_backbone_go():
    make = partial(segmenter, backbone="mobilenet_v2", head_width=16, weights="w.pth", width_mult=0.5)
    network = stock_variant(make, "mobilenetv2_035", num_classes=4)
    assert (network.head.classify_high.in_channels, network.head.classify_high.out_channels) == (16, 4)
    assert stock_variant(nn.Identity, "mobilenetv2_035", num_classes=4).classifier.out_features == 4


class Data:
    num_classes = 3


def compared(tmp_path, monkeypatch, network, is_classifier=True, limits=None, rivals=NAMES):
    """Return what a search in a network is compared with, at any latency."""
    monkeypatch.setattr(stock, "RIVALS", rivals)
    if limits is None:
        limits = Limits((), (), ())
        monkeypatch.setattr(Limits, "figures", ANY)
    run = Run("own", tmp_path, 0, Epochs(1, 1, 1), trainer=None, logger=None)
    model = Model(network, SpaceOptions(), Data(), task=None)
    return stock_comparison(run, model, IMAGE, ARRAY, limits, is_classifier)


def test_the_sources_own_name_is_no_rival(tmp_path, monkeypatch):
    network = partial(stock_network, name="torchvision/mobilenet_v2")
    names = ("mobilenet_v2", "mobilenetv2_035")
    state = torch.get_rng_state()
    found = [compared(tmp_path, monkeypatch, network, rivals=names) for _ in range(2)]
    assert [one.name for one in found] == ["mobilenetv2_035"] * 2
    # It begins the same whatever was drawn before, and nothing else is drawn from.
    weights = [torch.cat([value.flatten() for value in one.network.parameters()]) for one in found]
    assert torch.equal(*weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert found[0].cost.latency_ms == pytest.approx(ARRAY.latency_ms(found[0].network, IMAGE))
    assert (found[0].weights, found[0].label) == (None, "stock-mobilenetv2_035")


def test_weights_are_those_of_imagenet_where_the_source_has_them(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    asked = []

    def variant(make, name, num_classes, weights=None):
        asked.append((name, weights))
        if weights and not downloads:
            raise OSError("no connection")
        return classifier(name)

    monkeypatch.setattr("lightning_nas.jobs.stock_comparison.stock_variant", variant)
    # The wider one has no weights.
    names = ("mobilenetv2_075", "mobilenetv2_050")
    network = partial(stock_network, name="mobilenet_v2", weights="imagenet")
    for downloads, label in [(True, "stock-mobilenetv2_050-imagenet"), (False, "stock-mobilenetv2_050")]:
        found = compared(tmp_path, monkeypatch, network, rivals=names)
        assert found.label == label
        assert ("mobilenetv2_050", "imagenet") in asked
        assert ("flatters the search" in caplog.text) is not downloads
    caplog.clear()
    found = compared(tmp_path, monkeypatch, partial(network, weights=None), rivals=names)
    assert found.label == "stock-mobilenetv2_075"
    assert "mobilenetv2_075 is trained from scratch, as the source is" in caplog.text


def test_where_there_is_nothing_to_compare_with_it_is_said(tmp_path, monkeypatch, caplog):
    network = partial(stock_network, name="mobilenet_v2")
    assert compared(tmp_path, monkeypatch, network, limits=Limits((), (), ())) is None
    assert "the budget has none: no stock network" in caplog.text
    assert compared(tmp_path, monkeypatch, network, rivals=()) is None
    assert "No stock network keeps the budgets" in caplog.text
    with pytest.raises(ValueError, match=r"`comparisons=\[stock\]` needs a classifier, or a detector or segmenter of"):
        compared(tmp_path, monkeypatch, partial(nn.Identity), is_classifier=False)


TINY = [
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "data.image_size=32",
    "data.scenes_per_digit=1",
    "search.method.steps=3",
    "search.selection.num_candidates=2",
    "num_refitted=1",
    "num_calibration_batches=1",
    "space.expansions=[2,6]",
    "space.ratios=[0.5,1.0]",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "taught_by=source",
    "hydra.run.dir=run",
]


NAME = "mobilenetv4_conv_small_035"


def run(folder, **trouble):
    arguments = ["--config-name", "digits", "latency=0.9x", "comparisons=[stock]", *TINY]
    return commands.run(folder, *arguments, few_rivals=[[NAME, "mobilenetv2_035"]], **trouble)


def trained(folder):
    """Return the result of a run, and the checkpoints of its source and its baseline, then those of the rival."""
    result = json.loads((folder / "run" / "result.json").read_text())
    names = ("source", "baseline", f"stock-{NAME}-source", f"stock-{NAME}")
    checkpoints = [folder / "run" / "checkpoints" / f"{name}.ckpt" for name in names]
    return result, [torch.load(path, weights_only=True) for path in checkpoints]


def test_a_recipe_trains_the_best_of_them_as_its_baseline(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    result, checkpoints = trained(tmp_path)
    rival = result["comparisons"]["stock"]
    assert rival["network"] == NAME
    assert rival["latency_ms"] <= result["budget"]["latency_ms"]
    assert rival["metric"]["name"] == result["baseline"]["metric"]["name"]
    assert f"stock network {NAME}" in done.stdout
    assert f"stock network {NAME}" in (tmp_path / "run" / "report.html").read_text()
    assert [checkpoint["global_step"] for checkpoint in checkpoints] == [3, 6, 3, 6]
    rates = [checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] for checkpoint in checkpoints]
    assert rates[:2] == rates[2:]


@pytest.mark.slow
def test_a_rival_that_was_interrupted_is_trained_on(tmp_path):
    found = []
    for folder, trouble in [
        (tmp_path / "whole", {}),
        (tmp_path / "stopped", {"signal_at_checkpoint": [f"stock-{NAME}.ckpt"]}),
    ]:
        folder.mkdir()
        done = run(folder, **trouble)
        if trouble:
            assert done.returncode
            done = run(folder)
        assert done.returncode == 0, done.stderr
        result, (*_, checkpoint) = trained(folder)
        found.append((result["comparisons"], checkpoint["state_dict"]))
    (one, weights), (other, others) = found
    assert one == other
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
