"""Jobs of settings as a recipe has them: by one name each, in no groups."""

from dataclasses import fields

from lightning_nas.budget.budget import Budget
from lightning_nas.jobs.estimator import build_estimator
from lightning_nas.jobs.estimator_plan import DeviceChoice, EstimatorPlan
from lightning_nas.jobs.job_run import JobRun
from lightning_nas.jobs.plan import FinetunePlan, Goal, Model, MultishotPlan, Run, SearchPlan
from lightning_nas.space.options import SpaceOptions

NAMES = {
    (SearchPlan, "task"): "search_task",
    (MultishotPlan, "task"): "search_task",
    (MultishotPlan, "latencies"): "budgets",
    (FinetunePlan, "task"): "finetune_task",
}
BOUNDS = {"latency": "latency", "parameters": "parameter_bytes", "peak_activations": "peak_activation_bytes"}


def plans(search, settings):
    """Return the arguments of a job, whose search is planned by `search`."""
    budget = Budget(**{name: settings.get(key) for name, key in BOUNDS.items()})
    known = {**settings, "budget": budget}
    if "space" in known:
        known["space"] = SpaceOptions(**known["space"])
    groups = {"run": Run, "goal": Goal, "model": Model, "search": search, "finetune": FinetunePlan}
    used = set(BOUNDS.values()) | {"budget"}
    made = {}
    for name, group in groups.items():
        keys = {field.name: NAMES.get((group, field.name), field.name) for field in fields(group)}
        used |= set(keys.values())
        made[name] = group(**{field: known[key] for field, key in keys.items() if key in known})
    assert not settings.keys() - used, settings.keys() - used
    return made


def built(**settings):
    """Build an estimator by settings as its recipe has them."""
    groups = (JobRun, DeviceChoice, EstimatorPlan)
    names = [{field.name for field in fields(group)} for group in groups]
    assert not settings.keys() - set.union(*names)
    return build_estimator(
        *(
            group(**{key: value for key, value in settings.items() if key in known})
            for group, known in zip(groups, names, strict=True)
        )
    )
