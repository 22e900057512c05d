"""Imports point one way, and heavy packages stay behind their doors (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autoprune"

# A module may import what has a smaller number, and its own room.
LEVEL = {
    "core": 0,
    "pareto": 1,
    "graph": 1,
    "pruning": 2,
    "hardware": 2,
    "tuning": 3,
    "search": 4,
    "artifacts": 5,
    "config": 5,
    "pipeline": 6,
    "callables": 6,
    "api": 7,
    "demo": 8,
    "cli": 9,
}
ONLY_IN = {
    "optuna": ("search/storage.py", "search/backend.py", "search/journal.py", "search/samplers/"),
    "ray": ("search/executors/ray.py", "tuning/"),
    "onnxruntime": ("hardware/runtimes/", "hardware/kit/far/", "artifacts/"),
    "plotly": ("artifacts/report/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in LEVEL)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "autoprune":
                yield from (f"autoprune.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    room = where.partition("/")[0].removesuffix(".py")
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "autoprune":
            other = rest.partition(".")[0]
            if other in LEVEL:
                assert other == room or LEVEL[other] < LEVEL[room], f"{where} imports {name}"
        elif top in ONLY_IN:
            assert where.startswith(ONLY_IN[top]), f"{where} imports {name}"
        if room in ("core", "pareto"):
            assert top != "torch", f"{where} imports torch"
