"""Which units go, and how the rest makes up for them.

- `Pruner`: policies -> models, everything dear computed once.
- `prune`: one policy, one model.
- `Criterion`, `Evidence`, `criteria`: the extension point (`autoprune.criteria`).
- `recalibrate`: batch-norm statistics from calibration batches.

Behind them: `consumers` finds what reads a group (`contractions` in the program, `window` for convolutions), `gram`
collects its moments in one pass (`calibration`), `obs` eliminates units, and `repairs` makes up for them: consumers are
re-fitted (`compensation`), norms corrected (`norms`), queries and keys rotated (`attention`).
"""

from autoprune.pruning.criteria import Criterion, Evidence, criteria
from autoprune.pruning.pruner import Pruner, prune
from autoprune.pruning.recalibration import recalibrate

__all__ = ["Criterion", "Evidence", "Pruner", "criteria", "prune", "recalibrate"]
