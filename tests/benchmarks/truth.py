"""The truth test: every member of a small space trained alone, and where the searched subnets stand among them.

``python tests/benchmarks/truth.py members DATA`` trains all 72 members of a space with three seeds each, on part of
Fashion-MNIST, and keeps each result in ``truth_members.csv`` beside this file as soon as it is there; several processes
share the work with ``--part 0/2`` and ``--part 1/2``. A member takes about 15 seconds on one core. ``search DATA``
trains one supernet a seed, searches it for three budgets by its callback, and keeps what it found, and the inherited
loss of all members, in ``truth_search.json``. ``baselines DATA`` searches for one budget by each published method,
weights and logits together, into ``truth_baselines.json``. ``report`` writes ``truth.md`` from all of them.
"""

import argparse
import csv
import itertools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import MobileNetV2
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from searches import STRATEGIES, search_of

from lightning_nas import Estimator
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import space_of, supernet_from
from lightning_nas.supernet.derive import derive

MEMBERS = Path(__file__).with_name("truth_members.csv")
SEARCHES = Path(__file__).with_name("truth_search.json")
BASELINES = Path(__file__).with_name("truth_baselines.json")
DEVICE = "ethos_u55_256"
# Architecture steps with the weights at rest; what the solver proposes, and what is compared in all.
STEPS, CANDIDATES, EVALUATIONS = 200, 8, 32
# How many of the compared are trained briefly, from what they inherit; a member alone has 4 epochs.
TRIAL_EPOCHS = 2
SETTING = [[1, 8, 1, 1], [4, 32, 1, 2], [4, 64, 2, 2]]
SEEDS = (0, 1, 2)
NUM_RANDOM = 60
EPOCHS, BATCH, LEARNING_RATE = 4, 64, 3e-3
NUM_TRAIN = 6000
COLUMNS = ("seed", "nodes", "accuracy", "loss", "seconds")


def images_of(split):
    """Return images (NCHW, 32 px, three equal channels) and targets of one split of the archive."""
    images = torch.from_numpy(split[0]).float().div(255).sub(0.286).div(0.353)
    images = functional.pad(images[:, None], (2, 2, 2, 2), value=-0.286 / 0.353)
    return images.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last), torch.from_numpy(split[1]).long()


def read(folder):
    """Return the splits ``train``, ``val`` and ``test``."""
    with np.load(next(folder.glob("*.npz"))) as data:
        splits = {name: images_of((data[f"x_{name}"], data[f"y_{name}"])) for name in ("train", "val", "test")}
    images, targets = splits["train"]
    # The more test images, the better members are told apart.
    pairs = zip(splits["train"], splits["test"], strict=True)
    splits["test"] = tuple(torch.cat([part[NUM_TRAIN:], test]) for part, test in pairs)
    splits["train"] = images[:NUM_TRAIN], targets[:NUM_TRAIN]
    return splits


def network(seed):
    torch.manual_seed(seed)
    return MobileNetV2(num_classes=10, inverted_residual_setting=SETTING, dropout=0.0)


def space() -> SearchSpace:
    """Three widths of two stages, IBN or fused-IBN in three blocks: 72 members."""
    image = torch.zeros(1, 3, 32, 32)
    # Its members were trained before stem and head were searched.
    ends = {"stem_widths": (), "head_widths": ()}
    return space_of(
        network(0), image, lanes=8, options=SpaceOptions(expansions=(4,), kernels=(3,), ratios=(0.25, 0.5, 1.0), **ends)
    )


def member(nodes, seed):
    """Return a member of the space with weights of its own."""
    supernet = supernet_from(network(seed), torch.zeros(1, 3, 32, 32), space())
    subnet = derive(supernet, nodes)
    torch.manual_seed(seed)
    for module in subnet.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return subnet.to(memory_format=torch.channels_last)


def train(model, data, seed, epochs=EPOCHS):
    images, targets = data
    generator = torch.Generator().manual_seed(seed)
    total = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator)[: BATCH * (len(images) // BATCH)].split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return model


@torch.no_grad()
def test(model, data):
    """Return accuracy and loss."""
    images, targets = data
    model.eval()
    outputs = torch.cat([model(part) for part in images.split(500)])
    return float((outputs.argmax(1) == targets).float().mean()), float(functional.cross_entropy(outputs, targets))


def known(path):
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(int(row["seed"]), row["nodes"]): row for row in csv.DictReader(file)}


def train_members(folder, part, parts):
    """Train what is not known yet; every `parts`-th of it."""
    splits, torch_space = read(folder), space()
    path = MEMBERS.with_name(f"{MEMBERS.stem}_{part}.csv") if parts > 1 else MEMBERS
    done = known(MEMBERS) | known(path)
    names = [" ".join(map(str, nodes)) for nodes in itertools.product(*map(range, torch_space.node_sizes))]
    jobs = [(seed, name) for seed in SEEDS for name in names][part::parts]
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    for seed, name in tqdm([job for job in jobs if job not in done], unit="member"):
        started = time.perf_counter()
        model = train(member(tuple(map(int, name.split())), seed), splits["train"], seed)
        accuracy, loss = test(model, splits["test"])
        with path.open("a", newline="") as file:
            row = (seed, name, f"{accuracy:.4f}", f"{loss:.4f}", f"{time.perf_counter() - started:.1f}")
            csv.writer(file, lineterminator="\n").writerow(row)


class Classifier(pl.LightningModule):
    """A user's module."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return functional.cross_entropy(self.network(images.contiguous(memory_format=torch.channels_last)), targets)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE, weight_decay=0.01)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def costs_ms():
    """Return the latency of each member: compiled whole, where the device's compiler is installed."""
    members, estimator = space(), Estimator.load(DEVICE)
    found = {}
    for nodes in itertools.product(*map(range, members.node_sizes)):
        architecture = members.decode(nodes)
        found[text_of(nodes)] = estimator.verify_ms(architecture) or estimator.latency_ms(architecture)
    return found


def budgets_ms(costs):
    """Return three latency budgets: those that 30, 50 and 80 % of the members meet."""
    return [round(float(np.quantile(list(costs.values()), share)), 5) for share in (0.3, 0.5, 0.8)]


def searched(splits, seed, epochs, budget, **options):
    """Train a supernet under the callback; return the callback and the optimizer steps."""
    module = Classifier(supernet_from(network(seed), torch.zeros(1, 3, 32, 32), space()))
    loaders = [
        DataLoader(TensorDataset(*splits["train"]), BATCH, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(*splits["val"]), 250),
    ]
    search = search_of(
        DEVICE, latency=budget, samples=4, candidates=CANDIDATES, evaluations=EVALUATIONS, seed=seed, **options
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[search], check_val_every_n_epoch=10, **quiet)
    torch.manual_seed(seed)
    trainer.fit(module, *loaders)
    return search, trainer.global_step


def search_seed(splits, seed, epochs, trials):
    """Train a supernet and search it for all budgets; return what is recorded."""
    members, costs = space(), costs_ms()
    budgets = budgets_ms(costs)
    started = time.perf_counter()
    options = {"phases": "decoupled", "steps": STEPS, "trials": trials, "trial_epochs": TRIAL_EPOCHS}
    search, steps = searched(splits, seed, epochs, budgets[0], serves=budgets[1:], **options)
    seconds = {"first": time.perf_counter() - started}
    found = {}
    for budget in budgets:
        started = time.perf_counter()
        found[str(budget)] = search.find(latency=budget)
        seconds[str(budget)] = time.perf_counter() - started
    loss = search.state.evaluator(held_out=True)
    inherited = {nodes: loss(nodes) for nodes in itertools.product(*map(range, members.node_sizes))}
    return {
        "seed": seed,
        "epochs": epochs,
        "trials": trials,
        "steps": steps,
        "seconds": seconds,
        "readiness": asdict(search.readiness),
        "costs_ms": costs,
        "found": {budget: text_of(members.encode(ranked[0])) for budget, ranked in found.items()},
        "inherited": {text_of(nodes): round(value, 5) for nodes, value in inherited.items()},
    }


def text_of(nodes):
    return " ".join(map(str, nodes))


def search_all(folder, epochs, trials):
    splits = read(folder)
    rows = json.loads(SEARCHES.read_text()) if SEARCHES.exists() else []
    for seed in SEEDS:
        if not any((row["seed"], row["epochs"], row["trials"]) == (seed, epochs, trials) for row in rows):
            rows.append(search_seed(splits, seed, epochs, trials))
            SEARCHES.write_text(json.dumps(rows, indent=1) + "\n")


def search_baselines(folder, epochs):
    """Search for the middle budget by each strategy, weights and logits in one training."""
    splits, members = read(folder), space()
    budget = budgets_ms(costs_ms())[1]
    rows = json.loads(BASELINES.read_text()) if BASELINES.exists() else []
    for strategy in STRATEGIES:
        if any(row["strategy"] == strategy for row in rows):
            continue
        started = time.perf_counter()
        search, steps = searched(splits, 0, epochs, budget, strategy=strategy, every=4)
        rows.append(
            {
                "strategy": strategy,
                "budget": budget,
                "steps": steps,
                "seconds": round(time.perf_counter() - started, 1),
                "by_logits": text_of(search.search.best()),
                "found": text_of(members.encode(search.architecture)),
            }
        )
        BASELINES.write_text(json.dumps(rows, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("members", "search", "baselines", "report"))
    parser.add_argument("data", nargs="?", type=Path, help="folder of Fashion-MNIST as an npz archive")
    parser.add_argument("--epochs", type=int, default=16, help="of the supernet; a member alone has 4")
    parser.add_argument("--trials", type=int, default=0, help="how many of the compared are trained briefly")
    parser.add_argument("--part", default="0/1", help="which part of the members: 0/2 or 1/2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, args.part.split("/"))
    if args.command == "members":
        train_members(args.data, part, parts)
    elif args.command == "search":
        search_all(args.data, args.epochs, args.trials)
    elif args.command == "baselines":
        search_baselines(args.data, args.epochs)
    else:
        from truth_report import report  # which reads what is above

        report()


if __name__ == "__main__":
    main()
