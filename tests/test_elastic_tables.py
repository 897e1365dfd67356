"""Cost tables of any network: equal to the price of the narrower network, and solved for budgets."""

import numpy as np
import pytest
import zoo

from lightning_nas import Estimator
from lightning_nas.budget.elastic_tables import WidthNode, part_table, step_tables, widths_at
from lightning_nas.budget.solver import Limit, cheapest, solve
from lightning_nas.graph.elastic_memory import elastic_memory
from lightning_nas.graph.elastic_network import elastic_network
from lightning_nas.graph.elastic_parts import cut_alike, elastic_parts
from lightning_nas.graph.narrowing import narrowed

NETWORKS = (
    *("own/yolo", "own/unet", "own/mobilenet", "torchvision/resnet18", "torchvision/mobilenet_v3_small"),
    *("torchvision/squeezenet1_1", "segmentation/lraspp_mobilenet_v3_large", "timm/mobilenetv4_conv_small"),
)


def nodes_of(groups):
    """Return a choice of three widths for each group."""
    sizes = ((number, groups.groups[number].size) for number in groups.open)
    ratios = (0.5, 0.75, 1.0)
    return [
        WidthNode((number,), tuple((width,) for width in sorted({max(2, round(size * r)) for r in ratios})))
        for number, size in sizes
        if size > 2
    ]


@pytest.fixture(scope="module", params=NETWORKS)
def priced(request):
    network, images = zoo.build(request.param)
    elastic = cut_alike(elastic_network(network, images))
    return network, images, elastic, nodes_of(elastic.groups)


def drawn(nodes, count=4):
    generator = np.random.default_rng(0)
    return [tuple(int(generator.integers(len(node.widths))) for node in nodes) for _ in range(count)]


def test_tables_are_the_prices_of_narrower_networks(priced):
    network, images, elastic, nodes = priced
    estimator = Estimator.load("ethos_u85_1024", fallback="bytes")
    latency = part_table(elastic_parts(elastic), nodes, estimator.predict_ms)
    steps = step_tables(elastic_memory(elastic), nodes)
    for encoding in drawn(nodes):
        narrow = narrowed(network, elastic.groups, widths_at(nodes, encoding))
        assert latency.exact(encoding) == pytest.approx(estimator.latency_ms(narrow, images), rel=1e-9)
        peak = max(step.exact(encoding) for step in steps)
        assert peak == estimator.memory(narrow, images).peak_activation_bytes


def test_budgets_are_solved_for(priced):
    _, _, elastic, nodes = priced
    estimator = Estimator.load("ethos_u85_1024", fallback="bytes")
    latency = part_table(elastic_parts(elastic), nodes, estimator.predict_ms)
    steps = step_tables(elastic_memory(elastic), nodes)
    full, least = tuple(len(node.widths) - 1 for node in nodes), cheapest(latency)
    budget = 0.5 * (latency.exact(full) + latency.exact(least))
    peak = 0.5 * sum(max(step.exact(encoding) for step in steps) for encoding in (full, least))
    limits = [Limit(latency, budget), *(Limit(step, peak) for step in steps)]
    scores = [np.arange(len(node.widths), dtype=float) for node in nodes]
    found = solve(scores, limits)
    assert found is not None
    assert latency.exact(found) <= budget
    assert max(step.exact(found) for step in steps) <= peak
    # Wider is better, and so little of the budget is left.
    assert latency.exact(found) >= 0.9 * budget or max(step.exact(found) for step in steps) >= 0.9 * peak


def test_a_node_has_one_width_for_each_of_its_groups():
    with pytest.raises(ValueError, match=r"one width for each group of \(0, 1\); got \(\(8,\),\)"):
        WidthNode((0, 1), ((8,),))
