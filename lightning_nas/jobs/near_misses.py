"""Hints at what a user meant who named something that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["did_you_mean", "key_hint"]


def did_you_mean(word: str, known: Mapping[str, str]) -> str:
    """Return the question whether what is nearest to a word was meant; an empty text if nothing is near.

    Args:
        word: What the user gave.
        known: What there is, each with how it is to be given.

    Example::

        >>> did_you_mean("latncy", {"latency": "latency", "device": "device"})
        'Did you mean `latency`?'
        >>> did_you_mean("abacus", {"latency": "latency"})
        ''
    """
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean `{known[near[0]]}`?" if near else ""


def key_hint(key: str, config: Mapping[str, object]) -> str:
    """Return which key of a recipe was meant by one that there is not, and all keys of the level that it is of.

    Args:
        key: The key, with dots between the levels.
        config: All settings of the recipe, as nested dictionaries.

    Example::

        >>> print(key_hint("net.wieghts", {"net": {"name": "a", "weights": None}, "seed": 0}))
        Did you mean `net.weights`?
        The keys of `net` are: name, weights.
    """
    *parents, last = key.split(".")
    above, level = "", config
    for name in parents:
        below = level.get(name)
        if not isinstance(below, Mapping):
            last = name
            break
        above, level = f"{above}{name}.", below
    keys = _keys(level)
    whose = f"The keys of `{above[:-1]}`" if above else "Its keys"
    question = did_you_mean(last, {name: f"{above}{name}" for name in keys})
    return f"{question}\n{whose} are: {', '.join(keys)}.".lstrip()


def _keys(level: Iterable[object]) -> list[str]:
    # Those of Hydra itself, such as `_target_`, are no settings.
    return sorted(str(name) for name in level if not str(name).startswith("_"))
