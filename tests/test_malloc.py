"""Freed memory stays with the process, where the C library is glibc."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import torch
from lightning_nas.jobs.malloc import keep_freed_memory

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

told = keep_freed_memory() if sys.argv[1] == "kept" else None
before = resident_bytes()
torch.ones(2**26)  # 256 MiB, freed at once
print(told, (resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("name", "told", "stays"), [("kept", "True", True), ("returned", "None", False)])
def test_a_freed_tensor_stays_in_memory(name, told, stays):
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, megabytes = done.stdout.split()
    assert said == told
    assert (int(megabytes) > 200) == stays


def test_another_c_library_is_left_alone(monkeypatch):
    from lightning_nas.jobs.malloc import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
