"""`space_of`: the search space around a network, found by running it."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.elastic_parts import cut_alike
from lightning_nas.graph.group_check import checked_groups
from lightning_nas.graph.residuals import residuals
from lightning_nas.space.build import build_space
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace

__all__ = ["space_of"]


def space_of(
    model: nn.Module,
    example_input: Tensor,
    lanes: int = 8,
    options: SpaceOptions | None = None,
    check: bool = True,
) -> SearchSpace:
    """Return the search space around a network.

    Its width groups are found by one run; its blocks are told by what they compute, whatever their classes. A block can
    be of any of the kinds, expansions and kernels of `options`; its own always is an option, and so is the full width.

    Args:
        model: Any convolutional network.
        example_input: One batch that it can run, shape (N, C, H, W).
        lanes: Parallelism factor of the device (`Estimator.lanes`).
        options: What is offered; by default that of `SpaceOptions`.
        check: Whether narrower networks are run to see that they compute what they should; widths that fail keep their
            size. It takes a few seconds, for networks with many branches up to minutes.

    Raises:
        ValueError: The network cannot be followed, or an option is not valid for it.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> options = SpaceOptions(expansions=(3, 6), kernels=(3, 5))
        >>> space = space_of(mobilenet_v2(), torch.zeros(1, 3, 64, 64), lanes=16, options=options)
        >>> [str(option) for option in space.choices[1].options][:3]
        ['ibn e3 k3', 'ibn e3 k5', 'ibn e6 k3']
    """
    network, groups = read_network(model, example_input)
    if check:
        found = checked_groups(model, example_input, groups)
        network = network.freezing({number: group.frozen for number, group in enumerate(found.groups)})
    network = cut_alike(network)
    paths = [residual.path for residual in residuals(model, example_input)]
    return build_space(network, blocks_of(model, network), paths, lanes, options)
