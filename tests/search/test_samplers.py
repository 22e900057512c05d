"""The contract of samplers, for those that ship and those that are installed; then what NSGA-II makes of seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optuna.samplers import NSGAIISampler, TPESampler

from autoprune.core.errors import InputError
from autoprune.pareto.hypervolume import hypervolume
from autoprune.search.proposals import Proposal, derived_seed, nearby, without_repeats
from autoprune.search.samplers import SAMPLERS, Sampler, SamplerSettings, Told
from autoprune.search.samplers.archive import Archive, crowding
from autoprune.search.samplers.genetic import population_size
from autoprune.search.samplers.memory import MemoryStudy
from autoprune.search.samplers.nsga2 import GENERATION_KEY, Nsga2
from autoprune.search.samplers.nsga3 import Nsga3, divisions
from autoprune.search.samplers.tpe import WINDOW, Tpe, window
from tests.search.synthetic import SyntheticProblem, synthetic_problem

LEVELS = (4, 1, 3, 8, 5, 2)


def make(name: str, levels: tuple[int, ...] = LEVELS, trials: int = 100, batch: int | None = None) -> Sampler:
    return SAMPLERS.get(name)(SamplerSettings(levels, 2, trials, batch))


def objectives(choice: tuple[int, ...], levels: tuple[int, ...] = LEVELS) -> tuple[float, float]:
    """Two that conflict in every variable, with weights that differ."""
    cut = [1.0 - level / max(1, count - 1) for level, count in zip(choice, levels, strict=True)]
    error = sum((i + 1) * c * c for i, c in enumerate(cut))
    return error, float(sum((len(cut) - i) * (1.0 - c) for i, c in enumerate(cut)))


def told(first: int, choices: list[tuple[int, ...]], levels: tuple[int, ...] = LEVELS) -> list[Told]:
    return [Told(first + i, choice, objectives(choice, levels), {}) for i, choice in enumerate(choices)]


@pytest.mark.parametrize("name", SAMPLERS.names())
class TestContract:
    def test_choices_are_levels(self, name: str) -> None:
        sampler = make(name)
        assert sampler.batch_size >= 2
        for batch in range(4):
            choices = sampler.ask(sampler.batch_size, batch)
            assert len(choices) == sampler.batch_size
            for choice in choices:
                assert len(choice) == len(LEVELS)
                assert all(isinstance(level, int) for level in choice)
                assert all(0 <= level < count for level, count in zip(choice, LEVELS, strict=True))
            sampler.tell(told(batch * 100, choices))

    def test_asking_changes_nothing(self, name: str) -> None:
        sampler = make(name)
        sampler.tell(told(0, sampler.ask(20, 1)))
        first = sampler.ask(10, 5)
        assert sampler.ask(10, 5) == first
        assert sampler.ask(10, 6) != first

    def test_what_was_told_is_all_that_counts(self, name: str) -> None:
        one, other = make(name, batch=10), make(name, batch=10)
        for batch in range(3):
            one.ask(7, 99)  # of no consequence
            choices = one.ask(10, batch)
            one.tell(told(batch * 10, choices))
            other.tell(told(batch * 10, choices))
        assert one.ask(10, 3) == other.ask(10, 3)

    def test_failures_and_infeasible_policies_are_digested(self, name: str) -> None:
        sampler = make(name, batch=12)
        for batch in range(4):
            choices = sampler.ask(12, batch)
            answers = [
                Told(
                    batch * 12 + i,
                    choice,
                    None if i % 4 == 0 else ((float("inf") if i % 4 == 1 else 0.5), 1.0),
                    {"latency_p50 <= 1 ms": 0.3 if i % 4 == 1 else -0.1, "size <= 1 MB": -0.5},
                )
                for i, choice in enumerate(choices)
            ]
            sampler.tell(answers)
        assert len(sampler.ask(12, 9)) == 12

    def test_a_batch_of_failures_only(self, name: str) -> None:
        sampler = make(name, batch=8)
        sampler.tell([Told(i, c, None, {}) for i, c in enumerate(sampler.ask(8, 0))])
        assert len(sampler.ask(8, 1)) == 8

    def test_nothing_to_vary(self, name: str) -> None:
        sampler = make(name, levels=(1, 1))
        choices = sampler.ask(3, 0)
        assert choices == [(0, 0)] * 3
        sampler.tell(told(0, choices, (1, 1)))
        assert sampler.ask(2, 1) == [(0, 0)] * 2


def search(name: str, levels: tuple[int, ...], trials: int, seed: int) -> float:
    """Hypervolume after so many trials."""
    sampler = make(name, levels, trials)
    seen: list[tuple[int, ...]] = []
    while len(seen) < trials:
        choices = sampler.ask(sampler.batch_size, derived_seed(seed, len(seen)))
        sampler.tell(told(len(seen), choices, levels))
        seen += choices
    worst = np.max([objectives(c, levels) for c in ((0,) * len(levels), tuple(n - 1 for n in levels))], axis=0)
    return hypervolume([objectives(choice, levels) for choice in seen[:trials]], worst)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "archive", "surrogate"])
def test_it_beats_random(name: str) -> None:
    levels = (6,) * 12
    assert np.mean([search(name, levels, 240, s) for s in range(2)]) > 1.02 * np.mean(
        [search("random", levels, 240, s) for s in range(2)]
    )


def found(name: str, problem: SyntheticProblem, trials: int, seed: int) -> set[tuple[float, ...]]:
    """Objective values of all that a sampler tries, repeats moved as a study moves them."""
    (latency,) = (objective for objective in problem.objectives if not objective.evaluated)
    sampler = make(name, problem.space.levels, trials)
    seen: dict[tuple[int, ...], tuple[float, ...]] = {}
    while len(seen) < trials:
        asked = sampler.ask(sampler.batch_size, derived_seed(seed, len(seen)))
        wanted = [Proposal(len(seen) + i, choice, "sampler") for i, choice in enumerate(asked)]
        batch = []
        for place, proposal in enumerate(without_repeats(wanted, seen, problem.space.levels, seed)):
            cost = float(problem.costs.values([latency], [proposal.choice])[0, 0])
            values = (problem.evaluator.error(problem.space.policy(proposal.choice)), cost)
            batch.append(Told(len(seen) + place, proposal.choice, values, {}))
        sampler.tell(batch)
        seen.update({told.choice: told.values for told in batch if told.values is not None})
    return set(itertools.islice(seen.values(), trials))


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "archive", "surrogate"])
def test_most_of_a_known_front_is_found(name: str) -> None:
    """300 of 1,024 choices hold most of the 40 on the front."""
    problem = synthetic_problem(variables=5, levels=4)
    front = problem.front()
    shares = [len(front & found(name, problem, 300, seed)) / len(front) for seed in range(2)]
    assert np.mean(shares) > 0.6


class TestGenerations:
    """What Optuna's sampler really takes for parents."""

    def test_the_first_batch_is_generation_0_whoever_proposed_it(self) -> None:
        sampler = Nsga2(SamplerSettings(LEVELS, 2, 100, batch=4))
        dense = tuple(count - 1 for count in LEVELS)
        narrowest = (0,) * len(LEVELS)
        sampler.tell(told(0, [dense, narrowest, *sampler.ask(10, 0)]))
        optuna_sampler = sampler._sampler(0)
        study = sampler._memory.study(optuna_sampler)
        assert len(optuna_sampler.get_population(study, 0)) == 12
        parents = optuna_sampler.get_parent_population(study, 1)
        assert [tuple(trial.params.values()) for trial in parents] == sampler.parents()
        assert len(parents) == 4
        assert dense in sampler.parents()  # the best error there is
        assert narrowest in sampler.parents()  # the best cost there is

    def test_the_tag_is_the_one_that_optuna_writes(self) -> None:
        """Ask Optuna itself for a trial, as `Study.ask` does, and look at what it tagged."""
        sampler = Nsga2(SamplerSettings(LEVELS, 2, 100, batch=4))
        for batch in range(3):
            sampler.tell(told(batch * 4, sampler.ask(4, batch)))
        study = sampler._memory.study(sampler._sampler(0))
        trial = study.ask(sampler._memory.space)
        assert study.trials[trial.number].system_attrs[GENERATION_KEY] == 1

    def test_children_come_from_the_parents(self) -> None:
        """With two parents that agree in all but one variable, children stay near them."""
        sampler = Nsga2(SamplerSettings((9,) * 20, 2, 100, batch=2))
        a, b = (4,) * 20, (4,) * 19 + (5,)
        sampler.tell(told(0, [a, b], (9,) * 20))
        distance = [sum(abs(x - 4) for x in child) for child in sampler.ask(50, 0)]
        assert np.mean(distance) < 4  # at random it would be 44

    def test_each_generation_has_its_say(self) -> None:
        """Parents are the best of all that was told, however many generations ago."""
        levels = (50, 2)
        sampler = Nsga2(SamplerSettings(levels, 2, 100, batch=2))
        for generation in range(6):
            better = [(generation, 0), (generation, 1)]
            sampler.tell([Told(2 * generation + i, c, (1.0 - generation, 1.0 * i), {}) for i, c in enumerate(better)])
            assert (generation, 0) in sampler.parents()

    def test_infeasible_parents_lose_to_feasible_ones(self) -> None:
        sampler = Nsga2(SamplerSettings((9,) * 3, 2, 100, batch=2))
        good = [Told(i, (i, i, i), (5.0 + i, 5.0 - i), {"c": -1.0}) for i in range(2)]
        near = [Told(2 + i, (8, 8, i), (0.0, 0.0), {"c": 0.1}) for i in range(2)]
        sampler.tell([*near, *good])
        assert set(sampler.parents()) == {(0, 0, 0), (1, 1, 1)}

    def test_among_infeasible_ones_the_nearest_are_parents(self) -> None:
        sampler = Nsga2(SamplerSettings((9,) * 3, 2, 100, batch=2))
        sampler.tell([Told(i, (i, 0, 0), (float("inf"), 1.0), {"c": v}) for i, v in enumerate((0.9, 0.2, 0.5, 0.1))])
        assert set(sampler.parents()) == {(1, 0, 0), (3, 0, 0)}

    @pytest.mark.parametrize("kind", [Nsga2, Nsga3])
    def test_a_generation_costs_the_same_however_many_there_were(self, kind: type[Nsga2 | Nsga3]) -> None:
        sampler = kind(SamplerSettings(LEVELS, 2, 100, batch=6))
        for batch in range(12):
            sampler.tell(told(batch * 6, sampler.ask(6, batch)))
            assert len(sampler._memory.study(sampler._sampler(0)).trials) <= 12

    def test_optuna_selects_the_same_from_the_whole_history(self) -> None:
        """What is left out of a generation's study has no part in it: Optuna's own walk through all of them agrees."""
        sampler = Nsga2(SamplerSettings((9,) * 6, 2, 100, batch=8))
        memory = MemoryStudy(SamplerSettings((9,) * 6, 2, 100))
        for generation in range(6):
            batch = told(generation * 8, sampler.ask(8, generation), (9,) * 6)
            sampler.tell(batch)
            memory.add(batch, {GENERATION_KEY: generation})
            optuna_sampler = sampler._sampler(0)
            parents = optuna_sampler.get_parent_population(memory.study(optuna_sampler), generation + 1)
            assert sorted(tuple(trial.params.values()) for trial in parents) == sorted(sampler.parents())

    def test_optuna_still_builds_the_key_as_expected(self) -> None:
        assert f"{NSGAIISampler.__name__}:generation" == GENERATION_KEY

    def test_population_follows_the_trials(self) -> None:
        sizes = [population_size(trials) for trials in (1, 100, 200, 1000, 2000, 10**6)]
        assert sizes == [8, 12, 20, 44, 64, 64]


class TestReferencePoints:
    @pytest.mark.parametrize(("objectives", "population"), [*itertools.product((1, 2, 3, 5), (2, 8, 20, 64))])
    def test_as_many_as_parents_at_most(self, objectives: int, population: int) -> None:
        def points(parts: int) -> int:
            return sum(1 for _ in itertools.combinations_with_replacement(range(objectives), parts))

        parts = divisions(objectives, population)
        assert parts == 1 or points(parts) <= population
        assert objectives == 1 or points(parts + 1) > population

    def test_seeds_are_parents(self) -> None:
        sampler = Nsga3(SamplerSettings(LEVELS, 2, 100, batch=4))
        dense, narrowest = tuple(count - 1 for count in LEVELS), (0,) * len(LEVELS)
        sampler.tell(told(0, [dense, narrowest, *sampler.ask(10, 0)]))
        assert {dense, narrowest} <= set(sampler.parents())
        assert len(sampler.parents()) == 4

    def test_the_tag_is_the_one_that_optuna_writes(self) -> None:
        sampler = Nsga3(SamplerSettings(LEVELS, 2, 100, batch=4))
        for batch in range(3):
            sampler.tell(told(batch * 4, sampler.ask(4, batch)))
        study = sampler._memory.study(sampler._sampler(0))
        trial = study.ask(sampler._memory.space)
        assert study.trials[trial.number].system_attrs[Nsga3.key] == 1

    def test_parents_stay_in_every_direction(self) -> None:
        """Of three objectives: the best of each, and one between, out of a crowd around a corner."""
        sampler = Nsga3(SamplerSettings((40,), 3, 100, batch=6))
        corners = [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.4, 0.4, 0.4)]
        crowd = [(0.0 + 0.001 * i, 1.0 - 0.001 * i, 0.999) for i in range(1, 21)]
        sampler.tell([Told(i, (i,), values, {}) for i, values in enumerate([*corners, *crowd])])
        assert {(1,), (2,), (3,)} <= set(sampler.parents())

    def test_among_infeasible_ones_the_nearest_are_parents(self) -> None:
        sampler = Nsga3(SamplerSettings((9,) * 3, 2, 100, batch=2))
        sampler.tell([Told(i, (i, 0, 0), (float("inf"), 1.0), {"c": v}) for i, v in enumerate((0.9, 0.2, 0.5, 0.1))])
        assert set(sampler.parents()) == {(1, 0, 0), (3, 0, 0)}
        sampler.tell([Told(4 + i, (i, 5, 5), (1.0 - i, 1.0 * i), {"c": -0.1}) for i in range(2)])
        assert set(sampler.parents()) == {(0, 5, 5), (1, 5, 5)}


class TestTpe:
    def test_what_it_looks_at_does_not_grow(self) -> None:
        sampler = Tpe(SamplerSettings((50, 50), 2, 5000))
        for batch in range(80):
            sampler.tell([Told(8 * batch + i, (batch % 50, i), (float(i), float(batch)), {}) for i in range(8)])
            assert len(sampler._held) < 2 * WINDOW
        assert len(sampler._memory.study(TPESampler()).trials) == len(sampler._held)

    def test_the_window_keeps_the_best_and_the_latest(self) -> None:
        good = [Told(i, (i,), (0.0, float(-i)), {"c": -1.0}) for i in range(3)]
        bad = [Told(3 + i, (9,), (5.0, 5.0), {"c": -1.0}) for i in range(10)]
        broken = [Told(13 + i, (9,), (-9.0, -9.0), {"c": 0.5}) for i in range(4)]
        kept = window([*good, *bad, *broken], size=6)
        assert [told.number for told in kept] == [0, 1, 2, 14, 15, 16]

    def test_children_follow_the_window(self) -> None:
        """Told that low levels are good, a thousand trials on it asks for low levels."""
        sampler = Tpe(SamplerSettings((30,) * 4, 2, 2000))
        rng = np.random.default_rng(0)
        for batch in range(100):
            choices = [tuple(map(int, row)) for row in rng.integers(0, 30, (8, 4))]
            sampler.tell([Told(8 * batch + i, c, (float(sum(c)), float(c[0])), {}) for i, c in enumerate(choices)])
        assert np.mean(sampler.ask(20, 0)) < 9.0


class TestArchive:
    def archive(self, levels: tuple[int, ...] = (9,) * 8) -> Archive:
        return Archive(SamplerSettings(levels, 2, 100, batch=8))

    def test_members_are_what_nothing_dominates(self) -> None:
        sampler = self.archive(levels=(9,))
        values = [(3.0, 1.0), (1.0, 3.0), (3.0, 3.0), (1.0, 3.0), (2.0, 2.0)]
        sampler.tell([Told(i, (i,), pair, {}) for i, pair in enumerate(values)])
        assert sampler.members() == [(0,), (1,), (4,)]
        sampler.tell([Told(5, (5,), (1.0, 1.5), {}), Told(6, (6,), (9.0, 9.0), {}), Told(7, (7,), None, {})])
        assert sampler.members() == [(0,), (5,)]

    def test_moves_are_one_to_three_variables_by_one_level(self) -> None:
        sampler = self.archive()
        origin = (4,) * 8
        sampler.tell([Told(0, origin, (1.0, 1.0), {})])
        steps = [np.array(choice) - 4 for seed in range(20) for choice in sampler.ask(10, seed)]
        assert all(abs(step).max() == 1 for step in steps)
        assert {int(abs(step).sum()) for step in steps} == {1, 2, 3}
        pairs = [step for step in steps if abs(step).sum() == 2]
        assert np.mean([step.sum() == 0 for step in pairs]) > 0.6  # what one gives the other takes

    def test_moves_stay_inside(self) -> None:
        levels = (2, 1, 3)
        sampler = self.archive(levels)
        sampler.tell([Told(0, (1, 0, 2), (1.0, 1.0), {})])
        choices = sampler.ask(60, 1)
        assert {choice for choice in choices if choice != (1, 0, 2)} == {(0, 0, 2), (1, 0, 1), (0, 0, 1)}

    def test_what_was_tried_is_not_asked_for_again(self) -> None:
        sampler = self.archive(levels=(3, 3))
        tried = [(1, 1), (0, 1), (1, 0), (2, 1)]
        sampler.tell([Told(i, choice, (float(i), float(i)), {}) for i, choice in enumerate(tried)])
        fresh = sampler.ask(4, 0)
        assert len(set(fresh)) == 4
        assert not set(fresh) & set(tried)

    def test_infeasible_members_stay_until_there_is_a_feasible_one(self) -> None:
        sampler = self.archive(levels=(20,))
        sampler.tell([Told(i, (i,), (float("inf"), 1.0), {"c": 0.1 * (i + 1)}) for i in range(12)])
        assert sampler.members() == [(i,) for i in range(8)]  # the nearest
        sampler.tell([Told(12, (15,), (5.0, 5.0), {"c": -0.1})])
        assert sampler.members() == [(15,)]

    def test_the_lonely_are_moved_from_more_often(self) -> None:
        """Ends and the one in the gap have more room than those in the crowd."""
        np.testing.assert_allclose(crowding([(0.0, 4.0), (1.0, 2.0), (4.0, 0.0)]), [np.inf, 2.0, np.inf])
        np.testing.assert_allclose(crowding([(0.0, 1.0), (0.1, 0.9), (0.5, 0.5), (1.0, 0.0)])[1:3], [1.0, 1.8])
        assert crowding([(1.0, 1.0)]).tolist() == [np.inf]
        sampler = self.archive(levels=(100,) * 20)
        values = [(0.0, 1.0), (0.01, 0.99), (0.02, 0.98), (0.03, 0.97), (0.5, 0.5), (1.0, 0.0)]
        sampler.tell([Told(i, (10 * i + 5, *[50] * 19), pair, {}) for i, pair in enumerate(values)])
        origins = [round((choice[0] - 5) / 10) for choice in sampler.ask(60, 0)]
        assert sum(origin in (1, 2, 3) for origin in origins) < sum(origin in (0, 4, 5) for origin in origins) / 2


class TestProposals:
    def test_repeats_move_to_something_new(self) -> None:
        levels = (4, 4, 4)
        wanted = [Proposal(i, (1, 2, 3), "sampler") for i in range(20)]
        fresh = list(without_repeats(wanted, {(0, 0, 0)}, levels, seed=3))
        assert len({p.choice for p in fresh}) == 20
        assert fresh[0].choice == (1, 2, 3)
        assert sum(abs(a - b) for a, b in zip(fresh[1].choice, (1, 2, 3), strict=True)) == 1
        assert list(without_repeats(wanted, {(0, 0, 0)}, levels, seed=3)) == fresh
        assert list(without_repeats(wanted, {(0, 0, 0)}, levels, seed=4)) != fresh

    def test_what_is_known_of_the_same_batch_changes_nothing(self) -> None:
        """A batch interrupted anywhere is proposed the same again, whatever part of it is recorded."""
        levels = (3, 3)
        wanted = [Proposal(i, (1, 1), "sampler") for i in range(7)]
        whole = {p.number: p.choice for p in without_repeats(wanted, (), levels, 0)}
        for done in itertools.chain.from_iterable(itertools.combinations(whole, n) for n in (1, 3, 6)):
            rest = [p for p in wanted if p.number not in done]
            again = without_repeats(rest, {whole[number] for number in done}, levels, 0)
            assert {p.number: p.choice for p in again} == {n: c for n, c in whole.items() if n not in done}

    def test_an_exhausted_space_leaves_proposals_out(self) -> None:
        wanted = [Proposal(i, (0, 0), "sampler") for i in range(9)]
        fresh = list(without_repeats(wanted, (), (2, 3), 0))
        assert len(fresh) == 6
        assert nearby((0,), {(0,)}, (1,), 0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((3, 0), 2, 10, None), "at least one level"),
        (((3,), 0, 10, None), "objectives >= 1"),
        (((3,), 2, 0, None), "trials >= 1"),
        (((3,), 2, 10, 1), "batch of at least 2"),
    ],
)
def test_settings_are_checked(settings: tuple[tuple[int, ...], int, int, int | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplerSettings(*settings)


def test_unknown_sampler_lists_the_known() -> None:
    with pytest.raises(
        InputError,
        match=r"unknown sampler 'nsga4'\. Did you mean 'nsga[23]'\? Known: archive, nsga2, .*random, surrogate, tpe",
    ):
        SAMPLERS.get("nsga4")
