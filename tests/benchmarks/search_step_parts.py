"""What the two sides of ``search_step.py`` share: the toy network, and how a step's time and memory are taken.

It needs PyTorch, torchvision and Lightning only, so that it runs in the peers' environment too.
"""

import ctypes
import gc
import logging
import statistics
import time
import warnings
from itertools import repeat
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

TOY_SIZE, TOY_BATCH, TOY_WIDTH, TOY_BLOCKS = 48, 16, 16, 8
TOY_OPTIONS = (("ibn", 3), ("ibn", 6), ("fused", 3), ("fused", 6))
NUM_CLASSES = 10
EXTREMES = ("ibn", "fused")
"""The kinds that the largest network can be made of: the first keeps more activations, the second has more MACs."""

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
}


def settle(threads):
    """Use so many threads, and say nothing of small loaders."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning", "pytorch_lightning", "lightning_nas", "nni"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def toy_block(kind, expansion):
    """Return a block of the toy as torchvision makes it; a fused one has a KxK unit in place of the first two."""
    block = InvertedResidual(TOY_WIDTH, TOY_WIDTH, 1, expansion)
    if kind == "fused":
        hidden = TOY_WIDTH * expansion
        unit = Conv2dNormActivation(TOY_WIDTH, hidden, 3, activation_layer=nn.ReLU6)
        block.conv = nn.Sequential(unit, *block.conv[-2:])
    return block


def toy_network(make_block):
    """Return MobileNetV2's stem, eight blocks of one width, and a head of 64 channels, which does not outweigh them."""
    # Half the width of its stem of 32, which makes 16 of the 32 that the blocks ask for.
    network = MobileNetV2(NUM_CLASSES, 0.5, [[6, 2 * TOY_WIDTH, TOY_BLOCKS, 1]], dropout=0.0)
    for index in range(1, TOY_BLOCKS + 1):
        network.features[index] = make_block(index)
    network.features[-1] = Conv2dNormActivation(TOY_WIDTH, 64, 1, activation_layer=nn.ReLU6)
    network.classifier[1] = nn.Linear(64, NUM_CLASSES)
    return network


def random_batch(size, batch, memory_format=torch.contiguous_format):
    """Return images and targets."""
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=memory_format)
    return images, torch.randint(0, NUM_CLASSES, (batch,))


class Classifier(pl.LightningModule):
    """A user's module, around a plain network or a supernet."""

    def __init__(self, network, optimizer="adam"):
        super().__init__()
        self.network = network
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return functional.cross_entropy(self.network(images), targets)

    def configure_optimizers(self):
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), 1e-3)
        return torch.optim.SGD(self.parameters(), 1e-3, momentum=0.9)


class Enough(Exception):
    """All steps are timed; what a training does at its end is no part of a step."""


class SameBatch:
    """A loader of one batch over and over."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        # More than any measurement takes, so that no training prepares its end.
        return 10_000

    def __iter__(self):
        return repeat(self.batch)


class TimedSteps(SameBatch):
    """A loader of one batch over and over, which times what is done between two of its batches.

    Args:
        batch: The batch.
        burn_in: Steps that are not timed.
        length: Steps of a round.
        num_rounds: Rounds; then it ends the training by raising `Enough`.
        between: Measures something else after each round, outside the time; gets what was noted in the round.
        note: What to note of each step of a round.

    Attributes:
        means: The mean seconds of a step, of each round.
        compared: What `between` returned.
        before: Resident bytes when the first batch is asked for: networks are built, nothing is trained.
    """

    def __init__(self, batch, burn_in, length, num_rounds=1, between=None, note=None):
        super().__init__(batch)
        self.burn_in, self.length, self.num_rounds = burn_in, length, num_rounds
        self.between, self.note = between, note
        self.means, self.compared = [], []
        self.before = 0

    def __iter__(self):
        self.before = settled_bytes()
        for _ in range(self.burn_in):
            yield self.batch
        for _ in range(self.num_rounds):
            seconds, noted = [], []
            for _ in range(self.length):
                started = time.perf_counter()
                yield self.batch
                seconds.append(time.perf_counter() - started)
                noted.append(self.note and self.note())
            self.means.append(statistics.mean(seconds))
            self.compared.append(self.between and self.between(noted))
        raise Enough

    def extra_bytes(self):
        """Return the most memory that the steps held over what was there before the first."""
        return _status("VmHWM") - self.before


def run_until_enough(train):
    """Call `train` until its loader has enough."""
    try:
        train()
    except Enough:
        return
    raise RuntimeError("The training ended before all steps were timed.")


def plain_steps(module, batch, burn_in=1, length=2):
    """Train a plain module in a Trainer of its own; return the loader that timed its steps."""
    steps = TimedSteps(batch, burn_in, length)
    run_until_enough(lambda: pl.Trainer(**QUIET).fit(module, steps))
    return steps


def plain_seconds(module, batch):
    """Return how long a step of a plain module takes."""
    return plain_steps(module, batch).means[0]


def plain_seconds_of(modules, batch):
    """Return how long a step of each of some modules takes, under their names."""
    return {name: plain_seconds(module, batch) for name, module in modules.items()}


def over_largest(steps):
    """Return the ratio of steps to those of the largest network that `plain_seconds_of` timed between rounds."""
    medians = {name: statistics.median(found[name] for found in steps.compared) for name in steps.compared[0]}
    largest = max(medians, key=medians.get)
    return {
        "ratio": spread([ours / found[largest] for ours, found in zip(steps.means, steps.compared, strict=True)]),
        "step_ms": round(1e3 * statistics.median(steps.means), 1),
        "largest": largest,
        "alone_ms": {name: round(1e3 * seconds, 1) for name, seconds in medians.items()},
    }


def _status(key):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def settled_bytes():
    """Return the resident bytes of this process without what could be freed, and let its peak start here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def spread(ratios):
    """Return what is recorded of the ratios of all rounds."""
    low, high = min(ratios), max(ratios)
    figures = {"median": statistics.median(ratios), "low": low, "high": high}
    return {**{name: round(value, 3) for name, value in figures.items()}, "rounds": len(ratios)}


def mebibytes(num_bytes):
    return round(num_bytes / 2**20, 1)
