"""What every test runs under: one thread a process (two cores are shared), no deadline on drawn examples."""

from __future__ import annotations

import os

import hypothesis
import torch

hypothesis.settings.register_profile("autoprune", deadline=None, print_blob=True)
hypothesis.settings.load_profile("autoprune")

# Ray asks its home whether somebody reads the report; tests talk to nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

torch.set_num_threads(1)
