"""Loaders of a fit, which are read again to compare subnets and once the fit has ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.search.lightning_internals import CombiningMode, combining_mode
from lightning_nas.search.quiet_loss import LossFunction, NoLossError, attached_loss, quiet_copy

__all__ = ["CALIBRATION_BATCHES", "Loaders", "UserFit", "prepared"]

log = logging.getLogger(__name__)

# Some thousand images at usual batch sizes: beyond, the comparison of candidates costs more than it tells.
SELECTION_BATCHES = 32

# In the study of this method 250 images gave the accuracy that 1000 gave, statistics of another subnet 24 points less.
CALIBRATION_BATCHES = 8
"""Training batches that batch norm is recalibrated on before a subnet is evaluated."""


def prepared(trainer: pl.Trainer, module: pl.LightningModule, batch: object) -> object:
    """Return a batch of a loader as the Trainer hands it to a step: on the device, in its precision."""
    return trainer.precision_plugin.convert_input(move_data_to_device(batch, module.device))


@dataclass(frozen=True)
class Loaders:
    """The loaders that a Trainer fits with. It forgets them at its next `test`, `validate` or `predict`.

    Reading them draws random numbers, none of which are the user's.

    Attributes:
        training: What `trainer.fit` was given: a loader, or several in a list or dictionary; None where a finished
            training was resumed, which loads none.
        mode: How several are combined, see Lightning's ``CombinedLoader``.
        validation: The one validation DataLoader; None where there is none, or more than one.
        num_validation_batches: How many of its batches the Trainer reads at most.
    """

    training: Iterable[object] | None
    mode: CombiningMode
    validation: DataLoader[object] | None
    num_validation_batches: int

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Loaders:
        """Return the loaders of a Trainer that is fitting."""
        found = trainer.val_dataloaders
        validation = _single(_unread_loader(trainer) if found is None else found)
        limit = trainer.limit_val_batches
        # Lightning takes a whole number for batches and a fraction for a part of the loader, whose length may be
        # unknown: it is not asked for where all is read.
        if isinstance(limit, int) or validation is None:
            most = int(limit)
        else:
            most = SELECTION_BATCHES if limit == 1.0 else int(limit * len(validation))
        return cls(trainer.train_dataloader, combining_mode(trainer), validation, most)

    @property
    def is_combined(self) -> bool:
        """Whether training batches come from several loaders."""
        return isinstance(self.training, dict | list | tuple)

    @property
    def for_fit(self) -> Iterable[object] | None:
        """What another Trainer fits with to read the same training batches."""
        return CombinedLoader(self.training, self.mode) if self.is_combined else self.training

    def training_batches(self, count: int) -> Iterator[object]:
        """Return the first training batches, as the loaders give them."""
        if self.training is None:
            return
        with _seeded(self.training):
            if not self.is_combined:
                yield from islice(iter(self.training), count)
                return
            for batch, _, _ in islice(iter(CombinedLoader(self.training, self.mode)), count):
                yield batch

    def held_out_batches(self, recent: Sequence[object], most: int = SELECTION_BATCHES) -> list[object]:
        """Return what subnets are compared on: the first batches of the validation loader, or else recent ones."""
        if self.validation is not None:
            # A loader that shuffles gives the same batches at the start and at the end.
            with isolate_rng(), _seeded(self.validation):
                torch.manual_seed(0)
                found = list(islice(iter(self.validation), min(self.num_validation_batches, most)))
            if found:
                return found
        log.warning(
            "There is no single validation DataLoader: subnets are compared on recent training batches, which the"
            " weights were fitted to. HINT: give the Trainer one."
        )
        return list(recent)


@dataclass(frozen=True)
class UserFit:
    """A user's fit: what trains what, on what.

    Attributes:
        trainer: The user's.
        module: The LightningModule that it trains.
        loaders: What it reads.
        loss: Gives the loss in place of `training_step` where subnets are compared, see `Selection`.
        is_incomparable: Whether the loss cannot be had of validation batches, which are left out then.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    loaders: Loaders
    loss: LossFunction | None = None
    is_incomparable: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether this process shows progress bars: the first one does, if the Trainer has one."""
        return bool(self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None)

    def lacks_validation(self, trainer: pl.Trainer) -> bool:
        """Return whether a Trainer that had not loaded its validation data when the fit began has done so since."""
        return (
            self.loaders.validation is None
            and not self.is_incomparable
            and _single(trainer.val_dataloaders) is not None
        )

    def with_comparable_batches(self) -> UserFit:
        """Return this fit, without its validation loader where `training_step` gives no loss for a validation batch.

        That is found out before the training, on the first batch, so that nothing fails at its end.
        """
        batches = [] if self.loaders.validation is None else self.loaders.held_out_batches((), 1)
        with evaluating(self.module), quiet_copy(self.module, self.trainer, self.loss) as quiet:
            for batch in batches:
                try:
                    with self.trainer.precision_plugin.forward_context():
                        attached_loss(quiet, prepared(self.trainer, self.module, batch), 0)
                # The step returns no loss of any batch, so that training batches would be no help.
                except NoLossError:
                    raise
                except Exception as error:
                    log.warning(
                        "`training_step` does not take a validation batch (%s: %s), so subnets are compared on recent"
                        " training batches. HINT: `Selection(loss=...)` takes a function of module and batch.",
                        type(error).__name__,
                        error,
                    )
                    return replace(self, loaders=replace(self.loaders, validation=None), is_incomparable=True)
        return self

    def training_batches(self, count: int) -> Iterator[object]:
        """Return the first training batches, prepared for a step."""
        return (prepared(self.trainer, self.module, batch) for batch in self.loaders.training_batches(count))

    def calibration_batches(self, recent: Sequence[object]) -> list[object]:
        """Return recent training batches, or the loader's first where a finished training was resumed and saw none."""
        if recent or self.loaders.training is None:
            return list(recent)
        with isolate_rng():
            # Of one epoch alone, as a training that was not interrupted keeps them.
            return list(self.training_batches(CALIBRATION_BATCHES))


def _single(loaders: object) -> DataLoader[object] | None:
    if isinstance(loaders, list | tuple) and len(loaders) == 1:
        loaders = loaders[0]
    return loaders if isinstance(loaders, DataLoader) else None


@runtime_checkable
class _HasValidationData(Protocol):
    def val_dataloader(self) -> object: ...


def _unread_loader(trainer: pl.Trainer) -> object:
    """Return the validation loader of a Trainer that has not validated, as where a finished training was resumed."""
    for source in (getattr(trainer, "datamodule", None), trainer.lightning_module):
        if not isinstance(source, _HasValidationData):
            continue
        try:
            return source.val_dataloader()
        except Exception as error:
            # One that has no such loader says so by this error, of this package of Lightning or the other.
            if type(error).__name__ != "MisconfigurationException":
                raise
    return None


@contextmanager
def _seeded(loaders: object) -> Iterator[None]:
    """Let the generators that loaders have of their own begin at a seed, and go on later where they were."""
    # A loader and its sampler often share one, which is to be kept and put back once.
    found: dict[int, torch.Generator] = {}
    for loader in CombinedLoader(loaders).flattened:
        sampler = getattr(loader, "sampler", None)
        for part in (loader, sampler, getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
            if isinstance(own := getattr(part, "generator", None), torch.Generator):
                found[id(own)] = own
    states = [(own, own.get_state()) for own in found.values()]
    for own, _ in states:
        own.manual_seed(0)
    try:
        yield
    finally:
        for own, state in states:
            own.set_state(state)
