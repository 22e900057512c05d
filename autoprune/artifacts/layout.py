"""Where everything lies in a run folder, and what its files say they are."""

from __future__ import annotations

import re
from pathlib import Path

from autoprune.core.errors import InputError

RUN_SCHEMA = "autoprune.run/1"
RECIPE_SCHEMA = "autoprune.recipe/1"
METRICS_SCHEMA = "autoprune.metrics/1"
PROGRAM_SCHEMA = "autoprune.program/1"
RANKING_SCHEMA = "autoprune.ranking/1"

RUN = "run.json"
PROGRAM = "program.json"
INPUTS = "inputs.safetensors"
FRONT = "front.csv"
TRIALS = "trials.csv"
REPORT = "report.html"
RANKING = "ranking.json"
PREDICTION = "prediction.json"
MEMBERS = "members"

RECIPE = "policy.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.json"

DENSE = "dense"
"""The name of the row (and of the member folder, where there is one) of the model as it was trained."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: object) -> str:
    """A member's name, fit to be a folder's name on every system.

    Raises:
        InputError: not 1 to 100 letters, digits, dots, dashes or underscores, or it starts or ends with a dot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"member name: expected 1 to 100 letters, digits, '.', '-' or '_', a letter or digit first, got {name!r}."
        )
    return name


def member_folder(run: Path, name: str) -> Path:
    """The folder of one member. The name is checked, so it cannot lead out of the run.

    Raises:
        InputError: the name is not fit to be a folder's name.
    """
    return run / MEMBERS / check_name(name)


def check_run(run: Path) -> Path:
    """The run folder, if there is one.

    Raises:
        InputError: no such folder, or nothing of a run in it.
    """
    if not run.is_dir():
        raise InputError(f"run {run}: expected a run folder, got {'a file' if run.exists() else 'nothing there'}.")
    if not (run / RUN).is_file():
        raise InputError(
            f"run {run}: expected {RUN} in it, got none. Is this the folder that `autoprune search` wrote?"
        )
    return run
