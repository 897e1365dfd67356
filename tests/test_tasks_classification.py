"""Classification: a plain module whose teacher leaves no trace and whose runs resume to the same weights."""

import copy
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.tasks.classification import Classification
from lightning_nas.tasks.distillation import distillation_loss, feature_loss, feature_maps
from lightning_nas.tasks.mixup import mix


def make_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def make_loader() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 16, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(32) % 10), batch_size=8)


def make_trainer(**settings: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "enable_checkpointing": False, **settings})


def test_trains_and_logs_on_digit_scenes() -> None:
    data = DigitsDataModule(image_size=32, scenes_per_digit=1)
    model = Classification(make_network(), data.num_classes)
    trainer = make_trainer(max_epochs=1, limit_train_batches=3, limit_val_batches=2, limit_test_batches=2)
    trainer.fit(model, data)
    assert {"train_loss", "val_loss", "val_acc"} <= set(trainer.callback_metrics)
    assert set(trainer.test(model, data, verbose=False)[0]) == {"test_loss", "test_acc"}


def test_weights_are_those_of_a_plain_loop() -> None:
    network, plain = make_network(), make_network()
    model = Classification(network, 10, lr=0.1, weight_decay=0.01, warmup_fraction=0.0, label_smoothing=0.1)
    make_trainer(max_epochs=2).fit(model, make_loader())

    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 8, dtype=torch.float64)).item())
    )
    plain.train()
    for images, labels in [batch for _ in range(2) for batch in make_loader()]:
        optimizer.zero_grad()
        logits = plain(images.contiguous(memory_format=torch.channels_last))
        functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    for trained, expected in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(trained, expected)


def test_teacher_leaves_no_trace() -> None:
    network, teacher = make_network(0), make_network(1)
    before = copy.deepcopy(teacher.state_dict())
    model = Classification(network, 10, teacher=teacher)
    alone = Classification(make_network(0), 10)
    assert model.state_dict().keys() == alone.state_dict().keys()
    assert len(list(model.parameters())) == len(list(alone.parameters()))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, make_loader())
    # The running statistics of its norms would betray a teacher in training mode.
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert network.training


def test_only_the_teacher_counts_with_full_weight() -> None:
    network, teacher = make_network(0), make_network(1)
    model = Classification(network, 10, teacher=teacher, distillation_weight=1.0, temperature=3.0)
    model.log = lambda *args, **kwargs: None
    images, labels = next(iter(make_loader()))
    loss = model.training_step((images, labels), 0)
    with torch.no_grad():
        images = images.contiguous(memory_format=torch.channels_last)
        expected = distillation_loss(network(images), teacher(images), 3.0)
    torch.testing.assert_close(loss.detach(), expected)


def test_distillation_loss_is_the_scaled_divergence() -> None:
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    soft = (teacher / 2).softmax(1)
    expected = 4 * (soft * (soft.log() - (student / 2).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0), expected)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = []

    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = Classification(make_network(), 10, lr=1.0, warmup_fraction=0.25)
    trainer = make_trainer(max_steps=8, callbacks=[Recorder()])
    trainer.fit(model, make_loader())
    rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_run_ends_with_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    def run(ckpt_path: Path | None = None) -> tuple[Classification, L.Trainer]:
        data = DigitsDataModule(image_size=32, scenes_per_digit=1, batch_size=64)
        model = Classification(make_network(), 10, optimizer=optimizer, lr=0.01)
        checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = make_trainer(
            max_epochs=2,
            limit_train_batches=3,
            limit_val_batches=1,
            enable_checkpointing=True,
            callbacks=[checkpoint],
            default_root_dir=tmp_path,
        )
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model, trainer

    straight, _ = run()
    resumed, trainer = run(tmp_path / "epoch=0.ckpt")
    assert trainer.global_step == 6
    assert trainer.train_dataloader.sampler.epoch == 1
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_endless_trainer_is_refused() -> None:
    model = Classification(make_network(), 10)
    with pytest.raises(MisconfigurationException, match="HINT: give the Trainer `max_steps` or `max_epochs`"):
        make_trainer(max_epochs=-1).fit(model, make_loader())


def test_network_with_other_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(8, 7\); got \(8, 10\)"):
        make_trainer(max_epochs=1).fit(Classification(make_network(), 7), make_loader())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2; got 1"),
        ({"lr": 0.0}, "`lr` must be above 0; got 0"),
        ({"lr": float("nan")}, "`lr` must be a finite number above 0; got nan"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0; got -1"),
        ({"optimizer": "lion"}, "`optimizer` must be one of sgd, adamw; got 'lion'"),
        ({"mixup": -1.0}, "`mixup` must be at least 0; got -1"),
        ({"temperature": 0.0}, "`temperature` must be above 0; got 0"),
        ({"distillation_weight": 1.5}, "`distillation_weight` must be between 0 and 1; got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(**{"network": make_network(), "num_classes": 10, **settings})


def test_feature_maps_are_imitated_at_their_own_scale():
    teacher = torch.randn(2, 3, 4, 4)
    assert feature_loss(teacher, teacher) == 0
    assert torch.allclose(feature_loss(torch.zeros_like(teacher), teacher), torch.tensor(1.0), atol=0.1)
    with pytest.raises(ValueError, match="feature_weight=0"):
        feature_loss(teacher[:, :2], teacher)


def test_named_feature_maps_of_a_narrower_network_are_the_first_of_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 5, 3))
    student = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3))
    with torch.no_grad():
        student[0].weight.copy_(teacher[0].weight[:4])
        student[0].bias.copy_(teacher[0].bias[:4])
    images = torch.randn(2, 3, 8, 8)
    with feature_maps(student, ["0"]) as maps, feature_maps(teacher, ["0"]) as goals:
        student(images), teacher(images)
    first, last = (feature_loss(found, goal[:, : found.shape[1]]) for found, goal in zip(maps, goals, strict=True))
    assert first < 1e-10
    assert last > 0.01
    net = torch.nn.Sequential(student, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    big = torch.nn.Sequential(teacher, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    batch = images, torch.tensor([0, 1])
    losses = []
    for names in ([], ["0.0"], ["0.1"]):
        settings = {"teacher": big, "distillation_weight": 1.0, "feature_weight": 2.0, "feature_modules": names}
        model = Classification(net, 5, **settings)
        model.log = lambda *args, **kwargs: None
        losses.append(model.training_step(batch, 0).item())
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0] + 2 * last.item())


def test_mixed_images_keep_their_labels_shares() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    mixed, targets = mix(images, torch.arange(4), num_classes=4, alpha=1.0, seed=3)
    # The value of an image is its label, so the mixed value is the mean label.
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ torch.arange(4.0))
    assert (targets.diagonal() >= 0.5).all()
    assert (targets > 0).sum() > 4
    again, _ = mix(images, torch.arange(4), num_classes=4, alpha=1.0, seed=3)
    other, _ = mix(images, torch.arange(4), num_classes=4, alpha=1.0, seed=4)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_images_are_mixed_in_training_alone() -> None:
    network = make_network(0)
    images, labels = next(iter(make_loader()))
    losses = []
    for mixup, training in ((0.0, False), (1.0, False), (1.0, True)):
        model = Classification(network, 10, mixup=mixup).train(training)
        model.log = lambda *args, **kwargs: None
        losses.append(model.training_step((images, labels), 0).item())
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


def test_feature_weight_moves_the_network_to_its_teacher(tmp_path):
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Conv2d(3, 4, 3)
            self.pool = torch.nn.AdaptiveAvgPool2d(1)
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.pool(self.features(x)).flatten(1))

    student, teacher = Net(), Net()
    images, labels = torch.randn(16, 3, 8, 8), torch.randint(0, 3, (16,))
    before = feature_loss(student.features(images), teacher.features(images)).item()
    module = Classification(
        student, 3, lr=0.05, teacher=teacher, distillation_weight=0.0, feature_weight=5.0, optimizer="adamw"
    )
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_epochs=40, accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet
    )
    trainer.fit(module, data)
    after = feature_loss(student.features(images), teacher.features(images)).item()
    assert after < 0.2 * before
