"""Scripts of benchmarks run as their docstrings say: from anywhere, with the package installed alone."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPTS = sorted((TESTS / "benchmarks").glob("*.py"))


def imported(node):
    """Return the modules that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_the_helpers_of_the_tests(script):
    """pytest puts them on the path; a shell does not."""
    statements = ast.parse(script.read_text(encoding="utf-8")).body
    on_path = [
        node.lineno
        for node in statements
        if "sys.path" in ast.unparse(node) and isinstance(node, ast.Expr | ast.Assign)
    ]
    for node in statements:
        for name in imported(node):
            if (TESTS / f"{name}.py").exists() and not (script.parent / f"{name}.py").exists():
                assert min(on_path, default=node.lineno) < node.lineno, f"{script.name} imports {name} of tests/"
