"""Pareto fronts: who dominates whom, how good a front is, and which member to take. NumPy only.

- `non_dominated`, `ranks`: dominance over values that are all minimised.
- `hypervolume`: exact, for any number of objectives.
- `knee`: the member where giving up a little of one objective stops paying.
- `parse_where`, `Condition`, `parse_constraint`, `Constraint`, `column`: selection by expressions such as
  `latency_p50 <= 5ms and size <= 4MB`.
- `parse_weights`, `parse_margin`, `Margin`: what a user would rather have, and how much quality may be lost for it.
- `kendall_tau`, `spearman_rho`, `mean_relative_error`: whether what is cheap to know ranks as what is dear to know.
"""

from autoprune.pareto.columns import column, format_quantity
from autoprune.pareto.correlation import kendall_tau, mean_relative_error, spearman_rho
from autoprune.pareto.dominance import non_dominated, ranks
from autoprune.pareto.hypervolume import hypervolume
from autoprune.pareto.knee import knee
from autoprune.pareto.preference import Margin, parse_margin, parse_weights
from autoprune.pareto.selection import Condition, Constraint, parse_constraint, parse_where

__all__ = [
    "Condition",
    "Constraint",
    "Margin",
    "column",
    "format_quantity",
    "hypervolume",
    "kendall_tau",
    "knee",
    "mean_relative_error",
    "non_dominated",
    "parse_constraint",
    "parse_margin",
    "parse_weights",
    "parse_where",
    "ranks",
    "spearman_rho",
]
