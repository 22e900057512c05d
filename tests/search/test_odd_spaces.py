"""Variables without a choice, groups of one unit, and objectives at odds with the constraints: said, or coped with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.errors import InputError
from autoprune.search.samplers import SAMPLERS
from autoprune.search.space import SearchSpace, Variable
from tests.search.landscape import ChainedCosts, LandscapeProblem, landscape_problem, search


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def with_fixed(problem: LandscapeProblem, fixed: dict[int, int]) -> LandscapeProblem:
    """The problem with some variables at one level only; of a group of one unit there is no other."""
    variables = tuple(
        Variable(v.name, v.groups, ((fixed[i],),)) if i in fixed else v for i, v in enumerate(problem.space.variables)
    )
    space = SearchSpace("fixed", problem.space.groups, variables)
    ones = np.ones(len(variables) + 1)
    return replace(problem, space=space, costs=ChainedCosts(space, ones, ones, 8))


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_variables_of_one_level(sampler: str, tmp_path: Path) -> None:
    problem = with_fixed(landscape_problem(6), {0: 8, 3: 8, 5: 8})
    trials = search(problem, tmp_path, sampler=sampler)
    assert len(trials) == len({trial.policy for trial in trials}) == 40
    assert all(trial.policy["g0"] == trial.policy["g3"] == 8 for trial in trials)
    curves = problem.curves()
    assert [len(table) for table in curves.tables] == [1, 8, 8, 1, 8, 1]
    assert curves.measured[0] == ()


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
def test_nothing_to_choose(sampler: str, tmp_path: Path) -> None:
    """One policy is all there is: it is evaluated, and the search ends."""
    trials = search(with_fixed(landscape_problem(3), dict.fromkeys(range(3), 8)), tmp_path, sampler=sampler)
    assert [trial.origin for trial in trials] == ["dense"]


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
def test_constraints_that_nothing_meets(sampler: str, tmp_path: Path) -> None:
    problem = landscape_problem(6, constraints=("latency_p50 <= 10us", "size >= 900KB"))
    with pytest.raises(InputError, match=r"none of \d+ policies meets them; the nearest misses .*Relax them, or let"):
        search(problem, tmp_path, sampler=sampler)


@pytest.mark.parametrize("sampler", ["nsga2", "surrogate"])
def test_a_constraint_against_the_objective(sampler: str, tmp_path: Path) -> None:
    """Small is wanted and not allowed: the front lies along the bound."""
    problem = landscape_problem(6, objectives=("error", "size"), constraints=("size >= 700KB",))
    trials = search(problem, tmp_path, sampler=sampler)
    sizes = [trial.objectives["size"] for trial in trials if trial.feasible]
    assert len(sizes) == 40
    assert min(sizes) >= 700_000
    assert min(sizes) < 720_000
