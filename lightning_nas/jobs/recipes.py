"""The recipes that come with the package, by name."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["recipes"]


def recipes() -> dict[str, str]:
    """Return the shipped recipes: the name, and the first comment of the file."""
    found = {}
    for entry in sorted(files("lightning_nas.recipes").iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return found
