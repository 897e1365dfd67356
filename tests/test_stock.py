"""Stock networks by any name of torchvision's or timm's, and weights from wherever people have them."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_nas.supernet.stock import check_stock_name, is_stock_name, stock_network, without_memory
from lightning_nas.supernet.weights import load_weights, read_weights

SETTING = [[1, 8, 1, 1], [4, 16, 1, 2]]


class Module(pl.LightningModule):
    """A user's module that holds a network under a name of its own, or several ones."""

    def __init__(self, **networks):
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        for name, network in networks.items():
            setattr(self, name, network)


def small(num_classes=4):
    return stock_network("mobilenet_v2", num_classes, inverted_residual_setting=SETTING, width_mult=0.5)


def checkpoint(path, module):
    """Write a checkpoint as Lightning does."""
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    ("name", "module", "layer"),
    [
        ("mobilenet_v2", "torchvision.models.mobilenetv2", "classifier.1"),
        ("torchvision/resnet18", "torchvision.models.resnet", "fc"),
        ("resnet18", "timm.models.resnet", "fc"),
        ("timm/resnet18", "timm.models.resnet", "fc"),
        ("squeezenet1_1", "torchvision.models.squeezenet", "classifier.1"),
        ("shufflenet_v2_x0_5", "torchvision.models.shufflenetv2", "fc"),
        ("regnet_x_400mf", "torchvision.models.regnet", "fc"),
        ("googlenet", "torchvision.models.googlenet", "fc"),
        ("mobilenetv4_conv_small_050.e3000_r224_in1k", "timm.models.mobilenetv3", "classifier"),
    ],
)
def test_any_classifier_has_the_classes_that_are_asked_for(name, module, layer):
    assert is_stock_name(name)
    network = without_memory(lambda: stock_network(name, 7))
    assert type(network).__module__ == module
    assert network.get_submodule(layer).weight.shape[0] == 7
    assert all(weight.device.type == "meta" for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilnet_v2", r"Unknown network 'mobilnet_v2'.* HINT: near are mobilenet_v2,"),
        ("mobilenetv4_small", r"near are .*mobilenetv4_conv_small"),
        ("torchvision/mobilenetv2_050", r"near are mobilenetv2_050"),
        ("qqqq", r"Unknown network 'qqqq'.*`timm.list_models\(\)`"),
        ("ssdlite320_mobilenet_v3_large", r"no classifier .*`network._target_=torchvision.models.detection"),
        ("r3d_18", r"no classifier of torchvision, but one of its networks in torchvision.models.video"),
    ],
)
def test_other_names_are_told_with_the_nearest(name, message):
    assert not is_stock_name(name)
    with pytest.raises(ValueError, match=message) as error:
        check_stock_name(name)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        stock_network(name, 4)


def test_options_that_a_network_does_not_have_are_told():
    with pytest.raises(ValueError, match=r"torchvision's resnet18 does not take the options \{'widht': 2\}"):
        stock_network("torchvision/resnet18", 4, widht=2)
    with pytest.raises(ValueError, match=r"timm's resnet18 does not take the options \{'widht': 2\}"):
        stock_network("resnet18", 4, widht=2)


@pytest.mark.parametrize("place", ["model", "task.backbone", "net._orig_mod"])
def test_a_checkpoint_gives_its_network_wherever_it_stands(tmp_path, place):
    trained, holder = small(9), None
    for name in reversed(place.split(".")[1:]):
        holder = nn.ModuleDict({name: holder or trained})
    module = Module(**{place.split(".")[0]: holder or trained, "head": nn.Linear(3, 3)})
    file = checkpoint(tmp_path / "last.ckpt", module)
    network = stock_network("mobilenet_v2", 4, file, inverted_residual_setting=SETTING, width_mult=0.5)
    for name, value in trained.state_dict().items():
        is_classifier = name.startswith("classifier.")
        assert is_classifier or torch.equal(network.state_dict()[name], value)
    assert network.classifier[1].out_features == 4
    # Where the classes are the same in number, the classifier is loaded, too.
    again = small(9)
    load_weights(again, file)
    assert torch.equal(again.classifier[1].weight, trained.classifier[1].weight)


def test_the_place_with_most_of_the_network_wins(tmp_path):
    wanted = small(4)
    other = stock_network("mobilenet_v2", 4, inverted_residual_setting=[[1, 8, 1, 1], [4, 24, 1, 2]], width_mult=0.5)
    network = small(4)
    load_weights(network, checkpoint(tmp_path / "last.ckpt", Module(a=other, b=wanted)))
    assert torch.equal(network.features[0][0].weight, wanted.features[0][0].weight)


def test_several_places_are_asked_about_in_one_sentence(tmp_path):
    student, teacher = small(), small()
    file = checkpoint(tmp_path / "last.ckpt", Module(student=student, teacher=teacher))
    with pytest.raises(ValueError, match=r"several places: 'student', 'teacher'; .* HINT: `weights_prefix=teacher`"):
        load_weights(small(), file)
    for prefix in ("teacher", "teacher."):
        network = small()
        load_weights(network, file, prefix)
        assert torch.equal(network.features[0][0].weight, teacher.features[0][0].weight)
    with pytest.raises(ValueError, match=r"missing under 'nobody'"):
        load_weights(small(), file, "nobody")
    # The same weights under two names are no question.
    load_weights(small(), checkpoint(tmp_path / "same.ckpt", Module(student=student, ema=student)))


def test_weights_of_another_network_are_refused(tmp_path):
    file = checkpoint(tmp_path / "last.ckpt", Module(net=small()))
    with pytest.raises(ValueError, match=r"not of a ResNet like this one: .* the first is 'conv1.weight'"):
        stock_network("resnet18", 4, file)
    before = small()
    kept = {name: value.clone() for name, value in before.state_dict().items()}
    torch.save({"features.0.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="are missing"):
        load_weights(before, tmp_path / "other.pth")
    assert all(torch.equal(kept[name], value) for name, value in before.state_dict().items())


@pytest.mark.parametrize(
    ("name", "classifier"), [("resnet10t", "fc"), ("shufflenet_v2_x0_5", "fc"), ("squeezenet1_1", "classifier.1")]
)
def test_the_classifier_is_left_out_whatever_it_is_called(tmp_path, name, classifier):
    trained = stock_network(name, 5)
    save_file({key: value.contiguous() for key, value in trained.state_dict().items()}, tmp_path / "net.safetensors")
    network = stock_network(name, 3, tmp_path / "net.safetensors")
    first = next(iter(trained.state_dict()))
    assert torch.equal(network.state_dict()[first], trained.state_dict()[first])
    assert network.get_submodule(classifier).weight.shape[0] == 3
    # What is missing elsewhere is no classifier.
    state = {key: value for key, value in trained.state_dict().items() if key != first}
    torch.save({"model": state, "epoch": 3}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=f"1 of .* the first is '{first}'"):
        stock_network(name, 3, tmp_path / "part.pth")


def test_a_checkpoint_with_more_than_tensors_says_what_to_save(tmp_path):
    torch.save({"state_dict": small().state_dict(), "hyper_parameters": {"root": Path()}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"it holds more than tensors. HINT: save the state_dict of your module"):
        read_weights(tmp_path / "last.ckpt")
    torch.save({"state_dict": {"epoch": 1}}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="must hold a state_dict"):
        read_weights(tmp_path / "empty.ckpt")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load_weights(small(), tmp_path / "none.ckpt")
