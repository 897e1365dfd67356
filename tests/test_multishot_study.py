"""The study: counted, shared by processes, taken over from dead ones, refused where it is of another search."""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from threading import Semaphore

import pytest
from test_multishot_evolution import LinearEstimator, ground_of, places

from lightning_nas.io.writing import UnwritableError
from lightning_nas.multishot.evolution import Evolution
from lightning_nas.multishot.study import Study
from lightning_nas.multishot.study_storage import open_study
from lightning_nas.multishot.trial import LostTrialError
from lightning_nas.multishot.trial_record import TrialRecord
from lightning_nas.space.spec import Architecture

optuna = pytest.importorskip("optuna")
FIGURES = {"seconds": 1.0, "steps": 2, "images": 4}


@pytest.fixture(scope="module")
def ground():
    return ground_of(places(), "0.8x")


def open_(path, ground, trials=6, seed=0, **options):
    record = {"device": options.pop("device", "linear"), "search": {"eta": 3}}
    return Study(path, ground, Evolution(trials, population=2, **options), record, seed)


def value_of(genes):
    return sum(genes) / 100


def train(study, epochs=2, value_of=value_of):
    """Train all trials without training; return the genes in order."""
    done = []
    while (trial := study.next()) is not None:
        with trial.training():
            values = [(epoch, value_of(trial.genes)) for epoch in range(1, epochs + 1)]
            reached = next((epoch for epoch, value in values if not trial.report(epoch, value)), epochs)
            trial.finish(value_of(trial.genes), reached, reached < epochs, FIGURES)
        done.append(trial.genes)
    return done


@pytest.mark.parametrize("sampler", ["evolution", "nsga2"])
def test_optuna_reads_the_study(tmp_path, ground, sampler):
    path = tmp_path / "study.journal"
    done = train(open_(path, ground, sampler=sampler))
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    read = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [tuple(trial.user_attrs["genes"]) for trial in read.trials] == done
    for trial in read.trials:
        architecture = Architecture.from_dict(json.loads(trial.user_attrs["architecture"]))
        assert trial.params["input_size"] == str(architecture.input_size[1])
        path, option = architecture.blocks[0]
        assert trial.params[f"block {path}"] == str(option)
        latency_ms = LinearEstimator().latency_ms(architecture)
        assert trial.user_attrs["latency_ms"] == pytest.approx(latency_ms)
        metric = value_of(trial.user_attrs["genes"])
        assert trial.values == pytest.approx([metric] if sampler == "evolution" else [metric, latency_ms])


def test_totals_and_results(tmp_path, ground):
    study = open_(tmp_path / "study.journal", ground, rungs=[1])
    done = train(study)
    results, totals = study.results(), study.totals()
    assert [result.genes for result in results] == done
    stopped = [result for result in results if not result.is_complete]
    assert (totals["trials"], totals["steps"], totals["images"]) == (6, 12, 24)
    assert totals["pruned"] == len(stopped) > 0
    assert totals["rejected"] > 0
    assert all(result.epochs == (2 if result.is_complete else 1) for result in results)


def test_a_database_serves_as_well(tmp_path, ground):
    study = open_(f"sqlite:///{tmp_path / 'study.db'}", ground, trials=3)
    assert len(train(study)) == len(study.results()) == 3


def test_more_trials_can_be_asked_for_later(tmp_path, ground):
    path = tmp_path / "study.journal"
    first = train(open_(path, ground, trials=3))
    later = train(open_(path, ground, trials=6))
    assert [*first, *later] == train(open_(tmp_path / "other.journal", ground, trials=6))


def test_a_trial_left_by_the_same_machine_goes_on_at_once(tmp_path, ground):
    path = tmp_path / "study.journal"
    straight = train(open_(tmp_path / "other.journal", ground))

    def die():
        study = open_(path, ground)
        for _ in range(3):
            trial = study.next()
            trial.report(1, 0.5)
            if trial.number < 2:
                trial.finish(value_of(trial.genes), 2, False, FIGURES)
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    study = open_(path, ground)
    trial = study.next()
    assert (trial.number, trial.genes) == (2, straight[2])
    trial.finish(value_of(trial.genes), 2, False, FIGURES)
    # What follows is what would have followed, too.
    assert [*straight[:2], trial.genes, *train(study)] == straight
    assert study.totals()["trials"] == 6
    assert [result.number for result in study.results()] == list(range(6))


def test_a_trial_of_another_machine_is_waited_for_until_it_is_silent(tmp_path, ground, monkeypatch):
    path = tmp_path / "study.journal"
    away = open_(path, ground, trials=1)
    away.owner = type(away.owner)("elsewhere", 1, "away")
    lost = away.next()
    here = open_(path, ground, trials=1)
    assert here.next() is None
    assert here.num_running() == 1
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 1000)
    taken = here.next()
    assert taken.genes == lost.genes
    with pytest.raises(LostTrialError, match="took the trial over"):
        lost.report(1, 0.5)
    taken.finish(0.5, 1, False, FIGURES)
    assert [result.number for result in here.results()] == [0]


class Paces:
    """An event whose waits run out when the test says so, not with time."""

    def __init__(self):
        self.is_set, self.asked, self.paced, self.seconds = False, Semaphore(0), Semaphore(0), []

    def wait(self, seconds):
        self.seconds.append(seconds)
        self.asked.release()
        assert self.paced.acquire(timeout=60)
        return self.is_set

    def set(self):
        self.is_set = True
        self.paced.release()

    def pace(self):
        """Let one wait run out, and what follows it be done."""
        self.paced.release()
        assert self.asked.acquire(timeout=60)


def test_a_process_that_lives_gives_signs_of_it(tmp_path, ground, monkeypatch):
    now, paces = [1_000_000.0], Paces()
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr("lightning_nas.multishot.trial.Event", lambda: paces)
    study, other = (open_(tmp_path / "study.journal", ground, trials=1, stale_seconds=100) for _ in range(2))
    trial = study.next()
    with trial.training():
        assert paces.asked.acquire(timeout=60)
        for _ in range(3):
            # It waits for less than what passes for silence, and gives a sign then.
            assert paces.seconds[-1] < 100
            now[0] += 90
            paces.pace()
        now[0] += 90
        assert other.next() is None
        now[0] += 20
        assert other.next().genes == trial.genes


def test_a_trial_that_fails_is_left_to_the_next(tmp_path, ground):
    study = open_(tmp_path / "study.journal", ground, trials=1)
    trial = study.next()
    with pytest.raises(RuntimeError, match="out of memory"), trial.training():
        raise RuntimeError("out of memory")
    assert open_(tmp_path / "study.journal", ground, trials=1).next().genes == trial.genes


def test_what_diverges_counts_but_is_not_chosen(tmp_path, ground):
    study = open_(tmp_path / "study.journal", ground, trials=1, rungs=[1])
    trial = study.next()
    assert not trial.report(1, float("nan"))
    trial.finish(float("nan"), 1, True, FIGURES)
    assert study.next() is None
    assert study.results() == []


@pytest.mark.parametrize("seed", [0, 1], ids=["the same proposal", "another proposal"])
def test_of_two_that_saw_room_for_one_more_trial_one_starts_it(tmp_path, ground, seed):
    path = tmp_path / "study.journal"
    slow, fast = (open_(path, ground, trials=2, seed=seed) for seed in (seed, 0))
    slow.next()
    started = []
    propose = slow._enqueue_next

    def late(trials):
        started.append(fast.next())
        return propose(trials)

    slow._enqueue_next = late
    assert slow.next() is None
    assert [trial.number for trial in started] == [1]
    assert slow.totals()["trials"] == slow.num_running() == 2


def test_processes_share_a_study(tmp_path, ground):
    """However they race, they train as many as wanted, each architecture once."""
    path, trials, processes = tmp_path / "study.journal", 12, 4
    context = multiprocessing.get_context("fork")
    trained = context.Queue()
    workers = [
        context.Process(target=lambda: [trained.put(genes) for genes in train(open_(path, ground, trials))])
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    done = [trained.get(timeout=60) for _ in range(trials)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert trained.empty()
    assert len(set(done)) == trials
    study = open_(path, ground, trials)
    assert sorted(done) == sorted(result.genes for result in study.results())
    assert study.next() is None


def test_a_study_of_another_search_is_refused(tmp_path, ground):
    path = tmp_path / "study.journal"
    open_(path, ground)
    with pytest.raises(ValueError, match="is of another search: `device` was 'linear', here it is 'abacus'"):
        open_(path, ground, device="abacus")
    other = ground_of(places(sizes=(32, 16)), "0.8x")
    with pytest.raises(ValueError, match=r"`options.input_size` was \['32', '24'\], here it is \['32', '16'\]"):
        open_(path, other)


def test_a_line_that_was_half_written_is_dropped(tmp_path, ground):
    path = tmp_path / "study.journal"
    done = train(open_(path, ground, trials=2))
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "stu')
    study = open_(path, ground, trials=3)
    assert [result.genes for result in study.results()] == done
    assert len(train(study)) == 1


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"no journal\n", None])
def test_storage_that_cannot_be_used(tmp_path, ground, content):
    path = tmp_path / "file"
    path.write_bytes(content or b"")
    storage = path if content else path / "study.journal"
    with pytest.raises(ValueError, match=r"cannot be read and written(.|\n)*HINT: storage=PATH"):
        open_(storage, ground)
    assert path.read_bytes() == (content or b"")


def test_a_database_that_cannot_be_made(tmp_path, ground):
    with pytest.raises(ValueError, match=r"cannot be read and written: .*unable to open"):
        open_(f"sqlite:///{tmp_path}/none/study.db", ground)


def test_without_optuna_the_extra_is_named(tmp_path, ground, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'optuna>=4\.5'"):
        open_(tmp_path / "study.journal", ground)


def test_a_study_without_room_names_its_file_and_goes_on_later(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study = open_study(path, ["maximize"], {"seed": 0})
    study.add_trial(optuna.trial.create_trial(value=1.0))
    sync = os.fsync

    def full(descriptor):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 3)  # half a line was written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnwritableError, match=r"study\.journal' cannot be written: No space left on device"):
        study.set_user_attr("more", 1)
    monkeypatch.setattr(os, "fsync", sync)
    again = open_study(path, ["maximize"], {"seed": 0})
    assert [trial.value for trial in again.trials] == [1.0]
    again.set_user_attr("more", 2)
    assert open_study(path, ["maximize"], {"seed": 0}).user_attrs["more"] == 2


def test_a_trial_is_read_as_it_was_written(tmp_path, ground):
    path = tmp_path / "study.journal"
    study = open_(path, ground, rungs=(1,))
    first, second = study.next(), study.next()
    with first.training():
        first.report(1, 0.5)
        first.finish(0.5, 2, False, FIGURES)
    with pytest.raises(RuntimeError, match="stop"), second.training():
        raise RuntimeError("stop")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    trials = optuna.load_study(study_name=None, storage=storage).trials
    done, left = (TrialRecord.of(trial) for trial in trials)
    assert (done.genes, done.target, done.rungs, done.epochs) == (first.genes, 0, {1: 0.5}, 2)
    assert (done.seconds, done.steps, done.images) == (1.0, 2, 4)
    assert done.latency_ms == pytest.approx(ground.cost(first.genes))
    assert done.is_owned
    assert done.owner == study.owner.to_dict()
    assert left.genes == second.genes
    assert left.is_owned
    assert left.owner is None
    assert (left.epochs, left.rungs, left.origin, left.reason) == (None, {}, None, None)
