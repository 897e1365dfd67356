"""Fingerprint of a run: the settings it depends on, as JSON that can be compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

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
        """Return what changes when a file does."""
        ...


def plain(value: Any, whole_paths: bool = False) -> Any:
    """Return what can be written as JSON and says what a setting is.

    Args:
        value: A setting, or settings in any nesting.
        whole_paths: Whether to tell folders of one name apart; without, machines that keep them in different places
            agree.
    """
    told = partial(plain, whole_paths=whole_paths)
    if isinstance(value, Mapping | list | tuple) and len(value) > _MAX_ITEMS:
        content = hashlib.sha256(_ADDRESS.sub("", repr(value)).encode()).hexdigest()[:16]
        return f"{len(value)} entries" + (f", sha256 {content}" if whole_paths else "")
    if isinstance(value, Mapping):
        return {str(key): told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, partial):
        return {"_target_": _name(value.func), **told(value.keywords)}
    if isinstance(value, pl.LightningDataModule):
        # What is private may change what is trained, too.
        known = {name: item for name, item in vars(value).items() if _is_setting(item) and name not in _LOADING}
        described = {"_target_": type(value).__name__, **told(known)}
        if whole_paths:
            # A run goes on with the files that it began with; on other machines they lie in other places.
            splits = {name: item for name, item in vars(value).items() if isinstance(item, HasFiles)}
            described |= {name: item.state_of_files() for name, item in splits.items()}
        return described
    if _is_frozen(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"_target_": type(value).__name__, **told(named)}
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("/", "~", "."))):
        path = Path(value).expanduser()
        return str(path.resolve()) if whole_paths else path.name
    if isinstance(value, str | int | float | bool | None):
        return value
    # What has no text of its own has its address, which is another one in each process.
    return _name(value) if hasattr(value, "__qualname__") else _ADDRESS.sub("", repr(value))


def described_network(network: partial[Any], variant: Mapping[str, Any] | None = None) -> partial[Any]:
    """Return what makes a network, a file of weights as its digest: what it holds counts, not where it lies.

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
    """Return the name of a device; of one in files, with a digest of what they hold."""
    path = Path(device).expanduser()
    if not path.is_file():
        return device
    beside = [path.with_suffix(".json"), path.with_name(f"{path.stem}_operators.csv")]
    return f"{path.name}, {_digest([path, *(file for file in beside if file != path and file.is_file())])}"


def described_trainer(trainer: Callable[..., Any]) -> dict[str, Any]:
    """Return those of a Trainer's settings that change a weight."""
    options = getattr(trainer, "keywords", {})
    return {key: value for key, value in options.items() if not key.startswith(_SHOWN)}


def keep_fingerprint(run_dir: Path, file: str, settings: Mapping[str, Any], is_begun: bool) -> None:
    """Write what a run depends on, unless it goes on with what a run of other settings began.

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


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _is_setting(value: Any) -> bool:
    """Return whether an attribute of data says how it is made; callables are transforms."""
    return isinstance(value, _SIMPLE) or _is_frozen(value) or callable(value)


def _is_frozen(value: Any) -> bool:
    """Return whether a value is settings: what can change holds more than those."""
    params = getattr(value, "__dataclass_params__", None)
    return params is not None and bool(params.frozen) and not isinstance(value, type)
