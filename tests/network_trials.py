"""All that is to work with any network, tried on one: converted, derived, priced, exported, reloaded and searched."""

import copy
import logging
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
import torch
import zoo
from networks_page import NUM_MEMBERS
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import ArchitectureSearch, Estimator, SpaceOptions, derive, space_of, supernet_from
from lightning_nas.budget.tables import cost_tables
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.elastic_parts import elastic_parts
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.narrowing import narrowed
from lightning_nas.graph.structures import Structures
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.search import Joint, Monitor, Selection

OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"))
LATENCY, STEPS, LANES = 0.8, 6, 16
OUTPUT = "it is an output of the network"
PAGES = Path(__file__).parents[1] / "docs" / "pages"

# A process without this package: for each folder that it is told it says whether the network there computes the same.
ELSEWHERE = f"""
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["lightning_nas"] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, zoo
torch.set_num_threads(int(sys.argv[1]))
for line in sys.stdin:
    try:
        found = torch.load(line.strip() + "/subnet.pt", weights_only=False)
        images, expected = torch.load(line.strip() + "/expected.pt", weights_only=True)
        result = zoo.tensors(found(images))
        print(all(map(torch.equal, result, expected)) and len(result) == len(expected), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


class Uncompiled(Estimator):
    """An estimator whose estimates are not confirmed by the device's compiler, which takes seconds a network."""

    def verify(self, network, example_input=None):
        return None


class Elsewhere:
    """A process that has PyTorch, torchvision, timm and the code of home-made networks, and not this package."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(torch.get_num_threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def computes_the_same(self, network, images, expected):
        """Return what it says of a network: ``True`` where the outputs are equal bit by bit."""
        with tempfile.TemporaryDirectory() as folder:
            torch.save(network, f"{folder}/subnet.pt")
            torch.save((images, expected), f"{folder}/expected.pt")
            self.process.stdin.write(f"{folder}\n")
            self.process.stdin.flush()
            return self.process.stdout.readline().strip()


class Fitted(pl.LightningModule):
    """The module around a network, of which nothing is known but that it returns tensors."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, _):
        found = [tensor for tensor in tensors_in(self.network(batch[0])) if tensor.is_floating_point()]
        return sum(tensor.square().mean() for tensor in found if tensor.numel())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class Trial:
    """One network, in the steps of `STEPS_OF_TRIAL`; each returns fields of a `NetworkRow`, or fails."""

    def __init__(self, name, estimator, elsewhere, budget_use=0.98):
        self.network, self.images = zoo.build(name)
        self.estimator, self.elsewhere, self.budget_use = estimator, elsewhere, budget_use

    def source(self):
        # A copy: anchors of detectors keep tensors of the export.
        exported(copy.deepcopy(self.network), self.images)
        return {"source_exports": True}

    def space(self):
        start = time.perf_counter()
        self.searched = space_of(self.network, self.images, LANES, OPTIONS)
        seconds = time.perf_counter() - start
        choices = self.searched.choices
        left = Counter(f"{part.what}: {part.reason}" for part in self.searched.left_out if part.reason != OUTPUT)
        return {
            "space_s": round(seconds, 1),
            "blocks": dict(Counter(choice.own.kind for choice in choices if choice.block is not None)),
            "skips": sum(bool(choice.residual) for choice in choices),
            "members": f"{self.searched.num_architectures:.1e}",
            "reasons": dict(left),
        }

    def narrower(self):
        _, groups = read_network(self.network, self.images)
        elastic = self.searched.network
        groups = groups.freezing({number: width.frozen for number, width in enumerate(elastic.widths)})
        inner = [group for group in groups.groups if group.frozen != OUTPUT]
        convs = {f"{path}.weight" for path, module in self.network.named_modules() if isinstance(module, _ConvNd)}
        counts = {
            "groups": len(groups.open),
            "of_groups": len(inner),
            "convolutions": len(convs & {slot for slot, _ in groups.slots_of(groups.open)}),
            "of_convolutions": len(convs),
        }
        try:
            parts = elastic_parts(Structures(elastic, ()))
            return {**counts, "narrower": sum(self._is_exact(groups, parts, seed) for seed in range(NUM_MEMBERS))}
        except ValueError as error:
            return {**counts, "errors": {"narrower": message(error)}}

    def _is_exact(self, groups, parts, seed):
        drawn = zoo.drawn(groups, seed)
        widths = [drawn.get(number, size) for number, size in enumerate(self.searched.network.sizes)]
        return [part.at(widths) for part in parts] == decompose(
            narrowed(self.network, groups, drawn), self.images, "bytes"
        )

    def conversion(self):
        expected = outputs(self.network, self.images)
        start = time.perf_counter()
        supernet_from(self.network, self.images, self.searched)
        seconds = time.perf_counter() - start
        is_equal = same(outputs(self.network, self.images), expected)
        return {"accepted": True, "convert_s": round(seconds, 1), "equal": is_equal}

    def members(self):
        generator, handle = random.Random(0), self.network.supernet
        self.drawn, equal = [], 0
        for _ in range(NUM_MEMBERS):
            encoding = tuple(generator.randrange(size) for size in self.searched.node_sizes)
            handle.activate(encoding)
            path = outputs(self.network, self.images)
            self.drawn.append((encoding, derive(self.network, encoding).eval()))
            equal += same(outputs(self.drawn[-1][1], self.images), path)
        handle.activate(self.searched.reference_encoding)
        return {"derived": equal}

    def prices(self):
        tables = cost_tables(self.searched, self.estimator)
        return {"priced": sum(self._is_priced(tables.costs(encoding), plain) for encoding, plain in self.drawn)}

    def _is_priced(self, costs, plain):
        latency_ms, memory = self.estimator.latency_ms(plain, self.images), self.estimator.memory(plain, self.images)
        told = costs["peak_activation_bytes"], costs["parameter_bytes"]
        is_priced = abs(costs["latency_ms"] - latency_ms) <= 1e-9 * latency_ms
        return is_priced and told == (memory.peak_activation_bytes, memory.parameter_bytes)

    def reloading(self):
        plain = self.drawn[-1][1]
        answer = self.elsewhere.computes_the_same(plain, self.images, outputs(plain, self.images))
        if answer not in ("True", "False"):
            raise RuntimeError(answer)
        return {"reloads": answer == "True"}

    def export(self):
        plain = self.drawn[-1][1]
        expected = outputs(plain, self.images)
        with torch.no_grad():
            found = tensors_in(exported(plain, self.images).module()(self.images))
        return {"exports": all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True))}

    def search(self):
        start, module = time.perf_counter(), Fitted(self.network.train())
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2 * STEPS, *self.images.shape[1:], generator=generator)
        search = ArchitectureSearch(
            self.estimator,
            latency=f"{LATENCY}x",
            method=Joint(every=2, budget_use=self.budget_use),
            selection=Selection(num_candidates=2, num_evaluations=0, num_random_subnets=0),
            monitor=Monitor(progress_bar=()),
        )
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = pl.Trainer(max_steps=STEPS, callbacks=[search], logger=False, accelerator="cpu", **quiet)
        trainer.fit(module, DataLoader(TensorDataset(images), batch_size=2))
        plain = search.derive(module, num_batches=2).network.eval()
        assert all(tensor.isfinite().all() for tensor in outputs(plain, self.images))
        ratio = self.estimator.latency_ms(plain, self.images) / self.estimator.latency_ms(
            self.searched.decode(self.searched.reference_encoding)
        )
        assert 0 < ratio <= LATENCY + 1e-9, f"the subnet takes {ratio:.3f}x"
        return {"search_ratio": round(ratio, 3), "search_s": round(time.perf_counter() - start, 1)}


STEPS_OF_TRIAL = (*("source", "space", "narrower", "conversion", "members", "prices", "reloading", "export", "search"),)
NEEDED = ("space", "conversion")  # what fails here leaves nothing to go on with


def tried(name, estimator, elsewhere, say=lambda row: None, budget_use=0.98):
    """Return what became of a network, as the fields of a `NetworkRow`.

    Args:
        name: One of `zoo.ZOO`.
        estimator: Prices the networks.
        elsewhere: The process without this package.
        say: Called with the row before each step, which stands there as the one that failed: who is killed has said
            how far it came.
        budget_use: Least part of the budget that the subnet uses; 0 saves most of the solver's seconds.
    """
    row = {"errors": {}}
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = Trial(name, estimator, elsewhere, budget_use)
        for step in STEPS_OF_TRIAL:
            say({**row, "errors": {**row["errors"], step: "the process died, or was stopped"}})
            try:
                found = getattr(trial, step)()
            except Exception as error:
                # Of the source it is no failure of the package's.
                found = {} if step == "source" else {"errors": {step: message(error)}}
            row = {**row, **found, "errors": {**row["errors"], **found.get("errors", {})}}
            if step in NEEDED and step in row["errors"]:
                break
    return row


def message(error):
    """Return the first line of an error, with its class where that says more than the text."""
    text = str(error).strip().split("\n")[0][:240]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def exported(network, images):
    with torch.no_grad():
        return torch.export.export(network, (images,), strict=False)


def outputs(network: nn.Module, images):
    with evaluating(network):
        return [tensor.detach().clone() for tensor in tensors_in(network(images))]


def same(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))
