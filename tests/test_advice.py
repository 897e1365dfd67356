"""Advice: what it says it saves is what changed networks cost, and what it applies is what it says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from conftest import LinearEstimator, small_network
from torch import nn
from torch.nn import functional
from torchvision.models import mobilenet_v2, mobilenet_v3_small

from lightning_nas import Estimator
from lightning_nas.budget.hand_edits import hand_suggestions
from lightning_nas.budget.suggestion import changed, network_cost
from lightning_nas.budget.suggestions import space_suggestions
from lightning_nas.budget.together import together
from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.bounds import layer_bounds, peak_macs_per_s
from lightning_nas.estimator.device import Device
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.elastic_network import elastic_network
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.jobs import advise as advising
from lightning_nas.jobs.advice_harm import near_chance, offering, supernet_around
from lightning_nas.jobs.advise import advise, advise_on
from lightning_nas.jobs.apply_advice import apply_advice
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, recalibrate, space_of

SIDE = 64
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


@pytest.fixture(scope="module")
def estimator():
    return Estimator.load("ethos_u85_1024")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return mobilenet_v2(num_classes=10, width_mult=0.5).eval()


@pytest.fixture(scope="module")
def advice(network, estimator):
    return advise_on(network, EXAMPLE, estimator)


class Uneven(nn.Module):
    """Widths that are no multiples of 16: 20 falls to 16, 31 costs as much as 32."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 20, 3, 2, 1), nn.Conv2d(20, 31, 3, 1, 1), nn.Conv2d(31, 8, 1)

    def forward(self, x):
        return self.third(self.second(self.first(x).relu()).relu())


class Excited(nn.Module):
    """A squeeze-and-excitation by hand, between two convolutions and hardswishes."""

    def __init__(self, is_excited=True, activation=functional.hardswish):
        super().__init__()
        self.is_excited, self.activation = is_excited, activation
        self.first, self.last = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 16, 3, 1, 1)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)

    def forward(self, x):
        x = self.activation(self.first(x))
        if self.is_excited:
            scale = functional.adaptive_avg_pool2d(x, 1)
            x = self.excite(self.squeeze(scale).relu()).sigmoid() * x
        return self.activation(self.last(x))


class Separable(nn.Module):
    def __init__(self, is_standard=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        spatial = nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 1)
        self.rest = nn.Conv2d(16, 32, 3, 2, 1) if is_standard else nn.Sequential(*spatial)

    def forward(self, x):
        return self.rest(self.stem(x).relu()).relu()


def cost_of(network, estimator, example=EXAMPLE):
    return network_cost(estimator, trace(network, example))


def space_around(network, estimator):
    options = SpaceOptions(kinds=("ibn", "fused", "skip"), ratios=(0.5, 0.75, 1.0))
    return space_of(network, EXAMPLE, estimator.lanes, options)


def saved(one, before):
    return before.latency_ms - one.saved_ms, before.parameter_bytes - one.saved_parameter_bytes


def test_what_a_change_saves_is_what_the_changed_network_costs(network, advice, estimator):
    """The networks are derived and traced as a user would."""
    seen = Counter()
    for one in advice.suggestions:
        if one.change is None or seen[one.kind] == 2:
            continue
        seen[one.kind] += 1
        supernet = supernet_around(network, offering(advice.space, [one.change]))
        cost = cost_of(derive(supernet, changed(advice.space, [one.change])), estimator)
        assert saved(one, advice.cost) == pytest.approx((cost.latency_ms, cost.parameter_bytes), rel=1e-9)
        assert advice.cost.peak_bytes - one.saved_peak_bytes == cost.peak_bytes
    assert {"fuse", "skip", "narrow"} <= set(seen)


def test_steps_are_priced_on_top_of_each_other_and_applied(network, advice, estimator):
    latencies = [advice.cost.latency_ms, *(step.cost.latency_ms for step in advice.steps)]
    assert len(advice.steps) > 1
    assert latencies == sorted(latencies, reverse=True)
    falls = -np.diff(latencies)
    assert falls == pytest.approx([step.saved_ms for step in advice.steps])
    assert cost_of(apply_advice(advice, network), estimator) == advice.steps[-1].cost


def test_without_data_no_step_gives_up_channels(advice):
    assert {step.suggestion.kind for step in advice.steps} <= {"fuse", "unfuse", "align"}
    full = dict(advice.space.decode(advice.space.reference_encoding).widths)
    assert all(width >= 0.9 * full[name] for name, width in advice.architecture.widths)


def test_smaller_images_are_traced(network, advice, estimator):
    found = {one.text.split()[2]: one for one in advice.suggestions if one.kind == "input"}
    assert set(found) == {"32x32"}  # three quarters of 64 round up to 64
    cost = cost_of(network, estimator, torch.zeros(1, 3, 32, 32))
    assert saved(found["32x32"], advice.cost) == pytest.approx((cost.latency_ms, cost.parameter_bytes))


def test_widths_are_aligned_and_free_ones_named(estimator):
    found = space_suggestions(space_around(Uneven(), estimator), estimator)
    aligned = {one.path: one for one in found if one.kind == "align"}
    assert aligned["first"].text == "20 -> 16 channels, whole lanes of 16"
    free = {one.path: one.text for one in found if one.kind == "widen"}
    assert "31 -> 32" in free[next(path for path in free if path.startswith("second"))]
    assert all(one.change is None for one in found if one.kind == "widen")


def test_activations_and_excitation_are_priced_as_networks_without_them(estimator):
    found = {o.kind: o for o in hand_suggestions(elastic_network(Excited(), EXAMPLE), estimator, [])}
    own = cost_of(Excited(), estimator)
    plain, relu = cost_of(Excited(False), estimator), cost_of(Excited(activation=functional.relu), estimator)
    assert saved(found["excitation"], own) == pytest.approx((plain.latency_ms, plain.parameter_bytes))
    assert saved(found["activation"], own) == pytest.approx((relu.latency_ms, relu.parameter_bytes))
    assert found["activation"].text == "ReLU in place of hardswish (2 times)"  # the gate's sigmoid is none


def test_depthwise_convolutions_are_replaced_where_a_standard_one_is_faster():
    device = Estimator.load("edge_tpu")
    (one,) = hand_suggestions(elastic_network(Separable(), EXAMPLE), device, [])
    own, standard = cost_of(Separable(), device), cost_of(Separable(is_standard=True), device)
    assert (one.kind, one.path) == ("depthwise", "rest.0")
    assert saved(one, own) == pytest.approx((standard.latency_ms, standard.parameter_bytes))
    assert not hand_suggestions(elastic_network(Separable(), EXAMPLE), device, ["rest.0"])


def test_gates_of_stock_networks_are_found(estimator):
    network = mobilenet_v3_small(num_classes=10).eval()
    found = {one.kind: one for one in hand_suggestions(elastic_network(network, EXAMPLE), estimator, [])}
    assert "(9 times)" in found["excitation"].text


@pytest.mark.parametrize(
    ("part", "bound"),
    [
        (Subgraph("conv", 56, 56, 64, 64, 64, kernel=3), "compute"),
        (Subgraph("depthwise", 56, 56, 64, 64, 64, kernel=3), "lanes"),
        (Subgraph("stem", 224, 224, 3, 32, 32, kernel=3, stride=2), "lanes"),
        (Subgraph("conv", 112, 112, 16, 96, 96), "memory"),
        (Subgraph("linear", 1, 1, 1280, 1000, 1000), "memory"),
    ],
)
def test_layers_are_bound_by_what_keeps_multipliers_idle(part, bound, estimator):
    (found,) = layer_bounds([part], estimator)
    assert found.bound == bound
    macs_per_s = part.macs / found.latency_ms * 1e3
    assert found.utilisation == pytest.approx(macs_per_s / 1024e9)
    assert found.share == 1


def test_layers_add_up_to_the_network(network, advice):
    assert sum(layer.latency_ms for layer in advice.layers) == pytest.approx(advice.cost.latency_ms)
    assert sum(layer.share for layer in advice.layers) == pytest.approx(1)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert sum("conv" in x.name or "depthwise" in x.name or "stem" in x.name for x in advice.layers) == convolutions


def test_peaks_are_those_of_data_sheets(tmp_path):
    assert peak_macs_per_s(Estimator.load("ethos_u65_512").device) == 256e9  # two cores of 256, at 500 MHz
    array = AnalyticArray(lanes=8, rows=4, columns=4, clock_hz=1e9)
    assert peak_macs_per_s(array.device()) == 1024e9
    assert peak_macs_per_s(replace(array, dataflow="weight_stationary").device()) == 16e9
    assert peak_macs_per_s(Device("chip", "csv", 8)) is None
    assert peak_macs_per_s(Device("chip", "zigzag", 8, settings={"hardware": "none.yaml", "clock_hz": 1e9})) is None


def test_where_no_peak_is_known_the_share_alone_is_said(estimator):
    parts = decompose(Uneven(), EXAMPLE)
    unknown = estimator.with_device(replace(estimator.device, settings={}))
    assert {(bound.utilisation, bound.bound) for bound in layer_bounds(parts, unknown)} == {(None, "")}


def images_for(count, size=SIDE):
    torch.manual_seed(1)
    return functional.interpolate(torch.randn(count, 3, 8, 8), size=size, mode="bilinear")


@pytest.fixture(scope="module")
def judged(estimator):
    torch.manual_seed(0)
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 40, 2, 2]]
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=blocks).eval()
    # As a trained network has them, so that the refit does not move them.
    recalibrate(network, network, [images_for(12)])
    return network, advise_on(network, EXAMPLE, estimator, images_for(12))


def test_with_images_each_change_has_its_harm(judged, estimator):
    _, advice = judged
    assert all((one.harm is None) == (one.change is None) for one in advice.suggestions)
    measured = [one for one in advice.suggestions if one.harm is not None]
    worth = [one.saved_ms / max(one.harm, 1e-3) for one in measured]
    assert len(measured) > 3
    assert worth == sorted(worth, reverse=True)
    assert max(one.harm for one in measured) > 10 * min(one.harm for one in measured)
    assert advice.suggestions[: len(measured)] == tuple(measured)


def test_steps_keep_within_the_most_harm(judged, estimator):
    _, advice = judged
    harms = sorted(one.harm for one in advice.suggestions if one.harm is not None)
    for most in (0.0, harms[0], sum(harms[:3]), sum(harms)):
        steps = together(advice.space, advice.suggestions, estimator, most)
        assert all(step.harm <= most for step in steps)
    assert len(steps) > 2
    last = {step.suggestion.change.node: step.suggestion.harm for step in steps}  # a later one of a node replaces it
    assert steps[-1].harm == pytest.approx(sum(last.values()))


def test_the_changed_network_is_refitted(judged, estimator):
    network, advice = judged
    advice = replace(advice, steps=tuple(together(advice.space, advice.suggestions, estimator, most_harm=100)))
    images = images_for(12)
    with torch.no_grad():
        own = network(images)
        inherited, refitted = (apply_advice(advice, network, given).eval()(images) for given in (None, images))
    assert (refitted - own).norm() < (inherited - own).norm()


def test_stock_networks_of_as_many_classes_are_named(network, estimator, monkeypatch):
    monkeypatch.setattr(advising, "RIVALS", ("lcnet_050", "mobilenetv2_050", "resnet10t"))
    (found,) = [one for one in advise(network, EXAMPLE, estimator).suggestions if one.kind == "stock"]
    rival = cost_of(zoo.timm.create_model("lcnet_050", num_classes=10).eval(), estimator)
    own = cost_of(network, estimator)
    assert found.text == "lcnet_050"
    assert saved(found, own) == pytest.approx((rival.latency_ms, rival.parameter_bytes))


def test_text_is_tables_that_fit_a_terminal(advice):
    text = str(advice)
    assert max(map(len, text.splitlines())) <= 120
    assert f"{advice.cost.latency_ms:.4g} ms" in text.splitlines()[0]
    assert "Where the time goes" in text
    assert f"{advice.steps[-1].cost.latency_ms:.4f}" in text


def test_what_is_done_by_hand_is_not_hidden_by_what_has_harm(advice):
    harmed = [replace(one, harm=0.1) for one in advice.suggestions if one.change is not None]
    by_hand = [one for one in advice.suggestions if one.kind == "input"]
    text = str(replace(advice, suggestions=(*harmed, *harmed, *by_hand)))
    assert len(harmed) > 10
    assert f"~{by_hand[0].text}" in text


def test_a_network_that_cannot_be_changed_gets_the_rest(estimator, caplog):
    network = mobilenet_v2(num_classes=4, width_mult=0.5).eval()
    network.supernet = nn.Identity()  # a name that conversion needs
    found = advise_on(network, EXAMPLE, estimator)
    assert found.space is None
    assert found.architecture is None
    assert {one.kind for one in found.suggestions} == {"input"}
    assert found.notes[0] in caplog.text
    assert found.notes[0][:80] in str(found)
    assert found.notes[0].startswith("No block and no width can be changed: ")
    with pytest.raises(ValueError, match="nothing to apply"):
        apply_advice(found, network)


def test_any_cost_model_will_do():
    advice = advise_on(small_network().eval(), torch.zeros(1, 3, 32, 32), LinearEstimator())
    assert advice.compiled_ms is None
    assert {layer.bound for layer in advice.layers} == {""}
    assert advice.suggestions


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2)), None, "this Sequential runs no convolution"),
        (Uneven(), torch.zeros(1, 3, SIDE, SIDE), "`images` must be 2 or more, for fitting and for judging; got 1"),
        (Uneven(), torch.zeros(4, 3, 32, 32), r"must be of the shape \(N, 3, 64, 64\); got \(4, 3, 32, 32\)"),
        (Uneven(), torch.zeros(3, SIDE, SIDE), r"must be of the shape"),
    ],
)
def test_bad_input_gets_one_sentence(model, images, message, estimator):
    with pytest.raises(ValueError, match=message):
        advise(model, EXAMPLE, estimator, images)


def test_an_untrained_classifier_is_told():
    network, images = mobilenet_v2(num_classes=10, width_mult=0.5).eval(), images_for(8)
    assert "near chance on these images" in near_chance(network, images)
    with torch.no_grad():
        network.classifier[1].bias[3] = 20
    assert not near_chance(network, images)
    assert not near_chance(Uneven(), images)
