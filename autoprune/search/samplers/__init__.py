"""Who proposes the next policies, in batches.

| name | module | what |
|---|---|---|
| `surrogate` | `surrogate.py` | the default: expected hypervolume improvement under the corrected damage model |
| `nsga2` | `nsga2.py` | NSGA-II with simulated binary crossover and polynomial mutation, from Optuna |
| `nsga3` | `nsga3.py` | NSGA-III: spread by reference points, for three objectives and more, from Optuna |
| `archive` | `archive.py` | local search around the front found so far |
| `tpe` | `tpe.py` | the multi-objective tree-structured Parzen estimator, from Optuna |
| `random` | `random.py` | uniformly random: what the others have to beat |

Other packages add samplers under the entry-point group `autoprune.samplers`; `tests/search/test_samplers.py` holds the
contract they are checked against.
"""

from __future__ import annotations

from autoprune.search.samplers.sampler import SAMPLERS, Sampler, SamplerFactory, SamplerSettings, Told

__all__ = ["SAMPLERS", "Sampler", "SamplerFactory", "SamplerSettings", "Told"]
