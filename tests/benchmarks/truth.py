"""The truth test: every member of a small space trained alone, and where the searched subnets stand among them.

``python tests/benchmarks/truth.py members DATA`` trains all 64 members of a space with three seeds each, on part of
Fashion-MNIST, and keeps each result in ``truth_members.csv`` beside this file as soon as it is there; several processes
share the work with ``--part 0/2`` and ``--part 1/2``. A member takes about 15 seconds on one core. ``search DATA``
trains one supernet a seed, searches it for three budgets by its callback, and keeps what it found, and the inherited
loss of all members, in ``truth_search.json``. ``report`` writes ``truth.md`` from both.
"""

import argparse
import csv
import itertools
import json
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from scipy.stats import kendalltau
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import MobileNetV2
from tqdm import tqdm

from lightning_nas import ArchitectureSearch, Estimator
from lightning_nas.search.tables import cost_tables
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import space_of, supernet_from
from lightning_nas.supernet.derive import derive

MEMBERS = Path(__file__).with_name("truth_members.csv")
SEARCHES = Path(__file__).with_name("truth_search.json")
DEVICE = "ethos_u85_1024"
STEPS = 200
SETTING = [[1, 16, 1, 1], [4, 32, 2, 2], [4, 64, 2, 2]]
SEEDS = (0, 1, 2)
EPOCHS, BATCH, LEARNING_RATE = 6, 64, 3e-3
NUM_TRAIN = 3000
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
    splits["train"] = tuple(part[:NUM_TRAIN] for part in splits["train"])
    return splits


def network(seed):
    torch.manual_seed(seed)
    return MobileNetV2(num_classes=10, inverted_residual_setting=SETTING, dropout=0.0)


def space() -> SearchSpace:
    """Two widths of two stages, IBN or fused-IBN in four blocks: 64 members."""
    return space_of(network(0), torch.zeros(1, 3, 32, 32), lanes=16, expansions=(4,), kernels=(3,), ratios=(0.5, 1.0))


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


def budgets_ms(table):
    """Return three latency budgets: those that 30, 50 and 80 % of the members meet."""
    costs = table.exact_many(np.array(list(itertools.product(*map(range, table.node_sizes)))))
    return [float(np.quantile(costs, share)) for share in (0.3, 0.5, 0.8)]


def search_seed(splits, seed, epochs):
    """Train a supernet and search it; return what is recorded."""
    members = space()
    estimator = Estimator.load(DEVICE)
    budgets = budgets_ms(cost_tables(members, estimator)["latency_ms"])
    module = Classifier(supernet_from(network(seed), torch.zeros(1, 3, 32, 32), members))
    loaders = [
        DataLoader(TensorDataset(*splits["train"]), BATCH, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(*splits["val"]), 250),
    ]
    search = ArchitectureSearch(
        estimator,
        latency=budgets[0],
        phases="decoupled",
        samples=4,
        steps=STEPS,
        candidates=8,
        evaluations=24,
        seed=seed,
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[search], check_val_every_n_epoch=10, **quiet)
    started = time.perf_counter()
    torch.manual_seed(seed)
    trainer.fit(module, *loaders)
    seconds = {"first": time.perf_counter() - started}
    found = {}
    for budget in budgets:
        started = time.perf_counter()
        found[str(budget)] = search.find(latency=budget)
        seconds[str(budget)] = time.perf_counter() - started
    loss = search._evaluator()
    inherited = {nodes: loss(nodes) for nodes in itertools.product(*map(range, members.node_sizes))}
    text = lambda nodes: " ".join(map(str, nodes))  # noqa: E731
    return {
        "seed": seed,
        "epochs": epochs,
        "steps": trainer.global_step,
        "seconds": seconds,
        "found": {budget: text(members.encode(ranked[0])) for budget, ranked in found.items()},
        "inherited": {text(nodes): round(value, 5) for nodes, value in inherited.items()},
    }


def search_all(folder, epochs):
    splits = read(folder)
    rows = json.loads(SEARCHES.read_text()) if SEARCHES.exists() else []
    for seed in SEEDS:
        if not any(row["seed"] == seed and row["epochs"] == epochs for row in rows):
            rows.append(search_seed(splits, seed, epochs))
            SEARCHES.write_text(json.dumps(rows, indent=1) + "\n")


def alone():
    """Return the mean test accuracy of each member over its seeds, and the share of its variance that is no noise."""
    found = {}
    for (_, name), row in known(MEMBERS).items():
        found.setdefault(name, []).append(float(row["accuracy"]))
    rows = np.array(list(found.values()))
    reliability = 1 - rows.var(axis=1, ddof=1).mean() / rows.shape[1] / rows.mean(axis=1).var(ddof=1)
    return dict(zip(found, rows.mean(axis=1).tolist(), strict=True)), float(reliability)


def sequential(within, inherited):
    """Return what widths first and kinds second find by the same losses: the best all-IBN member, then its kinds."""
    num_widths = len(space().multipliers)
    nodes = {name: name.split() for name in within}
    plain = [name for name in within if set(nodes[name][num_widths:]) == {"0"}]
    first = min(plain or within, key=inherited.__getitem__)
    alike = [name for name in within if nodes[name][:num_widths] == nodes[first][:num_widths]]
    return min(alike, key=inherited.__getitem__)


def tau(inherited, accuracy, names):
    """Return Kendall's rank correlation of inherited loss, less being better, and accuracy alone."""
    return float(kendalltau([-inherited[name] for name in names], [accuracy[name] for name in names]).statistic)


def compare():
    """Return the rows of the report: one for each seed and budget, and tau for each seed."""
    accuracy, reliability = alone()
    table = cost_tables(space(), Estimator.load(DEVICE))["latency_ms"]
    cost = {name: table.exact(tuple(map(int, name.split()))) for name in accuracy}
    rows, taus = [], []
    for record in json.loads(SEARCHES.read_text()):
        inherited = record["inherited"]
        names = sorted(accuracy, key=cost.__getitem__)
        bands = [names[start : start + 16] for start in range(0, 64, 16)]
        within_bands = float(np.mean([tau(inherited, accuracy, band) for band in bands]))
        taus.append({"seed": record["seed"], "all": tau(inherited, accuracy, names), "bands": within_bands})
        for budget, name in record["found"].items():
            within = [n for n in names if cost[n] <= float(budget)]
            better = sum(accuracy[n] > accuracy[name] for n in within)
            rows.append(
                {
                    "seed": record["seed"],
                    "budget": float(budget),
                    "cost": cost[name],
                    "accuracy": accuracy[name],
                    "rank": better + 1,
                    "within": len(within),
                    "mean": float(np.mean([accuracy[n] for n in within])),
                    "best": max(accuracy[n] for n in within),
                    "by_inherited": accuracy[min(within, key=inherited.__getitem__)],
                    "sequential": accuracy[sequential(within, inherited)],
                    "seconds": record["seconds"][budget],
                }
            )
    return rows, taus, reliability


def report():
    rows, taus, reliability = compare()
    lines = [
        "# Truth test",
        "",
        "Written by `python tests/benchmarks/truth.py report` from `truth_members.csv` and `truth_search.json`.",
        f"64 members trained alone, 3 seeds each; of the variance between members {reliability:.0%} is no noise.",
        "",
        "| seed | budget (ms) | found (ms) | accuracy alone | rank of members within | mean of them | best of them |"
        " best by inherited loss | widths, then kinds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['seed']} | {row['budget']:.4f} | {row['cost']:.4f} | {row['accuracy']:.4f}"
            f" | {row['rank']} of {row['within']} | {row['mean']:.4f} | {row['best']:.4f}"
            f" | {row['by_inherited']:.4f} | {row['sequential']:.4f} |"
        )
    lines += [
        "",
        "Kendall's tau of inherited loss and accuracy alone, over all members and within quarters by latency:",
    ]
    lines += ["", "| seed | all | within |", "| --- | --- | --- |"]
    lines += [f"| {row['seed']} | {row['all']:.2f} | {row['bands']:.2f} |" for row in taus]
    SEARCHES.with_name("truth.md").write_text("\n".join(lines).replace("%", " %") + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("members", "search", "report"))
    parser.add_argument("data", nargs="?", type=Path, help="folder of Fashion-MNIST as an npz archive")
    parser.add_argument("--epochs", type=int, default=40, help="of the supernet; a member alone has 6")
    parser.add_argument("--part", default="0/1", help="which part of the members: 0/2 or 1/2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, args.part.split("/"))
    if args.command == "members":
        train_members(args.data, part, parts)
    elif args.command == "search":
        search_all(args.data, args.epochs)
    else:
        report()


if __name__ == "__main__":
    main()
