"""How well profiles measured on this machine predict pruned models that they have not seen."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.core.errors import Failure
from autoprune.core.files import read_json, write_json
from autoprune.graph import DependencyGraph, trace
from autoprune.graph.dimension import Batch
from autoprune.hardware.calibration import calibrated
from autoprune.hardware.fit import Floats
from autoprune.hardware.interpolation import Integers
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.measure import MODEL_PROTOCOL, Protocol, measure_models
from autoprune.hardware.pinning import pinned
from autoprune.hardware.plan import sample_policies
from autoprune.hardware.profile import HardwareProfile
from autoprune.hardware.profiling import ProfileSettings, profile_graphs
from autoprune.hardware.profiling.bench import readings
from autoprune.hardware.profiling.journal import Journal
from autoprune.hardware.profiling.models import ModelTimes, Policy
from autoprune.hardware.profiling.records import BaseLine, ModelsLine, lines
from autoprune.hardware.runtimes import RunSettings
from autoprune.hardware.runtimes.model import Model
from autoprune.pareto.correlation import spearman_rho
from autoprune.search.space import SearchSpace
from benchmarks.latency_models import MODELS

CHECKED = ("resnet18", "mobilenet", "vit", "bert")
PROFILED = (*CHECKED, "resnet20", "demo")  # the small ones are what examples and other benchmarks use
CHECKED_RUNTIMES = ("onnxruntime", "openvino", "executorch")
POLICIES, ROUNDS = 60, 3
TOGETHER = 12  # models compiled at once
QUANTUM = 8  # of the search spaces that policies come from
SEED = 7  # of the policies that are predicted; profiles are made with 0
PERCENTILES = ("p50", "p95")
# More models with fewer runs each say more than few models with many.
MODEL_RUNS = replace(MODEL_PROTOCOL, sessions=3, minimum_runs=20, slow_runs=12)
SCHEMA = "autoprune.benchmark.latency/1"
DESCRIPTION = "ResNet-18, MobileNetV2, ViT (192 wide), BERT (256 wide), ResNet-20 and a small depthwise CNN; batch 1."


@dataclass(frozen=True)
class Options:
    """How models are profiled and checked.

    Attributes:
        threads: of the runtime.
        budget_s: for a profile.
        whole_models: timed for it.
        folder: for journals and results.
        profiles: for profiles.
    """

    threads: int
    budget_s: float
    whole_models: int
    folder: Path
    profiles: Path

    def name(self, runtime: str) -> str:
        """Of the profile."""
        return f"cpu-x86-{runtime}-{self.threads}t"


def traced(model: str) -> DependencyGraph:
    """One of the models, traced."""
    torch.manual_seed(0)
    network, inputs = MODELS[model]()
    return trace(network.eval(), inputs)


def space_of(graph: DependencyGraph) -> dict[str, tuple[int, ...]]:
    """The widths that a search would choose from."""
    return SearchSpace.load("auto", graph, quantum=QUANTUM).widths


def check(model: str, runtime: str, options: Options) -> dict[str, Any]:
    """Predict and time policies that the profile has not seen; times are kept in a file."""
    profile = profiled(runtime, options)
    graph = traced(model)
    widths = unseen(graph)
    path = options.folder / f"{model}-{runtime}-{options.threads}t.json"
    if path.is_file():
        kept = read_json(path, "results", SCHEMA)
        rounds = {p: np.array(kept["rounds_us"][p]) for p in PERCENTILES}
    else:
        rounds = timed(graph, widths, runtime, options.threads)
    result = {"schema": SCHEMA, "model": model, "runtime": runtime, "threads": options.threads}
    result |= {"profile": summary(profile), "figures": figures(profile, graph, widths, rounds)}
    result |= {"widths": widths.tolist(), "rounds_us": {p: rounds[p].tolist() for p in PERCENTILES}}
    write_json(path, result)
    return result


def profiled(runtime: str, options: Options) -> HardwareProfile:
    """The profile of all models' search spaces, measured once."""
    name = options.name(runtime)
    journal = options.folder / f"{name}.jsonl"
    if (options.profiles / name / "profile.json").is_file() and not journal.is_file():
        return HardwareProfile.load(options.profiles / name)
    settings = ProfileSettings(
        runtime=runtime,
        threads=options.threads,
        budget_s=options.budget_s,
        whole_models=options.whole_models,
        name=name,
        description=DESCRIPTION,
        model_protocol=MODEL_RUNS,
    )
    targets = [(graph, space_of(graph)) for graph in map(traced, PROFILED)]
    profile = profile_graphs(targets, settings, progress, journal=journal)
    profile.save(options.profiles / name)
    journal.rename(journal.with_suffix(".done"))
    return profile


def refitted(runtime: str, options: Options) -> HardwareProfile:
    """The profile fitted anew to the whole models of its journal; nothing is timed."""
    name = options.name(runtime)
    kept = HardwareProfile.load(options.profiles / name)
    with Journal(options.folder / f"{name}.done") as journal:
        [base] = lines(journal, BaseLine)
        timed = [entry for line in lines(journal, ModelsLine) for entry in line.timed]
        correction = float(np.median(readings(journal))) / (base.sentinel_us or 1.0)
    times = [(Policy(entry.target, entry.widths), entry.measured.measurement(), entry.nodes) for entry in timed]
    header = kept.header.model_copy(update={"within": "alone", "context": {}, "composition": {}, "known": {}})
    bare = replace(kept, header=header, kernels=tuple(row for row in kept.kernels if row.within == "alone"))
    graphs = [traced(model) for model in PROFILED]
    observed = ModelTimes(times, []).observations(correction)
    about = kept.header.validation
    profile = calibrated(bare, graphs, observed, about.sentinel_drift, about.notes, progress)
    rows = sorted(profile.kernels, key=lambda row: (row.family, row.sizes, row.within))
    profile = replace(profile, kernels=tuple(rows))
    profile.save(options.profiles / name)
    return profile


def progress(stage: str, done: int, total: int) -> None:
    """One line, rewritten."""
    print(f"\r{stage} {done}/{total}   ", end="", file=sys.stderr, flush=True)


def unseen(graph: DependencyGraph) -> Integers:
    """Policies from small to large that the profile was not made with.  # (POLICIES, n_groups)"""
    dense = {group.id: group.size for group in graph.groups.values()}
    return sample_policies(space_of(graph), dense, POLICIES + 2, SEED)[2:]  # the first two are dense and smallest


def timed(graph: DependencyGraph, widths: Integers, runtime: str, threads: int) -> dict[str, Floats]:
    """Times of whole models from end to end, `ROUNDS` times in shuffled order.  # percentile -> (ROUNDS, n)

    Every round compiles them anew, a few at once: where a model happens to lie in memory is part of its spread.
    """
    models = [Model.of_module(graph.module(dict(zip(graph.groups, map(int, row), strict=True)))) for row in widths]
    rounds = {p: np.zeros((ROUNDS, len(models))) for p in PERCENTILES}
    with pinned(threads):
        for index in range(ROUNDS):
            order = np.random.default_rng(SEED + index).permutation(len(models))
            for first in range(0, len(models), TOGETHER):
                chosen = order[first : first + TOGETHER]
                protocol = Protocol(sessions=1, minimum_runs=30, maximum_runs=200, target_us=200_000.0, seed=index)
                found = measure_models(
                    [models[i] for i in chosen], runtime=runtime, settings=RunSettings(threads), protocol=protocol
                )
                for place, one in zip(chosen, found, strict=True):
                    if isinstance(one, Failure):
                        raise RuntimeError(f"{runtime}: {one}")
                    for p in PERCENTILES:
                        rounds[p][index, place] = one.us(p)
                progress(f"round {index + 1} of {ROUNDS}", first + len(chosen), len(models))
    return rounds


def figures(
    profile: HardwareProfile, graph: DependencyGraph, widths: Integers, rounds: Mapping[str, Floats]
) -> dict[str, dict[str, dict[str, float]]]:
    """For p50 and p95: errors of three ways to predict, beside how well the measurement repeats itself."""
    table = LatencyTable(profile, graph)
    ours, interval = table.latency_us(widths), table.interval_us(widths)
    alone = profile.header.model_copy(update={"within": "alone", "composition": {}, "known": {}})
    sums = LatencyTable(replace(profile, header=alone), graph).latency_us(widths)
    named = {group: widths[:, column] for column, group in enumerate(graph.groups)} | {Batch.KEY: np.int64(1)}
    macs = np.asarray(graph.macs(named), dtype=np.float64)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for p in PERCENTILES:
        measured = np.median(rounds[p], axis=0)
        low, high = interval[p]
        scale = float(np.median(measured / macs))
        found[p] = {
            "ours": {
                **errors(ours[p], measured),
                "interval coverage": float(((low <= measured) & (measured <= high)).mean()),
            },
            "sum of isolated kernels": errors(sums[p], measured),
            "proportional to FLOPs, best scale": errors(scale * macs, measured),
            "one repeat of the measurement": repeats(rounds[p]),
        }
    return found


def errors(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Mean absolute relative error, share within 10 %, rank correlation."""
    relative = np.abs(predicted / measured - 1.0)
    rank = spearman_rho(predicted.tolist(), measured.tolist())
    return {
        "MAPE": float(relative.mean()),
        "within 10 %": float((relative <= 0.1).mean()),
        "Spearman": rank if np.isfinite(rank) else 0.0,  # a constant ranks nothing
    }


def repeats(rounds: Floats) -> dict[str, float]:
    """How well one round predicts the median of the others.

    Args:
        rounds: (n_rounds, n_models)
    """
    each = [errors(rounds[i], np.median(np.delete(rounds, i, axis=0), axis=0)) for i in range(len(rounds))]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def summary(profile: HardwareProfile) -> dict[str, Any]:
    """What the profile says of itself."""
    header = profile.header
    best = min(header.validation.compared, key=lambda name: header.validation.compared[name], default="")
    timed_rows = [row for row in profile.kernels if row.provenance == "measured" and not row.failure]
    return {
        "seconds": header.protocol.seconds,
        "kernels alone": sum(row.within == "alone" for row in timed_rows),
        "kernels inside models": sum(row.within == "model" for row in timed_rows),
        "whole models": header.validation.models,
        "predicts by": best,
        "left out": dict(header.validation.compared),
        "quantum": header.alignment_quantum,
        "drift": header.validation.sentinel_drift,
    }


def met(result: Mapping[str, Any]) -> dict[str, bool]:
    """What is asked of p50: beside repeats where those are no better."""
    own, repeat = (result["figures"]["p50"][name] for name in ("ours", "one repeat of the measurement"))
    return {
        "MAPE": own["MAPE"] <= max(0.05, 1.5 * repeat["MAPE"]),
        "within 10 %": own["within 10 %"] >= min(0.9, repeat["within 10 %"]),
        "Spearman": own["Spearman"] >= min(0.98, repeat["Spearman"]),
        "interval coverage": 0.85 <= own["interval coverage"] <= 0.97,
    }


def shown(result: Mapping[str, Any]) -> str:
    """A block of lines: one a percentile and method."""
    about = result["profile"]
    lines = [
        f"{result['model']}, {result['runtime']}, {result['threads']} thread(s); profile of {about['seconds']:.0f} s "
        f"({about['kernels alone']} kernels alone, {about['kernels inside models']} inside, {about['whole models']} "
        f"whole models), predicts by '{about['predicts by']}'"
    ]
    for p, methods in result["figures"].items():
        for name, values in methods.items():
            cells = "  ".join(f"{figure} {value:6.3f}" for figure, value in values.items())
            lines.append(f"  {p} {name:36} {cells}")
    return "\n".join(lines)


def run(models: list[str], runtimes: list[str], options: Options) -> tuple[list[dict[str, Any]], bool]:
    """All pairs; whether all figures asked for were met."""
    torch.set_num_threads(1)
    results, good = [], True
    for runtime in runtimes:
        for model in models:
            start = time.perf_counter()
            result = check(model, runtime, options)
            results.append(result)
            verdict = met(result)
            good &= all(verdict.values())
            print(f"\r{shown(result)}", flush=True)
            print("  " + ", ".join(f"{name} {'met' if ok else 'MISSED'}" for name, ok in verdict.items()), end="")
            print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
    return results, good
