"""What every test runs under: one thread a process (two cores are shared), no deadline on drawn examples."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

# The same examples each time in CI, where a new one would blame the wrong change; fresh ones everywhere else.
hypothesis.settings.register_profile("autoprune", deadline=None, print_blob=True, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("autoprune")

# Ray asks its home whether somebody reads the report; tests talk to nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; tests of interrupts need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first: of processes that share the files, none is alone with one of those at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def measured_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the model in `tests/project.py`, measured on this machine through the command line."""
    from autoprune.cli.app import run
    from tests.project import make_project

    project = make_project(tmp_path_factory.mktemp("profiled"), "user_project_profiled")
    sys.path.insert(0, str(project.folder))
    try:
        what = ["--model", "user_project_profiled:model", "--input", "1,1,16,16", "--budget", "3s"]
        assert run(["profile", "run", *what, "--output", str(project.folder), "--name", "profile"]) == 0
    finally:
        sys.path.remove(str(project.folder))
    return project.folder / "profile"
