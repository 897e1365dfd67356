"""The cost of a step in NNI 3.0 and PLiNIO, on the toy supernet of ``search_step.py``, which runs this file by itself.

It runs in an environment of its own, since NNI's requirements are of 2023::

    python3.11 -m venv peers
    peers/bin/pip install torch torchvision lightning pytorch-lightning
    peers/bin/pip install --no-deps nni==3.0
    peers/bin/pip install astor cloudpickle colorama json_tricks nvidia-ml-py pandas prettytable psutil PythonWebHDFS \\
        pyyaml requests responses schema scipy "typeguard<4.1.3" websockets
    peers/bin/pip install networkx tdigest git+https://github.com/eml-eda/plinio
    python tests/benchmarks/search_step.py measure --peers peers/bin/python

A peer that is not installed, or cannot be imported, is left out of the record, with the reason. A step is what the peer
does with a batch by default, weights and architecture: NNI in its own evaluator and Trainer; PLiNIO, whose users write
the loop, in a step that adds its cost to the loss, as its manual says. NNI gets no budget: its profilers would come on
top.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import sys

import lightning.pytorch as pl
from search_step_parts import (
    EXTREMES,
    NUM_CLASSES,
    QUIET,
    TOY_BATCH,
    TOY_OPTIONS,
    TOY_SIZE,
    Classifier,
    SameBatch,
    TimedSteps,
    mebibytes,
    over_largest,
    plain_seconds_of,
    plain_steps,
    random_batch,
    run_until_enough,
    settle,
    toy_block,
    toy_network,
)
from torch.nn import functional

STRATEGIES = {"nni_darts": "DARTS", "nni_gumbel": "GumbelDARTS", "nni_proxyless": "Proxyless"}
NAMES = {**{peer: f"NNI {strategy}" for peer, strategy in STRATEGIES.items()}, "plinio": "PLiNIO SuperNet"}
BURN_IN, LENGTH = 4, 4
STRENGTH = 1e-6
"""Of PLiNIO's cost in the loss; its manual's value."""


def alone(kind):
    """Return a module with the toy's largest network of one kind of block."""
    expansion = max(expansion for _, expansion in TOY_OPTIONS)
    return Classifier(toy_network(lambda _: toy_block(kind, expansion)))


def train_nni(strategy, steps):
    """Run a strategy of NNI on a loader."""
    import nni.nas.strategy
    from nni.nas.evaluator.pytorch import Classification
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace
    from nni.nas.space import RawFormatModelSpace

    class Toy(ModelSpace):
        def __init__(self):
            super().__init__()
            self.network = toy_network(
                lambda index: LayerChoice([toy_block(*option) for option in TOY_OPTIONS], label=f"block_{index}")
            )

        def forward(self, images):
            return self.network(images)

    evaluator = Classification(
        train_dataloaders=steps, val_dataloaders=SameBatch(steps.batch), num_classes=NUM_CLASSES, **QUIET
    )
    space = RawFormatModelSpace(Toy(), evaluator)
    run_until_enough(lambda: getattr(nni.nas.strategy, strategy)()(space, SequentialExecutionEngine()))


class PlinioClassifier(Classifier):
    """A user's module around PLiNIO's supernet: weights and architecture by one optimizer, in one step."""

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return functional.cross_entropy(self.network(images), targets) + STRENGTH * self.network.cost


def train_plinio(steps):
    """Train PLiNIO's supernet on a loader."""
    from plinio.methods.supernet import SuperNet, SuperNetModule

    network = toy_network(lambda _: SuperNetModule([toy_block(*option) for option in TOY_OPTIONS]))
    supernet = SuperNet(network, input_shape=(3, TOY_SIZE, TOY_SIZE)).train()
    run_until_enough(lambda: pl.Trainer(**QUIET).fit(PlinioClassifier(supernet), steps))


def train(peer, steps):
    if peer in STRATEGIES:
        train_nni(STRATEGIES[peer], steps)
    else:
        train_plinio(steps)


def missing(peer):
    """Return why a peer cannot be measured, or nothing."""
    package, module = ("nni", "nni.nas.strategy") if peer in STRATEGIES else ("plinio", "plinio.methods.supernet")
    if not importlib.util.find_spec(package):
        return f"{package} is not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # what the import of another's package may raise is not known
        return f"{package} cannot be imported: {error}"
    return None


def version(peer):
    package = "nni" if peer in STRATEGIES else "plinio"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*NAMES, *(f"memory_{what}" for what in (*NAMES, *EXTREMES))))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    settle(options.threads)
    batch = random_batch(TOY_SIZE, TOY_BATCH)
    what = options.part.removeprefix("memory_")
    if what in EXTREMES:
        found = mebibytes(plain_steps(alone(what), batch, 0, 2 * LENGTH).extra_bytes())
    elif reason := missing(what):
        found = {"skipped": reason}
    elif what != options.part:
        steps = TimedSteps(batch, 0, 2 * LENGTH)
        train(what, steps)
        found = mebibytes(steps.extra_bytes())
    else:
        modules = {kind: alone(kind) for kind in EXTREMES}
        steps = TimedSteps(batch, BURN_IN, LENGTH, options.rounds, lambda _: plain_seconds_of(modules, batch))
        train(what, steps)
        found = {"name": NAMES[what], "version": version(what), **over_largest(steps)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
