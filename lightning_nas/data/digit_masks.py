"""Semantic segmentation of digit scenes, made from scikit-learn without a download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_nas.data._batches import BatchAugmentation
from lightning_nas.data._mask_data import MaskedImages
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._splits import Split, Splits
from lightning_nas.data.digits import NUM_CLASSES, DigitScenes, Scenes

__all__ = ["DigitMasksDataModule"]


class DigitMasksDataModule(L.LightningDataModule):
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
        super().__init__()
        self.scenes = DigitScenes(image_size, seed, fractions, scenes_per_digit, max_digits)
        self.batch_size = batch_size
        self.seed = seed
        self.splits = Splits(self._load, batch_size, num_workers, seed, "Digit scenes")

    @property
    def num_classes(self) -> int:
        """Number of classes: background and ten digits."""
        return 1 + NUM_CLASSES

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""
        return ("background", *(str(digit) for digit in range(NUM_CLASSES)))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return 3, self.scenes.image_size, self.scenes.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before the network."""
        return Preprocessing((self.scenes.image_size, self.scenes.image_size))

    @override
    def setup(self, stage: str | None = None) -> None:
        self.splits.setup(stage)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("train")

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("val")

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self.splits.loader("test")

    def _load(self, split: Split) -> MaskedImages:
        scenes = self.scenes.make(split)
        # A mirrored 2 is no digit, and the digit may touch the border: hence no flip and a mild crop.
        augment = BatchAugmentation(min_area=0.85, flip=False, jitter=0.1) if split == "train" else None
        return MaskedImages(partial(_pick, scenes), len(scenes), augment, self.scenes.seed)


def _pick(scenes: Scenes, indices: list[int]) -> tuple[Tensor, Tensor]:
    return scenes.images[indices], scenes.masks[indices]
