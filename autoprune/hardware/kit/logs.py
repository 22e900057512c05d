"""The logs of a kit: each checked against the manifest, and read as times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.core.errors import InputError, shortened
from autoprune.hardware.kit.contents import Contents
from autoprune.hardware.kit.manifest import LOG_FILE, LOGS, Manifest
from autoprune.hardware.kit.tools import SessionTimes, Tool, tool_for

_HEAD = re.compile(r"#kit (?P<kit>\S+)\n#log (?P<log>\S+)\n#tool (?P<tool>[^\n]*)\n#unit (?P<unit>\S+)\n")
MOST_TOLD = 4  # versions that a message tells of
_END = re.compile(r"#end (\d+)\n?\Z")


@dataclass(frozen=True)
class Logs:
    """What the logs say.

    Attributes:
        times: log -> times of its model.
        refused: log -> why the tool did not run its model.
        tool: name and version of what ran them.
    """

    times: Mapping[str, SessionTimes]
    refused: Mapping[str, str]
    tool: str


def read_logs(contents: Contents, manifest: Manifest) -> Logs:
    """All logs of a kit.

    Raises:
        InputError: cut off, of another kit, of another version of the tool than the others, in another unit, with times
            that are not above zero, or not of this kit's order.
    """
    tool = tool_for(manifest.runtime)
    known = {log for log, _ in manifest.order}
    times: dict[str, SessionTimes] = {}
    refused: dict[str, str] = {}
    ran: dict[str, str] = {}  # tool and version -> a log of it
    for path in sorted(contents.texts):
        found = LOG_FILE.fullmatch(path)
        if found is None:
            continue
        place = f"kit {contents.place}, {path}"
        name, kind = found.groups()
        if name not in known:
            raise InputError(f"{place}: expected logs of the manifest's order, got '{name}'. Remove it.")
        version, lines = _checked(contents.texts[path], place, name, manifest, tool)
        ran.setdefault(version, path)
        if kind == "failed":
            refused[name] = " ".join(" ".join(lines).split())[-300:] or "no reason given"
            continue
        parsed = tool.parse(lines, place, manifest.protocol.warmup_runs)
        if parsed is None:
            raise InputError(
                f"{place}: expected what {tool.program} prints of its times, got none of it. Remove the log and run "
                "the kit again; it goes on where it was."
            )
        times[name] = parsed
    if len(ran) > 1:
        some = sorted(ran.items())[:MOST_TOLD]
        told = "; ".join(f"{shortened(version)} in {path}" for version, path in some)
        raise InputError(
            f"kit {contents.place}: expected logs of one version of the tool, got {told}. Remove {LOGS}/ and "
            "environment.txt and run the kit again."
        )
    refused = {name: why for name, why in refused.items() if name not in times}
    return Logs(times, refused, next(iter(ran), ""))


def _checked(text: str, place: str, name: str, manifest: Manifest, tool: Tool) -> tuple[str, list[str]]:
    """The version of the tool, and the lines that it printed."""
    head = _HEAD.match(text)
    end = _END.search(text)
    if head is None or end is None:
        raise InputError(
            f"{place}: expected a whole log, from '#kit' to '#end', got one that is cut off. Copy it again, or remove "
            "it and run the kit again; it goes on where it was."
        )
    if head["kit"] != manifest.id or head["log"] != name:
        raise InputError(
            f"{place}: expected the log '{name}' of the kit {manifest.id}, got '{head['log'][:64]}' of "
            f"{head['kit'][:32]}. Do not mix the logs of several kits."
        )
    if head["unit"] != tool.unit:
        raise InputError(
            f"{place}: expected times in {tool.unit}, got {head['unit'][:16]!r}. Logs are read as {tool.program} "
            "writes them; remove the log and run the kit again."
        )
    return head["tool"].strip()[:120], text[head.end() : end.start()].splitlines()
