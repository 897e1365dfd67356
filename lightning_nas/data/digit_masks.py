"""Semantic segmentation of digit scenes, made from scikit-learn without a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._mask_data import MaskedImages
from lightning_nas.data._splits import Split
from lightning_nas.data.digits import AUGMENT, NUM_CLASSES, DigitScenes, DigitSet, Scenes
from lightning_nas.data.loading import Loading

__all__ = ["DigitMasksDataModule"]


@dataclass(frozen=True)
class MaskedDigits(DigitSet):
    """Digit scenes and their masks, as an `ImageSet`."""

    class_names: ClassVar[tuple[str, ...]] = ("background", *(str(digit) for digit in range(NUM_CLASSES)))

    def load(self, split: Split) -> MaskedImages:
        """Return the images and masks of a split."""
        made = self.scenes.make(split)
        augment = AUGMENT if split == "train" else None
        return MaskedImages(partial(_pick, made), len(made), augment, self.scenes.seed)


class DigitMasksDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
    """Digit scenes with a mask each: 0 for background, 1 + the digit where there is one, 11 classes.

    Args:
        image_size: Height and width in pixels, 32 to 128.
        batch_size: Images a batch.
        num_workers: Worker processes; the images are in memory, so that 0 is usually fastest.
        seed: Decides the scenes, the shuffles and the augmentation.
        fractions: Shares of train, val and test.
        scenes_per_digit: How often each digit is used, each time in another scene.
        max_digits: Most digits in a scene, 1 to 4. Where it is more than 1 they are half as large, their strokes
            thinner than the pixels of logits at a stride of 8.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> data = DigitMasksDataModule(image_size=32, batch_size=8, scenes_per_digit=1)
        >>> data.setup("fit")
        >>> images, masks = next(iter(data.train_dataloader()))
        >>> images.shape, masks.shape, masks.dtype
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 32, 32]), torch.int64)
    """

    is_embedded = True
    """The images come with the packages: pages of results may show them."""

    def __init__(
        self,
        image_size: int = 64,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        fractions: Sequence[float] = (0.6, 0.2, 0.2),
        scenes_per_digit: int = 4,
        max_digits: int = 1,
    ) -> None:
        scenes = DigitScenes(image_size, seed, fractions, scenes_per_digit, max_digits)
        super().__init__(MaskedDigits(scenes), Loading(batch_size, num_workers, seed))


def _pick(scenes: Scenes, indices: list[int]) -> tuple[Tensor, Tensor]:
    return scenes.images[indices], scenes.masks[indices]
