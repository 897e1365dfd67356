"""The command `lightning-nas`, which leads to recipes, devices and reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from lightning_nas.jobs.near_misses import did_you_mean
from lightning_nas.jobs.recipes import recipes

__all__ = ["main"]

_HELP = """\
Neural architecture search for your chip, with your LightningModule and your Trainer.

  lightning-nas --config-name RECIPE [key=value ...]   run a recipe; -m sweeps over lists of values
  lightning-nas --config-dir . --config-name FILE      run FILE.yaml of this folder; see docs/your-task.md
  lightning-nas estimator COMMAND DEVICE [options]     measure or judge a device; `lightning-nas estimator --help`
  lightning-nas report FOLDER                          compare the runs of a sweep
  lightning-nas --version

Recipes:
{recipes}

Begin with `lightning-nas --config-name digits latency=0.6x`: no download, about five minutes on two cores.
`lightning-nas --config-name RECIPE --cfg job` shows all settings of a recipe.
"""
# What Hydra answers, which knows nothing of commands.
_HYDRA = ("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp", "--hydra-help", "--info", "-sc")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 2 on an error of the user's.

    Args:
        arguments: The command line without the name of the command, or None for that of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Each command imports what it needs itself: help and version are there without PyTorch.
    if given[:1] == ["estimator"]:
        from lightning_nas.jobs.estimator_command_line import main as estimator

        estimator(given[1:])
    elif given[:1] == ["report"]:
        from lightning_nas.jobs.report_command import main as report

        report(given[1:])
    elif any(argument.split("=")[0] in _HYDRA for argument in given):
        from lightning_nas.jobs.command_line import run_recipe

        run_recipe(given)
    elif "--version" in given:
        sys.stdout.write(f"lightning-nas {version('lightning-nas')}\n")
    elif not given or set(given) & {"-h", "--help"}:
        known = recipes()
        width = max(map(len, known), default=0) + 2
        listed = "\n".join(f"  {name:<{width}}{text}" for name, text in known.items())
        sys.stdout.write(_HELP.format(recipes=listed))
    else:
        commands = {"estimator": "estimator", "report": "report"}
        hint = did_you_mean(given[0], {**commands, **{name: f"--config-name {name}" for name in recipes()}})
        sys.stderr.write(
            f"lightning-nas: There is no command {given[0]!r}; there are `estimator`, `report` and `--config-name"
            f" RECIPE`. {hint and f'{hint} '}`lightning-nas --help` says more.\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
