"""`network=` on a command line: a file of that group, the name of any stock network, or a callable of the user's."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

__all__ = ["with_network"]

_NAMES = re.compile(r"[\w./-]+(,[\w./-]+)*", re.ASCII)
_GROUP, _TARGET = "network=", "network._target_="


def with_network(arguments: Sequence[str], groups: Collection[str], has_backbone: bool) -> list[str]:
    """Return a command line as Hydra reads it, which knows of the files of the group ``network`` alone.

    A value that is no such file is the name of a stock network. With ``network._target_=`` the other settings of the
    network are arguments of what it names, so that those of the recipe's own network are left out.

    Args:
        arguments: The command line.
        groups: Names of the files.
        has_backbone: Whether the recipe's network has a stock network as its backbone.

    Raises:
        ValueError: A sweep holds both kinds, or the command names the group as it was called before.

    Example::

        >>> with_network(["network=resnet18", "seed=1"], ["stock"], has_backbone=False)
        ['network=stock', 'network.name=resnet18', 'seed=1']
        >>> with_network(["network=resnet18"], ["stock"], has_backbone=True)
        ['network.backbone=resnet18']
        >>> with_network(["network._target_=mine.build", "network.width=32"], ["own"], has_backbone=False)
        ['network=own', 'network._target_=mine.build', '++network.width=32']
    """
    found: list[str] = []
    for argument in arguments:
        if re.match(r"supernet(@\w+)?=", argument):
            raise ValueError(f"There is no setting `supernet`. HINT: network={argument.partition('=')[2]}.")
        found += _of_name(argument, groups, has_backbone)
    is_own = any(argument.startswith(_TARGET) for argument in found)
    if not is_own or any(argument.startswith(_GROUP) for argument in found):
        return found
    first = next(number for number, argument in enumerate(found) if argument.startswith("network."))
    named = [_added(argument) for argument in found]
    return [*named[:first], f"{_GROUP}own", *named[first:]]


def _of_name(argument: str, groups: Collection[str], has_backbone: bool) -> list[str]:
    """Return the overrides that one is, where it may name stock networks."""
    value = argument.removeprefix(_GROUP)
    if value == argument or not _NAMES.fullmatch(value):
        return [argument]
    files = [name for name in value.split(",") if name.removesuffix(".yaml") in groups]
    if len(files) == value.count(",") + 1:
        return [argument]
    if files:
        raise ValueError(
            f"`network` must be either stock networks or files of settings ({', '.join(sorted(groups))}) in one sweep;"
            f" got {value}."
        )
    return [f"network.backbone={value}"] if has_backbone else [f"{_GROUP}stock", f"network.name={value}"]


def _added(argument: str) -> str:
    """Return an override of a network's setting as one that may be new."""
    is_setting = argument.startswith("network.") and not argument.startswith(_TARGET)
    return f"++{argument}" if is_setting else argument
