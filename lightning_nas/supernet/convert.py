"""Conversion of a network into a supernet, in place, with its weights kept."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.space import read
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet.agreement import check_agreement, outputs_of
from lightning_nas.supernet.elastic_leaves import elastic_leaves
from lightning_nas.supernet.member import forms_of
from lightning_nas.supernet.source_check import check_source
from lightning_nas.supernet.supernet import Supernet, forget_warning

__all__ = ["space_of", "supernet_from"]


def space_of(
    model: nn.Module, example_input: Tensor, lanes: int = 8, options: SpaceOptions | None = None, check: bool = True
) -> SearchSpace:
    """Return the search space around a network, after refusing what cannot be converted.

    It is that of `lightning_nas.space.read.space_of`, which says more.

    Args:
        model: Any convolutional network.
        example_input: One batch that it can run, shape (N, C, H, W).
        lanes: Parallelism factor of the device (`Estimator.lanes`).
        options: What is offered; by default that of `SpaceOptions`.
        check: Whether narrower networks are run to see that they compute what they should.

    Raises:
        ValueError: The network cannot be converted, or an option is not valid for it.
        TypeError: It is none.
    """
    check_source(model, example_input)
    return read.space_of(model, example_input, lanes, options, check)


def supernet_from(model: nn.Module, example_input: Tensor, space: SearchSpace | None = None) -> nn.Module:
    """Turn `model` into a supernet in place and return it.

    Its leaf modules get classes derived from their own that run on chosen channels; blocks get weights for the other
    kinds that they can be of, made of their own. The network keeps its class and its forward pass, and gains the
    submodule `supernet`. With the source's own options at full width, which are active at first, it computes exactly
    what it did.

    What is frozen stays frozen (`requires_grad`), and modules in evaluation mode stay so. What cannot be followed, such
    as an operator that is not known, keeps its width; `space.left_out` says what and why. A network that holds what its
    supernet would lose, such as hooks or pruning, is refused. So is one that, converted or derived, computes something
    else: the three are run on random images.

    Args:
        model: Any convolutional network, alone or as a part of a LightningModule.
        example_input: One batch that it can run, shape (N, C, H, W).
        space: What to choose from; by default `space_of(model, example_input)`.

    Raises:
        ValueError: The network cannot be converted, or `space` does not fit it. The network is unchanged then.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> network = supernet_from(mobilenet_v2(), torch.rand(1, 3, 64, 64))
        >>> len(network.supernet.space.choices)
        16
    """
    check_source(model, example_input)
    space = space or read.space_of(model, example_input)
    if not space.node_sizes:
        reasons = "; ".join(f"{left.path!r} ({left.reason})" for left in space.left_out[:3])
        raise ValueError(
            f"Nothing of this {type(model).__name__} can be searched: it has no width and no block to choose"
            f"{f'. It has {reasons}' if reasons else ''}. HINT: `print(space.table())`, and the options of the space."
        )
    groups = _fitting_groups(model, example_input, space)
    expected = outputs_of(model, example_input)
    offers = [(choice.block, forms_of(choice)) for choice in space.choices if choice.block is not None]
    residuals = [choice.residual for choice in space.choices if choice.residual]
    leaves = elastic_leaves(model, groups, offers, residuals)
    try:
        model.supernet = Supernet(space, leaves)
        check_agreement(model, example_input, expected)
    except BaseException:
        if hasattr(model, "supernet"):
            del model.supernet
        forget_warning(model)
        leaves.undo()
        raise
    return model


def _fitting_groups(model: nn.Module, example_input: Tensor, space: SearchSpace) -> WidthGroups:
    """Return the width groups of a network, frozen where those of a space are.

    Raises:
        ValueError: The space is of another network, or of images of another size.
    """
    if tuple(example_input.shape[1:]) != space.input_size:
        raise ValueError(f"`space` is for images of {space.input_size}; got {tuple(example_input.shape[1:])}.")
    network, groups = read_network(model, example_input)
    pairs = zip(space.network.widths, network.widths, strict=False)
    other = next(((mine, own) for mine, own in pairs if (mine.name, mine.size) != (own.name, own.size)), None)
    if other is not None:
        mine, own = other
        raise ValueError(
            f"`space` is of another network: it has {mine.size} channels at {mine.name!r}, this"
            f" {type(model).__name__} has {own.size} at {own.name!r}."
        )
    if len(space.network.widths) != len(network.widths):
        raise ValueError(
            f"`space` is of another network: it has {len(space.network.widths)} width groups, this"
            f" {type(model).__name__} has {len(network.widths)}."
        )
    return groups.freezing({number: width.frozen for number, width in enumerate(space.network.widths)})
