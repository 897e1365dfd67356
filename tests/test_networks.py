"""`network=` of recipes: any stock network by its name, or what a callable of the user's returns."""

from functools import partial

import hydra
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lightning_nas.jobs import command_line
from lightning_nas.jobs.command_line import find_groups
from lightning_nas.jobs.network_overrides import with_network
from lightning_nas.jobs.networks import check_network, make_network, network_settings
from lightning_nas.supernet import stock_network

GROUPS = ("detector", "own", "segmenter", "stock")


def plain(width=4):
    """Return a network of the user's, which takes neither classes nor weights."""
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(width, 2))


def composed(recipe, *arguments):
    """Compose a recipe as the command line does, but for running it."""
    find_groups()
    arguments = command_line._with_network(recipe, list(arguments))
    with hydra.initialize_config_module("lightning_nas.recipes", version_base="1.3"):
        return hydra.compose(recipe, overrides=arguments)


@pytest.mark.parametrize(
    ("recipe", "arguments", "expected"),
    [
        ("classification", ["network=resnet18"], {"name": "resnet18"}),
        ("classification", ["network=torchvision/resnet18", "network.weights=a.ckpt"], {"weights": "a.ckpt"}),
        ("digits", ["network=mobilenetv4_conv_small.e2400_r224_in1k"], {"width_mult": None}),
        ("digits", [], {"name": "mobilenet_v2", "width_mult": 0.5}),
        ("detection", ["network=resnet18", "network.head=ssdlite"], {"backbone": "resnet18", "head": "ssdlite"}),
        ("segmentation", ["network=mobilenetv4_conv_small"], {"backbone": "mobilenetv4_conv_small", "head": "lraspp"}),
        ("multishot", ["network=segmenter"], {"backbone": "mobilenet_v2", "head": "lraspp"}),
        ("digits", ["network._target_=mine.build", "network.width=8"], {"width": 8, "name": None, "weights": None}),
    ],
)
def test_a_recipe_takes_a_network_by_name(recipe, arguments, expected):
    network = composed(recipe, *arguments).network
    assert {key: network.get(key) for key in expected} == expected
    if recipe == "detection":
        assert make_network(instantiate(network), num_classes=2).backbone.layer4 is not None


def test_a_callable_of_the_users_is_made_with_its_own_arguments():
    config = composed("digits", "network._target_=torch.nn.Linear", "network.in_features=3", "network.out_features=2")
    network = make_network(instantiate(config.network), num_classes=5)
    assert (network.in_features, network.out_features) == (3, 2)


def test_sweeps_hold_names_or_files():
    assert with_network(["network=a,b"], GROUPS, False) == ["network=stock", "network.name=a,b"]
    assert with_network(["network=stock,own"], GROUPS, False) == ["network=stock,own"]
    with pytest.raises(
        ValueError, match=r"either stock networks or files of settings \(detector, .*got stock,resnet18"
    ):
        with_network(["network=stock,resnet18"], GROUPS, False)
    with pytest.raises(ValueError, match=r"no setting `supernet`. HINT: network=segmenter"):
        with_network(["supernet@_global_=segmenter"], GROUPS, False)
    untouched = ["-m", "network={a: 1}", "network=stock", "network._target_=x.y", "network.width=3", "seed=network=a"]
    assert with_network(untouched, GROUPS, False) == untouched


@pytest.mark.parametrize("recipe", ["classification", "detection"])
def test_a_name_that_there_is_not_is_told_before_anything_runs(recipe):
    with pytest.raises(ValueError, match=r"Unknown network 'resnet_18'.* near are resnet18"):
        check_network(composed(recipe, "network=resnet_18"))
    check_network(composed(recipe))
    check_network(composed(recipe, "network._target_=mine.build", "network.name=anything"))


def test_weights_are_loaded_for_a_callable_that_takes_none(tmp_path):
    trained = plain()
    torch.save(
        {"state_dict": {f"net.{name}": value for name, value in trained.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    network = make_network(partial(plain, weights=tmp_path / "a.ckpt"), num_classes=2)
    assert torch.equal(network[0].weight, trained[0].weight)
    with pytest.raises(ValueError, match="missing under 'other'"):
        make_network(partial(plain, weights=tmp_path / "a.ckpt", weights_prefix="other"), num_classes=2)
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        make_network(partial(plain, weights="imagenet"), num_classes=2)


def test_what_makes_no_network_is_told():
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module; builtins.dict returns a dict"):
        make_network(partial(dict, width=3), num_classes=2)
    with pytest.raises(TypeError, match="widht"):
        make_network(partial(plain, widht=3), num_classes=2)


def test_records_say_what_made_a_network():
    stock = partial(stock_network, name="resnet18", weights="a.pth", weights_prefix="net", drop_rate=0.1)
    assert network_settings(stock, 3) == {"num_classes": 3, "name": "resnet18", "drop_rate": 0.1}
    assert network_settings(partial(plain, width=8), 3) == {
        "_target_": f"{__name__}.plain",
        "num_classes": 3,
        "width": 8,
    }
