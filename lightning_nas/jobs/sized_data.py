"""`SizedData`: the data of a multishot search at each of its image sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_nas.jobs.inputs import prepare, training_images
from lightning_nas.jobs.plan import Run
from lightning_nas.jobs.search_data import SearchData, facts_of
from lightning_nas.training.fingerprint import plain

__all__ = ["SizedData"]

log = logging.getLogger(__name__)

ImageSize = int | Sequence[int]
"""Side of a square image, or height and width."""


class SizedData:
    """One datamodule for each image size.

    Args:
        make: Makes the datamodule, of `image_size` where sizes are given.
        sizes: The image sizes; none for the one that the datamodule has by default.
        num_calibration_batches: Number of training batches whose images `calibration` returns.
        run: Seeds the generators before images are read.

    Attributes:
        modules: The datamodules.
        size_names: Name of each image size, such as ``64`` or ``48x64``.

    Raises:
        ValueError: Two sizes are the same.
    """

    def __init__(
        self, make: Callable[..., SearchData], sizes: Sequence[ImageSize], num_calibration_batches: int, run: Run
    ) -> None:
        self.modules: list[SearchData] = [make(image_size=size) for size in sizes] if sizes else [make()]
        self.size_names = [_size_name(module.input_size) for module in self.modules]
        self._num_batches, self._run = num_calibration_batches, run
        self._images: dict[int, Tensor] = {}
        if len(set(self.size_names)) < len(self.size_names):
            raise ValueError(f"`image_sizes` must differ; got {', '.join(self.size_names)}.")
        if len({str(facts_of(module).mask_size) for module in self.modules}) > 1:
            log.warning(
                "Each size of images is judged on masks of its own size, which are not equally hard. HINT: set"
                " `data.mask_size`."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.modules[0].num_classes

    @property
    def examples(self) -> list[Tensor]:
        """A batch of one image of zeros for each size, shape (1, C, H, W)."""
        return [torch.zeros(1, *module.input_size) for module in self.modules]

    def prepare(self) -> None:
        """Log which classes and splits were found, and open all image files before anything is trained.

        Raises:
            ValueError: Image files are missing, damaged or no images.
        """
        prepare(self.modules)

    def described(self) -> list[object]:
        """Return the settings of each datamodule for a run's fingerprint, paths of this machine included."""
        return [plain(module, whole_paths=True) for module in self.modules]

    def calibration(self, place: int) -> Tensor:
        """Return training images of a size, always the same ones, shape (N, 3, H, W).

        Args:
            place: Which of the sizes.
        """
        if place not in self._images:
            self._run.begin_random()
            self._images[place] = training_images(self.modules[place], self._num_batches)
        return self._images[place]


def _size_name(size: Sequence[int]) -> str:
    _, height, width = size
    return str(height) if height == width else f"{height}x{width}"
