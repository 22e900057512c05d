"""The command as a shell sees it: what it imports, where it writes, its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune import __all__ as public
from autoprune import __version__

HEAVY = ("torch", "ray", "optuna", "pandas", "onnx", "onnxruntime", "plotly", "fvcore")
COMMANDS = (
    "inspect",
    "search",
    "front",
    "select",
    "export",
    "report",
    "demo",
    "profile run",
    "profile check",
    "profile import",
    "profile list",
    "profile show",
)


def autoprune(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "autoprune", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def heavy_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    loaded = done.stdout.rpartition("LOADED ")[2]
    return [name for name in HEAVY if f"'{name}'" in loaded]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["profile", "list"], ["profile", "list", "--json"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_after(f"from autoprune.cli.app import run\nassert run({arguments!r}) == 0") == []


def test_the_package_imports_nothing_heavy() -> None:
    assert heavy_after("import autoprune; dir(autoprune); autoprune.__version__") == []


def test_public_names() -> None:
    import autoprune

    assert len(public) <= 12
    for name in public:
        assert getattr(autoprune, name) is getattr(autoprune, name)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        autoprune.serach  # noqa: B018


@pytest.mark.parametrize(
    "first",
    [
        "import autoprune.search.space",
        "from autoprune import load_profile",
        "import importlib; importlib.import_module('autoprune.search.space')",
    ],
)
def test_search_is_the_function_whatever_was_imported_before(first: str) -> None:
    heavy_after(f"{first}\nimport autoprune, inspect\nassert inspect.isfunction(autoprune.search), autoprune.search")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    done = autoprune(*command.split(), "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert done.stderr == ""


def test_version() -> None:
    assert autoprune("--version").stdout == f"autoprune {__version__}\n"


def test_no_arguments_show_help_as_wrong_usage() -> None:
    done = autoprune()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: autoprune")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serch"], "No such command"),
        (["front"], "Missing argument 'RUN'"),
        (["front", "--wehre"], "No such option: --wehre"),
        (["demo", "--seed", "-1"], "Invalid value for '--seed'"),
        (["demo", "--seed", "x"], "Invalid value for '--seed'"),
        (["front", "nowhere"], "run nowhere: expected a run folder"),
        (["select", "nowhere"], "run nowhere"),
        (["report", "nowhere"], "run nowhere"),
        (["export", "nowhere", "out"], "run nowhere"),
        (["export", "nowhere", "out", "--member", "a", "--where", "b"], "expected either --member or --where"),
        (["search", "nowhere.yaml"], "cannot read config nowhere.yaml"),
        (["profile", "show", "nowhere"], "unknown hardware profile 'nowhere'"),
        (["inspect", "--model", "nowhere:model", "--input", "1,2"], "expected a module 'nowhere'"),
        (["inspect", "--model", "nowhere", "--input", "1,2"], "expected 'package.module:callable'"),
        (["profile", "run", "--model", "json:loads", "--input", "1,2", "--budget", "soon"], "expected a time"),
    ],
)
def test_wrong_usage_is_one_message_and_status_2(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = autoprune(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_is_there_when_asked_for() -> None:
    done = autoprune("front", "nowhere", AUTOPRUNE_TRACEBACK="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m autoprune profile list --json | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_profile_list_is_json_when_asked_for() -> None:
    headers = json.loads(autoprune("profile", "list", "--json").stdout)
    assert isinstance(headers, list)
