"""The rooms of the package: which there are, and that none imports one above it."""

import ast
from pathlib import Path

import pytest

import lightning_nas

MOST_ARROWS = 40
PACKAGE = Path(lightning_nas.__file__).parent
# From the top down: a room may import those behind it alone.
ROOMS = (
    "__main__",
    "jobs",
    "report",
    "multishot",
    "search",
    "budget",
    "training",
    "tasks",
    "supernet",
    "estimator",
    "space",
    "graph",
    "data",
    "io",
)


def imports(path):
    """Yield the modules of the package that a file imports, whether it does so at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if is_module(name) else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_module(name):
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def modules():
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] in {*ROOMS, "__main__.py"}]
    return {name_of(path): path for path in paths}


def test_each_module_is_in_a_room():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert not loose
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - {"conf", "recipes"} == {*ROOMS} - {"__main__"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_none_above_it(room):
    above = ROOMS[: ROOMS.index(room)]
    found = []
    for name, path in modules().items():
        if name.split(".")[0] == room:
            used = [other.split(".")[1] for other in imports(path) if other.startswith("lightning_nas.")]
            found += [(name, other) for other in used if other in above]
    assert not found


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    arrows = {}
    for name, path in known.items():
        used = {other.removeprefix("lightning_nas.") for other in imports(path) if other.startswith("lightning_nas.")}
        arrows[name] = used & known.keys() - {name}
    while ends := [name for name, used in arrows.items() if not used]:
        for end in ends:
            del arrows[end]
        arrows = {name: used - {*ends} for name, used in arrows.items()}
    assert not arrows


def test_few_rooms_import_each_other():
    pairs = set()
    for name, path in modules().items():
        room = name.split(".")[0]
        used = {other.split(".")[1] for other in imports(path) if other.startswith("lightning_nas.")}
        pairs |= {(room, other) for other in used if other in ROOMS and other != room}
    assert len(pairs) <= MOST_ARROWS
