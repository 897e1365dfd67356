"""Figures of the code: how long functions are, how many parameters they take, what is annotated and documented."""

import ast
import io
import tokenize
from pathlib import Path

import lightning_nas

PACKAGE = Path(lightning_nas.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
MAX_FUNCTION, MAX_PARAMETERS = 60, 8
MAX_FILE, MAX_METHODS, MAX_ANY, MAX_IGNORES = 450, 20, 40, 3
LONG_FUNCTIONS: set[str] = set()
# Lightning keeps a module's arguments in its checkpoints, and makes the module of them again: plain ones, one by one.
LONG_SIGNATURES = LONG_FUNCTIONS | {
    "tasks/classification.py:__init__",
    "tasks/detection.py:__init__",
    "tasks/segmentation.py:__init__",
}


def nodes(kinds):
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield path.relative_to(PACKAGE), node


def length(function):
    """Return the lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    is_documented = isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant)
    return lines - (first.end_lineno - first.lineno + 1 if is_documented else 0)


def parameters(function):
    given = function.args
    return [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs) if arg.arg not in ("self", "cls")]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_functions_are_short():
    assert {f"{path}:{node.name}" for path, node in nodes(FUNCTIONS) if length(node) > MAX_FUNCTION} <= LONG_FUNCTIONS


def test_functions_take_few_parameters():
    counts = {f"{path}:{node.name}:{len(parameters(node))}" for path, node in nodes(FUNCTIONS)}
    found = {one for one in counts if int(one.rpartition(":")[2]) > MAX_PARAMETERS}
    assert {one.rpartition(":")[0] for one in found} <= LONG_SIGNATURES


def test_classes_have_few_methods():
    counts = {
        f"{path}:{node.name}": sum(isinstance(item, FUNCTIONS) for item in node.body)
        for path, node in nodes(ast.ClassDef)
    }
    assert not {name: count for name, count in counts.items() if count > MAX_METHODS}


def test_files_are_short():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > MAX_FILE}


def public(tree):
    """Yield public functions and classes of a file, and public methods of those classes."""
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def test_what_is_public_is_documented():
    missing = []
    for path in FILES:
        for node in public(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = {getattr(one, "id", getattr(one, "attr", "")) for one in node.decorator_list}
            if ast.get_docstring(node) is None and not decorators & {"override", "overload"}:
                missing.append(f"{path.relative_to(PACKAGE)}:{node.name}")
    assert not missing


def test_types_are_said():
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    names = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME]
    assert names.count("Any") - text.count("import Any") <= MAX_ANY
    assert text.count("type: ignore") <= MAX_IGNORES


def test_module_docstrings_begin_with_the_thing():
    questions = ("What", "How", "Which", "Whether", "Who", "Where", "When", "Why")
    texts = {str(path.relative_to(PACKAGE)): ast.get_docstring(ast.parse(path.read_text())) for path in FILES}
    assert not [name for name, text in texts.items() if text and text.split()[0] in questions]
