"""Pareto fronts: who dominates whom, how good a front is, and which member to take. NumPy only.

- `non_dominated`, `ranks`: dominance over values that are all minimised.
- `hypervolume`: exact, for any number of objectives.
- `knee`: the member where giving up a little of one objective stops paying.
- `parse_where`, `Condition`, `parse_constraint`, `Constraint`, `column`: selection by expressions such as
  `latency_p50 <= 5ms and size <= 4MB`.
"""

from autoprune.pareto.columns import column, format_quantity
from autoprune.pareto.dominance import non_dominated, ranks
from autoprune.pareto.hypervolume import hypervolume
from autoprune.pareto.knee import knee
from autoprune.pareto.selection import Condition, Constraint, parse_constraint, parse_where

__all__ = [
    "Condition",
    "Constraint",
    "column",
    "format_quantity",
    "hypervolume",
    "knee",
    "non_dominated",
    "parse_constraint",
    "parse_where",
    "ranks",
]
