"""Randomness that depends on a seed alone: what a loader shuffles and augments, and what dropout drops."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int, *loaders: Any) -> Iterator[None]:
    """Seed Python, NumPy, torch and the loaders' own generators; put all of them back as they were afterwards.

    A `DataLoader` draws its order, and the seeds of its workers, from these. A loader that keeps other generators
    is beyond reach.
    """
    generators = _generators(loaders)
    states = [generator.get_state() for generator in generators]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loaders: tuple[Any, ...]) -> list[torch.Generator]:
    """The generators of data loaders and of their samplers, each once."""
    found: dict[int, torch.Generator] = {}
    for loader in loaders:
        sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
        for holder in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())
