"""Who imports whom: no circle, also where a function imports. The floors are checked by import-linter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import voxweft

ROOT = Path(voxweft.__file__).parent


def modules() -> dict[str, Path]:
    """All modules of the package by their names."""
    names = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(tree: ast.AST) -> Iterator[str]:
    """The names that a module imports anywhere, but for those that only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from imported(node)


def graph() -> dict[str, set[str]]:
    """Every module and those that it imports."""
    known = modules()

    def module_of(name: str) -> str | None:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name or None

    found = {}
    for module, path in known.items():
        targets = {module_of(name) for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        found[module] = {target for target in targets if target and target != module}
    return found


def test_there_is_no_circle() -> None:
    found = graph()
    assert len(found) > 100
    assert found["voxweft.engine.sweep"] >= {"voxweft.engine.weave", "voxweft.geometry.box"}
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None
