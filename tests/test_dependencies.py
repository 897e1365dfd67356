"""Dependencies: whatever the package imports is declared, by itself or by an extra."""

import ast
import re
import sys
from pathlib import Path

import lightning_nas

PACKAGE = Path(lightning_nas.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
# What is imported by another name than it is installed by.
NAMES = {
    "PIL": "pillow",
    "ethosu": "ethos-u-vela",
    "faster_coco_eval": "faster-coco-eval",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
    "zigzag": "zigzag-dse",
}


def imported():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.split(".")[0]


def test_what_is_imported_is_declared():
    declared = set(re.findall(r'"([A-Za-z][\w.-]*)[<>=]=', PYPROJECT.read_text(encoding="utf-8")))
    foreign = set(imported()) - set(sys.stdlib_module_names) - {"lightning_nas"}
    assert {NAMES.get(name, name) for name in foreign} <= declared


def test_hints_install_packages_by_their_own_names_as_the_extras_ask_for_them():
    # The package itself may be on no index.
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert "lightning-nas[" not in sources
    declared = set(re.findall(r'"([\w.-]+[<>=]=[^";]+)', PYPROJECT.read_text(encoding="utf-8")))
    named = set(re.findall(r"'([\w.-]+[<>=]=[\w.*]+)'", sources))
    assert {"ethos-u-vela==5.2.*", "onnx>=1.16", "optuna>=4.5", "zigzag-dse==3.9.*"} <= named <= declared
