"""Opening of a study in a journal file or a database, which is refused if it is of another search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lightning_nas.io.differences import difference_text
from lightning_nas.io.writing import UnwritableError

if TYPE_CHECKING:
    import optuna

__all__ = ["load_optuna", "open_study"]

_NAME = "lightning-nas"
_RECORD = "record"


def load_optuna() -> ModuleType:
    """Import `optuna`, or raise an error that says how to install it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("A study of trials needs Optuna. HINT: pip install 'optuna>=4.5'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(storage: str | Path, directions: Sequence[str], record: Mapping[str, object]) -> optuna.Study:
    """Return the study in `storage`, made if there is none. `optuna-dashboard` can show it at any time.

    Args:
        storage: File of Optuna's journal, or the URL of a database.
        directions: ``maximize`` or ``minimize`` for each objective.
        record: What the study is about, in builtins; it is kept in the study.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: The storage cannot be read or written, or its study is about something else.
    """
    optuna = load_optuna()
    try:
        # Proposals are enqueued; the sampler has nothing to draw.
        study = optuna.create_study(
            storage=_backend(str(storage)),
            study_name=_NAME,
            directions=list(directions),
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
    except ImportError:
        raise
    except Exception as error:  # each database has errors of its own
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"The study {str(storage)!r} cannot be read and written: {reason}. HINT: storage=PATH, a journal file of"
            " Optuna's or a new one, or the URL of a database."
        ) from error
    # As it reads back, where tuples are lists.
    wanted = json.loads(json.dumps(record))
    known = study.user_attrs.get(_RECORD)
    if known is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_RECORD, wanted)
    elif differing := difference_text(known or {}, wanted):
        raise ValueError(
            f"The study {str(storage)!r} is of another search: {differing}."
            " HINT: continue it with its own settings, or give another `storage`."
        )
    return study


def _backend(storage: str) -> optuna.storages.BaseStorage:
    optuna = load_optuna()
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    path = Path(storage).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(path)
    # Only now, since Optuna need not be installed.
    from optuna.storages.journal import JournalFileBackend

    class Journal(JournalFileBackend):
        """Optuna's file, which says its name where there is no room for more, and stays readable."""

        def append_logs(self, logs: list[dict[str, object]]) -> None:
            try:
                super().append_logs(logs)
            except OSError as error:
                _drop_torn_line(path)
                raise UnwritableError(path, error, len(json.dumps(logs))) from error

    return optuna.storages.JournalStorage(Journal(str(path)))


def _drop_torn_line(path: Path) -> None:
    """Drop a last line that a process was killed over: what was written behind it could not be read."""
    if not path.exists():
        return
    lock = load_optuna().storages.journal.JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("r+b") as file:
            content = file.read()
            # A file of something else must not be cut.
            if content and not content.startswith(b"{"):
                raise ValueError("it is no journal of Optuna's")
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
