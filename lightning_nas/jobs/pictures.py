"""The picture that a run leaves behind: what its subnet finds in the first test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.jobs.search_data import SearchData, facts_of
from lightning_nas.report.pictures import draw_detections, draw_masks, write_picture
from lightning_nas.tasks.search_task import PredictsBoxes, PredictsMasks

__all__ = ["write_run_picture"]

# Less sure boxes count in the average precision, but hide what a picture is to show.
_SURE = 0.5


def write_run_picture(
    run_dir: Path, module: pl.LightningModule, data: SearchData, show_images: bool | None
) -> Path | None:
    """Write a sheet of test images with what a detector or segmenter finds in them.

    Args:
        run_dir: Directory of the run.
        module: The LightningModule of the fine-tuned subnet.
        data: The LightningDataModule, set up for the test.
        show_images: Whether the images may be shown on pages of results; by default only embedded ones may.

    Returns:
        Path of the picture; None for a task of another kind, such as a classifier, which has none.
    """
    facts = facts_of(data)
    show = facts.is_embedded if show_images is None else show_images
    images, targets = next(iter(data.test_dataloader()))
    images = images.to(module.device)
    with evaluating(module), torch.no_grad():
        if isinstance(module, PredictsBoxes) and isinstance(targets, Sequence):
            # Images without an object show less; they come last.
            is_empty = [len(target["boxes"]) == 0 for target in targets]
            order = sorted(range(len(targets)), key=is_empty.__getitem__)
            images, targets = images[order], [targets[index] for index in order]
            found = [{name: value.cpu() for name, value in one.items()} for one in module.detections(images)]
            sheet = draw_detections(images.cpu(), found, targets, facts.class_names, threshold=_SURE)
            name = "detections"
        elif isinstance(module, PredictsMasks) and isinstance(targets, Tensor):
            masks = module.predicted(images).cpu()
            # They are judged at a size of their own where `mask_size` says so.
            labels = functional.interpolate(targets[:, None].float(), images.shape[-2:])[:, 0].long()
            sheet = draw_masks(images.cpu(), masks, labels, data.num_classes, class_names=facts.class_names)
            name = "masks"
        else:
            return None
    return write_picture(run_dir, name, sheet, show_images=show)
