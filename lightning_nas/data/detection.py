"""A datamodule of images with boxes, whatever they were read from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._boxed_images import LOADING, BoxedImages, Records
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionRecord, Target
from lightning_nas.data.loading import Loading

__all__ = ["DetectionDataModule", "DetectionRecord"]


class DetectionDataModule(SplitDataModule[tuple[Tensor, Target]]):
    """Batches of images and their objects for a detector, from records.

    A batch is ``(images, targets)``: images (N, 3, H, W), float32, normalised by ImageNet's mean and deviation, in
    channels-last memory format; targets a list of N dicts with ``boxes`` (n, 4), left, top, right and bottom in pixels
    of H x W, float32, and ``labels`` (n,), int64; also what COCO's measure asks for, see
    `lightning_nas.data.detection_batches.Target`. There may be images without objects.

    Without a ``test`` split the images of ``val`` are the test images too, with a warning.

    Args:
        records: The records of each split, or what makes them when a stage first needs them. The files of those that
            are there are opened before the training.
        class_names: Names of the classes, in the order of their indices.
        image_size: Height and width of the canvas that images are fitted into, or one number for both.
        augment: What is done to training images, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> import torch
        >>> image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        >>> record = DetectionRecord(image, (32, 32), torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.tensor([0]))
        >>> data = DetectionDataModule({"train": lambda: [record], "val": lambda: [record]}, ["box"], 64)
        >>> data.setup("validate")
        >>> images, targets = next(iter(data.val_dataloader()))
        >>> images.shape, targets[0]["boxes"].tolist()
        (torch.Size([1, 3, 64, 64]), [[8.0, 8.0, 40.0, 40.0]])
    """

    def __init__(
        self,
        records: Records,
        class_names: Sequence[str],
        image_size: int | Sequence[int],
        augment: DetectionAugmentation | None = None,
        loading: Loading = LOADING,
    ) -> None:
        names, size = tuple(class_names), canvas_size(image_size)
        title, seed, limit = type(self).__name__, loading.seed, loading.cache_limit_bytes
        super().__init__(BoxedImages(title, records, names, size, augment, seed, limit), loading)
