"""Fixtures: an estimator without a table, and a supernet small enough for quick fits."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models import MobileNetV2

from lightning_nas.estimator.fit import trees
from lightning_nas.search import measuring
from lightning_nas.space.architecture import subgraphs
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import HEAD, STEM
from lightning_nas.supernet import space_of, supernet_from

FACTOR = {"fused": 0.3, "head": 0.1, "stem": 0.1}
VELA = {
    "accelerator": "EthosU85",
    "macs": 1024,
    "cores": 1,
    "clock_hz": 1e9,
    "system_config": "Ethos_U85_SYS_DRAM_High",
    "memory_mode": "Shared_Sram",
}
SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]


@dataclass(frozen=True)
class LinearEstimator:
    """Prices a subgraph by a closed form, so that tests of the search need neither table nor regressor."""

    lanes: int = 8
    compiled_factor: float | None = None

    @property
    def device(self):
        return SimpleNamespace(name="linear")

    def verify_ms(self, architecture):
        """Price an architecture as a compiler would that disagrees with the estimate; None: it is not installed."""
        if self.compiled_factor is None:
            return None
        odd = sum(option.expansion for _, option in architecture.blocks) % 2
        return self.latency_ms(architecture) * (self.compiled_factor + 0.01 * odd)

    def predict_ms(self, parts):
        return np.array([1e-5 * part.macs * FACTOR.get(part.kind, 1.0) + 0.001 for part in parts])

    def latency_ms(self, architecture, example_input=None):
        return float(self.predict_ms(subgraphs(architecture)).sum())

    def memory(self, architecture, example_input=None):
        parts = subgraphs(architecture)
        return SimpleNamespace(
            parameter_bytes=sum(part.parameter_bytes for part in parts),
            peak_activation_bytes=max(part.peak_activation_bytes for part in parts),
        )


def small_network(num_classes=4):
    return MobileNetV2(num_classes=num_classes, inverted_residual_setting=SETTING, dropout=0.0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache_of_images(tmp_path_factory):
    """Keep what is found of images in a folder of the tests, not in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_nas.data._file_check.cache_folder", lambda: folder)
        yield


@pytest.fixture
def estimator():
    return LinearEstimator()


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def few_anchors(monkeypatch):
    """Whether a supernet is ready has tests of its own, and takes longer than a whole small training."""
    efforts = measuring.readiness_efforts

    def few(cost, loss):
        start, end = efforts(cost, loss)
        return start, replace(end, num_subnets=2)

    monkeypatch.setattr(measuring, "readiness_efforts", few)


@pytest.fixture
def few_trees(monkeypatch):
    """How well trees fit has tests of its own; fitting three hundred takes seconds, and is done for every fold."""
    monkeypatch.setattr(trees, "_LARGER_STEPS", {"max_iter": 60, "learning_rate": 0.4})


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_network()


@pytest.fixture
def supernet(network, images):
    return supernet_from(network, images[:1], space_of(network, images[:1], options=SpaceOptions(kernels=(3, 5))))


def read_by(network, nodes):
    """Return for each parameter of a network with a supernet which of its entries a path reads, as booleans."""
    handle, names = network.supernet, {id(p): name for name, p in network.named_parameters()}
    chosen = handle.space.decode(nodes)
    elastic = {id(p) for block in handle.blocks for p in block.parameters()} | {id(handle.tail.modules["head"].weight)}
    elastic |= {id(p) for end in handle.ends.values() for part in vars(end).values() if part for p in part.parameters()}
    found = {n: torch.full(p.shape, id(p) not in elastic) for n, p in network.named_parameters()}
    width = chosen.stem.width
    pairs = ((stage.width, fixed.option) for stage in chosen.stages for fixed in stage.blocks)
    for block, (out_width, option) in zip(handle.blocks, pairs, strict=True):
        candidate = block.candidate(option.kind)
        last = width
        for conv, norm in candidate.parts():
            out = out_width if conv is candidate.project else int(option.expansion * width)
            size = min(conv.kernel_size[0], option.kernel)
            margin = (conv.kernel_size[0] - size) // 2
            inner = 1 if conv.groups > 1 else last
            found[names[id(conv.weight)]][:out, :inner, margin : margin + size, margin : margin + size] = True
            found[names[id(norm.weight)]][:out] = found[names[id(norm.bias)]][:out] = True
            last = out
        width = out_width
    for place, last, out in ((STEM, 3, chosen.stem.width), (HEAD, width, chosen.head.width)):
        end = handle.ends[place]
        found[names[id(end.conv.weight)]][:out, :last] = True
        found[names[id(end.norm.weight)]][:out] = found[names[id(end.norm.bias)]][:out] = True
    found[names[id(end.classifier.weight)]][:, :out] = found[names[id(end.classifier.bias)]][:] = True
    return found
