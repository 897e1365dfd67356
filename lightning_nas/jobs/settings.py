"""Check the types of settings from YAML or a command line by the annotations of what they are passed to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from functools import partial
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

__all__ = ["check_arguments", "check_recipe", "check_settings"]

_TARGET = "_target_"
_HYDRA = (_TARGET, "_partial_", "_recursive_", "_convert_", "_args_", "hydra")
_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}
# `Union[int, str]` and `int | str` are of different types.
_UNIONS = (Union, UnionType)
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_READ = re.compile(r"\$\{(\w+)\}")
_JOB_PATH = re.compile(r"`(job\.[\w.]+)`")


def check_recipe(config: DictConfig) -> None:
    """Check the settings of a recipe: their types, and that the recipe has them.

    Args:
        config: The composed recipe. Its node ``job`` says what is called with which of the others.

    Raises:
        ValueError: A value is of a wrong type, or there is no such setting.
    """
    used = _interpolations(OmegaConf.to_container(config.job, resolve=False), "job")
    known = {name.split(".")[0] for name in used.values()}
    for name in map(str, config):
        if name not in known and name not in ("job", "hydra", *_read_by_groups()):
            raise ValueError(f"There is no setting `{name}`; there are: {', '.join(sorted(known))}.")
    try:
        check_settings(OmegaConf.to_container(config, resolve=True))
    except ValueError as error:
        # Users know a setting by the name that it has in the recipe.
        raise ValueError(_JOB_PATH.sub(lambda match: f"`{_name_of(match[1], used)}`", str(error))) from error


def _read_by_groups() -> set[str]:
    """Return the settings that shipped options of groups read, such as a method of searching: others may not."""
    groups = (entry for entry in files("lightning_nas.conf").iterdir() if entry.is_dir())
    texts = (file.read_text(encoding="utf-8") for group in groups for file in group.iterdir() if _is_yaml(file))
    return {match[1] for text in texts for match in _READ.finditer(text)}


def _is_yaml(file: Traversable) -> bool:
    return file.name.endswith(".yaml")


def _name_of(path: str, used: Mapping[str, str]) -> str:
    """Return the name that a setting at a path of a job has in the recipe."""
    for place, name in used.items():
        if path == place or path.startswith(f"{place}."):
            return name + path.removeprefix(place)
    return path


def _interpolations(node: object, path: str) -> dict[str, str]:
    """Return the names of the recipe's settings by their paths in a job."""
    if isinstance(node, dict):
        return {key: name for k, item in node.items() for key, name in _interpolations(item, f"{path}.{k}").items()}
    match = _INTERPOLATION.fullmatch(node) if isinstance(node, str) else None
    return {} if match is None else {path: match[1]}


def check_settings(config: object, path: str = "") -> None:
    """Check the arguments of every ``_target_`` in a config, at any depth, before anything is made of it.

    Args:
        config: The config in builtins, interpolations resolved.
        path: Where it stands, for messages.

    Raises:
        ValueError: A value is of a wrong type, or there is no such setting.
    """
    if isinstance(config, list):
        for number, item in enumerate(config):
            check_settings(item, f"{path}[{number}]")
    if not isinstance(config, dict):
        return
    given = {str(key): value for key, value in config.items() if key not in _HYDRA}
    if isinstance(config.get(_TARGET), str):
        # What another `_target_` makes is no object yet: it is checked by its own arguments, in the loop below.
        made = {key for key, value in given.items() if isinstance(value, dict) and _TARGET in value}
        check_arguments(get_object(config[_TARGET]), {key: given[key] for key in given.keys() - made}, path)
    for key, value in given.items():
        check_settings(value, f"{path}.{key}".lstrip("."))


def check_arguments(function: Callable[..., object], arguments: Mapping[str, object], path: str = "") -> None:
    """Check the types of arguments by the annotations of a function; those without annotation are not checked.

    Args:
        function: A function or a class, or a partial of one.
        arguments: By name.
        path: What comes before their names in messages.

    Raises:
        ValueError: A value is of a wrong type, or there is no such argument.

    Example::

        >>> def train(lr: float, epochs: int = 1) -> None: ...
        >>> check_arguments(train, {"lr": 1, "epochs": 2}, "task")
        >>> check_arguments(train, {"lr": "high"}, "task")
        Traceback (most recent call last):
        ValueError: `task.lr` must be a number; got 'high'.
    """
    while isinstance(function, partial):
        function = function.func
    prefix = f"{path}." if path else ""
    try:
        parameters = inspect.signature(function).parameters
        # Hints of a class are those of its attributes, which are its arguments only in a dataclass.
        is_plain = not inspect.isclass(function) or is_dataclass(function)
        hints = get_type_hints(function if is_plain else function.__init__)
    except (NameError, TypeError, ValueError, AttributeError):
        return  # another package's, which says nothing or what cannot be read here
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in sorted(arguments):
        if name not in parameters and not takes_any:
            known = ", ".join(parameter for parameter in parameters if parameter != "self")
            raise ValueError(f"There is no setting `{prefix}{name}`; there are: {known}.")
        hint = hints.get(name, object) if name in parameters else object
        # A default of None says that it may be None, whatever the annotation forgets.
        is_default = name in parameters and arguments[name] is None and parameters[name].default is None
        if not (is_default or _fits(arguments[name], hint)):
            raise ValueError(f"`{prefix}{name}` must be {_words(hint)}; got {arguments[name]!r}.")


def _fits(value: object, hint: object) -> bool:
    """Return whether a value may be of an annotated type; where that is not one of YAML's, it may."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return any(_fits(value, item) for item in inner)
    # To Python True is 1, so that truth values are told from numbers by their type, here and below.
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in inner)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    for plain in (bool, str, NoneType):
        if hint is plain:
            return isinstance(value, plain)
    if not inspect.isclass(origin):
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if issubclass(origin, Collection):
        items = inner[0] if inner else object
        return isinstance(value, list | tuple) and all(_fits(item, items) for item in value)
    return True


def _words(hint: object) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return " or ".join(dict.fromkeys(_words(item) for item in inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "settings by name"
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return f"a list, each item {_words(inner[0])}" if inner else "a list"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
