"""The searches of `test_distributed`, one after the other on two processes: ``python two_processes.py FOLDER``.

Each process writes a line of JSON for each search to ``FOLDER/RANK.jsonl``, and the weights it ends with beside it.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from conftest import LinearEstimator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from plain_loop import Plain, Stateful, fit, loader, make_supernet, plugin, searching, within

from lightning_nas import ArchitectureSearch
from lightning_nas.search import Library, Selection, ZeroShot

PRECISIONS = ("fp32", "bf16", "fp16")
ACCUMULATE = (1, 4)
UNTRAINED = {
    "library": Library(num_images=24, rounds=1),
    "zeroshot": ZeroShot(("zico",), num_members=8, num_images=8, num_fitted_images=24),
}
SAVED_AT = 12
"""Batches before the checkpoint: in the middle of the second epoch, between two optimizer steps."""


def module():
    # A smaller space, since solving for the best of a larger one is most of the time.
    return Plain(make_supernet(kernels=(3,)))


def search_on_both(folder, name, unused=True, search=None, **options):
    """Search on both processes, and write down what this one ends with."""
    strategy = DDPStrategy(find_unused_parameters=unused, process_group_backend="gloo")
    options = {"strategy": strategy, "devices": 2, "use_distributed_sampler": False, **options}
    trained, search = module(), search or searching(candidates=2)
    trainer = fit(trained, search, folder, **options)
    torch.save(trained.network.state_dict(), folder / f"{name}-{trainer.global_rank}.pt")
    decided = {
        "ranked": search.state.progress.ranked,
        "architecture": str(search.architecture),
        "within": within(search),
    }
    decided["logits"] = [row.tolist() for row in search.search.logits]
    report(folder, name, steps=trainer.global_step, history=search.history, **decided)


def report(folder, name, **found):
    # Also the first process has its number from the launcher, once the first search has begun.
    with open(folder / f"{os.environ['LOCAL_RANK']}.jsonl", "a") as file:
        file.write(json.dumps({"name": name, **found}) + "\n")


def refused(folder, name, **options):
    try:
        search_on_both(folder, name, **options)
    except MisconfigurationException as error:
        report(folder, name, message=str(error))


def main(folder):
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    for precision in PRECISIONS:
        for accumulate in ACCUMULATE:
            name, step = f"{precision}-{accumulate}", SAVED_AT // accumulate
            saved = ModelCheckpoint(folder / name, save_top_k=-1, every_n_train_steps=step, filename="{step}")
            kinds = {"straight": {"callbacks": [saved]}, "resumed": {"ckpt_path": folder / name / f"step={step}.ckpt"}}
            for kind, options in kinds.items():
                # Each process has training and validation data of its own.
                options |= {"data": Stateful(seed=1 + rank), "val": loader(seed=11 + rank)}
                options |= {"accumulate_grad_batches": accumulate, **plugin(precision)[0]}
                search_on_both(folder, f"{name}-{kind}", **options)
    for name, method in UNTRAINED.items():
        search = ArchitectureSearch(LinearEstimator(), latency="0.6x", method=method, selection=Selection(2))
        search_on_both(folder, name, search=search, data=loader(seed=1 + rank))
    search_on_both(folder, "same-batches")
    search_on_both(folder, "split-by-lightning", use_distributed_sampler=True)
    refused(folder, "every-gradient", unused=False)
    refused(folder, "synchronised", sync_batchnorm=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
