"""Which architectures are pruned, how much of each, and how fast, beside Torch-Pruning on the same models.

    python benchmarks/coverage.py --out runs/coverage.json
    python benchmarks/coverage.py --only timm/vit_small_patch16_224 --again
    python benchmarks/coverage_docs.py runs/coverage.json docs/coverage.md

Needs the extra `coverage` (torchvision, timm, transformers, torch-pruning). Weights are random, configurations small
where the family allows; nothing is downloaded. Every model runs in a process of its own, with limits of time and
memory, so that one that hangs or crashes loses its own row. Rows are written as they come: a second call goes on where
the first stopped.

A row: seconds of torch.export and of the analysis after it; operators and groups; `share`, parameters with a prunable
dimension; `main`, of the weights of convolutions and matrix products the share whose input and output width may both
shrink (a model's main widths are prunable where it is above one half); three random policies (all groups; heads and
residual widths; removed blocks), sliced, run and compared with the zeroed-columns oracle, in float64 with a tolerance
of 1e-7 of the largest output (float32 and 1e-3 where an operator refuses float64); one training step; ONNX and pt2 of
the model at half its widths, outputs compared; the user's class at these sizes, or why not; milliseconds from a policy
to its model, half the units kept as l1 ranks them (views of weights that were put in that order once; `owned`: every
tensor copied, ready to train); and
Torch-Pruning at the same ratio: whether it gives a smaller model that runs, and how many times longer it takes from
policy to model (its dependency graph and pruning step; its deep copy of the model left out).

Exit status 1 where a figure of the summary is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

import torch

from autoprune.core.errors import AutopruneError, InputError, unknown_name
from autoprune.core.files import read_json, write_json
from benchmarks.coverage_row import Row, Settings, measure
from benchmarks.coverage_summary import SCHEMA, figures, handled, ratio
from benchmarks.coverage_text import first_line
from benchmarks.coverage_zoo import FAMILIES, Entry, entries

PRELOADED = ("torch", "torch.export", "torch._dynamo", "sympy", "onnxruntime", "benchmarks.coverage_row")


def main() -> int:
    """Run it; see the module's docstring."""
    options = _options()
    try:
        chosen = _chosen(options)
        _require(sorted({entry.family for entry in chosen}), peer=options.peer_limit > 0)
        document = _document(options)
    except AutopruneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows: dict[str, Row] = document["rows"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *{entry.family for entry in chosen}, "torch_pruning"])
    settings = Settings(options.seed, options.repeats, options.peer_limit)
    print(HEADER)
    for number, entry in enumerate(chosen, start=1):
        if entry.name not in rows or options.again:
            rows[entry.name] = _guarded(context, entry, settings, options)
            write_json(options.out, document)
        print(f"{line(rows[entry.name])}  {number}/{len(chosen)}", flush=True)
    known = entries()
    found = figures([row for name, row in rows.items() if name in known])
    document["summary"] = [asdict(figure) for figure in found]
    write_json(options.out, document)
    for figure in found:
        value = "-" if figure.value is None else f"{figure.value:.4g}"
        verdict = "" if figure.met is None else "met" if figure.met else "MISSED"
        print(f"{figure.name:60} {value:>10}  {figure.asked:16} {verdict}")
    return 0 if all(figure.met is not False for figure in found) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these models (see --list)")
    parser.add_argument("--family", nargs="*", choices=FAMILIES, default=[], help="models of these libraries")
    parser.add_argument("--again", action="store_true", help="anew, where the file has the row already")
    parser.add_argument("--list", action="store_true", help="names of all models, and leave")
    parser.add_argument("--out", type=Path, default=Path("runs/coverage.json"), help="rows and summary as JSON")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a model")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of address space a model")
    parser.add_argument("--peer-limit", type=float, default=60.0, help="seconds for Torch-Pruning; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=9, help="timed repetitions from a policy to its model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.list:
        print("\n".join(entries()))
        raise SystemExit(0)
    return options


def _chosen(options: argparse.Namespace) -> list[Entry]:
    known = entries()
    for name in options.only:
        if name not in known:
            raise unknown_name("model", name, known)
    wanted = [entry for entry in known.values() if not options.only or entry.name in options.only]
    return [entry for entry in wanted if not options.family or entry.family in options.family]


def _require(families: list[str], peer: bool) -> None:
    needed = [*families, *(["torch_pruning"] if peer else [])]
    missing = [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"coverage: needs {', '.join(missing)}, not installed here. Run `pip install 'autoprune[coverage]'`, or "
            "choose models with --family and leave the comparison out with --peer-limit 0."
        )


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """The file's content so far, its rows by name; an empty one where there is no file."""
    environment = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": options.threads,
        "versions": {name: _version(name) for name in ("torchvision", "timm", "transformers", "torch-pruning")},
    }
    rows: dict[str, Row] = {}
    if options.out.exists():
        rows = read_json(options.out, "coverage", SCHEMA)["rows"]
    return {"schema": SCHEMA, "environment": environment, "rows": rows}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _guarded(context: Any, entry: Entry, settings: Settings, options: argparse.Namespace) -> Row:
    """The entry's row from a process of its own; where that dies, what it had reported and where it died."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(sender, entry.name, settings, options.threads, options.memory), daemon=True
    )
    start = time.perf_counter()
    process.start()
    sender.close()
    row, stage = _received(receiver, entry, start + options.limit)
    if stage:
        process.kill()
    process.join(timeout=30)
    if stage:
        over = time.perf_counter() - start >= options.limit
        why = f"not done after {options.limit:g} s" if over else f"the process ended ({process.exitcode})"
        row.setdefault("errors", {})[stage] = why
    row["seconds"] = time.perf_counter() - start
    return row


def _received(receiver: Connection, entry: Entry, deadline: float) -> tuple[Row, str]:
    """The last row received and the stage under way then; the stage is empty where the row is whole."""
    row: Row = {"name": entry.name, "family": entry.family}
    stage = "start"
    while receiver.poll(max(0.0, deadline - time.perf_counter())):
        try:
            stage, row = receiver.recv()
        except EOFError:
            break
        if not stage:
            break
    return row, stage


def _child(sender: Connection, name: str, settings: Settings, threads: int, memory_gib: float) -> None:
    """In the model's process: limits, quiet, the row stage by stage."""
    size = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere:  # libraries chat; the table is the output
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    entry = entries()[name]
    row: Row = {"name": entry.name, "family": entry.family}
    try:
        row = measure(entry, settings, lambda stage, partial: sender.send((stage, _plain(partial))))
    except Exception as error:  # a defect of the benchmark, or of an entry: the row says so
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.setdefault("errors", {})["build"] = f"{type(error).__name__}: {first_line(error)} ({where.name})"
    sender.send(("", _plain(row)))


def _plain(row: Row) -> Row:
    """JSON data: numbers that JSON has no word for become None."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {str(key): plain(value) for key, value in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(value) for value in item]
        if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):
            return None
        return item

    return dict(plain(row))


HEADER = (
    f"{'model':44} {'export':>6} {'analys':>6} {'ops':>5} {'grps':>4} {'share':>5} {'main':>5} {'oracle':>6} "
    f"{'cut':>7} {'train':>5} {'onnx':>4} {'pt2':>4} {'nativ':>5} {'ms':>5} {'owned':>6} {'peer':>7}"
)


def line(row: Row) -> str:
    """The row as one line of the table; what went wrong behind it."""

    def number(key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else format(value, form)

    def verdict(stage: str) -> str:
        found = row.get(stage)
        return "-" if found is None else "yes" if found.get("ok") else "no"

    policies = row.get("policies") or []
    equal = f"{sum(policy['equal'] for policy in policies)}/{len(policies)}" if policies else "-"
    cut = "".join(
        mark if any(policy[key] for policy in policies) else "-"
        for key, mark in (("heads", "h"), ("residual", "r"), ("removed", "b"))
    )
    times = ratio(row)
    peer = f"{times:.0f}x" if times is not None else "-" if row.get("peer") is None else "fails"
    text = (
        f"{row['name']:44} {number('export_s', '.1f'):>6} {number('analysis_s', '.2f'):>6} "
        f"{number('operators', 'd'):>5} {number('groups', 'd'):>4} {number('prunable_share', '.2f'):>5} "
        f"{number('main_share', '.2f'):>5} {equal:>6} {cut:>7} {verdict('training'):>5} {verdict('onnx'):>4} "
        f"{verdict('pt2'):>4} {verdict('native'):>5} {number('policy_ms', '.1f'):>5} {number('owned_ms', '.1f'):>6} "
        f"{peer:>7}{'' if handled(row) else '  not handled'}"
    )
    errors = [f"{stage}: {message}" for stage, message in row.get("errors", {}).items()]
    return text + (f"  {errors[0][:100]}" if errors else "")


if __name__ == "__main__":
    sys.exit(main())
