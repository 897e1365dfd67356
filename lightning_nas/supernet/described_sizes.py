"""Sizes that networks of timm and torchvision say of themselves, set to those of a derived network."""

from __future__ import annotations

from torch import nn
from torchvision.ops import Conv2dNormActivation

__all__ = ["follow_sizes"]


def follow_sizes(network: nn.Module) -> None:
    """Give what timm's and torchvision's networks say of their widths the widths that they have.

    These are ``feature_info``, ``num_features`` and ``head_hidden_size`` of timm, and ``last_channel`` and
    ``out_channels`` of torchvision's units.

    Args:
        network: A derived network; changed in place.
    """
    for module in network.modules():
        info = getattr(module, "feature_info", None)
        if isinstance(info, list):
            for row in info:
                if isinstance(row, dict) and "num_chs" in row:
                    row["num_chs"] = _out_channels(module, row.get("module", "")) or row["num_chs"]
        last = _last_linear(module)
        if last is not None:
            for name in ("num_features", "head_hidden_size", "last_channel"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, last)
        if isinstance(module, Conv2dNormActivation):
            # Within a fused block a unit has no convolution, and in a block that was told apart two.
            module.out_channels = _out_channels(module, "") or module.out_channels


def _out_channels(module: nn.Module, path: str) -> int:
    try:
        convs = [m for m in module.get_submodule(path).modules() if isinstance(m, nn.Conv2d)]
    except AttributeError:
        return 0
    return convs[-1].out_channels if convs else 0


def _last_linear(module: nn.Module) -> int | None:
    """Return the features that a network's classifier reads, if it is a single linear layer."""
    classifier = getattr(module, "classifier", None) or getattr(module, "fc", None) or getattr(module, "head", None)
    layers = [m for m in classifier.modules() if isinstance(m, nn.Linear)] if isinstance(classifier, nn.Module) else []
    return layers[0].in_features if len(layers) == 1 else None
