"""Torch-Pruning in the front benchmark: an importance, ranked in each layer or over all, swept over ratios.

What it prunes is evaluated with its own tensors: the widths are read from their shapes, and the same program runs them
(outputs are compared with those of its module where that one runs). Every ratio is tried at several roundings of
widths, since the step that the hardware rewards leaves narrow layers whole.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, TracedModule
from autoprune.graph.dimension import groups_of, size
from autoprune.pruning.recalibration import Anchor, recalibrate
from autoprune.search.evaluation import threads_of_torch
from autoprune.tuning.batches import call, main_output
from benchmarks.coverage_text import first_line
from benchmarks.front_bench import Bench, Evaluated, Ledger, Outcome, Subject

RATIOS = 40  # at each rounding, where the budget allows
TOLERANCE = 1e-3  # largest difference of outputs, as a share of the largest output


@dataclass(frozen=True)
class TorchPruning:
    """A sweep of Torch-Pruning.

    Attributes:
        importance: "group-norm", "taylor" or "bn-scale".
        everywhere: rank the units of all layers together.
        recalibrate: with our re-estimation of batch norms.
    """

    importance: str
    everywhere: bool
    recalibrate: bool

    def applies(self, subject: Subject) -> bool:
        """See `Method`."""
        return subject.has_norms or not (self.recalibrate or self.importance == "bn-scale")

    def run(self, bench: Bench, seed: int, budget: int, folder: Path) -> Outcome:
        """See `Method`."""
        start = time.perf_counter()
        gradients = self._gradients(bench)
        ledger = Ledger(bench)
        setup_s = time.perf_counter() - start
        refused = 0
        for ratio, rounding in sweep(bench, budget):
            setting = {"ratio": ratio, "round_to": rounding}
            try:
                pruned = self._pruned(bench, setting, gradients)
            except Exception as problem:  # where it refuses is part of the answer
                refused += 1
                what = f"ratio {ratio:.3f}, rounding {rounding}: {type(problem).__name__}: {first_line(problem)}"
                print(f"{bench.subject.name} Torch-Pruning {self.importance} {what}", file=sys.stderr)
                continue
            if not ledger.knows(pruned.widths):
                ledger.judge(pruned.widths, partial(self._finished, bench, pruned, setting, gradients), setting)
        return Outcome(tuple(ledger.evaluated), setup_s, {"ratios refused": refused})

    def module(self, bench: Bench, seed: int, evaluated: Evaluated) -> TracedModule:
        """See `Method`."""
        gradients = self._gradients(bench)
        pruned = self._pruned(bench, evaluated.setting, gradients)
        return self._finished(bench, pruned, evaluated.setting, gradients)

    def _finished(
        self, bench: Bench, pruned: TracedModule, setting: Mapping[str, Any], gradients: Mapping[str, Tensor]
    ) -> TracedModule:
        """With batch norms re-estimated, as our own models' are.

        What the calibration data gives the dense model at the channels that are left is found by pruning a second copy
        whose running statistics are that.
        """
        if not self.recalibrate:
            return pruned
        seen: dict[str, Tensor] = {}
        for name, anchor in bench.anchors.items():
            seen |= {f"{name}.running_mean": anchor.seen_mean, f"{name}.running_var": anchor.seen_variance}
        left = dict(self._small(bench, setting, gradients, seen).named_buffers())
        found = {}
        for name, norm in pruned.named_modules():
            if name in bench.anchors:
                mean, variance = (norm.get_buffer(which).clone() for which in ("running_mean", "running_var"))
                found[name] = Anchor(mean, variance, left[f"{name}.running_mean"], left[f"{name}.running_var"])
        recalibrate(pruned, bench.calibration, found)
        return pruned

    def _gradients(self, bench: Bench) -> dict[str, Tensor]:
        """Gradients of the calibration loss, where the importance takes them."""
        if self.importance != "taylor":
            return {}
        model = copy.deepcopy(bench.subject.model).eval()
        assert bench.task.loss is not None
        with threads_of_torch(bench.threads):
            for batch in bench.task.loader("calibration"):
                loss = bench.task.loss(call(model, bench.task.inputs_of(batch)), batch)
                torch.autograd.backward(loss)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def _pruned(self, bench: Bench, setting: Mapping[str, Any], gradients: Mapping[str, Tensor]) -> TracedModule:
        """What Torch-Pruning leaves of the model.

        Raises:
            InputError: shapes that fit no widths of the traced model, or other outputs.
        """
        small, few = self._small(bench, setting, gradients), self._few(bench)
        state = {**bench.graph.state, **dict(small.named_parameters()), **dict(small.named_buffers())}
        widths = widths_of(bench.graph, {name: tuple(tensor.shape) for name, tensor in state.items()})
        module = bench.graph.rebuild(widths, {name: tensor.detach() for name, tensor in state.items()}).eval()
        if not _attentions(small):  # those run only after their sizes are set by hand
            with torch.no_grad():
                _check_same(main_output(call(small.eval(), few)), main_output(call(module, few)))
        return module

    def _small(
        self,
        bench: Bench,
        setting: Mapping[str, Any],
        gradients: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """A pruned copy of the model, with other buffers where they are given."""
        small = copy.deepcopy(bench.subject.model).eval()
        for name, parameter in small.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].clone()
        own = dict(small.named_buffers())
        for name, buffer in (buffers or {}).items():
            own[name].copy_(buffer)
        with warnings.catch_warnings(), threads_of_torch(bench.threads):
            warnings.simplefilter("ignore")
            self._prune(small, self._few(bench), bench.subject, setting)
        return small

    def _few(self, bench: Bench) -> Any:
        """Inputs of two samples."""
        inputs = bench.task.inputs_of(next(iter(bench.task.validation)))
        return {k: v[:2] for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(v[:2] for v in inputs)

    def _prune(self, small: nn.Module, inputs: Any, subject: Subject, setting: Mapping[str, Any]) -> None:
        import torch_pruning as tp

        importance = {
            "group-norm": partial(tp.importance.GroupMagnitudeImportance, p=2),
            "taylor": tp.importance.GroupTaylorImportance,
            "bn-scale": tp.importance.BNScaleImportance,
        }[self.importance]
        known = dict(small.named_modules())
        heads = {
            projection: int(attention.num_attention_heads)
            for attention in _attentions(small)
            for projection in (attention.query, attention.key, attention.value)
        }
        pruner = tp.pruner.BasePruner(
            small,
            inputs,
            importance=importance(),
            global_pruning=self.everywhere,
            pruning_ratio=setting["ratio"],
            ignored_layers=[known[name] for name in subject.last_layers],
            round_to=setting["round_to"],
            num_heads=heads,
            prune_num_heads=bool(heads),
            prune_head_dims=not heads,
            head_pruning_ratio=setting["ratio"] if heads else 0.0,
            in_channel_groups={},  # its defaults are shared between pruners
            out_channel_groups={},
        )
        pruner.step()


def sweep(bench: Bench, budget: int) -> list[tuple[float, int]]:
    """Shares to prune, evenly from little to nearly all, each with what widths are rounded to.

    Roundings are the hardware's quantum, a quarter of it, and single units: the quantum alone leaves narrow layers
    whole.
    """
    (profile,) = bench.problem.profiles.values()
    roundings = sorted({max(1, profile.alignment_quantum // divisor) for divisor in (1, 4, 64)}, reverse=True)
    count = max(1, min(RATIOS, budget // len(roundings)))
    return [(float(ratio), step) for ratio in np.linspace(0.0, 1.0, count + 2)[1:-1] for step in roundings]


def widths_of(graph: DependencyGraph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The widths at which a graph's parameters have some shapes.

    Raises:
        InputError: there are none.
    """
    found: dict[str, int] = {}
    for group in sorted(graph.groups.values(), key=lambda group: group.unit == "head_dim"):  # whole heads go first
        options = np.arange(group.size + 1)
        for member in sorted(group.members, key=lambda member: len(groups_of(member.dimension))):
            sizes = np.broadcast_to(size(member.dimension, {**found, group.id: options}), options.shape)
            fitting = np.flatnonzero(sizes == shapes[member.parameter][member.axis])
            if len(fitting) == 1:
                found[group.id] = int(fitting[0])
                break
        else:
            raise InputError(f"widths: expected shapes that fit group '{group.id}', got others.")
    return found


def _attentions(model: nn.Module) -> list[Any]:
    """Modules with heads and projections of their own, as BERT's."""
    parts = ("query", "key", "value", "num_attention_heads")
    return [module for module in model.modules() if all(hasattr(module, part) for part in parts)]


def _check_same(theirs: Tensor, ours: Tensor) -> None:
    difference = float((theirs - ours).abs().max() / theirs.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise InputError(f"outputs: expected those of the pruned model, got some that differ by {difference:.1e}.")
