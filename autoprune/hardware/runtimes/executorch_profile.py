"""Times of the operations of an ExecuTorch program, from the event trace that its runtime keeps (ETDump)."""

from __future__ import annotations

import difflib
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.graph.program import Program
from autoprune.hardware.runtimes import Floats
from autoprune.hardware.runtimes.executorch_program import Call, Lowered, Step, quiet
from autoprune.hardware.runtimes.nodes import NOBODY

_WHOLE, _PART, _PORTABLE = "Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"
_HALF_US = 0.5  # XNNPACK gives whole microseconds, rounded down
_EXACT = (_PORTABLE, "Static Reshape")  # what takes no time, and what ExecuTorch times itself
Event = tuple[str, float]  # name, microseconds


class Traced:
    """A program whose runs are traced; a `Runner`.

    Args:
        bindings: ExecuTorch's.
        data: the program.
        inputs: in place.
    """

    def __init__(self, bindings: Any, data: bytes, inputs: tuple[torch.Tensor, ...]) -> None:
        with quiet():
            self._module = bindings._load_for_executorch_from_buffer(data, enable_etdump=True)
        self._data, self._inputs = data, inputs  # the module keeps neither

    def run_us(self, count: int) -> Floats:
        """Run `count` times; the time of each.  # (count,)"""
        marks = [time.perf_counter_ns()]
        for _ in range(count):
            self._module.forward(self._inputs, clone_outputs=False)
            marks.append(time.perf_counter_ns())
        return np.diff(np.array(marks, dtype=np.int64)).astype(np.float64) / 1e3

    def events(self) -> list[list[Event]]:
        """What each run did since the program was loaded, in order."""
        with quiet(), tempfile.TemporaryDirectory() as folder:
            from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

            path = Path(folder) / "trace.etdp"
            self._module.write_etdump_result_to_file(str(path))
            runs = deserialize_from_etdump_flatcc(path.read_bytes()).run_data
        found = [[_event(event.profile_event) for event in run.events or () if event.profile_event] for run in runs]
        return [run for run in found if run and run[-1][0] == _WHOLE]


def _event(event: Any) -> Event:
    return event.delegate_debug_id_str or event.name or "", (event.end_time - event.start_time) / 1e3


def operation_times(
    lowered: Lowered, runs: Sequence[Sequence[Event]], program: Program, places: Mapping[str, int]
) -> dict[str, Floats]:
    """Time of each operation in each run.  # (n_runs,)

    An operator that came of no operation with a kernel, such as a change of layout, counts for the next one that did.

    Args:
        lowered: the program.
        runs: its events, as `Traced.events` gives them.
        program: what was lowered.
        places: the operations that have kernels.
    """
    sources = _operations(lowered, program)
    owners = _owners(lowered.calls, runs[0], {name: one for name, one in sources.items() if one in places})
    times = np.array([[own for _, own in run] for run in runs], dtype=np.float64)  # (n_runs, n_events)
    found: dict[str, Floats] = {}
    for place, owner in enumerate(owners):
        if owner is not None:
            own = times[:, place] + (0.0 if runs[0][place][0].startswith(_EXACT) else _HALF_US)
            found[owner] = found[owner] + own if owner in found else own
    found.pop(NOBODY, None)
    return found


def _operations(lowered: Lowered, program: Program) -> dict[str, str]:
    """Exported node -> the operation that it is: both lists are in order, each with some that the other has not."""
    operations = [operation for operation in program.operations if operation.kind]
    targets = [operation.target for operation in operations]
    matcher = difflib.SequenceMatcher(None, targets, [target for _, target in lowered.exported], autojunk=False)
    return {
        lowered.exported[block.b + step][0]: operations[block.a + step].name
        for block in matcher.get_matching_blocks()
        for step in range(block.size)
    }


def _owners(calls: Sequence[Call], events: Sequence[Event], sources: Mapping[str, str]) -> list[str | None]:
    """The operation of each event of a run; None for events that others are inside of."""
    steps: list[Step | None] = [None] * len(events)
    waiting = list(calls)
    inside: list[int] = []  # events of the delegated part that is yet to end
    for place, (name, _) in enumerate(events):
        if name == _PART:
            call = _next(waiting, "")
            found = _aligned([events[one][0] for one in inside], call.steps if call else ())
            for one, step in zip(inside, found, strict=True):
                steps[one] = step
            inside = []
        elif name == _PORTABLE:
            kind = events[place - 1][0].removeprefix("native_call_").partition(".")[0]
            call = _next(waiting, kind)
            steps[place] = call.steps[0] if call else Step(kind, "")
        elif not name.startswith("native_call_") and name != _WHOLE:
            inside.append(place)
    return _filled(steps, sources)


def _next(waiting: list[Call], kind: str) -> Call | None:
    """The next call of that operator, or the next part where empty; views before it, which nothing runs, go."""
    for place, call in enumerate(waiting):
        if call.delegated != bool(kind) and (call.delegated or kind in call.steps[0].kind.split(".")):
            del waiting[: place + 1]
            return call
    return None


def _filled(steps: Sequence[Step | None], sources: Mapping[str, str]) -> list[str | None]:
    owners = [None if step is None else sources.get(step.source, NOBODY) for step in steps]
    following = NOBODY
    for place in reversed(range(len(owners))):
        if owners[place] == NOBODY:
            owners[place] = following
        following = owners[place] or following
    before = NOBODY
    for place, owner in enumerate(owners):  # at the end nothing follows
        if owner == NOBODY:
            owners[place] = before
        before = owners[place] or before
    return owners


def _aligned(names: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """The step that each operator of a delegate is: in order, where XNNPACK has left some out or split some.

    Of all ways to pair them in order, one with the most pairs whose names begin alike.
    """
    if len(names) == len(steps):
        return list(steps)
    alike = [[3 if _begins(name) == _begins(step.kind) else 1 for step in steps] for name in names]
    best = [[0] * (len(steps) + 1) for _ in range(len(names) + 1)]
    for i in reversed(range(len(names))):
        for j in reversed(range(len(steps))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], alike[i][j] + best[i + 1][j + 1])
    found, i, j = [], 0, 0
    last = steps[0] if steps else Step("", "")
    while i < len(names):
        if j < len(steps) and best[i][j] == best[i][j + 1]:
            j += 1
        elif j < len(steps) and best[i][j] == alike[i][j] + best[i + 1][j + 1]:
            last = steps[j]
            found.append(last)
            i, j = i + 1, j + 1
        else:  # one more operator of the step before
            found.append(last)
            i += 1
    return found


def _begins(name: str) -> str:
    """`XNNStaticReshape`, `Static Reshape (NC) #1` -> `res`."""
    letters = re.sub(r"[^a-z]", "", name.lower().removeprefix("xnn"))
    return letters.removeprefix("static")[:3]
