"""Whether runs survive: kills, lost machines, cut files, full disks; and what many workers bring.

    python benchmarks/survival.py --out survival.json
    python benchmarks/survival.py --parts driver-kills journal --kills 10

| part | what is done | what has to hold |
|---|---|---|
| `driver-kills` | the driver of a whole run killed with -9 at random moments, one worker, then two | the front of a run that was left alone, byte by byte; every trial once |
| `worker-kills`, `ray-kills` | worker processes, Ray's actors killed with -9 during a search | the trials of a search that was left alone; nothing lost, nothing twice but what was in hand |
| `nodes` | nodes of a Ray cluster removed and added, during a search and during fine-tuning | the same |
| `journal` | the journal cut at every byte of its last three records | it opens, and loses at most the record being written |
| `disk-full`, `disk-full-tuning` | no room in the middle of a trial; for a checkpoint | a message, exit status 1, and it goes on when there is room |
| `scaling` | 1, 2, 8, 32 workers and a cluster of four nodes, evaluations that sleep | 0.9 of linear at 8 workers; the driver under 10 % of a core at 50 trials a second |

Exit status 1 where something does not hold.
"""  # noqa: E501 - a table

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.files import write_json

if TYPE_CHECKING:
    from benchmarks.survival_part import Finding, Options

PARTS = (
    "driver-kills", "worker-kills", "ray-kills", "nodes", "journal", "disk-full", "disk-full-tuning", "scaling",
)  # fmt: skip


def run_part(name: str, options: Options) -> list[Finding]:
    """The findings of one part."""
    from benchmarks import survival_files, survival_kills, survival_nodes, survival_scaling

    def both(options: Options) -> list[Finding]:
        whole = survival_kills.left_alone(options)
        return [finding for workers in (1, 2) for finding in survival_kills.driver_kills(options, workers, *whole)]

    parts: dict[str, Callable[[Options], list[Finding]]] = {
        "driver-kills": both,
        "worker-kills": survival_kills.worker_kills,
        "ray-kills": survival_kills.ray_kills,
        "nodes": survival_nodes.nodes,
        "journal": survival_files.journal,
        "disk-full": survival_files.disk_full,
        "disk-full-tuning": survival_files.full_while_tuning,
        "scaling": survival_scaling.scaling,
    }
    return parts[name](options)


def main() -> int:
    """Run it; see the module's docstring."""
    from benchmarks.survival_part import Options

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=0.2, help="that a simulated evaluation takes")
    parser.add_argument("--rounds", type=int, default=80, help="evaluations a worker of the scaling part")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8, 32], help="of the scaling part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/survival.json"))
    given = parser.parse_args()
    found: list[Finding] = []
    for name in given.parts:
        with tempfile.TemporaryDirectory(prefix="autoprune-survival-") as folder:
            options = Options(given.kills, given.seconds, given.rounds, tuple(given.workers), Path(folder), given.seed)
            start = time.monotonic()
            rows = run_part(name, options)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        for row in rows:
            wanted = f" (wanted: {row.wanted})" if row.wanted else ""
            print(f"  {'' if row.met else 'MISSED '}{row.part}: {row.what}: {row.value}{wanted}", flush=True)
        found += rows
    data = {
        "findings": [asdict(row) for row in found],
        "met": all(row.met for row in found),
        "kills": given.kills,
        "cores": os.cpu_count(),
    }
    write_json(given.out, data)
    return 0 if data["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
