"""Writing on disks that fill up, locks of processes that die, and checkpoints that somebody tore."""

import errno
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time

import pytest
import torch

from lightning_nas.io import writing as _files
from lightning_nas.io.locks import InUseError, alone
from lightning_nas.io.writing import UnwritableError, appending, remove_parts, write_bytes, write_text, write_weights
from lightning_nas.training.checkpoints import CheckpointFile, WholeCheckpointIO

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_a_fork(function, *arguments):
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


@pytest.fixture
def full_disk(monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files.os, "fsync", full)


def test_a_full_disk_leaves_what_was_there_and_says_how_much_is_needed(tmp_path, full_disk):
    path = tmp_path / "deep" / "result.json"
    path.parent.mkdir()
    path.write_text("before")
    with pytest.raises(
        UnwritableError, match=r"'.*result\.json' cannot be written: No space .* takes 2\.0 KiB, .* free"
    ):
        write_text(path, "x" * 2048)
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == ["result.json"]
    with pytest.raises(UnwritableError, match=r"w\.safetensors' cannot be written"):
        write_weights(tmp_path / "w.safetensors", {"a": torch.ones(3)})
    assert os.listdir(tmp_path) == ["deep"]


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UnwritableError, match=r"'.*file/result\.json' cannot be written: (Not a directory|File exists)"
    ):
        write_text(tmp_path / "file" / "result.json", "x")


def test_whoever_is_killed_while_writing_leaves_a_part_that_the_next_one_removes(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    write_text(path, "before")

    def die():
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_text(path, "after")

    in_a_fork(die).join()
    assert path.read_text() == "before"
    (part,) = tmp_path.glob("*.part")
    living = part.rename(tmp_path / f"{part.name.rpartition('-')[0]}-{os.getpid()}.part")
    elsewhere = tmp_path / "a.ckpt.0123abcd-1.part"
    elsewhere.touch()
    in_a_fork(die).join()
    remove_parts(tmp_path, others_write=True)
    assert sorted(tmp_path.iterdir()) == sorted([path, living, elsewhere])
    remove_parts(tmp_path)
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_lines_are_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"

    def append():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with appending(path) as add:
            for number in range(9):
                try:
                    add(f"{number}" * 29 + "\n")
                except UnwritableError as error:
                    (tmp_path / "said").write_text(str(error).partition("/table.csv")[2])
                    return

    in_a_fork(append).join()
    assert path.read_text().splitlines() == ["0" * 29, "1" * 29, "2" * 29]
    assert "' cannot be written: File too large" in (tmp_path / "said").read_text()
    with appending(path) as add:
        add("next\n")
    assert path.read_text().endswith("2\nnext\n")


def saved(file, *values):
    for value in values:
        state = {"pytorch-lightning_version": "2.6", "callbacks": {}, "state_dict": {"weights": torch.arange(9.0)}}
        WholeCheckpointIO().save_checkpoint({**state, "value": value}, file.path)
    return file


def test_the_state_before_stands_in_for_a_torn_one(tmp_path, caplog):
    file = saved(CheckpointFile(tmp_path / "search.ckpt"), 1, 2)
    assert file.load()["value"] == 2
    data = file.path.read_bytes()
    other = io.BytesIO()
    torch.save({"a": 1}, other)
    rng = random.Random(0)
    flipped = [bytearray(data) for _ in range(60)]
    for copy in flipped:
        copy[rng.randrange(len(copy) - 700, len(copy))] ^= 1 << rng.randrange(8)  # where the parts are listed
    for torn in (data[: len(data) // 2], b"", data.replace(b"\x80\x3f", b"\x81\x3f"), other.getvalue()):
        saved(file, 1, 2)
        file.path.write_bytes(torn)
        caplog.clear()
        assert file.load()["value"] == 1
        assert "search.ckpt' (" in caplog.text
        assert "cannot be read: this training goes on from the state before" in caplog.text
        # It took the place of the torn one, which a later save would else have put in its own.
        assert file.load()["value"] == 1
        assert not file.before.exists()
    for torn in flipped:
        saved(file, 1, 2)
        file.path.write_bytes(torn)
        try:
            assert file.load()["value"] in (1, 2)
        except ValueError as error:  # PyTorch may read some of them at one time and not at another
            assert "search.ckpt' cannot be read (" in str(error)  # noqa: PT017


def test_a_process_that_was_killed_between_two_moves_goes_on_from_the_state_before(tmp_path, caplog):
    file = saved(CheckpointFile(tmp_path / "search.ckpt"), 1, 2)
    file.path.unlink()
    assert file.exists
    assert file.load()["value"] == 1
    assert not caplog.text


def test_where_both_are_torn_the_training_begins_anew_and_says_so(tmp_path, caplog):
    file = saved(CheckpointFile(tmp_path / "search.ckpt"), 1, 2)
    for path in (file.path, file.before):
        path.write_bytes(path.read_bytes()[:-9])
    assert file.readable() is None
    assert "search.ckpt' (" in caplog.text
    assert "search.previous.ckpt' (" in caplog.text
    assert "begins anew" in caplog.text


def test_a_checkpoint_needs_no_other_disk_and_gives_up_the_state_before_for_room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    file = saved(CheckpointFile(tmp_path / "search.ckpt"), 1, 2)
    sync = os.fsync

    def nearly_full(descriptor):
        if file.before.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(_files.os, "fsync", nearly_full)
    assert saved(file, 3).load()["value"] == 3

    def refused(descriptor):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_files.os, "fsync", sync)
    saved(file, 4)
    monkeypatch.setattr(_files.os, "fsync", refused)
    with pytest.raises(UnwritableError, match="Permission denied"):
        saved(file, 5)
    assert file.before.exists()  # no room would be won
    file.remove()
    assert os.listdir(tmp_path) == []


def hold(lock, held, seconds):
    with alone(lock, "the thing"):
        held.set()
        time.sleep(seconds)


def test_a_lock_says_who_holds_it_and_what_is_waited_for(tmp_path, monkeypatch, caplog):
    lock, held = tmp_path / ".lock", FORK.Event()
    monkeypatch.setattr("lightning_nas.io.locks._PATIENCE_SECONDS", 0.1)
    holder = in_a_fork(hold, lock, held, 2)
    assert held.wait(60)
    said = rf"The table 'x' is in use by process {holder.pid} on .* since 20.*HINT"
    with pytest.raises(InUseError, match=said), alone(lock, "The table 'x'"):
        pass
    with caplog.at_level(logging.WARNING), alone(lock, "the table 'x'", is_waiting=True):
        assert f"Waiting for the table 'x', which is in use by process {holder.pid} on " in caplog.text
    holder.join()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    lock, held = tmp_path / ".lock", FORK.Event()
    holder = in_a_fork(hold, lock, held, 60)
    assert held.wait(60)
    holder.kill()
    holder.join()
    with alone(lock, "The table 'x'"):
        assert json.loads((tmp_path / ".lock.json").read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UnwritableError, match=r"file/\.lock' cannot be written"),
        alone(tmp_path / "file" / ".lock", "x"),
    ):
        pass


def test_keeping_what_was_there(tmp_path):
    path = tmp_path / "a"
    for text in (b"1", b"2", b"3"):
        write_bytes(path, text, keep=tmp_path / "b")
    assert (path.read_bytes(), (tmp_path / "b").read_bytes()) == (b"3", b"2")
