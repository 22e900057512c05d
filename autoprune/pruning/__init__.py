"""Which units go, and how the rest makes up for them.

- `Pruner`: policies -> models, everything dear computed once.
- `prune`: one policy, one model.
- `Criterion`, `Evidence`, `criteria`: the extension point (`autoprune.criteria`).
- `recalibrate`: batch-norm statistics from calibration batches.
"""

from autoprune.pruning.criteria import Criterion, Evidence, criteria
from autoprune.pruning.pruner import Pruner, prune
from autoprune.pruning.recalibration import recalibrate

__all__ = ["Criterion", "Evidence", "Pruner", "criteria", "prune", "recalibrate"]
