"""Command line of recipes: composes, checks and runs one, and reports an error of the user's in a sentence."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_nas.io.reading import JsonObject, read_json
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.malloc import keep_freed_memory
from lightning_nas.jobs.near_misses import key_hint
from lightning_nas.jobs.network_overrides import with_network
from lightning_nas.jobs.networks import check_network
from lightning_nas.jobs.recipes import recipes
from lightning_nas.jobs.settings import check_recipe
from lightning_nas.report.run_record import RunRecord
from lightning_nas.training.stop import Stopped, requeue, stoppable

__all__ = ["find_groups", "run_recipe"]

log = logging.getLogger("lightning_nas")

# Errors that are told in a sentence. Libraries raise the general ones for bugs too, see `_is_bug`.
USER_ERRORS = (ValueError, TypeError, OSError, MisconfigurationException, ImportError, RuntimeError)
PLAIN = ("-h", "--help", "--hydra-help", "--version", "--info", "-c", "--cfg", "-sc", "--shell-completion")
# Recipes of these are not among those of the package, which `_check` composes by name.
USER_FOLDERS = ("-cd", "--config-dir", "-cp", "--config-path")


def run_recipe(arguments: Sequence[str]) -> None:
    """Run a recipe by Hydra's command line; exit with 2 on an error of the user's.

    Args:
        arguments: The command line, which is also that of the process: Hydra reads that one.
    """
    find_groups()
    sys.path.extend(_user_folders(arguments))
    name = _config_name(arguments)
    arguments = _with_network(name, arguments)
    sys.argv[1:] = arguments
    if name is not None and not any(argument.split("=")[0] in (*PLAIN, *USER_FOLDERS) for argument in arguments):
        _check(name, arguments)
    # Hydra hands its errors on then, such as that of a directory which it cannot write to, rather than printing them.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        _run()
    except Exception as error:
        cause = _cause(error)
        if isinstance(error, HydraException | OSError) or _is_users(cause):
            _fail(_text(cause))
        raise


def find_groups() -> None:
    """Let Hydra find the package's groups of settings, such as ``job: search``, for the rest of the process.

    Recipes do not set ``hydra.searchpath`` themselves: Hydra allows that in the primary config only, so a user's file
    could not include such a recipe.
    """
    Plugins.instance().register(_Groups)


class _Groups(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # Hydra itself adds these folders behind ours; before, a user's group of the same name is found first.
        for folder in _user_folders(sys.argv[1:]):
            search_path.append("command-line", f"file://{folder}")
        search_path.append("lightning_nas", "pkg://lightning_nas.conf")


@hydra.main(version_base="1.3", config_path="pkg://lightning_nas.recipes", config_name=None)
def _run(config: DictConfig) -> object:
    single = HydraConfig.get().mode == RunMode.RUN
    try:
        return _stoppable_job(config)
    except Exception as error:
        cause = _cause(error)
        if not single:
            # The error of one job ends the sweep; each has a log of its own.
            log.error("This job failed: %s: %s", type(cause).__name__, " ".join(str(cause).split()))
            raise
        if not _is_users(cause):
            raise
        _remove_if_unused(Path(HydraConfig.get().runtime.output_dir))
        _fail(_text(cause))


def _stoppable_job(config: DictConfig) -> object:
    with stoppable() as came:
        try:
            return _job(config)
        except BaseException:  # what a stopped job ends with may be an error of what it was doing
            if not came:
                raise
            _say_stopped(came[0])
            requeue(came[0])
            sys.exit(came[0].exit_code)


def _say_stopped(stopped: Stopped) -> None:
    hydra_config = HydraConfig.get()
    key, folder = "run.dir", hydra_config.runtime.output_dir
    if hydra_config.mode == RunMode.MULTIRUN:
        key, folder = "sweep.dir", str(Path(hydra_config.sweep.dir).absolute())
    log.warning(
        "Stopped by %s. What was done is kept, of a training all but the epoch that it was in. To go on, repeat the"
        " command with hydra.%s=%s",
        stopped.name,
        key,
        folder,
    )


def _job(config: DictConfig) -> object:
    keep_freed_memory()
    # A log that cannot be written stops nothing, and is not worth a traceback a line.
    logging.raiseExceptions = False
    # Lightning's own remarks (devices, tips) would stand between the lines of the job.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A note of a library to its own maintainers, which users can do nothing about.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    hydra_config = HydraConfig.get()
    finished = Path(hydra_config.runtime.output_dir) / ".hydra" / "finished.json"
    overrides = sorted(hydra_config.overrides.task)
    if hydra_config.mode == RunMode.MULTIRUN:
        known = _finished(finished)
        if known.get("overrides") == overrides:
            log.info("%s is finished: it is not run again.", finished.parent.parent)
            return known.get("metric")
        if _can_share(config):
            config.shared_dir = str(Path(hydra_config.sweep.dir) / "shared")
    check_network(config)
    check_recipe(config)
    # The job's parts are built first: whatever is wrong with the data or an option is said before any training.
    job = instantiate(config.job, _partial_=True, _convert_="all")
    result = job()
    metric = result.subnet.metric.value if isinstance(result, RunRecord) else None
    write_text(finished, json.dumps({"overrides": overrides, "metric": metric}))
    return metric


def _finished(path: Path) -> JsonObject:
    """Return what a finished job of a sweep left behind; empty where the job is not finished."""
    try:
        found = read_json(path) if path.exists() else {}
    except ValueError as error:
        log.warning("%s Its job is run again.", error)
        return {}
    return found if isinstance(found, dict) else {}


def _can_share(config: DictConfig) -> bool:
    """Return whether the runs of a sweep can share what they train before the search."""
    method = OmegaConf.select(config, "search.method._target_", default="")
    return (
        "shared_dir" in config
        and config.shared_dir is None
        and method.endswith((".Decoupled", ".Library", ".ZeroShot"))
    )


def _config_name(arguments: Sequence[str]) -> str | None:
    return next(iter(_values(arguments, ("--config-name", "-cn"))), None)


def _user_folders(arguments: Sequence[str]) -> list[str]:
    """Return the folders of the user's recipes, from which Python can import the classes that these name."""
    return [str(Path(folder).absolute()) for folder in _values(arguments, ("--config-dir", "-cd")) if folder]


def _values(arguments: Sequence[str], keys: Collection[str]) -> list[str]:
    """Return what a command line gives an option, behind "=" or as the next argument; "" where there is none."""
    found = []
    for index, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key in keys:
            found.append(value or (arguments[index + 1] if index + 1 < len(arguments) else ""))
    return found


def _with_network(name: str | None, arguments: Sequence[str]) -> list[str]:
    """Return the command line with what ``network=`` means in it, see `with_network`."""
    if name is None or not any(argument.startswith(("network", "supernet")) for argument in arguments):
        return list(arguments)
    shipped = files("lightning_nas.conf").joinpath("network").iterdir()
    own = (file for folder in _user_folders(arguments) for file in Path(folder).glob("network/*.yaml"))
    groups = {file.name.removesuffix(".yaml") for file in (*shipped, *own)}
    try:
        with hydra.initialize_config_module("lightning_nas.recipes", version_base="1.3"):
            network = hydra.compose(name).get("network")
    except (HydraException, OmegaConfBaseException):
        network = None  # what is wrong with the recipe is said when it is run
    try:
        return with_network(arguments, groups, network is not None and "backbone" in network)
    except ValueError as error:
        _fail(str(error))


def _check(name: str, arguments: Sequence[str]) -> None:
    """Compose the recipe once, and exit with a message that names the valid keys where that fails."""
    known = recipes()
    if name.removesuffix(".yaml") not in known:
        hint = "HINT: for a file of yours in this folder, add `--config-dir .`."
        _fail(f"There is no recipe {name!r}; there are: {', '.join(known)}. {hint}")
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return  # sweeps hold lists of values, which only Hydra's sweeper takes apart
    skip = {arguments.index(a) + 1 for a in arguments if a in ("--config-name", "-cn")}
    overrides = [a for i, a in enumerate(arguments) if i not in skip and not a.startswith("-")]
    with hydra.initialize_config_module("lightning_nas.recipes", version_base="1.3"):
        try:
            config = hydra.compose(name, overrides=overrides)
        except (HydraException, OmegaConfBaseException) as error:
            settings = OmegaConf.to_container(hydra.compose(name))
            assert isinstance(settings, dict), "a recipe is a dictionary"
            reason = str(error).strip().splitlines()[0]
            unknown = re.match(r"Could not override '(.+)'", reason)
            hint = key_hint(unknown[1] if unknown else "", {str(key): value for key, value in settings.items()})
            _fail(f"Recipe {name!r} does not take these overrides: {reason}\n{hint}")
        missing = [str(key) for key in config if isinstance(key, str) and OmegaConf.is_missing(config, key)]
    if missing:
        _fail(f"Recipe {name!r} needs a value for {', '.join(missing)}.")


def _cause(error: BaseException) -> BaseException:
    # Hydra wraps an error once for each nested `_target_`; what the user did wrong is in the innermost.
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_bug(error: BaseException) -> bool:
    """Return whether an error was raised within a library, and not by a check of this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return isinstance(error, TypeError | RuntimeError) and not module.startswith("lightning_nas")


def _is_users(error: BaseException) -> bool:
    """Return whether an error is reported to the user as a sentence, without a traceback."""
    # Whoever debugs wants the traceback.
    return isinstance(error, USER_ERRORS) and not _is_bug(error) and not log.isEnabledFor(logging.DEBUG)


def _text(error: BaseException) -> str:
    """Return the message of an error; those of the system begin with their file."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{str(error.filename)!r}: {error.strerror}."
    if isinstance(error, OSError) and error.strerror:
        # Hydra's, which writes its own files before the job begins.
        return f"The directory of the run cannot be written: {error.strerror}. HINT: repeat the command when it can be."
    return str(error)


def _remove_if_unused(run_dir: Path) -> None:
    """Remove a run directory in which nothing but Hydra's own files was written."""
    left = [path for path in run_dir.iterdir() if path.name != ".hydra" and path.suffix != ".log"]
    if not left:
        # Hydra's log file in this folder is still open.
        logging.shutdown()
        shutil.rmtree(run_dir)


def _fail(text: str) -> NoReturn:
    sys.stderr.write(f"lightning-nas: {text}\n")
    sys.exit(2)
