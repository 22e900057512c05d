"""Ray's cluster of several nodes on this machine: nodes removed and added during a search and during fine-tuning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from autoprune.search.executors import ExecutorSettings, open_executor
from autoprune.search.executors.pool import MOST_AT_ONCE
from autoprune.search.study import Progress
from benchmarks.survival_part import Finding, Options, checks, evaluated, problem, searched

NAP_S = 0.1
ATTEMPTS = 5
HERE: dict[str, Any] = {"include_dashboard": False}


class Nodes:
    """A cluster whose first node only carries the driver, so that all others can go.

    Args:
        count: of further nodes.
        cpus: of each.
    """

    def __init__(self, count: int, cpus: int) -> None:
        from autoprune.search.executors.ray import on_this_machine_only

        self._stack = ExitStack()
        self._stack.enter_context(on_this_machine_only())
        from ray.cluster_utils import Cluster

        self._cpus = cpus
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **HERE})
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        """For `ray.init`."""
        return str(self._cluster.address)

    @property
    def count(self) -> int:
        """Of the nodes at the moment, the first left out."""
        return len(self._nodes)

    def add(self) -> None:
        """One more node. Ray gives each 30 s to start, which a busy machine may not keep."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._nodes.append(self._cluster.add_node(num_cpus=self._cpus, **HERE))
                return
            except Exception:  # Ray raises just that
                if attempt == ATTEMPTS:
                    raise

    def remove(self) -> None:
        """Kill the oldest node with all its processes, as a machine that is switched off."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def close(self) -> None:
        """Stop them all."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
        self._stack.close()


@contextmanager
def cluster(count: int, cpus: int) -> Iterator[Nodes]:
    """A cluster, stopped in the end."""
    nodes = Nodes(count, cpus)
    try:
        yield nodes
    finally:
        import ray

        ray.shutdown()
        nodes.close()


def nodes(options: Options) -> list[Finding]:
    """Nodes come and go during a search, then during fine-tuning."""
    with cluster(3, 1) as running:
        return [*searching(options, running), *finetuning(options, running)]


def searching(options: Options, running: Nodes, changes: int = 6) -> list[Finding]:
    """As many workers as nodes; one is removed at a tenth of the trials, one added at two tenths, and so on."""
    part, trials = "nodes, search", 40 + 2 * options.kills
    log = options.folder / "nodes.log"
    expected = searched(problem(), options.folder / "nodes-expected", trials)
    given = problem(log, NAP_S)
    changed = 0

    def change(progress: Progress) -> None:
        nonlocal changed
        if progress.done >= trials * (changed + 1) / 10 and changed < changes:
            (running.add if changed % 2 else running.remove)()
            changed += 1

    settings = ExecutorSettings("ray", workers=running.count, address=running.address)
    with open_executor(given.evaluator, settings) as executor:
        found = searched(given, options.folder / "nodes", trials, executor, change)
    held = checks(part, found, expected, evaluated(log), changed, MOST_AT_ONCE)  # a node has one worker
    return [Finding(part, "nodes removed and added", changed), *held]


def finetuning(options: Options, running: Nodes) -> list[Finding]:
    """A whole run with a worker a node, of which one is lost once a checkpoint is written, and another comes."""
    from benchmarks.survival_driver import run

    part = "nodes, fine-tuning"
    changes = {**options.changes, "finetune": {"members": 3, "epochs": 12}}
    expected = run(options.folder / "finetune-expected", {"kind": "local", "workers": 1}, **changes)
    folder = options.folder / "finetune"
    lost = _once_there(folder / "tuned", running)
    added = False

    def replace(stage: str, finished: int, total: int) -> None:
        nonlocal added  # here, as Ray starts nodes in the main thread only
        if stage == "fine-tune members" and lost() and not added:
            added = True
            running.add()

    settings = {"kind": "ray", "workers": running.count, "address": running.address}
    found = run(folder, settings, progress=replace, **changes)
    removed = lost() and added
    same = (found.run / "front.csv").read_bytes() == (expected.run / "front.csv").read_bytes()
    return [
        Finding(part, "node removed and another added, with a checkpoint there", "yes" if removed else "NO", "yes",
                removed),
        Finding(part, "front.csv as without, byte by byte", "yes" if same else "NO", "yes", same),
        Finding(part, "checkpoints left", len(list(folder.glob("tuned/*.checkpoint"))), "0",
                not list(folder.glob("tuned/*.checkpoint"))),
    ]  # fmt: skip


def _once_there(folder: Path, running: Nodes) -> Callable[[], bool]:
    """Watch for the first checkpoint, then take a node away; whether that happened, when called."""
    changed = threading.Event()

    def watch() -> None:
        while True:
            if list(folder.glob("*.checkpoint")):
                running.remove()
                changed.set()
                return
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()

    return changed.is_set
