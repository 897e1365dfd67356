"""Segmentation: what is not labelled counts for nothing, classes that never occur are no zeros, a teacher helps."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.tasks.classification import Classification
from lightning_nas.tasks.distillation import distillation_loss, feature_loss
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.tasks.miou import MeanIoU
from lightning_nas.tasks.mixup import paste
from lightning_nas.tasks.segmentation import Segmentation, mask_loss
from lightning_nas.tasks.segmenter import segmenter

CLASSES = 4


def make_network(seed: int = 0, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, CLASSES, 1)
    )


def make_batch(size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, CLASSES + 1, (16, size, size), generator=generator)
    return torch.randn(16, 3, size, size, generator=generator), masks.masked_fill(masks == CLASSES, 255)


def make_loader() -> DataLoader:
    return DataLoader(TensorDataset(*make_batch()), batch_size=8)


def make_trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "enable_checkpointing": False, **settings})


def quiet(model: Segmentation) -> Segmentation:
    model.log = lambda *args, **kwargs: None
    return model


def test_what_tasks_are_judged_by() -> None:
    assert Segmentation.metric == TaskMetric("mIoU", "miou")
    assert Classification.metric == TaskMetric("accuracy", "acc")


def test_trains_and_logs() -> None:
    model = Segmentation(make_network(), CLASSES)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, make_loader(), make_loader())
    assert {"train_loss", "val_loss", "val_miou"} <= set(trainer.callback_metrics)
    logged = trainer.test(model, make_loader(), verbose=False)[0]
    assert set(logged) == {"test_loss", "test_miou"}
    images, masks = make_batch()
    metric = MeanIoU(CLASSES)
    metric.update(model.eval().predicted(images), masks)
    assert logged["test_miou"] == pytest.approx(metric.compute().item())


def test_a_segmenter_learns_two_colours() -> None:
    torch.manual_seed(0)
    masks = torch.zeros(8, 32, 32, dtype=torch.long)
    masks[:, :, 16:] = 1
    masks[:, :4] = 255
    images = torch.where(masks[:, None] == 1, 1.0, -1.0).expand(-1, 3, -1, -1) + 0.1 * torch.randn(8, 3, 32, 32)
    setting = [[1, 16, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]
    network = segmenter(2, head_width=16, output_stride=4, inverted_residual_setting=setting)
    model = Segmentation(network, 2, lr=3e-3)
    loader = DataLoader(TensorDataset(images, masks), batch_size=8)
    trainer = make_trainer(max_steps=80)
    trainer.fit(model, loader)
    assert trainer.test(model, loader, verbose=False)[0]["test_miou"] > 0.95


def test_the_loss_is_that_of_the_labelled_pixels() -> None:
    logits = torch.randn(2, CLASSES, 4, 6, generator=torch.Generator().manual_seed(0))
    masks = make_batch()[1][:2, :8, :12]
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    for options in ({}, {"label_smoothing": 0.1}, {"class_weights": weights}):
        enlarged = functional.interpolate(logits, (8, 12), mode="bilinear")
        names = {"class_weights": "weight"}
        plain = {names.get(name, name): value for name, value in options.items()}
        expected = functional.cross_entropy(enlarged, masks, ignore_index=255, **plain)
        torch.testing.assert_close(mask_loss(logits, masks, **options), expected)


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 3.0, 4.0]])
def test_a_batch_without_a_label_is_no_nan(class_weights: list[float] | None) -> None:
    network = make_network()
    model = quiet(Segmentation(network, CLASSES, class_weights=class_weights))
    images, masks = make_batch()
    loss = model.training_step((images, torch.full_like(masks, 255)), 0)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    metric = MeanIoU(4)
    masks = torch.tensor([[[0, 0, 1, 1], [255, 255, 255, 255]]])
    # Class 2 is predicted once where there is none, and class 3 on a pixel without a label.
    metric.update(torch.tensor([[[0, 0, 1, 2], [3, 3, 3, 3]]]), masks)
    assert metric.compute() == pytest.approx((1 + 1 / 2) / 2)
    # Counts of all batches are summed before the division.
    metric.update(torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 0]]]), masks)
    assert metric.compute() == pytest.approx((3 / 4 + 3 / 5) / 2)
    empty = MeanIoU(4)
    empty.update(masks * 0, torch.full_like(masks, 255))
    assert empty.compute().isnan()


def test_the_teacher_is_imitated_by_pixel_at_the_students_resolution() -> None:
    student, teacher = make_network(0), nn.Sequential(make_network(1), nn.Upsample(scale_factor=2))
    images, masks = make_batch()
    model = quiet(Segmentation(student, CLASSES, teacher=teacher, distillation_weight=1.0, temperature=3.0))
    assert not [name for name in model.state_dict() if "teacher" in name]
    loss = model.training_step((images, masks), 0)
    with torch.no_grad():
        wanted = functional.interpolate(teacher(images), (8, 8), mode="bilinear")
        pairs = zip(student(images).unbind(), wanted.unbind(), strict=True)
        each = [distillation_loss(a.flatten(1).T, b.flatten(1).T, 3.0) for a, b in pairs]
    torch.testing.assert_close(loss.detach(), torch.stack(each).mean())


def test_feature_maps_of_a_segmenter_are_imitated() -> None:
    options = {"head_width": 16, "output_stride": 2, "inverted_residual_setting": [[1, 16, 1, 1], [4, 16, 2, 2]]}
    torch.manual_seed(0)
    student, teacher = segmenter(CLASSES, **options), segmenter(CLASSES, **options)
    images, masks = make_batch(32)
    names = ["backbone.features.2"]
    settings = {"teacher": teacher, "distillation_weight": 0.0, "feature_weight": 2.0, "feature_modules": names}
    loss = quiet(Segmentation(student, CLASSES, **settings)).training_step((images, masks), 0)
    with torch.no_grad():
        own, goal = student(images), teacher(images)
        inner = [n.backbone.features[:3](images) for n in (student, teacher)]
        expected = mask_loss(own, masks) + 2 * (feature_loss(own, goal) + feature_loss(*inner))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 10), (12, 20), (24, 40)])
def test_what_is_pasted_takes_its_mask_along(size: tuple[int, int]) -> None:
    values = torch.arange(16).view(16, 1, 1)
    images, masks = values[:, None].expand(16, 3, 12, 20).float(), values.expand(16, *size)
    new_images, new_masks = paste(images, masks, alpha=1.0, seed=1)
    found = functional.interpolate(new_masks[:, None].float(), (12, 20), mode="nearest")
    assert torch.equal(new_images, found.expand_as(new_images))
    own = (new_masks == masks).flatten(1).float().mean(1)
    assert own.min() >= 0.4  # half, but for edges that are rounded
    assert (own < 1).sum() > 8
    # A rectangle: as many rows and columns of it as of what is not the image's own.
    for mask, value in zip(new_masks, range(16), strict=True):
        other = mask != value
        assert other.sum() == other.any(0).sum() * other.any(1).sum()
    assert torch.equal(paste(images, masks, alpha=1.0, seed=1)[1], new_masks)
    assert not torch.equal(paste(images, masks, alpha=1.0, seed=2)[1], new_masks)


def test_images_are_pasted_in_training_alone() -> None:
    losses = []
    for cutmix, training in ((0.0, False), (1.0, False), (1.0, True)):
        model = quiet(Segmentation(make_network(), CLASSES, cutmix=cutmix).train(training))
        losses.append(model.training_step(make_batch(), 0).item())
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None) -> Segmentation:
        model = Segmentation(make_network(), CLASSES, class_weights=[1, 2, 3, 4])
        settings = {"max_epochs": 2, "enable_checkpointing": True, "default_root_dir": tmp_path}
        checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = make_trainer(callbacks=[checkpoint], **settings)
        trainer.fit(model, make_loader(), ckpt_path=ckpt_path, weights_only=True)
        return model

    straight, resumed = run(), run(tmp_path / "epoch=0.ckpt")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be between 2 and 255; got 1"),
        ({"num_classes": 256}, "`num_classes` must be between 2 and 255; got 256"),
        ({"lr": 0.0}, "`lr` must be above 0; got 0"),
        ({"label_smoothing": 2.0}, "`label_smoothing` must be between 0 and 1; got 2"),
        ({"distillation_weight": 1.5}, "`distillation_weight` must be between 0 and 1; got 1.5"),
        ({"cutmix": -1.0}, "`cutmix` must be at least 0; got -1"),
        ({"class_weights": [1.0, 2.0]}, r"`class_weights` must be 4 positive numbers, one a class; got \[1.0, 2.0\]"),
        ({"class_weights": [1.0, 2.0, 0.0, 1.0]}, r"`class_weights\[2\]` must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmentation(**{"network": make_network(), "num_classes": CLASSES, **settings})


def test_a_network_with_other_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(16, 3, height, width\); got \(16, 4, 8, 8\)"):
        quiet(Segmentation(make_network(), 3)).training_step(make_batch(), 0)
