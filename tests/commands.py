"""Commands of `lightning-nas`, each in a fork of one process: importing torch takes longer than most of them."""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT_S = 300


def run(folder, *arguments, interrupted_at=None):
    """Run `lightning-nas` with arguments in a folder, and return what `subprocess.run` would.

    Args:
        folder: Where it runs.
        arguments: What is given to it.
        interrupted_at: Name of a checkpoint; once that of the first epoch is written, the run gets a Ctrl-C.
    """
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place, name) for name in ("stdout", "stderr")]
        server = _server()
        print(json.dumps([str(folder), [*map(str, outputs)], arguments, interrupted_at]), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(output.read_text() for output in outputs))


@functools.cache
def _server():
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _serve():
    from lightning_nas import estimator_job, jobs  # noqa: F401
    from lightning_nas.__main__ import main

    for module in ("torch._dynamo", "lightning_nas.multishot", "ethosu.vela.vela"):
        with contextlib.suppress(ImportError):
            __import__(module)
    for line in sys.stdin:
        folder, outputs, arguments, interrupted_at = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(TIMEOUT_S)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, output in enumerate(outputs, start=1):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
            sys.argv = ["lightning-nas", *arguments]
            if interrupted_at:
                _interrupt_at(interrupted_at)
            main()
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _interrupt_at(name):
    from lightning.pytorch import Trainer

    save = Trainer.save_checkpoint

    def saving(trainer, path, *others, **options):
        save(trainer, path, *others, **options)
        if Path(path).name == name and trainer.global_step:
            os.kill(os.getpid(), signal.SIGINT)

    # Whoever runs the tests in the background has Ctrl-C ignored, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Trainer.save_checkpoint = saving


if __name__ == "__main__":
    _serve()
