"""The cost of searching, as ratios to plain training beside it in one run; and the peers', where they are installed.

    python tests/benchmarks/search_step.py measure [--peers PYTHON] [--threads 2]
    python tests/benchmarks/search_step.py report

``measure`` trains supernets with the callback, in a Trainer, and in rounds between its steps plain networks in Trainers
of their own. It takes about seven minutes on two quiet cores and records ``search_step.json`` beside this file, each
figure as soon as it is known; ``report`` writes ``search_step.md`` from what is recorded. The ratios and their goals:

* a step on one sampled path through the supernet (weights only) over a step of the same subnets alone: 1.05;
* a step of weights and architecture, over a step of the largest single network of the space: 0.95;
* the peak memory that searching adds over the built networks, over what training the largest one adds: 1.1.

The largest single network is all of IBN or all of fused-IBN, at full width and expansion, whichever costs more of what
is measured. There are two spaces: torchvision's MobileNetV2 as `space_of` gives it, and a toy, on which NNI and PLiNIO
are measured too where PYTHON has them; ``search_step_peers.py`` says how to make that environment.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import lightning.pytorch as pl
import torch
from search_step_parts import (
    EXTREMES,
    NUM_CLASSES,
    QUIET,
    TOY_BATCH,
    TOY_OPTIONS,
    TOY_SIZE,
    Classifier,
    TimedSteps,
    mebibytes,
    over_largest,
    plain_seconds,
    plain_seconds_of,
    plain_steps,
    random_batch,
    run_until_enough,
    settle,
    spread,
    toy_block,
    toy_network,
)
from torch.nn import functional
from torchvision.models import mobilenet_v2

sys.path.insert(0, str(Path(__file__).parents[1]))

from searches import search_of

from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, space_of, supernet_from

HERE = Path(__file__).parent
RECORD, PAGE = HERE / "search_step.json", HERE / "search_step.md"
PEERS = ("nni_darts", "nni_gumbel", "nni_proxyless", "plinio")
GOALS = {"path": 1.05, "search": 0.95, "memory": 1.1}
EVERY = 8  # steps from one architecture step to the next, the callback's default
BURN_IN = 8


@dataclass(frozen=True)
class Case:
    """A space, and what its subnets are trained with."""

    size: int
    batch: int
    latency: str
    optimizer: str
    memory_format: torch.memory_format = torch.contiguous_format

    def images(self):
        return random_batch(self.size, self.batch, self.memory_format)

    def supernet(self):
        """Return a supernet that has not trained."""
        images, _ = self.images()
        if self.size == TOY_SIZE:
            network = toy_network(lambda _: toy_block("ibn", 6))
            expansions = sorted({expansion for _, expansion in TOY_OPTIONS})
            space = space_of(
                network, images, options=SpaceOptions(kinds=EXTREMES, expansions=expansions, ratios=(1.0,))
            )
        else:
            network = mobilenet_v2(num_classes=NUM_CLASSES).to(memory_format=self.memory_format)
            space = space_of(network, images)
        return supernet_from(network, images, space).train()

    def alone(self, supernet, nodes):
        """Return a module with a subnet as a plain network."""
        return Classifier(derive(supernet, nodes).train(), self.optimizer)


CASES = {
    "toy": Case(TOY_SIZE, TOY_BATCH, "0.8x", "adam"),
    "mobilenet_v2": Case(96, 32, "0.6x", "sgd", torch.channels_last),
}


def extreme(space, kind):
    """Return the nodes of the subnet at full width whose blocks all are of `kind`, where they can, and widest."""
    widths = [len(multiplier.widths) - 1 for multiplier in space.multipliers]
    sizes = [[(option.kind == kind, option.expansion) for option in choice.options] for choice in space.choices]
    return (*widths, *(row.index(max(row)) for row in sizes))


def meet_all_shapes(supernet, batch):
    """Run every option of every block between every two widths once.

    oneDNN compiles a kernel when it first meets a shape, and keeps it. A search meets most shapes in its first epochs;
    here each is met before anything is timed.
    """
    images, targets = batch
    space = supernet.supernet.space
    supernet.supernet.use_batch_statistics(True)
    num_widths = max((len(multiplier.widths) for multiplier in space.multipliers), default=1)
    num_options = max((len(choice.options) for choice in space.choices), default=1)
    for even, odd, option in product(range(num_widths), range(num_widths), range(num_options)):
        wanted = [odd if node % 2 else even for node in range(len(space.multipliers))]
        wanted += [option] * len(space.choices)
        supernet.supernet.activate([node % size for node, size in zip(wanted, space.node_sizes, strict=True)])
        functional.cross_entropy(supernet(images), targets).backward()
        with torch.no_grad():
            supernet(images)
    supernet.zero_grad()


def search_steps(case, supernet, steps, **settings):
    """Train a supernet with the callback on a loader that times the steps."""
    # At a learning rate of next to nothing the logits stay uniform, so that all rounds sample from the same subnets.
    search = search_of("ethos_u85_1024", latency=case.latency, lr=1e-9, **settings)
    module = Classifier(supernet, case.optimizer)
    run_until_enough(lambda: pl.Trainer(callbacks=[search], **QUIET).fit(module, steps))
    return steps


def time_path(case, num_rounds):
    """Return the ratio of steps on sampled paths, weights only, to steps of the same subnets alone."""
    supernet, batch = case.supernet(), case.images()
    meet_all_shapes(supernet, batch)

    def alone(paths):
        return statistics.mean(plain_seconds(case.alone(supernet, path), batch) for path in paths)

    steps = TimedSteps(batch, BURN_IN, EVERY, num_rounds, alone, lambda: supernet.supernet.encoding)
    # A warm-up nearly as long as the training: the weights alone learn, on the paths that the callback takes then.
    search_steps(case, supernet, steps, warmup=0.99)
    return {
        "ratio": spread([ours / found for ours, found in zip(steps.means, steps.compared, strict=True)]),
        "step_ms": round(1e3 * statistics.median(steps.means), 1),
        "alone_ms": round(1e3 * statistics.median(steps.compared), 1),
    }


def time_search(case, num_rounds, every):
    """Return the ratio of the steps of a search, of weights and logits, to steps of the largest single network."""
    supernet, batch = case.supernet(), case.images()
    meet_all_shapes(supernet, batch)
    alone = {kind: case.alone(supernet, extreme(supernet.supernet.space, kind)) for kind in EXTREMES}
    steps = TimedSteps(batch, BURN_IN, EVERY, num_rounds, lambda _: plain_seconds_of(alone, batch))
    return over_largest(search_steps(case, supernet, steps, warmup=0.0, every=every))


def memory(case, what):
    """Return the MiB that searching, or training an extreme network alone, adds at its peak."""
    supernet, batch = case.supernet(), case.images()
    if what == "search":
        # Of every four paths one is the source network, all of IBN and of full width. The kernels that oneDNN compiles
        # for the shapes of all paths are part of the memory, and take many steps to come together.
        steps = search_steps(case, supernet, TimedSteps(batch, 0, 8 * EVERY), warmup=0.0)
    else:
        module = case.alone(supernet, extreme(supernet.supernet.space, what))
        del supernet
        steps = plain_steps(module, batch, 0, EVERY)
    return mebibytes(steps.extra_bytes())


TIMES = {
    "path": time_path,
    "search": partial(time_search, every=EVERY),
    "search_every_step": partial(time_search, every=1),
}


def measured(command, **environment):
    """Run a part of the measurement in a process of its own; return what it prints last."""
    words = [str(word) for word in command]
    sys.stdout.write(f"{' '.join(words[1:])}\n")
    sys.stdout.flush()
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"    {json.dumps(found)}\n")
    return found


def added_mib(command):
    """Return the MiB that a part adds at its peak.

    A fixed threshold lets glibc give every large block back when it is freed. By default it soon keeps them, and the
    holes between blocks of many sizes add up to half of what is held, another share in every run.
    """
    return measured(command, MALLOC_MMAP_THRESHOLD_=str(128 * 1024))


def measure(options):
    """Measure all parts, each in a process of its own, and record each as it comes."""
    common = ["--threads", options.threads, "--rounds", options.rounds]
    ours = [sys.executable, __file__, "part"]
    record = {
        "processor": processor(),
        "threads": options.threads,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "lightning")},
        "cases": {name: {} for name in CASES},
        "peers": {},
    }
    if options.peers is None and RECORD.exists():
        record |= peers_of(json.loads(RECORD.read_text()))

    def keep():
        part = RECORD.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(RECORD)

    for name, case in record["cases"].items():
        for part in TIMES:
            case[part] = measured([*ours, name, part, *common])
            keep()
        for what in ("search", *EXTREMES):
            case.setdefault("memory_mib", {})[what] = added_mib([*ours, name, f"memory_{what}", *common])
            keep()
    for name, peer in measured_peers(options.peers, common) if options.peers or not record["peers"] else ():
        record["peers"][name] = peer
        keep()


def peers_of(record):
    """Return the figures of the peers in a record, with where they were measured."""
    return {"peers": record["peers"], "peers_place": record.get("peers_place", place(record))}


def place(record):
    """Return where a record was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['threads']} threads of one {record['processor']} with {versions}"


def measured_peers(python, common):
    """Yield the peers with their figures, or why there are none: one that fails is left out, and the others stay."""
    if python is None:
        yield from ((name, {"skipped": "no environment with peers was given"}) for name in PEERS)
        return
    script = [python, HERE / "search_step_peers.py"]
    alone = {}
    for name in PEERS:
        try:
            found = measured([*script, name, *common])
            if "skipped" not in found:
                added = {"search": added_mib([*script, f"memory_{name}", *common])}
                alone = alone or {kind: added_mib([*script, f"memory_{kind}", *common]) for kind in EXTREMES}
                found["memory_mib"] = {**added, **alone}
        except (RuntimeError, OSError, ValueError) as error:
            found = {"skipped": str(error).strip().splitlines()[-1]}
            sys.stdout.write(f"    left out: {found['skipped']}\n")
        yield name, found


def executable(text):
    """Return the path of a program, which is said to be missing before anything is measured."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return Path(found)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory_ratio(added):
    """Return the memory of searching over that of the largest network."""
    return added["search"] / max(added[kind] for kind in EXTREMES)


def shown(timed):
    ratio = timed["ratio"]
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def report():
    """Write the page from the record."""
    record = json.loads(RECORD.read_text())
    lines = [
        "# What a search step costs",
        "",
        "Written by `python tests/benchmarks/search_step.py report` from `search_step.json`.",
        f"Measured on {place(record)}.",
        "",
        "Times are medians of rounds, with the least and the greatest round. The largest network is all of IBN or all",
        "of fused-IBN, at full width and expansion, whichever costs more of what is measured.",
        "",
        "| space | | measured | goal | reached |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = (
        ("path", "path", "step on a sampled path / the same subnets alone"),
        ("search", "search", f"weights, and architecture every {EVERY} steps / largest network"),
        ("search_every_step", "search", "weights and architecture in every step / largest network"),
    )
    for name, case in record["cases"].items():
        for part, goal, text in (row for row in rows if row[0] in case):
            reached = "yes" if case[part]["ratio"]["median"] <= GOALS[goal] else "no"
            lines.append(f"| {name} | {text} | {shown(case[part])} | {GOALS[goal]} | {reached} |")
        added = case.get("memory_mib", {})
        if not {"search", *EXTREMES} <= set(added):
            continue
        ratio = memory_ratio(added)
        mib = f"{added['search']:.0f} of {max(added[kind] for kind in EXTREMES):.0f} MiB"
        reached = "yes" if ratio <= GOALS["memory"] else "no"
        text = "added peak memory / largest network's"
        lines.append(f"| {name} | {text} | {ratio:.2f} ({mib}) | {GOALS['memory']} | {reached} |")
    lines += ["", *peer_lines(record)]
    PAGE.write_text("\n".join(lines) + "\n")


def peer_lines(record):
    """Return the comparison with the peers on the toy's blocks; nothing where none was measured."""
    toy = record["cases"]["toy"]
    if not record["peers"]:
        return []
    lines = [
        "The same blocks in other libraries: what each does with a batch by default, over a training step of the",
        "largest network in the same process, and likewise the memory added.",
        "",
        "| | time | added memory |",
        "| --- | --- | --- |",
    ]
    for part, text in (("search", f"every {EVERY} steps"), ("search_every_step", "in every step")):
        memory_text = f"{memory_ratio(toy['memory_mib']):.2f}" if part == "search" else ""
        lines.append(f"| lightning_nas, architecture {text} | {shown(toy[part])} | {memory_text} |")
    for name, peer in record["peers"].items():
        if "skipped" in peer:
            lines.append(f"| {name} | {peer['skipped']} | |")
        else:
            text = f"{peer['name']} {peer['version']}"
            lines.append(f"| {text} | {shown(peer)} | {memory_ratio(peer['memory_mib']):.2f} |")
    if "peers_place" in record:
        lines += ["", f"The other libraries were measured on {record['peers_place']}."]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report")
    measuring, part = commands.add_parser("measure"), commands.add_parser("part")
    measuring.add_argument("--peers", type=executable, help="the Python of an environment that has them")
    part.add_argument("case", choices=CASES)
    part.add_argument("part", choices=(*TIMES, *(f"memory_{what}" for what in ("search", *EXTREMES))))
    for command in (measuring, part):
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    if options.command == "report":
        report()
    elif options.command == "measure":
        measure(options)
    else:
        settle(options.threads)
        case = CASES[options.case]
        timed = TIMES.get(options.part)
        found = timed(case, options.rounds) if timed else memory(case, options.part.removeprefix("memory_"))
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
