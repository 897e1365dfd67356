"""Commands of `lightning-nas`, each in a fork of one process: importing torch takes longer than most of them."""

import atexit
import contextlib
import errno
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

TIMEOUT_S = 300


def run(folder, *arguments, **trouble):
    """Run `lightning-nas` with arguments in a folder, and return what `subprocess.run` would.

    Args:
        folder: Where it runs.
        arguments: What is given to it.
        trouble: What befalls it, see `_TROUBLE`: by name, with its arguments.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("COMMANDS_OUTPUT")) as place:
        outputs = [Path(place, name) for name in ("stdout", "stderr")]
        for output in outputs:
            output.touch()
        server = _server()
        print(json.dumps([str(folder), [*map(str, outputs)], arguments, trouble]), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(output.read_text() for output in outputs))


@functools.cache
def _server():
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _serve():
    from lightning_nas.__main__ import main
    from lightning_nas.jobs import estimator as estimator_job  # noqa: F401

    for module in ("torch._dynamo", "lightning_nas.jobs.multishot", "ethosu.vela.vela"):
        with contextlib.suppress(ImportError):
            __import__(module)
    for line in sys.stdin:
        folder, outputs, arguments, trouble = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(TIMEOUT_S)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, output in enumerate(outputs, start=1):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
            sys.argv = ["lightning-nas", *arguments]
            # Whoever runs the tests in the background has Ctrl-C ignored, and would hand that on.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for name, options in trouble.items():
                _TROUBLE[name](*options)
            main()
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _signal_at_checkpoint(name, signum=signal.SIGINT):
    """Get a signal once a checkpoint of this name has been written behind the first epoch."""
    from lightning.pytorch import Trainer

    save = Trainer.save_checkpoint

    def saving(trainer, path, *others, **options):
        save(trainer, path, *others, **options)
        if Path(path).name == name and trainer.global_step:
            os.kill(os.getpid(), signum)

    Trainer.save_checkpoint = saving


def _signal_at_line(text, signum):
    """Get a signal when a text is logged."""
    make = logging.getLogRecordFactory()

    def making(*arguments, **options):
        record = make(*arguments, **options)
        if text in record.getMessage():
            threading.Thread(target=os.kill, args=(os.getpid(), signum)).start()
        return record

    logging.setLogRecordFactory(making)


def _signal_in_step(epoch, batch, signum=signal.SIGKILL):
    """Get a signal at the start of a training step, in whichever training comes to it."""
    from lightning_nas.training.seeds import EpochSeeds

    begin = EpochSeeds.on_train_batch_start

    def beginning(self, trainer, module, data, number):
        if (trainer.current_epoch, number) == (epoch, batch):
            os.kill(os.getpid(), signum)
        begin(self, trainer, module, data, number)

    EpochSeeds.on_train_batch_start = beginning


def _full_disk_at(number):
    """Find no room for the file of this number, counted from 0, and for all after it."""
    sync, written = os.fsync, []

    def syncing(descriptor):
        written.append(descriptor)
        if len(written) > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    os.fsync = syncing


def _killed_after(seconds):
    """Get a kill -9 after some time."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def _few_rivals(names):
    """Compare with these stock networks alone; pricing all takes a minute."""
    from lightning_nas.jobs import rivals

    rivals.RIVALS = tuple(names)


_TROUBLE = {
    "few_rivals": _few_rivals,
    "signal_at_checkpoint": _signal_at_checkpoint,
    "signal_at_line": _signal_at_line,
    "signal_in_step": _signal_in_step,
    "full_disk_at": _full_disk_at,
    "killed_after": _killed_after,
}


if __name__ == "__main__":
    _serve()
