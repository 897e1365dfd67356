"""Runs written to disk, for tests of what is made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def make_cost(latency_ms: float, accuracy: float) -> dict[str, Any]:
    return {
        "latency_ms": latency_ms,
        "verified_latency_ms": 1.1 * latency_ms,
        "parameter_bytes": 300_000,
        "peak_activation_bytes": 90_000,
        "macs": 12_000_000,
        "metric": {"name": "accuracy", "value": accuracy, "split": "test"},
    }


def make_result(seed: int = 0, accuracy: float = 0.91, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": "digits",
        "task": "classification",
        "device": "npu",
        "seed": seed,
        "budget": {"latency_ms": 2.0, "peak_activation_bytes": None, "parameter_bytes": None, "requested": "0.5x"},
        "baseline": make_cost(4.0, 0.93),
        "subnet": make_cost(2.0, accuracy),
        "search": {"seconds": 12.0, "steps": 300},
        "versions": {"torch": "2.9"},
        **changes,
    }


def make_comparisons(plain: float, randoms: Sequence[float], rule: float) -> dict[str, Any]:
    randomly = {f"random {number}": make_cost(1.9, value) for number, value in enumerate(randoms, start=1)}
    return {"uniform": make_cost(1.8, plain), **randomly, "rule": make_cost(1.7, rule)}


def make_architecture(*stages: str, stem: int = 32) -> dict[str, Any]:
    """Return an architecture of stages such as ``"ds"`` or ``"fused ibn ibn"``."""
    return {
        "stem": {"width": stem, "kernel": 3, "stride": 2},
        "stages": [
            {"width": 16, "blocks": [{"option": {"kind": kind}, "stride": 1} for kind in stage.split()]}
            for stage in stages
        ],
    }


def write_run(
    folder: Path,
    result: dict[str, Any] | None,
    architecture: dict[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> Path:
    """Write the files of a run; `result` None is a run that is not finished."""
    folder.mkdir(parents=True)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    if architecture is not None:
        (folder / "architecture.json").write_text(json.dumps(architecture))
    if overrides is not None:
        (folder / ".hydra").mkdir()
        lines = "".join(f"- {override}\n" for override in overrides) or "[]\n"
        (folder / ".hydra" / "overrides.yaml").write_text(lines)
    return folder


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of all markdown tables of a page."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
