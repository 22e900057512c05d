"""Readers of what people write by hand: configs, search spaces, and every text that an option or key may hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import mutations
from tests.fuzz.reader import Files, Reader, simple
from tests.hardware.importers.files import small_graph

CONFIG = """\
model: package.models:trained
task: package.data:task
profiles: [cpu-test, ./folder]
space: cnn
objectives: [error, latency_p50, size]
constraints: ["latency_p99 <= 8ms"]
search: {sampler: nsga2, trials: 20, time_budget: 30min, seed: 1}
finetune: {members: 2, epochs: 1, distill: true}
executor: {kind: local, workers: 2, timeout: 10s}
run: runs/x
"""
SPACE = """\
version: 1
description: widths of stages
extends: cnn
rules:
  - {match: ["*.conv*", "?ead.*"], minimum: 0.25, multiple: quantum, levels: 8, tie: "stage{1} {size}"}
  - {unit: channel, stream: false, removable: true, freeze: false, remove: true}
"""
EXPRESSIONS = (
    "latency_p50 <= 5ms and (size <= 4MB or accuracy > 97%)", "latency_p99@phone <= 8ms", "accuracy + 2*latency_p50",
    "1pt", "30min", "300M", "1,3,224,224:float32", "module.sub:callable.attribute", "ssh:user@host:22", "error",
    "layer*.?.conv{1}", "postgresql://user:password@host/db", "x0:(1,c0);y0:(1,c0)=relu.default(x0) @ 8",
)  # fmt: skip


def _config(folder: Path) -> object:
    from autoprune.config import load_config

    return load_config(folder / "config.yaml")


def _space(folder: Path) -> object:
    from autoprune.search.space import SearchSpace

    space = SearchSpace.load(folder / "space.yaml", small_graph(), quantum=4)
    return space.hash, space.policy(space.narrowest)


def _expression(folder: Path) -> object:
    """The text as everything that a text can be; one reader that takes it is enough."""
    text = (folder / "text.txt").read_text(encoding="utf-8", errors="surrogateescape")
    from autoprune.core.errors import AutopruneError

    refused: AutopruneError | None = None
    taken = 0
    for read in _texts():
        try:
            read(text)
            taken += 1
        except AutopruneError as error:
            refused = error
    if not taken and refused is not None:
        raise refused
    return taken


def _texts() -> tuple[Callable[[str], object], ...]:
    from autoprune.callables import example_inputs, import_reference
    from autoprune.config import resolve
    from autoprune.core.units import parse_bytes, parse_count, parse_seconds, parse_us
    from autoprune.graph.fusion import kernel_slots
    from autoprune.graph.kernel import Kernel
    from autoprune.hardware.devices import open_device
    from autoprune.hardware.profile import load_profile
    from autoprune.pareto import parse_constraint, parse_where
    from autoprune.pareto.preference import parse_margin, parse_weights
    from autoprune.search.rules import read_rules

    row = {"latency_p50_us": 4200.0, "size_bytes": 1e6, "accuracy": 0.9, "latency_p99_us@phone": 1.0}
    return (
        lambda text: parse_where(text, row).matches(row),
        parse_constraint,
        parse_weights,
        parse_margin,
        parse_us,
        parse_seconds,
        parse_bytes,
        parse_count,
        lambda text: example_inputs([text]) if len(text) < 40 else example_inputs([text[:40]]),
        lambda text: import_reference(text, "model"),
        lambda text: resolve(text, Path.cwd()),
        lambda text: load_profile(text),
        lambda text: open_device(text) if text.startswith(("ssh:", "android")) else None,
        lambda text: read_rules({"rules": [{"match": text, "tie": text}]}).settings("layer1.0.conv1", 8, traits()),
        lambda text: [slot.flops({}) for slot in kernel_slots(Kernel.from_key(text).program())],
    )


@functools.cache
def traits() -> Any:
    """Of some group."""
    from autoprune.search.traits import Traits

    return Traits(unit="channel", stream=False, removable=True)


def _changed_text(files: Files, random: Random) -> Files:
    text = files["text.txt"] if random.random() < 0.2 else random.choice(EXPRESSIONS).encode()
    return {"text.txt": mutations.plain(text, random) if random.random() < 0.7 else mutations.text_file(text, random)}


def readers() -> list[Reader]:
    """Those of texts."""
    return [
        simple("config", lambda: {"config.yaml": CONFIG.encode()}, {"config.yaml": "yaml"}, _config),
        simple("search space", lambda: {"space.yaml": SPACE.encode()}, {"space.yaml": "yaml"}, _space),
        Reader("expressions", _changed_text, _expression, lambda: {"text.txt": EXPRESSIONS[0].encode()}),
    ]
