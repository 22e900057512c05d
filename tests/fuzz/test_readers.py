"""Every reader against hostile files: it takes them or says one clear sentence, and nothing else happens.

A few examples each; `benchmarks/survival_fuzz.py` makes tens of thousands, and watches time and memory as well.
"""

from __future__ import annotations

import warnings
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.reader import Reader, attempt
from tests.fuzz.readers import readers

EXAMPLES = 12
SLOW = {"exported program": 6, "kit folder": 6, "kit tar": 6, "kit zip": 6, "run folder": 8}

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")  # of zips that are made so


@pytest.mark.parametrize("name", readers())
def test_valid_files_are_read(name: str) -> None:
    assert attempt(readers()[name], readers()[name].valid()) is None


@pytest.mark.parametrize("name", readers())
def test_hostile_files_are_refused_in_one_sentence_or_read(name: str) -> None:
    _fuzz(readers()[name], SLOW.get(name, EXAMPLES))


def _fuzz(reader: Reader, examples: int) -> None:
    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(random=st.randoms(use_true_random=False), seed=st.integers(0, 2**32))
    def one(random: Random, seed: int) -> None:
        # Hypothesis shrinks what it draws itself; a seed reaches further in as few examples.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            attempt(reader, reader.make(Random(seed) if seed % 2 else random))

    one()
