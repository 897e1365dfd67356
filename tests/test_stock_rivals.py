"""Stock networks within a budget, of which the best is what a search has to beat."""

import logging

import pytest
import torch

from lightning_nas.graph.decompose import decompose
from lightning_nas.jobs.rivals import RIVALS, Rival, _ranked, stock_rivals
from lightning_nas.supernet import stock_network
from lightning_nas.supernet.stock import is_stock_name

IMAGE = torch.zeros(1, 3, 64, 64)
NAMES = ("mobilenetv2_035", "mobilenetv2_050", "mobilenet_v2", "regnet_x_400mf")


def test_all_rivals_are_networks_that_there_are():
    assert len(RIVALS) == len(set(RIVALS)) > 40
    assert all(map(is_stock_name, RIVALS))


def test_rivals_are_priced_as_the_networks_themselves(estimator):
    found = stock_rivals(NAMES, 3, IMAGE, estimator, 1e9)
    assert {rival.name for rival in found} == set(NAMES)
    for rival in found[:2]:
        network = stock_network(**rival.options)
        assert rival.latency_ms == estimator.predict_ms(decompose(network, IMAGE)).sum()
        assert network(IMAGE.repeat(2, 1, 1, 1)).shape == (2, 3)


def test_those_over_the_budget_are_left_out_and_the_dearest_is_first(estimator):
    names = ["mobilenetv2_035", "mobilenetv2_075", "mobilenetv2_050"]
    full = stock_rivals(names, 3, IMAGE, estimator, 1e9)
    assert [rival.name for rival in full] == ["mobilenetv2_075", "mobilenetv2_050", "mobilenetv2_035"]
    assert [rival.imagenet_accuracy for rival in full] == [None] * 3
    within = stock_rivals(names, 3, IMAGE, estimator, full[1].latency_ms)
    assert within == full[1:]
    assert stock_rivals(names, 3, IMAGE, estimator, 1e-6) == []


def test_what_is_known_to_be_more_accurate_is_earlier():
    rivals = [Rival("a", 1.0, {}, 75.0), Rival("b", 2.0), Rival("c", 3.0, {}, 70.0), Rival("d", 0.5, {}, 60.0)]
    assert [rival.name for rival in _ranked(rivals)] == ["a", "b", "c", "d"]


def test_accuracies_are_those_of_the_library(estimator):
    (rival,) = stock_rivals(["torchvision/resnet18"], 3, IMAGE, estimator, 1e9)
    assert rival.imagenet_accuracy == pytest.approx(69.758)


def test_what_cannot_be_priced_is_logged_and_left_out(estimator, caplog):
    caplog.set_level(logging.INFO)
    names = ["mobilenetv2_035", "vit_tiny_patch16_224"]
    assert [rival.name for rival in stock_rivals(names, 3, IMAGE, estimator, 1e9)] == ["mobilenetv2_035"]
    assert "cannot be priced at this size: vit_tiny_patch16_224 (" in caplog.text
    assert "1 of 1 stock networks are within" in caplog.text


def test_unknown_names_and_budgets_are_told(estimator):
    with pytest.raises(ValueError, match="Unknown network 'mobilenetv9'"):
        stock_rivals(["mobilenetv9"], 3, IMAGE, estimator, 1.0)
    with pytest.raises(ValueError, match="`budget_ms` must be"):
        stock_rivals([], 3, IMAGE, estimator, 0)
