"""`autoprune inspect`: what of a model can be pruned, what cannot and why, and what that can gain."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.output import Json, emit_json, plain

Model = Annotated[str, typer.Option("--model", help="module:callable returning a trained nn.Module, or a .pt2 file.")]
Inputs = Annotated[
    list[str], typer.Option("--input", help="Shape of an input, such as 1,3,224,224 or 1,128:int64; in order.")
]


def inspect(
    model: Model,
    inputs: Inputs,
    profiles: Annotated[
        list[str] | None, typer.Option("--profile", help="A hardware profile; may be given again.")
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="Search space: a shipped name (cnn, transformer, llm, depth), a YAML file, or auto: transformer where "
            "the model has attention heads, else cnn.",
        ),
    ] = "auto",
    everything: Annotated[
        bool, typer.Option("--all", help="Every group by itself, and every frozen dimension; nothing is folded.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a model's dependency groups, what is frozen and why, and the reduction and speed-up in reach.

    Groups stand in a tree of module names, blocks that are alike folded into one line. Each has its unit, its size, the
    fewest units of the search space, and the parameters and MACs that go with its units.
    """
    from autoprune import api
    from autoprune.callables import example_inputs, load_model

    found = api.inspect(load_model(model, Path.cwd()), example_inputs(inputs), profiles=profiles or [], space=space)
    if as_json:
        emit_json(found.to_data())
    else:
        plain(found.summary(everything, shutil.get_terminal_size((100, 24)).columns))
