"""`autoprune demo`: the whole road on real data, in under three minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.output import Json, cell, note, progress
from autoprune.cli.search import show_front


def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder of the run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of training and search.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a CNN on MNIST, profile this machine for it, search 100 policies, fine-tune six and measure them."""
    from autoprune import demo as road

    with progress() as report:
        front = road.run(run, seed=seed, progress=report)
    show_front(front, as_json)
    for points in (1.0, 3.0):
        member = road.best_within(front, points)
        if member is not None:
            faster = cell("speedup", member.metrics.get("speedup"))
            what = f"within {points:.1f} points of the dense model's test accuracy"
            note(f"{what}: {member.name}, measured {faster} faster")
