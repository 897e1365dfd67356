"""Classes that timm keeps in a private module: seen in the version named here, and imported in one place."""

import inspect
from pathlib import Path

import pytest
import timm

import lightning_nas
from lightning_nas.supernet import timm_blocks

SEEN_IN = "1.0"


@pytest.mark.parametrize("name", ["DepthwiseSeparableConv", "EdgeResidual", "InvertedResidual"])
def test_the_blocks_are_where_they_were_seen(name):
    assert timm.__version__.startswith(SEEN_IN), f"look at timm {timm.__version__}, and name it here"
    block = getattr(timm_blocks, name)
    assert {"in_chs", "out_chs", "stride"} <= inspect.signature(block).parameters.keys()
    assert hasattr(block(8, 8), "has_skip")


def test_one_module_imports_them():
    package = Path(lightning_nas.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "_efficientnet_blocks" in path.read_text(encoding="utf-8")]
    assert found == ["timm_blocks.py"]
