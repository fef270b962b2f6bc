"""Figures of a source tree: long files and functions, options that exist twice, `Any`, examples of public names.

Run it as ``python scripts/figures.py src/voxweft``; nothing is imported, so that older trees can be counted too.
"""

from __future__ import annotations

import ast
import doctest
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONG_FILE, LONG_FUNCTION = 300, 50
Function = ast.FunctionDef | ast.AsyncFunctionDef


def types_of(function: Function) -> Iterator[ast.expr]:
    """Of all parameters, and of the result."""
    a = function.args
    for one in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))):
        if one.annotation:
            yield one.annotation
    if function.returns:
        yield function.returns


def options(tree: ast.Module) -> Iterator[str]:
    """Names of fields that are made with ``option(...)``, once a class."""
    for cls in ast.walk(tree):
        for field in cls.body if isinstance(cls, ast.ClassDef) else ():
            call = getattr(field, "value", None)
            if isinstance(field, ast.AnnAssign) and isinstance(call, ast.Call):
                name = getattr(call.func, "id", "")
                if name == "option" and isinstance(field.target, ast.Name):
                    yield field.target.id


def public_names(root: Path, trees: dict[Path, ast.Module]) -> dict[str, bool]:
    """The names that the package takes from its modules, and whether they, or their methods, have examples."""
    parser, found = doctest.DocTestParser(), {}
    for line in ast.walk(trees[root / "__init__.py"]):
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith(f"{root.name}."):
            home = root.joinpath(*(line.module or "").split(".")[1:])
            module = trees[home.with_suffix(".py") if home.with_suffix(".py") in trees else home / "__init__.py"]
            for name in (alias.name for alias in line.names if not alias.name.startswith("__")):
                nodes = [n for d in module.body if getattr(d, "name", "") == name for n in ast.walk(d)]
                texts = (ast.get_docstring(n) or "" for n in nodes if isinstance(n, Function | ast.ClassDef))
                found[name] = any(parser.get_examples(text) for text in texts)
    return found


def main(root: Path) -> None:
    """Print a table."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    long_files = {str(p.relative_to(root)): n for p, t in texts.items() if (n := len(t.splitlines())) > LONG_FILE}
    functions = [(p, f) for p, tree in trees.items() for f in ast.walk(tree) if isinstance(f, Function)]
    long_functions = {
        f"{p.relative_to(root)}:{f.name}": n
        for p, f in functions
        if (n := (f.end_lineno or f.lineno) - f.lineno + 1) > LONG_FUNCTION
    }
    twice = {n: k for n, k in Counter(name for tree in trees.values() for name in options(tree)).items() if k > 1}
    n_any = sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for _, f in functions
        for annotation in types_of(f)
        for node in ast.walk(annotation)
    )
    public = public_names(root, trees)
    print(f"files: {len(texts)}, lines: {sum(len(t.splitlines()) for t in texts.values())}")
    print(f"files over {LONG_FILE} lines: {len(long_files)} {long_files}")
    print(f"functions over {LONG_FUNCTION} lines: {len(long_functions)} {long_functions}")
    print(f"names of options that exist more than once: {len(twice)} {twice}")
    print(f"Any in signatures: {n_any}")
    lacking = sorted(n for n, has in public.items() if not has)
    print(f"public names with an example: {len(public) - len(lacking)} of {len(public)}; without: {', '.join(lacking)}")


main(Path(sys.argv[1] if len(sys.argv) > 1 else "src/voxweft"))
