"""New images from few: mixing pairs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["mix"]


def mix(images: Tensor, labels: Tensor, num_classes: int, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """Mix each image with another of its batch (mixup, Zhang et al. 2018, arXiv 1710.09412).

    Args:
        images: Images, shape (N, 3, H, W).
        labels: Class indices, shape (N,).
        num_classes: Number of classes.
        alpha: Both parameters of the Beta distribution of the shares; larger mixes more.
        seed: Of shares and partners. From the number of the step, a resumed run draws the same.

    Returns:
        The mixed images, each at least half itself, and the shares of the classes, shape (N, num_classes).

    Example::

        >>> images, targets = mix(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), num_classes=2, alpha=1.0, seed=0)
        >>> targets.sum(dim=1)
        tensor([1., 1.])
    """
    generator = np.random.default_rng(seed)
    drawn = generator.beta(alpha, alpha, len(images))
    share = torch.as_tensor(np.maximum(drawn, 1 - drawn), dtype=images.dtype, device=images.device)
    partner = torch.as_tensor(generator.permutation(len(images)), device=images.device)
    targets = functional.one_hot(labels, num_classes).to(images.dtype)
    mixed_images = torch.lerp(images[partner], images, share.view(-1, 1, 1, 1))
    return mixed_images, torch.lerp(targets[partner], targets, share[:, None])
