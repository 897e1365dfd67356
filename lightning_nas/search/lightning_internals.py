"""Private names of Lightning and PyTorch that a search needs, each behind one function that says why.

No other module of the package uses them. `tests/test_lightning_internals.py` fails where a release has lost one.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

__all__ = [
    "CombiningMode",
    "buffers_of",
    "combining_mode",
    "extend_fit",
    "is_compiled",
    "syncs_batch_norm",
    "uncompiled",
]

CombiningMode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
"""How Lightning's ``CombinedLoader`` combines several loaders."""


def syncs_batch_norm(strategy: Strategy) -> bool:
    """Return whether a strategy will replace batch norms by synchronized ones, by its ``_layer_sync``.

    The argument ``Trainer(sync_batchnorm=True)`` is kept nowhere else, and the batch norms are replaced only after the
    last hook in which a search could refuse it. A strategy of one device has no such attribute.
    """
    return getattr(strategy, "_layer_sync", None) is not None


def is_compiled(module: pl.LightningModule) -> bool:
    """Return whether the steps of a module were made by ``torch.compile``, by its ``_compiler_ctx``.

    Lightning's public ``to_uncompiled`` changes the module, and leaves steps that are bound to it rather than to a
    copy.
    """
    return module._compiler_ctx is not None


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, by ``_orig_mod``; a module that is not wrapped is returned.

    PyTorch has no public way from the wrapper to what it wraps.
    """
    wrapped = getattr(module, "_orig_mod", module)
    assert isinstance(wrapped, nn.Module), "torch.compile wraps modules"
    return wrapped


def combining_mode(trainer: pl.Trainer) -> CombiningMode:
    """Return how a Trainer combines its training loaders, by ``fit_loop._combined_loader`` and its ``_mode``.

    ``Trainer.train_dataloader`` gives the loaders alone. Before they are loaded it is Lightning's default.
    """
    combined = trainer.fit_loop._combined_loader
    return "max_size_cycle" if combined is None else combined._mode


def extend_fit(trainer: pl.Trainer, max_epochs: int) -> None:
    """Let a running fit go on to `max_epochs`, by ``fit_loop.max_epochs``: ``Trainer.max_epochs`` cannot be set."""
    trainer.fit_loop.max_epochs = max_epochs


def buffers_of(module: nn.Module) -> MutableMapping[str, Tensor | None]:
    """Return the mapping in which a module keeps its own buffers, by ``_buffers``.

    A step may put another tensor in the place of a buffer, remove one or set it to None. ``named_buffers`` leaves out
    those that are None, and ``register_buffer`` forgets whether one is persistent.
    """
    return module._buffers
