"""One row of the coverage benchmark: everything that is asked of one model, stage by stage."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.artifacts.exporters import publish
from autoprune.artifacts.exporters.parity import flat_outputs
from autoprune.artifacts.records import ExportRecord
from autoprune.graph import DependencyGraph, trace
from autoprune.graph.dimension import Batch
from autoprune.graph.native import patch
from autoprune.pruning import Pruner
from benchmarks.coverage_peer import torch_pruning_row
from benchmarks.coverage_policies import RandomPolicy, checked, in_double, random_policies
from benchmarks.coverage_text import first_line
from benchmarks.coverage_widths import main_obstacles, main_share, obstacles
from benchmarks.coverage_zoo import Entry, built

Row = dict[str, Any]
Report = Callable[[str, Row], None]  # (stage about to run, the row so far)


@dataclass(frozen=True)
class Settings:
    """How rows are made.

    Attributes:
        seed: of weights, inputs and policies.
        repeats: timed repetitions, after two warm ones.
        peer_limit_s: time for all of Torch-Pruning's attempts at one model; 0 leaves it out.
    """

    seed: int = 0
    repeats: int = 9
    peer_limit_s: float = 60.0


def measure(entry: Entry, settings: Settings, report: Report) -> Row:
    """The model's row. A stage that fails leaves its error in the row and the others run on."""
    row: Row = {"name": entry.name, "family": entry.family}
    report("build", row)
    model, inputs = built(entry, settings.seed)
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    report("trace", row)
    graph = _traced(model, inputs, row)
    if graph is not None:
        with torch.no_grad():
            row["macs"] = int(graph.macs({Batch.KEY: 1}))
        policies = _stage(row, "policies", report, lambda: random_policies(graph, settings.seed)) or []
        row["policies"] = _stage(row, "oracle", report, lambda: _checked(graph, policies)) or []
        row["half"] = _stage(row, "half", report, lambda: _halved(graph))
        row["training"] = _stage(row, "training", report, lambda: _training(graph, settings.seed))
        row["native"] = _stage(row, "native", report, lambda: _native(graph, model))
        row.update(_stage(row, "policy_ms", report, lambda: _policy_ms(graph, settings.repeats)) or {})
    if settings.peer_limit_s > 0:
        limit_s = settings.peer_limit_s
        row["peer"] = _stage(
            row, "peer", report, lambda: torch_pruning_row(model, inputs, _last_layers(graph), limit_s)
        )
    if graph is not None:
        row["onnx"] = _stage(row, "onnx", report, lambda: _exported(graph, "onnx"))
        row["pt2"] = _stage(row, "pt2", report, lambda: _exported(graph, "pt2"))
    return row


def _stage(row: Row, name: str, report: Report, work: Callable[[], Any]) -> Any:
    """The stage's result, or None with what it raised under `errors`."""
    report(name, row)
    start = time.perf_counter()
    try:
        return work()
    except Exception as error:  # a stage that fails is what this benchmark is there to show
        row.setdefault("errors", {})[name] = f"{type(error).__name__}: {first_line(error)}"
        return None
    finally:
        row.setdefault("stage_s", {})[name] = round(time.perf_counter() - start, 2)


def _traced(model: nn.Module, inputs: Any, row: Row) -> DependencyGraph | None:
    with export_timed() as spent:
        start = time.perf_counter()
        try:
            graph = trace(model, inputs)
        except Exception as error:  # refused, or a defect: either way this model is not handled
            row.setdefault("errors", {})["trace"] = f"{type(error).__name__}: {first_line(error)}"
            return None
        whole = time.perf_counter() - start
    share = main_share(graph)
    row.update(
        export_s=spent[0],
        analysis_s=whole - spent[0],
        operators=len(graph.program.operations),
        groups=len(graph.groups),
        prunable_share=graph.prunable_share(),
        main_share=share,
        main_widths=share > 0.5,
        removable=sum(1 for group in graph.groups.values() if group.removable),
        units=dict(sorted(_counted(group.unit for group in graph.groups.values()).items())),
        obstacles=obstacles(graph),
        main_obstacles=main_obstacles(graph),
    )
    return graph


def _counted(items: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


@contextmanager
def export_timed() -> Iterator[list[float]]:
    """Seconds spent within torch.export while the block runs, in a list of one."""
    spent = [0.0]
    places = ((torch.export, "export"), (torch.export.ExportedProgram, "run_decompositions"))
    originals = [getattr(owner, name) for owner, name in places]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - start

        return call

    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, timed(original))
    try:
        yield spent
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def _checked(graph: DependencyGraph, policies: Sequence[RandomPolicy]) -> list[Row]:
    double = in_double(graph)
    return [checked(graph, double, policy) for policy in policies]


def _halved(graph: DependencyGraph) -> Row:
    """What half of every group's units leaves."""
    module = graph.module(graph.uniform(0.5))
    with torch.no_grad():
        module(*graph.example_inputs)
    total = max(1, graph.parameter_count({}))
    return {"parameters": sum(parameter.numel() for parameter in module.parameters()) / total}


def _training(graph: DependencyGraph, seed: int) -> Row:
    """One step of training, in train mode, on the model at half its widths."""
    module = graph.module(graph.uniform(0.5)).clone_tensors().train()
    parameters = dict(module.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    torch.manual_seed(seed)
    outputs = [t for t in flat_outputs(module(*graph.example_inputs)) if t.is_floating_point()]
    loss = torch.stack([output.square().mean() for output in outputs]).sum()
    loss.backward()
    # Steps of a size that does not depend on the gradient's: small ones would be lost in rounding.
    torch.optim.Adam(parameters.values(), lr=1e-3, eps=1e-20).step()
    without = [name for name, parameter in parameters.items() if parameter.grad is None]
    finite = all(bool(torch.isfinite(p.grad).all()) for p in parameters.values() if p.grad is not None)
    changed = sum(1 for name, parameter in parameters.items() if not torch.equal(parameter, before[name]))
    return {
        "ok": bool(torch.isfinite(loss)) and finite and not without and changed >= 0.5 * len(parameters),
        "loss_finite": bool(torch.isfinite(loss)),
        "gradients_finite": finite,
        "without_gradient": len(without),
        "example_without_gradient": without[0] if without else "",
        "changed": changed / max(1, len(parameters)),
    }


def _native(graph: DependencyGraph, model: nn.Module) -> Row:
    native, reason = patch(model, graph.module(graph.uniform(0.5)), graph.example_inputs)
    return {"ok": native is not None, "reason": reason}


def _exported(graph: DependencyGraph, kind: str) -> Row:
    module = graph.module(graph.uniform(0.5)).clone_tensors()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = publish(kind, module, graph.example_inputs, Path(folder) / f"model.{kind}")
    seconds = time.perf_counter() - start
    if isinstance(found, ExportRecord):
        return {"ok": True, "difference": found.difference, "note": found.note, "seconds": seconds}
    return {"ok": False, "reason": first_line(found), "seconds": seconds}


def _median_ms(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[2:]))


def _policy_ms(graph: DependencyGraph, repeats: int) -> Row:
    """From a policy to its module at half of every group's units, those that l1 ranks highest.

    Returns:
        `policy_ms`: views of the model's weights, whose units were put in l1's order once for all policies;
        `owned_ms`: by `Pruner.slice`, every tensor copied, ready to train.
    """
    pruner, policy = Pruner(graph, "l1"), graph.uniform(0.5)
    ordered = graph.ordered(pruner.orders)
    return {
        "policy_ms": _median_ms(lambda: ordered.module(policy), repeats),
        "owned_ms": _median_ms(lambda: pruner.slice(policy), repeats),
    }


def _last_layers(graph: DependencyGraph | None) -> list[str]:
    """Modules that produce the model's outputs: other tools have to be told."""
    if graph is None:
        return []
    names = (item.parameter.rpartition(".")[0] for item in graph.frozen if "output of the model" in item.reason)
    return list(dict.fromkeys(names))
