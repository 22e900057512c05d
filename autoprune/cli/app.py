"""The `autoprune` command: its sub-commands put together, and every error turned into a message and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from autoprune import __version__
from autoprune.cli import demo, front, inspect, profile, search
from autoprune.cli.output import errors, note, plain
from autoprune.core.errors import AutopruneError, shortened

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
MAX_LINE = 20_000  # characters of a message

app = typer.Typer(
    name="autoprune",
    help="A trained PyTorch model in, a Pareto front of pruned, fine-tuned, deployable models out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("inspect", short_help="What can be pruned, what cannot and why, and what it gains.")(inspect.inspect)
app.command("search", short_help="Search for pruned models; again to resume.")(search.search)
app.command("front", short_help="Show the Pareto front of a run.")(front.front)
app.command("select", short_help="Select the member to deploy.")(front.select)
app.command("export", short_help="Write a member's model in deployable formats.")(front.export)
app.command("report", short_help="Write a run's HTML report anew.")(front.report)
app.command("demo", short_help="The whole road on real data, in minutes.")(demo.demo)
app.add_typer(profile.app, name="profile")


def _version(wanted: bool) -> None:
    if wanted:
        plain(f"autoprune {__version__}")
        raise typer.Exit()


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, to stderr.")] = False,
) -> None:
    if verbose:
        from rich.logging import RichHandler

        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=errors())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="autoprune", standalone_mode=False)
    except TyperException as error:
        return _misused(error)
    except AutopruneError as error:
        if os.environ.get("AUTOPRUNE_TRACEBACK") == "1":
            raise
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:
        return _say("interrupted; start the same command again to resume", INTERRUPTED, "stopped")
    return status if isinstance(status, int) else DONE


def _misused(error: TyperException) -> int:
    """Wrong usage: the message and which help to read; the help itself where no arguments were given."""
    message = error.format_message()
    if message.startswith("Usage:"):
        note(message)
        return USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "autoprune"
    return _say(f"{message.rstrip('.')}. See '{command} --help'.", USAGE)


def _say(message: str, status: int, word: str = "error") -> int:
    # What a file says may stand in it: nothing that a terminal obeys.
    note("\n".join(shortened(line, MAX_LINE) for line in f"{word}: {message}".split("\n")))
    return status
