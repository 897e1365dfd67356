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
from lightning_nas.supernet import space_of, supernet_from
from lightning_nas.supernet.member import member_at

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
        odd = int(sum(option.expansion for _, option in architecture.blocks)) % 2
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
    """Return for each parameter of a network with a supernet which of its entries a path reads, as booleans.

    They are looked up in a whole run in the width groups, and not in what modules say that they read.
    """
    handle = network.supernet
    space, leaves = handle.space, handle.leaves
    widths, forms, skipped = member_at(space, nodes)
    found = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in network.named_parameters()}
    gone = [*skipped]
    for offer, form in zip(leaves.offers, forms, strict=True):
        run = offer.run(form)
        for path, name in run.names.items():
            gone += [f"{path}.{other}" for where, other in offer.alternates if where == path and other != name]
            own = [p for p, _ in network.get_submodule(path).named_parameters(recurse=False)] if name else []
            gone += [f"{path}.{parameter}" for parameter in own]
        if run.kernel is not None:
            weight = found[f"{run.kernel.path}.weight"]
            margin = (weight.shape[-1] - run.kernel.size) // 2
            here = torch.zeros(weight.shape[-1], dtype=torch.bool)
            here[margin : margin + run.kernel.size] = True
            weight &= here.view(-1, 1) & here
    for name, dim in leaves.groups.slots_of(leaves.groups.open):
        if name in found:
            kept = torch.zeros(found[name].shape[dim], dtype=torch.bool)
            kept[torch.from_numpy(leaves.groups.kept((name, dim), widths))] = True
            found[name] &= kept.view(-1, *[1] * (found[name].ndim - dim - 1))
    for name, rows in found.items():
        if any(name == path or name.startswith(f"{path}.") for path in gone):
            rows[:] = False
    return found
