"""Depth: groups at width 0. A residual branch that reads nothing is a constant; its operations leave the program.

With a group at width 0, some contraction sums over nothing: its result is zero plus its bias, whatever the input. What
follows is constant too, up to the operator that adds it to a live value (or multiplies, for gates). There the constant
is dropped where it is zero, taken up by a bias right before where there is one, and else becomes a parameter
`<end of the branch>.constant`. Operations that nothing reads any longer are gone, with their parameters.
"""

from autoprune.graph.depth.reduction import Depth, Reduction

__all__ = ["Depth", "Reduction"]
