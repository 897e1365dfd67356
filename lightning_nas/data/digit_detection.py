"""Detection of handwritten digits on photos, without a download."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._boxed_images import LOADING, BoxedImages
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionRecord, Target
from lightning_nas.data.digits import NUM_CLASSES, DigitScenes, Split

__all__ = ["DigitDetectionDataModule"]


class DigitDetectionDataModule(SplitDataModule[tuple[Tensor, Target]]):
    """Scenes of one digit or more, each with a box and one of ten classes.

    The batches are those of `lightning_nas.data.detection.DetectionDataModule`.

    Args:
        image_size: Height and width in pixels, 32 to 128.
        batch_size: Images a batch.
        num_workers: Worker processes; the images are in memory, so that 0 is usually fastest.
        seed: Decides the scenes, the shuffles and the augmentation.
        scenes_per_digit: How often each digit is the first of a scene.
        max_digits: Most digits in a scene, 1 to 4.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> data = DigitDetectionDataModule(image_size=64, batch_size=8, scenes_per_digit=1)
        >>> data.setup("validate")
        >>> images, targets = next(iter(data.val_dataloader()))
        >>> images.shape, len(targets), targets[0]["boxes"].shape[1], data.num_classes
        (torch.Size([8, 3, 64, 64]), 8, 4, 10)
    """

    is_embedded = True
    """The images come with the packages: pages of results may show them."""

    def __init__(
        self,
        image_size: int = 96,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        scenes_per_digit: int = 2,
        max_digits: int = 4,
    ) -> None:
        loading = replace(LOADING, batch_size=batch_size, num_workers=num_workers, seed=seed)
        scenes = DigitScenes(image_size, seed, scenes_per_digit=scenes_per_digit, max_digits=max_digits)
        splits: tuple[Split, ...] = ("train", "val", "test")
        images = BoxedImages(
            title=type(self).__name__,
            records={split: partial(_records, scenes, split) for split in splits},
            class_names=tuple(str(digit) for digit in range(NUM_CLASSES)),
            image_size=(image_size, image_size),
            # A mirrored 2 is no digit, and half an 8 may be a 3: hence no flip and mild crops.
            augment=DetectionAugmentation(min_crop_area=0.8, flip=False, zoom_out=1.25, color_jitter=0.1),
            seed=seed,
            cache_limit_bytes=loading.cache_limit_bytes,
        )
        super().__init__(images, loading)
        self.scenes = scenes


def _records(scenes: DigitScenes, split: Split) -> list[DetectionRecord]:
    made = scenes.make(split)
    size = scenes.image_size, scenes.image_size
    # A scene with fewer digits than the most has label -1 in the places left.
    fields = zip(made.images, made.boxes, made.labels, made.labels >= 0, strict=True)
    return [DetectionRecord(image, size, boxes[own], labels[own]) for image, boxes, labels, own in fields]
