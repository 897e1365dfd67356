"""The command `lightning-nas report`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Compare the runs of a sweep: write report.html and report.md into its folder, and show the table.

    Args:
        arguments: The command line behind ``lightning-nas report``.
    """
    parser = argparse.ArgumentParser("lightning-nas report", description="Compare the runs of a sweep.")
    parser.add_argument("folder", type=Path, help="multirun/RECIPE/DATE; it gets report.html and report.md")
    options = parser.parse_args(arguments)
    # Imported here: help is there without PyTorch.
    from lightning_nas.report.sweep import write_sweep_report

    try:
        sys.stdout.write(write_sweep_report(options.folder) + "\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"lightning-nas report: {error}\n")
