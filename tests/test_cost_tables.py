"""Cost tables of any network: equal to the price of the derived network, and solved for budgets."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import zoo
from spaces import space_around, space_of_zoo

from lightning_nas.budget.cost_table import cost_table
from lightning_nas.budget.curation import curated
from lightning_nas.budget.solver import Limit, cheapest, lowest_maximum, solve
from lightning_nas.budget.tables import cost_tables, warn_off_grid
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.narrowing import narrowed
from lightning_nas.space.nodes import combined_widths, nodes_behind
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.tied import tied

NETWORKS = ("own/yolo", "own/unet", "own/mobilenet", "torchvision/resnet18", "timm/mobilenetv4_conv_small")
SEARCHED = SpaceOptions(kinds=("ibn", "fused", "skip"))


@pytest.fixture(scope="module")
def device():
    # A closed form prices all operators at once; a table's fallback takes seconds for each.
    return Estimator.load("analytic_array", lanes=16, fallback="bytes")


@pytest.fixture(scope="module", params=NETWORKS)
def priced(request, device):
    network, images = zoo.build(request.param)
    space = space_around(network, images, device.lanes, SEARCHED)
    return network, images, space, cost_tables(space, device)


def drawn(space, count, seed=0):
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(0, size, count) for size in space.node_sizes], axis=1)


def test_tables_are_the_prices_of_members(priced, device):
    _, _, space, tables = priced
    encodings = drawn(space, 12)
    latencies = tables.latency_ms.exact_many(encodings)
    peaks = tables.peak_activation_bytes.exact_many(encodings)
    for encoding, latency_ms, peak in zip(encodings, latencies, peaks, strict=True):
        member = space.decode(encoding)
        memory = device.memory(member)
        assert latency_ms == pytest.approx(device.latency_ms(member), rel=1e-9)
        assert tables.latency_ms.exact(encoding) == pytest.approx(latency_ms, rel=1e-12)
        assert tables.parameter_bytes.exact(encoding) == memory.parameter_bytes
        assert tables.peak_activation_bytes.exact(encoding) == peak == memory.peak_activation_bytes


def test_widths_alone_cost_what_the_narrower_network_does(priced, device):
    network, images, space, tables = priced
    groups = read_network(network, images)[1]
    count, source = len(space.multipliers), space.reference_encoding
    for encoding in drawn(space, 3, seed=1):
        encoding = (*encoding[:count], *source[count:])
        widths = space.widths(encoding)
        narrow = narrowed(network, groups, {group: widths[group] for group in space.network.open})
        assert tables.latency_ms.exact(encoding) == pytest.approx(device.latency_ms(narrow, images), rel=1e-9)


def test_budgets_are_solved_for_with_a_limit_on_the_peak(priced):
    _, _, space, tables = priced
    latency, peaks = tables.latency_ms, tables.peak_activation_bytes
    full, least = space.reference_encoding, cheapest(latency)
    lowest = peaks.exact(lowest_maximum(peaks.rows))
    assert lowest <= peaks.exact_many(drawn(space, 500)).min()
    budget, bound = (latency.exact(full) + latency.exact(least)) / 2, (peaks.exact(full) + lowest) / 2
    generator = np.random.default_rng(0)
    scores = [np.sort(generator.normal(size=size)) for size in space.node_sizes]
    free = solve(scores, [Limit(latency, budget)])
    found = solve(scores, [Limit(latency, budget)], [peaks.over(bound)])
    assert latency.exact(found) <= budget
    assert peaks.exact(found) <= bound
    assert not peaks.over(bound).contains(found)
    # A limit that the best one keeps takes nothing away.
    assert solve(scores, [Limit(latency, budget)], [peaks.over(peaks.exact(free))]) == free
    assert lowest == 0 or solve(scores, [], [peaks.over(lowest * 0.99)]) is None


def test_the_largest_peak_is_one_of_a_member(priced):
    _, _, space, tables = priced
    peaks = tables.peak_activation_bytes
    least = peaks.maximum([range(size) for size in space.node_sizes])
    assert least >= peaks.exact_many(drawn(space, 2000)).max()
    one = [[int(node)] for node in drawn(space, 1)[0]]
    assert peaks.maximum(one) == peaks.exact([row[0] for row in one])


def test_prices_are_asked_for_once_and_each_part_once():
    space, asked = space_of_zoo("own/mobilenet"), []
    cost_table(space, lambda parts: asked.append(list(parts)) or np.ones(len(parts)))
    assert len(asked) == 1
    assert max(Counter(asked[0]).values()) == 1


def test_widths_of_combinations_are_those_of_the_space():
    space = space_of_zoo("own/mobilenet")
    group = next(choice.block.group for choice in space.choices if choice.inputs.gains)
    nodes = nodes_behind(space, [group])
    assert len(nodes) == 2
    for options, widths in combined_widths(space, nodes):
        encoding = list(space.reference_encoding)
        for node, option in zip(nodes, options, strict=True):
            encoding[node] = option
        assert widths[group] == space.widths(encoding)[group]


def test_a_part_of_too_many_choices_is_refused():
    space = space_of_zoo("own/vgg", kinds=())
    wide = replace(space.multipliers[0], widths=tuple((n,) for n in range(1, space.multipliers[0].widths[-1][0] + 1)))
    space = replace(space, multipliers=(wide, *space.multipliers[1:]))
    with pytest.raises(ValueError, match=r"depends on 5 choices at once, of .* combinations: .* HINT: offer fewer"):
        list(combined_widths(space, [0] * 5))


@pytest.mark.parametrize("name", ["torchvision/densenet121", "segmentation/deeplabv3_mobilenet_v3_large"])
def test_multipliers_that_meet_at_concatenations_are_tied(name):
    space = space_of_zoo(name)
    full = tuple(m.widths[-1] for m in space.multipliers)
    assert max(len(factor.nodes) for factor in cost_table(space, lambda parts: np.ones(len(parts))).factors) <= 5
    assert any(len(multiplier.groups) > 1 for multiplier in space.multipliers)
    assert len({str(multiplier) for multiplier in space.multipliers}) == len(space.multipliers)
    sizes = space.network.sizes
    assert full == tuple(tuple(sizes[group] for group in m.groups) for m in space.multipliers)
    assert tied(space) == space


def test_multipliers_that_do_not_meet_are_not_tied():
    assert all(len(multiplier.groups) == 1 for multiplier in space_of_zoo("own/yolo").multipliers)


def test_what_was_measured_is_in_the_tables():
    measured = Estimator.load("ethos_u85_1024")
    space = space_of_zoo("own/mobilenet", measured.lanes)
    table = cost_table(space, measured.predict_ms)
    for encoding in drawn(space, 6):
        assert table.exact(encoding) == pytest.approx(measured.latency_ms(space.decode(encoding)), rel=1e-9)


@pytest.mark.parametrize("name", ["own/mobilenet", "torchvision/resnet18", "timm/mobilenetv4_conv_small"])
@pytest.mark.parametrize("device_name", ["ethos_u85_1024", "ethos_u55_128"])
def test_latency_rises_along_curated_widths(name, device_name):
    estimator = Estimator.load(device_name)
    space = space_of_zoo(name, 1, ratios=(0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    found = curated(space, estimator)
    assert [m.widths[-1] for m in found.multipliers] == [m.widths[-1] for m in space.multipliers]
    assert sum(len(m.widths) for m in found.multipliers) < sum(len(m.widths) for m in space.multipliers)
    for node, multiplier in enumerate(found.multipliers):
        encoding = list(found.reference_encoding)
        latencies = []
        for option, row in enumerate(multiplier.widths):
            encoding[node] = option
            latencies.append(estimator.latency_ms(found.decode(encoding)))
            assert all(w % estimator.lanes == 0 or row == multiplier.widths[-1] for w in row)
        assert latencies == sorted(set(latencies))


def test_widths_off_the_lanes_are_told(caplog):
    space = space_of_zoo("own/vgg", 8, kinds=())
    warn_off_grid(space, 8)
    assert not caplog.text
    warn_off_grid(space, 64)
    assert "[16, 24] of features.0" in caplog.text
