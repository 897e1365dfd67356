"""Searches of networks of other people: torchvision's SSDlite on boxes, in a LightningModule as its user writes it.

    python tests/benchmarks/others.py detector DATA/bccd [--seed 0] [--epochs 60 24 36]
    python tests/benchmarks/others.py report

The detector is trained by a LightningModule as its user would write it, with torchvision's own loss; only the callback
is added. It is searched for 0.6 of its latency, derived and fine-tuned; the baseline is the source, trained on for as
long. Each run adds a row to ``others.json`` beside this file; ``report`` writes ``others.md`` from it. The U-Net is a
run of the segmentation recipe, whose command is on its page.
"""

import argparse
import json
from copy import deepcopy
from pathlib import Path

import lightning as L
import torch
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from lightning_nas import ArchitectureSearch, Estimator, refit, space_of, supernet_from
from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.loading import Loading
from lightning_nas.supernet import derive, sort_channels

HERE = Path(__file__).parent
RECORD, PAGE = HERE / "others.json", HERE / "others.md"
SIZE = 320
BUDGET = 0.6


class TrainedSSD(L.LightningModule):
    """torchvision's SSDlite with its own loss, on batches (images, targets)."""

    def __init__(self, model, lr=2e-3):
        super().__init__()
        self.model, self.lr = model, lr
        self.precision_of = MeanAveragePrecision(iou_thresholds=[0.5])

    def losses(self, images, targets):
        """Return torchvision's loss, in evaluation mode, too: there its own forward pass gives boxes alone."""
        model = self.model
        # Background is class 0 of torchvision's detectors.
        wanted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        listed, wanted = model.transform(list(images), wanted)
        features = list(model.backbone(listed.tensors).values())
        outputs = model.head(features)
        anchors = model.anchor_generator(listed, features)
        matched = [
            model.proposal_matcher(box_iou(target["boxes"], boxes))
            if len(target["boxes"])
            else torch.full((len(boxes),), -1, dtype=torch.int64)
            for target, boxes in zip(wanted, anchors, strict=True)
        ]
        return sum(model.compute_loss(wanted, outputs, anchors, matched).values())

    def training_step(self, batch, batch_index):
        loss = self.losses(*batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch, batch_index):
        self.log("val_loss", self.losses(*batch), batch_size=len(batch[0]))

    def test_step(self, batch, batch_index):
        images, targets = batch
        found = self.model.eval()(list(images))
        truth = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        self.precision_of.update(found, truth)

    def on_test_epoch_end(self):
        self.log("test_ap50", self.precision_of.compute()["map_50"])
        self.precision_of.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.02)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def detector(data, seed, epochs, device):
    """Search torchvision's SSDlite on boxes, and return a row of the record."""
    L.seed_everything(seed)
    source_epochs, search_epochs, finetune_epochs = epochs
    datamodule = CocoDataModule(data, SIZE, loading=Loading(batch_size=16, seed=seed))
    num_classes = len(datamodule.class_names) + 1
    image, estimator = torch.zeros(1, 3, SIZE, SIZE), Estimator.load(device, fallback="bytes")
    source = TrainedSSD(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes))
    trained(source, datamodule, source_epochs)
    baseline = TrainedSSD(deepcopy(source.model))
    searched = TrainedSSD(deepcopy(source.model))
    space = space_of(searched.model, image, lanes=estimator.lanes)
    supernet_from(searched.model, image, space)
    sort_channels(searched)
    untrained = deepcopy(searched)
    search = ArchitectureSearch(estimator, latency=f"{BUDGET}x")
    trained(searched, datamodule, search_epochs, [search])
    # The search tells architectures apart; the weights are those of the source, fitted.
    subnet = derive(untrained, search.architecture)
    teacher = derive(untrained, space.reference_encoding)
    images = torch.cat([batch[0] for batch, _ in zip(datamodule.train_dataloader(), range(8), strict=False)])
    refit(subnet.model, teacher.model, images)
    trained(subnet, datamodule, finetune_epochs)
    trained(baseline, datamodule, search_epochs + finetune_epochs)
    before, after = (estimator.latency_ms(net.model, image) for net in (baseline, subnet))
    return {
        "network": "torchvision ssdlite320_mobilenet_v3_large",
        "data": Path(data).name,
        "device": device,
        "seed": seed,
        "epochs": list(epochs),
        "budget": f"{BUDGET}x",
        "latency_ms": [before, after],
        "ap50": [tested(baseline, datamodule), tested(subnet, datamodule)],
        "space": str(space),
        "readiness": str(search.readiness),
    }


def trained(module, datamodule, epochs, callbacks=()):
    """Train a module, without files."""
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=5.0,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=epochs,
    )
    trainer.fit(module, datamodule)


def tested(module, datamodule):
    """Return the average precision on the test images."""
    trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.test(module, datamodule, verbose=False)
    return found["test_ap50"]


def page(rows):
    """Return the page of all rows."""
    lines = [
        "# Networks of other people",
        "",
        "Written by `python tests/benchmarks/others.py report` from `others.json`. torchvision's detector, in a",
        "LightningModule as its user would write it: only the callback was added. From nothing, no ImageNet weights.",
        "",
        "| network | data | device | budget | latency, before and after | AP50, before and after | epochs | seed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        latency, metric = (" -> ".join(f"{value:.3f}" for value in row[name]) for name in ("latency_ms", "ap50"))
        epochs = "/".join(map(str, row["epochs"]))
        lines.append(
            f"| {row['network']} | {row['data']} | {row['device']} | {row['budget']} | {latency} ms | {metric} |"
            f" {epochs} | {row['seed']} |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Run one search and record it, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("detector", "report"))
    parser.add_argument("data", nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="ethos_u85_1024")
    parser.add_argument("--epochs", type=int, nargs=3, default=(60, 24, 36), metavar=("SOURCE", "SEARCH", "FINETUNE"))
    given = parser.parse_args()
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else []
    if given.action == "detector":
        rows.append(detector(given.data, given.seed, tuple(given.epochs), given.device))
        RECORD.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
