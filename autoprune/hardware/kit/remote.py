"""Profile a device at the other end of a wire in one call: write a kit, run it there, import what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import which

from autoprune.core.errors import AutopruneError, InputError
from autoprune.hardware.cost import Graph
from autoprune.hardware.devices import Progress, open_device
from autoprune.hardware.devices.process import watched
from autoprune.hardware.kit.importing import Asked, import_kit
from autoprune.hardware.kit.planning import KitSettings
from autoprune.hardware.kit.tools import Tool, tool_for
from autoprune.hardware.kit.writing import write_kit
from autoprune.hardware.profile import HardwareProfile


def profile_remote(
    device: str,
    graph: Graph,
    folder: Path,
    settings: KitSettings | None = None,
    *,
    widths: Mapping[str, Sequence[int]] | None = None,
    asked: Asked | None = None,
    progress: Progress | None = None,
) -> HardwareProfile:
    """Measure a profile for a model on another machine.

    The kit stays in its folder, with its logs: the same call again goes on where this one was cut off, and runs nothing
    twice.

    Args:
        device: as on the command line, such as "ssh:user@host:port" (see `open_device`).
        graph: the traced model.
        folder: of the kit; new, or of an earlier call with the same model and settings.
        settings: what is timed, and how.
        widths: allowed widths by group; without, eight even steps of every group.
        asked: name and description of the profile.
        progress: called with ("kit", done, total).

    Raises:
        InputError: an unknown device or runtime, no program here that makes the tool's model files, a folder of
            something else, or times that are none.
        AutopruneError: the device cannot be reached or the kit does not run there; the message says what to look at.
    """
    tool = _tool(settings or KitSettings())
    far = open_device(device)
    far.describe()  # before the kit is written: a device that cannot be reached is told at once
    write_kit(graph, folder, settings, widths=widths, progress=progress)
    _convert(folder, tool)
    failure = far.run_kit(folder, progress)
    if failure is not None:
        raise AutopruneError(f"profile run: {failure}. The same command again goes on where it was.")
    given = asked or Asked()
    usual = "mobile" if device.partition(":")[0] == "android" else None
    return import_kit(folder, replace(given, kind=given.kind or usual))


def _tool(settings: KitSettings) -> Tool:
    """The tool, with its converter at hand."""
    tool = tool_for(settings.runtime, settings.precision)
    if tool.converter and which(tool.converter) is None:
        raise InputError(
            f"profile run: expected the program '{tool.converter}' on this machine, which makes the model files that "
            f"{tool.program} reads, found none. Install it, or write a kit with `autoprune profile kit` and convert it "
            "where it is."
        )
    return tool


def _convert(folder: Path, tool: Tool) -> None:
    if tool.converter:
        ended = watched(["sh", "run.sh", "convert"], folder=folder)
        if ended.status != 0:
            raise AutopruneError(f"profile run: {tool.converter} could not convert the kit in {folder}: {ended.said}")
