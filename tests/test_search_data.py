"""What a datamodule says of itself, and what is taken for true where it says nothing."""

from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from torch import nn

from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.jobs.search_data import contents_of, datamodule_of, facts_of
from lightning_nas.tasks.classification import Classification
from lightning_nas.tasks.detection_head import detection_head_of, teachable_head_of
from lightning_nas.tasks.detector import detector
from lightning_nas.tasks.search_task import network_of


class MyFlowersDataModule:
    pass


def test_data_that_says_nothing_has_the_name_of_its_class_and_may_not_be_shown():
    facts = facts_of(MyFlowersDataModule())
    assert (facts.name, facts.class_names, facts.preprocessing, facts.mask_size) == ("my flowers", (), None, None)
    assert not facts.is_embedded
    assert contents_of(MyFlowersDataModule()) == {}


@pytest.mark.parametrize("root", ["a/flowers", Path("a/flowers")])
def test_data_in_a_folder_has_its_name_unless_it_says_another(root):
    assert facts_of(SimpleNamespace(root=root)).name == "flowers"
    assert facts_of(SimpleNamespace(root=root, name="roses")).name == "roses"


def test_what_is_no_preprocessing_and_no_contents_is_left_out():
    data = SimpleNamespace(preprocessing="resize", contents=[3], class_names=[0, 1], root=object())
    facts = facts_of(data)
    assert (facts.preprocessing, facts.class_names, facts.name) == (None, ("0", "1"), "simple namespace")
    assert contents_of(data) == {}


def test_the_packages_own_data_says_what_is_done_to_an_image():
    data = DigitsDataModule(image_size=32, scenes_per_digit=1)
    facts = facts_of(data)
    assert facts.is_embedded
    assert facts.preprocessing == data.preprocessing.to_dict()
    assert datamodule_of(data) is data


def test_what_a_trainer_does_not_take_is_no_data():
    with pytest.raises(TypeError, match="must be a LightningDataModule; got MyFlowersDataModule"):
        datamodule_of(MyFlowersDataModule())


def test_a_task_without_a_network_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert network_of(Classification(network, 3)) is network
    with pytest.raises(TypeError, match="`network` of a task must be the module that is searched; got None"):
        network_of(pl.LightningModule())


def test_a_detector_needs_a_head_that_knows_its_losses():
    network = detector(2, backbone="mobilenetv2_050")
    assert detection_head_of(network) is teachable_head_of(network) is network.head
    network.head = nn.Conv2d(3, 3, 1)
    with pytest.raises(TypeError, match=r"methods `losses` and `detections`; the head of Detector is Conv2d"):
        detection_head_of(network)
    with pytest.raises(TypeError, match="the head of Linear is missing"):
        detection_head_of(nn.Linear(3, 3))


def test_a_head_without_imitation_can_be_trained_but_not_taught():
    class Head(nn.Module):
        def losses(self, outputs, targets, size): ...

        def detections(self, outputs, size): ...

    network = nn.Module()
    network.head = Head()
    assert detection_head_of(network) is network.head
    with pytest.raises(TypeError, match=r"must have the method `imitation`.* is Head"):
        teachable_head_of(network)
