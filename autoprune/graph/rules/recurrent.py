"""Recurrent layers: gates over one state, which shrinks alike in all layers and directions."""

from __future__ import annotations

from typing import Any

from autoprune.graph.algebra import AlgebraError, Expression, concatenation, factor, resolve, size
from autoprune.graph.rules.call import Call, Dims, rule

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(call: Call) -> list[Dims]:
    """`n t i, s n h, (g h) i, (g h) h, (g h), (g h) -> n t (h + h), s n h`: g gates, h + h of both directions."""
    x, weights = call.of(call.args[0]), call.args[2]
    directions = 2 if call.args[7] else 1
    cells = call.args[4] * directions
    each = len(weights) // cells  # tensors of one layer in one direction
    if len(x) != 3 or each not in (2, 4):
        raise AlgebraError("a state that is projected, or an input without a batch")
    hidden = call.of(weights[1])[1]
    call.freeze(x[1 if call.args[8] else 0], "runs along it")
    for cell in range(cells):
        below = x[2] if cell < directions else concatenation([hidden] * directions)
        _cell(call, weights[cell * each : (cell + 1) * each], below, hidden)
    states = call.args[1] if isinstance(call.args[1], list) else [call.args[1]]
    for state in states:
        layers, batch, width = call.of(state)
        call.freeze(layers, "is its layers and directions")
        call.unify(batch, x[0 if call.args[8] else 1])
        call.unify(width, hidden)
    outputs = [*call.of(call.args[0])[:2], concatenation([hidden] * directions)]
    return [outputs, *(call.of(state) for state in states)]


def _cell(call: Call, weights: list[Any], below: Expression, hidden: Expression) -> None:
    """One layer in one direction: input and state to gates, and their biases."""
    call.unify(below, call.of(weights[0])[1])
    call.unify(hidden, call.of(weights[1])[1])
    for weight in weights[:2]:
        call.contract(weight, 1)
    gates = _GATES[call.target.split(".")[1]]
    for tensor in weights:
        rows = call.of(tensor)[0]
        gate, width = factor([rows], [gates, size(rows) // gates])
        call.freeze(gate, "is its gates")
        call.unify(resolve(hidden), width)
