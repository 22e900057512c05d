"""How much each place of an activation matters to the model's outputs: the weights of a regression's samples.

A layer's outputs are re-fitted so that the model's outputs change least, not the layer's own: an error at a padding
token or in a corner of an image that later layers look past costs nothing. To first order the model's outputs change by
`sum over places of J_p delta_p`, `J_p` their derivative by the layer's output at place `p`. Errors of places being
independent, that has the expected square `sum_p |J_p|_F^2 |delta_p|^2 / n_outputs`: each place weighs its squared
derivative (the per-example term of K-FAC; Martens and Grosse 2015, Optimizing Neural Networks with Kronecker-factored
Approximate Curvature). With signs `e` drawn for each sample (`gradients.py`), `|J_p^T e|^2` is an unbiased estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from autoprune.graph import DependencyGraph
from autoprune.graph.program import Operation, Program
from autoprune.pruning.contractions import find_contractions
from autoprune.pruning.gradients import NoGradientError, differentiate

Relevance: TypeAlias = Mapping[str, Sequence[Tensor]]
"""Operation that contracts a parameter -> for each calibration batch the weights of its result's places, in row-major
order of the result without the axis of its outputs, batch first.  # (places,) bfloat16"""


def relevance(graph: DependencyGraph, calibration: Sequence[Any], seed: int = 0) -> Relevance:
    """Weights of all contractions whose result has an axis of outputs; one pass forward and backward.

    Args:
        graph: the traced dense model.
        calibration: batches of model inputs.
        seed: of what is drawn.

    Returns:
        Weights; nothing of contractions whose derivatives are all zero or not finite, and nothing at all where no
        gradient flows from the outputs (they are indices, say): all places then count alike.

    Raises:
        InputError: a batch that does not fit the model's inputs.
    """
    axes = _output_axes(graph.program)
    parts: dict[str, list[Tensor]] = {name: [] for name in axes}
    found: dict[str, list[Tensor]] = {name: [] for name in axes}

    def made(operation: Operation, result: Any) -> Any:
        axis = axes.get(operation.name)
        if axis is None:
            return result
        watched = result if result.requires_grad else result.detach().requires_grad_()
        places = parts[operation.name]
        watched.register_hook(lambda gradient: places.append(_energy(gradient, axis)))
        return watched

    def batch_done(_: int) -> None:
        for name, places in parts.items():
            found[name].append(torch.cat(places) if places else torch.zeros(0, dtype=torch.bfloat16))
            places.clear()

    try:
        differentiate(graph, calibration, None, seed, made=made, batch_done=batch_done)
    except NoGradientError:
        return {}
    totals = {name: sum(float(weights.float().sum()) for weights in batches) for name, batches in found.items()}
    return {name: found[name] for name, total in totals.items() if 0.0 < total < math.inf}


def _output_axes(program: Program) -> dict[str, int]:
    """Operation -> the axis of its result along outputs, counted from the last.

    Of convolutions, and of products whose result has the activation's axes in their order.
    """
    found = {}
    for contraction in find_contractions(program):
        reading = contraction.reading
        rank, result = (len(program.values[name].dimensions) for name in (reading.value, contraction.operation))
        if reading.window is not None:
            found[contraction.operation] = -1 - len(reading.window.kernel)
        elif not reading.blocks and reading.columns == (rank - 1,) and result == rank:
            found[contraction.operation] = -1
    return found


def _energy(gradient: Tensor, axis: int) -> Tensor:
    """Sums of squares along an axis.  # (places,) bfloat16"""
    return gradient.detach().float().square().sum(dim=axis).flatten().to(torch.bfloat16).cpu()
