"""New images from few: mixing pairs, or pasting a part of one into the other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["mix", "paste"]


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
    # NumPy's, since PyTorch's Beta distribution takes no generator.
    generator = np.random.default_rng(seed)
    drawn = generator.beta(alpha, alpha, len(images))
    share = torch.as_tensor(np.maximum(drawn, 1 - drawn), dtype=images.dtype, device=images.device)
    partner = torch.as_tensor(generator.permutation(len(images)), device=images.device)
    targets = functional.one_hot(labels, num_classes).to(images.dtype)
    mixed_images = torch.lerp(images[partner], images, share.view(-1, 1, 1, 1))
    return mixed_images, torch.lerp(targets[partner], targets, share[:, None])


def paste(images: Tensor, masks: Tensor, alpha: float, seed: int) -> tuple[Tensor, Tensor]:
    """Paste a part of another image of its batch into each, and that part of its mask.

    This is CutMix (Yun et al. 2019, arXiv 1905.04899), for which masks need no mixed labels.

    Args:
        images: Images, shape (N, 3, H, W).
        masks: Their masks, shape (N, H', W'), of any resolution: the same part of it is pasted.
        alpha: Both parameters of the Beta distribution of the part that is kept; larger pastes more often a half.
        seed: Of rectangles and partners. From the number of the step, a resumed run draws the same.

    Returns:
        New images and masks, each at least half itself, but for edges that are rounded to pixels.

    Example::

        >>> images, masks = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 8, 8), torch.arange(2).view(2, 1, 1)
        >>> images, masks = paste(images, masks.expand(2, 16, 16), alpha=1.0, seed=0)
        >>> [bool((mask[::2, ::2] == image[0]).all()) for image, mask in zip(images, masks)]
        [True, True]
    """
    generator = np.random.default_rng(seed)
    drawn = generator.beta(alpha, alpha, len(images))
    # The rectangle has the shape of the image, lies within it, and its edges between pixels of image and mask.
    side = np.sqrt(np.minimum(drawn, 1 - drawn))
    top, left = generator.random((2, len(images))) * (1 - side)
    height, width = (min(pair) for pair in zip(images.shape[-2:], masks.shape[-2:], strict=True))
    partner = torch.as_tensor(generator.permutation(len(images)), device=images.device)

    def rectangle(like: Tensor) -> Tensor:
        rows = _inside(top, side, height, like.shape[-2])
        columns = _inside(left, side, width, like.shape[-1])
        return torch.as_tensor(rows[:, :, None] & columns[:, None, :], device=like.device)

    new_images = torch.where(rectangle(images)[:, None], images[partner], images)
    return new_images, torch.where(rectangle(masks), masks[partner], masks)


def _inside(start: NDArray[np.float64], length: NDArray[np.float64], count: int, size: int) -> NDArray[np.bool_]:
    """Return which of `size` pixels lie in parts of a side, these rounded to `count` steps of it, shape (N, size)."""
    low, high = np.round(start * count) / count, np.round((start + length) * count) / count
    centres = (np.arange(size) + 0.5) / size
    inside: NDArray[np.bool_] = (centres >= low[:, None]) & (centres < high[:, None])
    return inside
