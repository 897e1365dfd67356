"""The yardstick of scores: members of a space, fine-tuned from a trained source as users do it, and what scores say.

    python tests/benchmarks/truth_set.py source TASK DATA WORK --weights mobilenet_v2-b0353104.pth
    python tests/benchmarks/truth_set.py truth TASK DATA WORK [--part 0/2]
    python tests/benchmarks/truth_set.py scores TASK DATA WORK
    python tests/benchmarks/truth_set.py record TASK DATA WORK
    python tests/benchmarks/truth_set.py report

TASK is ``presence`` (DATA: person_presence96; more test images by ``--extra``), or ``streets`` (DATA: camvid).
``source`` trains the source and draws the members. ``truth`` derives, refits and fine-tunes each of them, taught by the
source as the recipe does it, and judges it on images that nothing was fitted to; those within the band with two seeds.
It goes on where it stopped. ``scores`` asks each score for the same members; scores see training images only.
``record`` writes ``truth_set_TASK.json`` beside this file, ``report`` the page ``truth_set.md``.

Members are drawn so that no score's own optimum makes the sample: a third uniformly, the others as the best by random
importances of the blocks, within 3 % of half the source's latency, and from 0.35 to 0.95 of it.
"""

import argparse
import json
import time
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn import functional

from lightning_nas import Estimator
from lightning_nas.budget.sampling import kept_weights
from lightning_nas.budget.solver import Limit, solve
from lightning_nas.budget.tables import cost_tables
from lightning_nas.data.images import image_data
from lightning_nas.data.masks import mask_data
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.jobs.inputs import training_images
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, refit, sort_channels, space_of, stock_network, supernet_from
from lightning_nas.tasks.classification import Classification
from lightning_nas.tasks.segmentation import Segmentation
from lightning_nas.tasks.segmenter import segmenter

HERE = Path(__file__).parent
DEVICE, BAND, NUM_BAND, NUM_WIDE = "ethos_u85_1024", (0.485, 0.515), 60, 60
TEMPERATURES = torch.linspace(0.5, 5.0, 19)
IGNORED = 255
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@dataclass(frozen=True)
class Task:
    """A task on which scores are judged, with the settings of its recipe.

    Attributes:
        epochs: Of the source, and of each member.
        lr: Of the source, and of each member.
        teaching: How much the source is imitated.
        num_images: Training images that members are refitted by, and that scores see.
    """

    name: str
    data: Path
    extra: Path | None = None
    epochs: tuple[int, int] = (24, 4)
    lr: tuple[float, float] = (1e-3, 3e-4)
    num_images: int = 384

    @cached_property
    def datamodule(self):
        return self.datamodule_of(0)

    def datamodule_of(self, seed):
        """Return the data, in an order and with augmentation by a seed."""
        if self.name == "presence":
            found = image_data(self.data, 0.6, self.extra, 64, batch_size=32, seed=seed)
        else:
            found = mask_data(self.data, image_size=(96, 128), mask_size=(96, 128), batch_size=8, seed=seed)
        found.prepare_data()
        found.setup("fit")
        found.setup("test")
        return found

    def network(self, weights=None):
        if self.name == "presence":
            return stock_network("mobilenet_v2", self.datamodule.num_classes, weights)
        return segmenter(num_classes=self.datamodule.num_classes, backbone="mobilenet_v2", weights=weights)

    def module(self, network, lr, teacher=None, feature_modules=()):
        taught = {} if teacher is None else {"teacher": teacher, "feature_modules": feature_modules}
        if self.name == "presence":
            taught |= {"distillation_weight": 0.9, "feature_weight": 3.0, "mixup": 1.0} if taught else {}
            return Classification(network, self.datamodule.num_classes, lr, 0.02, "adamw", **taught)
        taught |= {"distillation_weight": 0.9, "feature_weight": 3.0, "cutmix": 1.0} if taught else {}
        return Segmentation(network, self.datamodule.num_classes, lr, **taught)


def fitted(task, module, epochs, seed, callbacks=()):
    """Train a module, without files."""
    pl.seed_everything(seed, workers=True, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=list(callbacks),
        **QUIET,
    )
    # What was derived of a network that was judged is still in evaluation mode.
    trainer.fit(module.train(), train_dataloaders=task.datamodule_of(seed).train_dataloader())
    return module


def judged(task, network, source_logits):
    """Return the metric, the cross-entropy at the best temperature and the divergence from the source."""
    logits, targets = outputs(task, network)
    losses = [float(functional.cross_entropy(logits / t, targets)) for t in TEMPERATURES]
    found = {"ce": min(losses), "metric": metric(task, logits, targets)}
    if source_logits is not None:
        log_goal = functional.log_softmax(source_logits, 1)
        found["kl"] = float(
            functional.kl_div(functional.log_softmax(logits, 1), log_goal, reduction="batchmean", log_target=True)
        )
    return found


def outputs(task, network):
    """Return logits and targets of all held-out images (of masks: of a part of their pixels), a row each."""
    rows, wanted = [], []
    loaders = [task.datamodule.val_dataloader(), task.datamodule.test_dataloader()]
    with evaluating(network):
        for images, targets in (batch for loader in loaders for batch in loader):
            logits = network(images.contiguous(memory_format=torch.channels_last))
            if logits.ndim == 4:
                logits = functional.interpolate(logits, targets.shape[-2:], mode="bilinear")
                logits = logits.permute(0, 2, 3, 1).flatten(0, 2)[::3]
                targets = targets.flatten()[::3]
                logits, targets = logits[targets != IGNORED], targets[targets != IGNORED]
            rows.append(logits)
            wanted.append(targets.long())
    return torch.cat(rows), torch.cat(wanted)


def metric(task, logits, targets):
    """Return the accuracy, or the mean intersection over union."""
    found = logits.argmax(1)
    if task.name == "presence":
        return float((found == targets).float().mean())
    counts = torch.bincount(targets * logits.shape[1] + found, minlength=logits.shape[1] ** 2)
    counts = counts.view(logits.shape[1], -1).float()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    return float((counts.diag() / union.clamp(min=1))[counts.sum(1) > 0].mean())


@dataclass
class Setting:
    """What every part begins with: the trained source as a sorted supernet, and the members."""

    task: Task
    work: Path

    @cached_property
    def source_network(self):
        network = self.task.network()
        network.load_state_dict(torch.load(self.work / "source.pt", weights_only=True))
        return network.to(memory_format=torch.channels_last).eval()

    @cached_property
    def images(self):
        pl.seed_everything(0, verbose=False)
        batch = next(iter(self.task.datamodule.train_dataloader()))[0]
        return training_images(self.task.datamodule, -(-self.task.num_images // len(batch)))[: self.task.num_images]

    @cached_property
    def space(self):
        estimator = Estimator.load(DEVICE, fallback="bytes")
        return space_of(self.source_network, self.images[:1], estimator.lanes, SpaceOptions(ratios=(0.75, 1.0)))

    @cached_property
    def table(self):
        return cost_tables(self.space, Estimator.load(DEVICE, fallback="bytes")).latency_ms

    @cached_property
    def supernet(self):
        supernet = supernet_from(deepcopy(self.source_network), self.images[:1], self.space)
        sort_channels(supernet)
        return supernet.eval()

    @cached_property
    def teacher(self):
        return derive(self.supernet, self.space.reference_encoding).eval()

    @cached_property
    def members(self):
        found = json.loads((self.work / "members.json").read_text())
        return {name: (tuple(member["encoding"]), member["part"]) for name, member in found.items()}

    def refitted(self, encoding):
        subnet = derive(self.supernet, encoding)
        refit(subnet, self.teacher, self.images)
        return subnet.to(memory_format=torch.channels_last)


def drawn_members(setting):
    """Return members by name, each with its part of the source's latency."""
    rng, table, space = np.random.default_rng(0), setting.table, setting.space
    own = table.exact(space.reference_encoding)
    kept = [row.numpy().astype(float) for row in kept_weights(space)]
    wide = np.linspace(0.35, 0.95, NUM_WIDE)
    wanted = [("band", BAND)] * NUM_BAND + [("wide", (part - 0.01, part + 0.01)) for part in wide]
    found = {}
    for number, (kind, (low, high)) in enumerate(wanted):
        limit = Limit(table, high * own, floor=low * own)
        while True:
            spread = [1e-6 if number % 3 == 0 else float(rng.lognormal(0, 1)) for _ in kept]
            scores = [w * row + rng.gumbel(size=len(row)) for w, row in zip(spread, kept, strict=True)]
            encoding = solve(scores, [limit])
            if encoding is not None and encoding not in [member["encoding"] for member in found.values()]:
                break
        part = round(table.exact(encoding) / own, 4)
        found[f"{kind}-{number}"] = {"encoding": tuple(map(int, encoding)), "part": part}
    return found


def make_source(task, work, weights):
    """Train the source, and draw the members."""
    work.mkdir(parents=True, exist_ok=True)
    network = task.network(weights).to(memory_format=torch.channels_last)
    fitted(task, task.module(network, task.lr[0]), task.epochs[0], 0)
    torch.save(network.state_dict(), work / "source.pt")
    setting = Setting(task, work)
    (work / "members.json").write_text(json.dumps(drawn_members(setting)))
    found = judged(task, setting.source_network, None)
    (work / "source.json").write_text(json.dumps(found))
    say(f"source: {found}; {len(setting.members)} members")


def measure_truth(task, work, part):
    """Fine-tune and judge members; what is there is not done again."""
    setting = Setting(task, work)
    goal = outputs(task, setting.teacher)[0]
    jobs = [(name, seed) for seed in (0, 1) for name in setting.members if seed == 0 or name.startswith("band")]
    index, count = map(int, part.split("/"))
    done = {(row["name"], row["seed"]) for row in rows_in(work)}
    for name, seed in jobs[index::count]:
        if (name, seed) in done:
            continue
        started, (encoding, _) = time.monotonic(), setting.members[name]
        network = setting.refitted(encoding)
        before = judged(task, network, goal)
        module = task.module(network, task.lr[1], setting.teacher, setting.space.feature_modules)
        fitted(task, module, task.epochs[1], seed)
        row = {"name": name, "seed": seed, "refitted": before, "truth": judged(task, network, goal)}
        row["seconds"] = round(time.monotonic() - started, 1)
        with (work / f"rows-{index}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        say(f"{name} {seed}: {row['truth']} in {row['seconds']} s")


def rows_in(work):
    return [json.loads(line) for path in sorted(work.glob("rows-*.jsonl")) for line in path.read_text().splitlines()]


def say(text):
    print(text, flush=True)  # noqa: T201


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("source", "truth", "scores", "record", "report"))
    parser.add_argument("task", nargs="?", choices=("presence", "streets"))
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--extra", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--part", default="0/1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.action == "source":
        make_source(Task(given.task, given.data, given.extra), given.work, given.weights)
    elif given.action == "truth":
        measure_truth(Task(given.task, given.data, given.extra), given.work, given.part)
    else:
        import truth_set_report

        truth_set_report.run(given)


if __name__ == "__main__":
    main()
