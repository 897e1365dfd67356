"""Searches of settings that are given by one short name each, in no groups: a test sets few of several groups."""

from dataclasses import fields

from lightning_nas import ArchitectureSearch, search
from lightning_nas.search import Decoupled, Joint, Monitor, PathSampling, Rloo, Selection

PHASES = {"joint": Joint, "decoupled": Decoupled}
STRATEGIES = {
    name.lower(): getattr(search, name)
    for name in ("Rloo", "Rotation", "Darts", "FBNetV2", "Gdas", "Tunas", "Spos", "Sandwich")
}
SHORT = {
    "samples": "num_samples",
    "candidates": "num_candidates",
    "evaluations": "num_evaluations",
    "random_subnets": "num_random_subnets",
    "trials": "num_brief_trainings",
    "trial_epochs": "brief_epochs",
    "use": "budget_use",
}
OWN = ("budget", "latency", "serves", "choices")


def training_of(phases="joint", strategy="rloo", **settings):
    """Return how a supernet is trained."""
    settings = _long(settings)
    parts = {"strategy": _made(STRATEGIES[strategy], settings), "sampling": _made(PathSampling, settings)}
    return _made(PHASES[phases], settings, **parts)


def selection_of(*settings, **named):
    """Return how a subnet is chosen."""
    return Selection(*settings, **_long(named))


def search_of(estimator, phases="joint", strategy="rloo", **settings):
    """Return a search whose settings are in the groups where they belong."""
    settings = _long(settings)
    groups = (Joint, Decoupled, Rloo, PathSampling, Selection, Monitor)
    known = {*OWN, *(field.name for group in groups for field in fields(group))}
    assert not settings.keys() - known, settings.keys() - known
    return ArchitectureSearch(
        estimator,
        method=training_of(phases, strategy, **settings),
        selection=_made(Selection, settings),
        monitor=_made(Monitor, settings),
        **{name: settings[name] for name in OWN if name in settings},
    )


def _long(settings):
    return {SHORT.get(name, name): value for name, value in settings.items()}


def _made(group, settings, **parts):
    names = {field.name for field in fields(group)} - {"strategy", "sampling"}
    return group(**parts, **{name: value for name, value in settings.items() if name in names})
