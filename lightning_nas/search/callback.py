"""`ArchitectureSearch`: the search as a callback on an untouched LightningModule and Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import nn

from lightning_nas.budget.ablation import Choices
from lightning_nas.budget.budget import LATENCY, Budget, resolve_budget
from lightning_nas.budget.confirm import confirm
from lightning_nas.budget.limits import warn_unserved
from lightning_nas.budget.resolve import resolve_search
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.io.numbers import check_number
from lightning_nas.search.derive_module import derive_subnet
from lightning_nas.search.engine import Search
from lightning_nas.search.frontier import FrontierSubnet, frontier_subnets
from lightning_nas.search.hooks import SearchHooks
from lightning_nas.search.network_images import network_images
from lightning_nas.search.readiness import Readiness
from lightning_nas.search.saving import save_subnet
from lightning_nas.search.settings import (
    Fitting,
    Library,
    Method,
    Monitor,
    Selection,
    SupernetTraining,
    ZeroShot,
    check_kind,
    check_list,
    method_named,
)
from lightning_nas.search.verify import verified_candidates
from lightning_nas.search.zero_shot import search_zero_shot
from lightning_nas.space.spec import Architecture
from lightning_nas.training.divergence import DivergedError

__all__ = ["ArchitectureSearch"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ArchitectureSearch(SearchHooks):
    """Search a supernet's architecture while its module trains, and derive the subnet inside the budget.

    The module's loss, optimizer and schedule stay the user's: the callback owns the logits and their Adam. Each batch
    trains one sampled path. After a warm-up of weights only, every few steps some architectures drawn by the logits
    are compared on the coming batch (forward passes only), and the gradient of that score, with the exact gradient of
    the penalty on the expected cost, a function of the logits only, goes to them in `on_before_optimizer_step`.

    Freezing, gradient clipping, learning rate schedules and weight averaging of the user do not touch the logits,
    which are no parameters of the module; a callback that averages weights goes before this one. Comparisons leave no
    trace in the module: what its step counts, collects or logs is put back. Resume with the callback: it keeps the
    logits. A checkpoint holds the largest weights of each kind of block, those of the fused kind being most of it, and
    what the optimizer keeps of them; the derived subnet's has its own alone.

    Each validation runs one network, see `validate`, and its latency is logged as ``nas/validated_latency_ms``. By
    default that is the most probable one within the budget, another as the search goes on: `ModelCheckpoint` and
    `EarlyStopping` then compare different networks.

    Args:
        estimator: The cost model of your device, such as an `Estimator`; or the name of a shipped device.
        budget: What the subnet may cost.
        latency: Short for `Budget(latency=...)`: milliseconds (8.0), or relative to the source network ("0.5x").
        method: How it is searched: `Joint`, as above; `Decoupled`: the whole fit trains weights, and at its end, with
            these at rest, the logits learn from held-out batches; or `Library` or `ZeroShot`, which train nothing: the
            module is trained already, `fit` reads some images and ends. Or one of their names in small letters.
        selection: How a subnet is chosen at the end.
        serves: Other latencies that `derive` will be asked for after the same training: paths near all are trained.
        choices: What is searched: ``both``, ``widths`` alone or ``kinds`` alone.
        monitor: What validations run, and what the progress bar shows.

    Attributes:
        errors: What the prior of the training goes by: how far each option is from the source, see `option_errors`;
            None for the weights that an option keeps. To be set before `fit`; a `Library` measures them.

    Raises:
        ValueError: A budget or a setting that is not valid, or none; or, at the start of `fit`, a budget out of reach.

    Example::

        search = ArchitectureSearch("ethos_u85_1024", latency="0.5x")
        Trainer(max_epochs=10, callbacks=[search]).fit(model, datamodule)
        subnet = search.derive(model)
    """

    def __init__(
        self,
        estimator: CostModel | str = "ethos_u85_1024",
        budget: Budget | None = None,
        *,
        latency: float | str | None = None,
        method: Method | str = "joint",
        selection: Selection | None = None,
        serves: Sequence[float | str] = (),
        choices: Choices = "both",
        monitor: Monitor | None = None,
    ) -> None:
        loaded = Estimator.load(estimator) if isinstance(estimator, str) else estimator
        asked = _one_budget(budget, latency)
        selection, monitor = selection or Selection(), monitor or Monitor()
        check_kind("selection", selection, Selection, "Selection(num_candidates=8)")
        check_kind("monitor", monitor, Monitor, "Monitor(validate='source')")
        check_list("serves", serves)
        for value in serves:
            resolve_budget(value, 1.0, LATENCY, asked_as="serves")
        super().__init__(loaded, asked, method_named(method), selection, tuple(serves), choices, monitor)

    @property
    def search(self) -> Search | None:
        """The search itself: its logits, and what is drawn by them; None before `fit`."""
        return self.state.search

    @property
    def history(self) -> list[dict[str, float]]:
        """The logged figures of each architecture step, with the number of its optimizer step."""
        return self.state.history

    @property
    def architecture(self) -> Architecture:
        """The architecture that `derive` gives.

        Raises:
            RuntimeError: Before `fit`.
        """
        return self.state.started().supernet.space.decode(self.state.chosen())

    @property
    def candidates(self) -> list[Architecture]:
        """The compared architectures, sorted by inherited loss, the lowest first; `derive` takes any of them.

        Raises:
            RuntimeError: Before `fit`.
        """
        search = self.state.started()
        return [search.supernet.space.decode(encoding) for encoding in self.state.progress.ranked or [search.best()]]

    @property
    def readiness(self) -> Readiness | None:
        """How ready the supernet was when its training ended; None before, and where nothing was held out."""
        return self.state.progress.readiness

    @property
    def warnings(self) -> list[str]:
        """The warnings at the end of the training."""
        return list(self.state.progress.warnings)

    def find(
        self,
        budget: Budget | None = None,
        *,
        latency: float | str | None = None,
    ) -> list[Architecture]:
        """Return architectures within another budget, sorted by inherited loss, without training again.

        `derive` takes any of them. The weights and the data of the last `fit` must still be there.

        Args:
            budget: What they may cost; of a cost that it leaves open, the search's own bound stays.
            latency: Short for `Budget(latency=...)`.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: A budget that is out of reach, or none.
        """
        state, trained = self.state, self.state.started()
        space = trained.supernet.space
        asked = _one_budget(budget, latency).completed(self.budget)
        limits = resolve_search(asked, space, state.tables(space), choices=self.choices)
        warn_unserved(trained.limits, limits)
        # A search of its own, with copies of the logits: asking changes nothing of the trained one.
        search = Search(trained.supernet, limits, self.training, self.errors, trained.logits)
        if isinstance(self.method, Library):
            ranked = verified_candidates(search, self.estimator, self.selection.num_candidates)
        elif isinstance(self.method, ZeroShot):
            fit, count = state.fitted(), self.selection.num_candidates
            images = network_images(fit, trained.supernet, self.method.num_images)
            ranked = search_zero_shot(fit.module, images, search, self.estimator, self.method, count)
            ranked = fit.trainer.strategy.broadcast(ranked)  # each process has images of its own
        else:
            ranked = state.rank(search, state.evaluator(held_out=True))
        state.promised |= dict.fromkeys(ranked, limits)
        return [space.decode(encoding) for encoding in ranked]

    def frontier(self, count: int = 8) -> list[FrontierSubnet]:
        """Return the best subnets over a range of latencies: each has a lower inherited loss than all faster ones.

        Utilities of single options, fitted to what the search has evaluated, are solved for latencies from the least
        to the most that the space and the other budgets allow. Inherited losses flatter small subnets, which converge
        first: before two sizes are said to be equally good, fine-tune both.

        Args:
            count: Latencies to solve for; some have the same subnet, or one that a faster subnet beats.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: There is no latency budget, `count` is below 2, or no supernet was trained.
        """
        state, search = self.state, self.state.started()
        if not isinstance(self.method, SupernetTraining):
            raise ValueError(
                f"A frontier compares losses of a trained supernet, and {type(self.method).__name__} trains none. HINT:"
                " ask `find(latency=...)` for each latency."
            )
        evaluator, encode = state.evaluator(held_out=True), search.supernet.space.encode
        points = frontier_subnets(search, state.progress.observed, evaluator, count, self.estimator.verify_ms)
        # Nobody asked for a latency: each is to keep the one that it is listed with.
        listed = {encode(p.architecture): max(p.latency_ms, p.verified_latency_ms or 0.0) for p in points}
        state.promised |= {encoding: search.limits.with_latency(ms) for encoding, ms in listed.items()}
        return points

    def derive(
        self,
        module: ModuleT,
        num_batches: int = 32,
        architecture: Architecture | None = None,
        budget: Budget | None = None,
        latency: float | str | None = None,
    ) -> ModuleT:
        """Return the found subnet: a plain model within the budget, with inherited weights and recalibrated batch norm.

        That of a `Library` or a `ZeroShot` is fitted to the trained network, see `lightning_nas.supernet.refit`.

        Args:
            module: The trained LightningModule, or its network (the supernet). A LightningModule gives a
                LightningModule of the same class, ready to be fine-tuned.
            num_batches: Training batches for batch norm's statistics.
            architecture: Another of the `candidates` than the first, or one that `find` or `frontier` returned.
            budget: Another budget than the search's, as `find` takes it: the best subnet that it finds. For the
                search's own it is the found one.
            latency: Short for `Budget(latency=...)`.

        Raises:
            RuntimeError: Before `fit`, if the training has diverged, or if the network costs more than a budget.
            ValueError: `module` is neither the trained module nor a part of it; or an architecture is given, and
                a budget too.
        """
        check_number("num_batches", num_batches, whole=True, least=1)
        asked = None if budget is None and latency is None else _one_budget(budget, latency).completed(self.budget)
        if asked is not None and architecture is not None:
            raise ValueError("Give either `architecture` or a budget; got both.")
        if self._divergence.found:
            raise DivergedError(self._divergence.found)
        search, fit = self.state.started(), self.state.fitted()
        space = search.supernet.space
        chosen = architecture if asked in (None, self.budget) else self.find(asked)[0]
        encoding = self.state.chosen() if chosen is None else space.encode(chosen)
        confirm(self.state.promised.get(encoding, search.limits), self.estimator, space.decode(encoding))
        return derive_subnet(fit, module, encoding, num_batches, Fitting.of(self.method))

    def save(self, folder: str | Path, subnet: nn.Module | None = None) -> None:
        """Write a subnet so that `load_subnet(folder, model=MyModule(...))` builds it again, in any process.

        Args:
            folder: Gets ``architecture.json`` and ``subnet.safetensors``.
            subnet: What `derive` gave, fine-tuned or not; by default the found subnet is derived anew.

        Raises:
            RuntimeError: Before `fit`.
            ValueError: `subnet` is no subnet of this search, or costs more than what was asked for.
        """
        self.state.started()
        module = self.state.fitted().module
        plain = self.derive(module) if subnet is None else subnet
        save_subnet(folder, plain, module, self.state, self.estimator)


def _one_budget(budget: Budget | None, latency: float | str | None) -> Budget:
    """Return the budget that was given in either of two forms."""
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"`budget` must be a Budget, such as Budget(latency='0.5x'); got {budget!r}.")
    if budget is not None and latency is not None:
        raise ValueError(f"Give either `budget` or `latency`; got {budget} and {latency!r}.")
    return Budget(latency) if budget is None else budget
