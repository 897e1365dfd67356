"""The cost of a search step against the plain training step of the average sampled subnet, side by side in one run.

Run it: ``python tests/benchmarks/search_step.py``. It prints ratios: time of a search step (all that the callback
adds included) over the training step of the same sampled subnets as plain networks; and peak memory that a step adds,
over that of the largest subnet. The goals are 1.2 and 1.2.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from lightning_nas import Estimator
from lightning_nas.search.engine import Search
from lightning_nas.search.probe import sampled_losses
from lightning_nas.search.settings import SearchSettings
from lightning_nas.search.tables import space_budgets
from lightning_nas.supernet import derive, space_of, supernet_from


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain_step(network, optimizer, images, targets):
    F.cross_entropy(network(images), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


def search_step(network, search, optimizers, step, path, images, targets):
    """One step as the callback makes it: score if due, train one path, update weights and logits."""
    weights, logits = optimizers
    scored = None
    if search.is_due(step, 10**9):
        samples = [search.draw() for _ in range(search.settings.samples)]
        losses = sampled_losses(network, search.supernet, samples, lambda: F.cross_entropy(network(images), targets))
        scored = samples, losses
    search.supernet.activate(path)
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


def build(options):
    """Return images, targets and a search over MobileNetV2 on the shipped device."""
    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randn(shape).to(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (options.batch,))
    network = mobilenet_v2(num_classes=10).to(memory_format=torch.channels_last)
    supernet = supernet_from(network, images, space_of(network, images)).train()
    supernet.supernet.use_batch_statistics(True)
    space = supernet.supernet.space
    budgets = space_budgets(space, Estimator.load("ethos_u85_1024"), {"latency_ms": "0.6x"})
    return images, targets, supernet, Search(supernet.supernet, budgets, SearchSettings(warmup=0.0))


def largest_of(space):
    """Return the nodes of the subnet with the largest layers: full width, fused, widest expansion."""
    widths = [len(multiplier.widths) - 1 for multiplier in space.multipliers]
    sizes = [[(option.kind == "fused", option.expansion) for option in choice.options] for choice in space.choices]
    return (*widths, *(row.index(max(row)) for row in sizes))


def optimizers_of(supernet, search):
    # A rate of next to nothing: the logits stay uniform, so that every round samples from the same subnets.
    return optimizer_of(supernet, search.supernet.logits), torch.optim.Adam(search.supernet.logits, 1e-9)


def print_time_ratio(options):
    images, targets, supernet, search = build(options)
    optimizers = optimizers_of(supernet, search)
    every = search.settings.every

    def run(path, step):
        start = time.perf_counter()
        search_step(supernet, search, optimizers, step, path, images, targets)
        return time.perf_counter() - start

    # oneDNN compiles a kernel when it first meets a shape; a search meets most of them in its first epochs.
    for step in range(options.burn_in):
        run(search.draw(), step)
    ratios = []
    for _ in range(options.rounds):
        paths = [search.draw() for _ in range(every)]
        ours, plain = sum(run(path, step) for step, path in enumerate(paths)), 0.0
        for path in paths:
            alone = derive(supernet, path).train()
            optimizer = optimizer_of(alone)
            plain_step(alone, optimizer, images, targets)
            start = time.perf_counter()
            plain_step(alone, optimizer, images, targets)
            plain += time.perf_counter() - start
        ratios.append(ours / plain)
    sys.stdout.write(
        f"search step / training step of the same subnets alone: {statistics.median(ratios):.2f} "
        f"(median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}); goal 1.2\n"
    )


def print_added_memory(options):
    """Print the peak that training adds over the built networks, in a process of its own."""
    images, targets, supernet, search = build(options)
    if options.part == "largest":
        alone = derive(supernet, largest_of(search.supernet.space)).train()
        optimizer = optimizer_of(alone)
        del supernet, search
        before = resident_bytes()
        for _ in range(3):
            plain_step(alone, optimizer, images, targets)
    else:
        optimizers = optimizers_of(supernet, search)
        before = resident_bytes()
        for step in range(12):
            path = largest_of(search.supernet.space) if step % 4 == 1 else search.draw()
            search_step(supernet, search, optimizers, step, path, images, targets)
    sys.stdout.write(f"{peak_bytes() - before}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12, help="rounds, each with one architecture step")
    parser.add_argument("--burn-in", type=int, default=120, help="search steps before anything is timed")
    parser.add_argument("--part", choices=["all", "search", "largest"], default="all", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part != "all":
        print_added_memory(options)
        return
    print_time_ratio(options)
    shape = ["--size", str(options.size), "--batch", str(options.batch)]
    added = {}
    for part in ("search", "largest"):
        command = [sys.executable, __file__, "--part", part, *shape]
        added[part] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**20
    sys.stdout.write(
        f"peak memory that searching adds / that training the largest subnet adds: "
        f"{added['search'] / added['largest']:.2f} ({added['search']:.0f} MiB / {added['largest']:.0f} MiB); goal 1.2\n"
    )


if __name__ == "__main__":
    main()
