"""Search spaces around networks of the tests, as a conversion makes them."""

import zoo

from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.elastic_parts import cut_alike
from lightning_nas.graph.residuals import residuals
from lightning_nas.space.build import build_space
from lightning_nas.space.options import SpaceOptions


def space_around(network, images, lanes=8, options=None):
    """Return the space of a network that runs on these images."""
    elastic = cut_alike(read_network(network, images)[0])
    paths = [found.path for found in residuals(network, images)]
    return build_space(elastic, blocks_of(network, elastic), paths, lanes, options)


def space_of_zoo(name, lanes=8, **options):
    """Return the space of a network of the zoo."""
    return space_around(*zoo.build(name), lanes, SpaceOptions(**options))
