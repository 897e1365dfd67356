"""Fingerprint of a run: the settings it depends on, as JSON that can be compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, overload, runtime_checkable

import lightning.pytorch as pl
from torch import nn

from lightning_nas.io.differences import difference_text
from lightning_nas.io.reading import read_json
from lightning_nas.io.writing import write_text

__all__ = ["described_device", "described_network", "described_trainer", "keep_fingerprint", "plain"]

# What is shown and where it runs changes no weight; precision, clipping and limits do.
_SHOWN = ("enable_", "log_every", "accelerator", "devices", "num_sanity")
_LOADING = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")
_SIMPLE = (str, int, float, bool, tuple, list, dict, Path)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Longer ones are lists of files rather than settings.
_MAX_ITEMS = 64


@runtime_checkable
class HasFiles(Protocol):
    """A part of a datamodule that reads files."""

    def state_of_files(self) -> str:
        """Return text that changes when a file does."""
        ...


@runtime_checkable
class _Named(Protocol):
    """A class or a function."""

    __qualname__: str


@overload
def plain(value: Mapping[str, object], whole_paths: bool = False) -> dict[str, object]: ...
@overload
def plain(value: object, whole_paths: bool = False) -> object: ...
def plain(value: object, whole_paths: bool = False) -> object:
    """Return a setting, or settings in any nesting, as data that can be written as JSON and compared.

    Args:
        value: The setting, or settings by their names.
        whole_paths: Whether folders of one name in different places differ. Without it, machines that keep data in
            different places agree.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item, whole_paths) for key, item in value.items()}
    return _plain(value, whole_paths)


def _plain(value: object, whole_paths: bool) -> object:
    if isinstance(value, Mapping | list | tuple) and len(value) > _MAX_ITEMS:
        content = hashlib.sha256(_ADDRESS.sub("", repr(value)).encode()).hexdigest()[:16]
        return f"{len(value)} entries" + (f", sha256 {content}" if whole_paths else "")
    if isinstance(value, Mapping):
        return plain(value, whole_paths)
    if isinstance(value, list | tuple):
        return [_plain(item, whole_paths) for item in value]
    if isinstance(value, partial):
        return {"_target_": _name(value.func), **plain(value.keywords, whole_paths)}
    if isinstance(value, pl.LightningDataModule):
        # What is private may change what is trained, too.
        known = {name: item for name, item in vars(value).items() if _is_setting(item) and name not in _LOADING}
        described = {"_target_": type(value).__name__, **plain(known, whole_paths)}
        if whole_paths:
            # A run goes on with the files that it began with; on other machines they lie in other places.
            splits = {name: item for name, item in vars(value).items() if isinstance(item, HasFiles)}
            described |= {name: item.state_of_files() for name, item in splits.items()}
        return described
    if is_dataclass(value) and not isinstance(value, type) and _is_frozen(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"_target_": type(value).__name__, **plain(named, whole_paths)}
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("/", "~", "."))):
        path = Path(value).expanduser()
        return str(path.resolve()) if whole_paths else path.name
    if isinstance(value, str | int | float | bool | None):
        return value
    # What has no text of its own has its address, which is another one in each process.
    return _name(value) if isinstance(value, _Named) else _ADDRESS.sub("", repr(value))


def described_network(network: partial[nn.Module], variant: Mapping[str, object] | None = None) -> partial[nn.Module]:
    """Return a network's factory with a file of weights replaced by the digest of its content.

    Args:
        network: Makes the network.
        variant: Keywords beside its own. A partial of a partial does not always show those of both.
    """
    keywords = {**network.keywords, **(variant or {})}
    weights = keywords.get("weights")
    if isinstance(weights, str | Path) and (file := Path(weights).expanduser()).is_file():
        keywords["weights"] = _digest([file])
    return partial(network.func, **keywords)


def described_device(device: str) -> str:
    """Return the name of a device, with a digest of its files if it is given by files."""
    path = Path(device).expanduser()
    if not path.is_file():
        return device
    beside = [path.with_suffix(".json"), path.with_name(f"{path.stem}_operators.csv")]
    return f"{path.name}, {_digest([path, *(file for file in beside if file != path and file.is_file())])}"


def described_trainer(trainer: Callable[..., pl.Trainer]) -> dict[str, object]:
    """Return the settings of a Trainer on which the trained weights depend."""
    options = getattr(trainer, "keywords", {})
    return {key: value for key, value in options.items() if not key.startswith(_SHOWN)}


def keep_fingerprint(run_dir: Path, file: str, settings: Mapping[str, object], is_begun: bool) -> None:
    """Write the settings that a run depends on, and refuse to continue a run of other settings.

    Args:
        run_dir: Directory of the run.
        file: Where the fingerprint is in it.
        settings: What the run depends on.
        is_begun: Whether there is anything to go on with.

    Raises:
        ValueError: There is, and it is of other settings; the message says which differ.
    """
    path, wanted = run_dir / file, plain(settings, whole_paths=True)
    if is_begun and path.exists():
        try:
            known = read_json(path, finite=False)
            if not isinstance(known, dict):
                raise ValueError(f"'{path}' must hold an object; got {type(known).__name__}.")
        except ValueError as error:
            raise ValueError(f"{error} HINT: remove it if the settings are as they were.") from error
        # Compared as it reads back, where tuples are lists.
        if differing := difference_text(known, json.loads(json.dumps(wanted))):
            raise ValueError(
                f"{run_dir} holds a run of other settings: {differing}. HINT: continue it with its own, which are in"
                " its .hydra/overrides.yaml, or give another hydra.run.dir."
            )
    write_text(path, json.dumps(wanted, indent=1, sort_keys=True))


def _digest(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return f"sha256 {found.hexdigest()[:16]}"


def _name(value: _Named) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _is_setting(value: object) -> bool:
    """Return whether an attribute of data says how it is made; callables are transforms."""
    return isinstance(value, _SIMPLE) or _is_frozen(value) or callable(value)


def _is_frozen(value: object) -> bool:
    """Return whether a value is settings: what can change holds more than those."""
    params = getattr(value, "__dataclass_params__", None)
    return params is not None and bool(params.frozen) and not isinstance(value, type)
