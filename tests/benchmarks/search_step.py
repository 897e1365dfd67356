"""The cost of a search step against the plain training step of the average sampled subnet, side by side in one run.

Run it: ``python tests/benchmarks/search_step.py``. It prints ratios: time of a search step (all that the callback
adds included) over the training step of the same sampled subnets as plain networks; and peak memory that a step adds,
over that of the largest subnet. The goals are 1.2 and 1.2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time

import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from lightning_nas import Estimator
from lightning_nas.search.engine import Search, SearchSettings
from lightning_nas.search.probe import evaluating
from lightning_nas.search.tables import space_budgets
from lightning_nas.supernet import derive, space_of, supernet_from


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class PeakMemory:
    """Samples the resident size of the process every millisecond; the growth over its start is `added`."""

    def __enter__(self):
        self.start, self.peak, self.running = resident_bytes(), 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.running:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.001)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()

    @property
    def added(self):
        return max(0, self.peak - self.start)


def plain_step(network, optimizer, images, targets):
    F.cross_entropy(network(images), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


def search_step(network, search, optimizers, step, images, targets):
    """One step as the callback makes it: score if due, train one path, update weights and logits."""
    weights, logits = optimizers
    scored = None
    if search.is_due(step, 10**9):
        samples, losses = [search.draw() for _ in range(search.settings.samples)], []
        with evaluating(network):
            for nodes in samples:
                search.supernet.activate(nodes)
                losses.append(F.cross_entropy(network(images), targets))
        scored = samples, torch.stack(losses)
    search.supernet.activate(search.draw())
    F.cross_entropy(network(images), targets).backward()
    if scored:
        parameters = search.supernet.logits
        gradients = torch.autograd.grad(search.objective(*scored), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        logits.step()
        logits.zero_grad()
        search.update_multipliers()
    weights.step()
    weights.zero_grad()


def optimizer_of(network, without=()):
    own = {id(p) for p in without}
    return torch.optim.SGD([p for p in network.parameters() if id(p) not in own], lr=1e-3, momentum=0.9)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12, help="pairs of four search steps and four plain steps")
    options = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.size, options.size).to(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (options.batch,))
    network = mobilenet_v2(num_classes=10).to(memory_format=torch.channels_last)
    space = space_of(network, images)
    supernet = supernet_from(network, images, space).train()
    handle = supernet.supernet
    handle.use_batch_statistics(True)
    budgets = space_budgets(space, Estimator.load("ethos_u85_1024"), {"latency_ms": "0.6x"})
    search = Search(handle, budgets, SearchSettings(warmup=0.0))
    optimizers = optimizer_of(supernet, handle.logits), torch.optim.Adam(handle.logits, 1e-9)
    for step in range(4):
        search_step(supernet, search, optimizers, step, images, targets)

    ratios = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        for step in range(4):
            search_step(supernet, search, optimizers, step, images, targets)
        ours = (time.perf_counter() - start) / 4
        plain = []
        for _ in range(4):
            alone = derive(supernet, search.draw()).train()
            optimizer = optimizer_of(alone)
            plain_step(alone, optimizer, images, targets)
            start = time.perf_counter()
            plain_step(alone, optimizer, images, targets)
            plain.append(time.perf_counter() - start)
        ratios.append(ours / statistics.mean(plain))
    low, high = min(ratios), max(ratios)
    sys.stdout.write(f"search step / plain step of the average sampled subnet: {statistics.median(ratios):.2f} ")
    sys.stdout.write(f"(median of {len(ratios)} pairs, {low:.2f} to {high:.2f}); goal 1.2\n")

    widest = [len(m.widths) - 1 for m in space.multipliers]
    fused = [
        max(range(len(c.options)), key=lambda i, c=c: (c.options[i].kind == "fused", c.options[i].expansion))
        for c in space.choices
    ]
    largest = derive(supernet, (*widest, *fused)).train()
    optimizer = optimizer_of(largest)
    plain_step(largest, optimizer, images, targets)
    with PeakMemory() as alone:
        plain_step(largest, optimizer, images, targets)
    peaks = []
    for step in range(8):
        with PeakMemory() as searching:
            search_step(supernet, search, optimizers, step, images, targets)
        peaks.append(searching.added)
    sys.stdout.write(
        f"added peak memory of a search step / of the largest subnet's step: {max(peaks) / alone.added:.2f} "
    )
    sys.stdout.write(f"({max(peaks) / 2**20:.0f} MiB / {alone.added / 2**20:.0f} MiB); goal 1.2\n")


if __name__ == "__main__":
    main()
