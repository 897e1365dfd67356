"""Derivation of a plain module from a searched one, in the user's precision and on the user's data."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.finite import refuse_not_finite
from lightning_nas.search.lightning_internals import uncompiled
from lightning_nas.search.loaders import UserFit
from lightning_nas.search.network_images import network_images
from lightning_nas.search.quiet_loss import quiet_copy, task_loss
from lightning_nas.search.settings import Fitting
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.derive import derive, recalibrate
from lightning_nas.supernet.refine import fit_member
from lightning_nas.supernet.supernet import find_supernet, owner_of

__all__ = ["derive_subnet"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def derive_subnet(
    fit: UserFit, wanted: ModuleT, encoding: Encoding, num_batches: int, fitting: Fitting | None = None
) -> ModuleT:
    """Return the plain network of an architecture, batch norm recalibrated on training data.

    Args:
        fit: What was searched.
        wanted: Its module or a part of it: the same part of the derived module is returned.
        encoding: The architecture.
        num_batches: Training batches for batch norm's statistics.
        fitting: How it is fitted to the source, in place of that; None for not at all.

    Raises:
        ValueError: `wanted` is neither the trained module nor a part of it, or what it inherits is not finite.
    """
    original = uncompiled(wanted)
    names = [name for name, child in fit.module.named_modules() if child is original]
    if not names:
        raise ValueError(f"This {type(original).__name__} is not part of the module that was searched.")
    derived = derive(fit.module, encoding)
    if fitting is not None and fitting.num_images:
        _fit_to_source(fit, derived, encoding, fitting)
        return cast(ModuleT, derived.get_submodule(names[0]))
    norms = [child for child in derived.modules() if isinstance(child, _BatchNorm)]
    # The norms keep what they are given here; all else that a step changes is put back.
    with evaluating(derived), quiet_copy(derived, fit.trainer, fit.loss, norms) as quiet:
        batches = enumerate(fit.training_batches(num_batches))
        with fit.trainer.precision_plugin.forward_context():
            recalibrate(derived, lambda item: task_loss(quiet, item[1], item[0]), batches)
    refuse_not_finite(derived)
    # The part of a copy has the class that it has in the original.
    return cast(ModuleT, derived.get_submodule(names[0]))


def _fit_to_source(fit: UserFit, derived: nn.Module, encoding: Encoding, fitting: Fitting) -> None:
    """Fit the network of a derived module to the source, in place."""
    supernet = find_supernet(fit.module)
    space = supernet.space
    if encoding == space.reference_encoding:
        return
    name, network = owner_of(supernet, fit.module)
    images = network_images(fit, supernet, fitting.num_images)
    subnet, teacher = derived.get_submodule(name), derive(network, space.reference_encoding)
    fit_member(subnet, teacher, images, space, encoding, fitting.refine_steps)
    refuse_not_finite(derived)
