"""Thirty kills and two full disks for a recipe of each family: hours on a busy machine, so only where asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak


@pytest.mark.skipif(
    "SOAK" not in os.environ, reason="it takes minutes a family: SOAK=SEED pytest tests/test_soak.py -s"
)
@pytest.mark.parametrize("family", soak.FAMILIES)
def test_whatever_befalls_a_run_its_result_is_that_of_one_without_trouble(family):
    script = Path(soak.__file__)
    done = subprocess.run([sys.executable, str(script), family, os.environ["SOAK"]], check=False)
    assert done.returncode == 0
