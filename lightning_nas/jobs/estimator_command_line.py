"""The command `lightning-nas estimator`: measure devices, and judge their estimators.

``lightning-nas estimator plan|measure|lanes|granularity|error|memory DEVICE``:

``plan`` writes the subgraphs that are to be measured on a chip of your own, ``measure`` measures them where a backend
can. ``lanes`` finds where latency steps with the channels, ``granularity`` whether operators or whole subgraphs predict
networks best. ``error`` fits what was measured, corrects it by whole networks, says how far it is off on others, and
records that beside the table. ``memory`` compares peak memory with the compiler's.

A table of this machine, which should do nothing else meanwhile:

    lightning-nas estimator measure my_cpu.csv --backend torch
    lightning-nas estimator measure my_gpu.csv --backend torch --set device=cuda precision=fp16
    lightning-nas estimator measure my_cpu.csv --backend onnxruntime --set precision=int8 threads=2
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

__all__ = ["BACKENDS", "main"]

_log = logging.getLogger(__name__)

# Those of `lightning_nas.estimator.measure.settings`, which imports PyTorch.
BACKENDS = ("vela", "zigzag", "onnxruntime", "torch", "analytic")


def main(arguments: Sequence[str]) -> None:
    """Plan or measure a table, or judge what is estimated from it.

    Args:
        arguments: The command line behind ``lightning-nas estimator``.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("lightning-nas estimator", description=__doc__, formatter_class=form)
    parser.add_argument("command", choices=("plan", "measure", "lanes", "granularity", "error", "memory"))
    parser.add_argument("device", help="name of a device of the package, or the path of a .csv table")
    parser.add_argument(
        "--num-subgraphs",
        type=int,
        help="random parts to plan (300) or to measure besides stock ones (10000, timed 300)",
    )
    parser.add_argument("--num-networks", type=int, help="subnets to judge by (200), networks to plan memory of (150)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled subgraphs")
    parser.add_argument("--lanes", type=int, help="channels that a device of your own processes together (8)")
    parser.add_argument("--backend", choices=BACKENDS, help="what measures a device that has no .json file yet")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of that backend")
    args = parser.parse_args(arguments)
    # Imported here: help, and what is wrong with the command line, are there without PyTorch.
    from lightning_nas.jobs.estimator_commands import run_command
    from lightning_nas.training.stop import Stopped, stoppable

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with stoppable() as came:
        try:
            run_command(args)
        except (OSError, ValueError, ImportError) as error:
            parser.exit(2, f"{error}\n")
        except Stopped:
            _log.warning("Stopped by %s. What was measured is kept; to go on, repeat the command.", came[0].name)
            parser.exit(came[0].exit_code)
