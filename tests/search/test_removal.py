"""Blocks that go: one decision each, equal policies told apart from different ones, every way a search uses them."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.errors import Failure, InputError
from autoprune.graph import SparsityPolicy, trace
from autoprune.search.allocation import allocate
from autoprune.search.damage import damage_curves, damage_plan
from autoprune.search.executors import open_executor
from autoprune.search.objectives import Costs, Objective
from autoprune.search.proposals import Proposal, without_repeats
from autoprune.search.removal import Removal
from autoprune.search.space import Choice, SearchSpace, Variable
from autoprune.search.study import Seed, StudySettings, run_search
from tests.search.architectures import LlamaLayer, traced
from tests.search.synthetic import SyntheticCosts, SyntheticEvaluator, synthetic_problem

TIED: dict[str, Any] = {"extends": "llm", "rules": [{"remove": True}]}
FREE: dict[str, Any] = {"extends": "transformer", "rules": [{"remove": True}]}


@functools.cache
def space_of(name: str, kind: str) -> SearchSpace:
    source = {"tied": TIED, "free": FREE}.get(kind, kind)
    return SearchSpace.load(source, traced(name))


def test_one_group_of_a_block_decides_that_it_goes() -> None:
    assert [(v.name, v.widths) for v in space_of("Vit", "depth").variables] == [
        (f"blocks.{i}.{part}", ((0,), (size,))) for i in range(3) for part, size in (("mix.qkv", 4), ("think.one", 48))
    ]
    policy = space_of("Vit", "depth").policy((0, 1, 1, 1, 1, 1))
    assert {group: width for group, width in policy.items() if width == 0} == {
        "blocks.0.mix.qkv": 0,
        "blocks.0.mix.qkv:head_dim": 0,
    }


def test_width_zero_is_one_more_width_of_a_group_by_itself() -> None:
    widths = {v.name: v.widths for v in space_of("Vit", "free").variables}
    assert widths["blocks.0.mix.qkv"] == ((0,), (1,), (2,), (3,), (4,))
    assert widths["blocks.0.think.one"][:3] == ((0,), (6,), (10,))


def test_of_tied_groups_each_block_goes_by_itself() -> None:
    space = space_of("Llama", "tied")
    assert [v.name for v in space.variables] == [
        "embedding 128",
        "heads 2", "layers.0.q:depth", "layers.1.q:depth", "layers.2.q:depth",
        "queries 3",
        "mlp 40", "layers.0.gate:depth", "layers.1.gate:depth", "layers.2.gate:depth",
    ]  # fmt: skip
    choice = list(space.dense)
    choice[1], choice[3] = 0, 0  # one key-value head a layer, and no attention at all in the second
    policy = space.policy(choice)
    assert [policy[f"layers.{i}.q"] for i in range(3)] == [1, 0, 1]
    assert [policy[f"layers.{i}.q:head"] for i in range(3)] == [3, 0, 3]
    assert space.choice(policy) == tuple(choice)


def test_what_blocks_share_is_gone_with_the_last_of_them() -> None:
    space = space_of("Llama", "depth")
    attention = [place for place, variable in enumerate(space.variables) if variable.name.endswith(".q")]
    assert len(attention) == 3
    for count in range(4):
        for gone in itertools.combinations(attention, count):
            choice = [0 if place in gone else 1 for place in range(len(space.levels))]
            policy = space.policy(choice)
            assert policy["layers.0.q:head_dim"] == (0 if count == 3 else 4)
            assert traced("Llama").check(policy) == policy


def test_the_last_rule_says_whether_a_block_may_go() -> None:
    rules = [{"remove": True}, {"match": "stage1.*", "freeze": True}, {"match": "stage1.1.*", "remove": True}]
    widths = SearchSpace.load({"extends": "transformer", "rules": rules}, traced("Swin")).widths
    assert widths["stage1.0.mix.qkv"] == (2,)
    assert widths["stage1.1.mix.qkv"] == (0, 2)
    assert widths["stage2.0.mix.qkv"] == (0, 1, 2, 3, 4)


class Biased(nn.Module):
    """Two attention blocks whose heads share one table, as T5's do: no heads, no attention anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = LlamaLayer(16, 4, 4, 4, 8), LlamaLayer(16, 4, 4, 4, 8), nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(4, 5, 5))

    def attended(self, layer: Any, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (part(x).view(n, t, 4, 4).transpose(1, 2) for part in (layer.q, layer.k, layer.v))
        y = torch.softmax(q @ k.transpose(-1, -2) + self.table, -1) @ v
        z: Tensor = x + layer.o(y.transpose(1, 2).reshape(n, t, c))
        return z

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.attended(self.second, self.attended(self.first, x)))
        return y


def test_what_all_blocks_share_is_no_block() -> None:
    graph = trace(Biased().eval(), torch.randn(2, 5, 16))
    assert graph.groups["first.q"].removable
    assert len([member for member in graph.groups["first.q"].members if "second" in member.parameter]) == 4
    space = SearchSpace.load(FREE, graph)
    assert {v.name: v.widths[0] for v in space.variables} == {"first.q": (1,), "first.v": (0,), "second.v": (0,)}
    gone = space.policy(space.narrowest)
    assert {group for group, width in gone.items() if width} == set()
    assert graph.check(gone) == gone
    assert space.choice({"first.q": 0}) == space.narrowest == (3, 0, 0)


def test_parallel_branches_do_not_both_go() -> None:
    space = space_of("Parallel", "depth")
    assert space.widths == {"left.one": (0, 8), "left.two": (6,), "right.one": (10,)}


def test_inner_blocks_go_with_outer_ones() -> None:
    space = space_of("Resnet", "depth")
    names = [variable.name for variable in space.variables]
    assert names[:2] == ["stage1.0.a", "stage1.0.squeeze"]
    both, outer = [0, 0, *space.dense[2:]], [0, *space.dense[1:]]
    assert space.policy(both) == space.policy(outer)
    assert space.canonical(both) == tuple(outer)
    assert space.choice({"stage1.0.squeeze": 0}) == (1, 0, *space.dense[2:])


def test_any_group_of_a_block_names_it() -> None:
    space = space_of("Vit", "depth")
    assert space.choice({"blocks.1.mix.qkv:head_dim": 0}) == (1, 1, 0, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n in ("Vit", "Bert", "Llama", "Swin", "Resnet") for k in ("depth", "free", "tied")]
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equal_policies_have_one_choice(name: str, kind: str, data: st.DataObject) -> None:
    space, graph = space_of(name, kind), traced(name)
    level = st.tuples(*(st.integers(0, count - 1) | st.just(0) for count in space.levels))
    choices: list[Choice] = data.draw(st.lists(level, min_size=1, max_size=4))
    for choice, widths in zip(choices, space.group_widths(choices), strict=True):
        policy = space.policy(choice)
        assert graph.check(policy) == policy
        assert [policy[group] for group in space.groups] == widths.tolist()
        canonical = space.canonical(choice)
        assert space.policy(canonical) == policy
        assert space.choice(policy) == canonical == space.canonical(canonical)
        assert all(policy[group] in space.widths[group] for group in space.groups)


@pytest.mark.parametrize("kind", ["depth", "free", "tied"])
def test_dense_narrowest_uniform_and_random(kind: str) -> None:
    space = space_of("Llama", kind)
    assert space.canonical(space.dense) == space.dense
    assert space.canonical(space.narrowest) == space.narrowest
    assert all(space.canonical(c) == c for c in (space.random(np.random.default_rng(seed)) for seed in range(20)))
    assert space.uniform(0.0) == space.dense
    gone = sum(width == 0 for width in space.policy(space.uniform(0.5)).values())
    if kind == "depth":
        assert space.uniform(0.5) == (1, 0, 1, 0, 1, 0)
        assert space.uniform(0.34) == (1, 1, 0, 1, 1, 0)
        assert space.uniform(1.0) == space.narrowest == (0,) * 6
    else:
        assert gone == 0
        assert all(space.policy(space.uniform(1.0)).values())


def test_policies_outside_the_space_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected one of \(10, 10, 10\), .* for 'mlp 40', got \(0, 7, 40\)"):
        space_of("Llama", "tied").choice({"layers.0.gate": 0, "layers.1.gate": 7})
    with pytest.raises(
        InputError, match=r"'blocks\.0\.mix\.qkv' does not fit the other widths; expected 4 units, got 2"
    ):
        space_of("Vit", "depth").choice({"blocks.0.mix.qkv": 2})
    with pytest.raises(InputError, match=r"'blocks\.0\.think\.one' is not searched; expected 48 units, got 0"):
        SearchSpace.load({"rules": [{"unit": "head"}]}, traced("Vit")).choice({"blocks.0.think.one": 0})


def test_no_policy_is_proposed_twice() -> None:
    space = space_of("Resnet", "depth")
    rng = np.random.default_rng(0)
    drawn = [tuple(map(int, rng.integers(0, 2, len(space.levels)))) for _ in range(60)]
    proposals = [Proposal(number, choice, "sampler") for number, choice in enumerate(drawn)]
    fresh = [p.choice for p in without_repeats(proposals, {space.dense}, space.levels, 0, space.canonical)]
    policies = {space.policy(choice) for choice in fresh}
    assert len(policies) == len(fresh) > 50
    assert space.policy(space.dense) not in policies


def test_a_search_evaluates_no_policy_twice_and_reaches_them_all(tmp_path: Path) -> None:
    """The first of three groups takes the second with it: 1 + 2 * 3 of the 3 * 3 choices of both differ."""
    problem = synthetic_problem(variables=3, levels=2)
    names = list(problem.space.groups)
    space = SearchSpace(
        "synthetic",
        dict.fromkeys(names, 2),
        tuple(Variable(name, (name,), ((0,), (1,), (2,))) for name in names),
        Removal(
            tuple(names), {n: frozenset([n, *extra]) for n, extra in zip(names, [names[1:2], [], []], strict=True)}
        ),
    )
    small = replace(problem, space=space, costs=SyntheticCosts(space, (1.0, 2.0, 3.0)))
    seeds = [Seed(space.policy(space.dense), "dense"), Seed(space.policy(space.narrowest), "allocation")]
    with open_executor(small.evaluator) as executor:
        trials = run_search(
            small,
            executor,
            StudySettings(trials=60),
            seeds=seeds,
            folder=tmp_path,
            evaluate=SyntheticEvaluator.evaluate,
        )
    assert len(trials) == len({trial.policy for trial in trials}) == (1 + 2 * 3) * 3
    assert all(space.canonical(trial.choice) == trial.choice for trial in trials)
    assert all(space.policy(trial.choice) == trial.policy for trial in trials)


def test_damage_curves_and_allocation_cope_with_blocks_that_go() -> None:
    """The loss of the policy is a sum over blocks; the front must hold the cheapest and the dense policy."""
    graph, space = traced("Llama"), space_of("Llama", "free")

    def losses(policies: Any) -> list[float | Failure]:
        return [sum((1 - p[g] / size) ** 2 for g, size in space.groups.items()) for p in map(SparsityPolicy, policies)]

    assert len({space.policy(choice) for choice in damage_plan(space)}) == len(damage_plan(space))
    curves = damage_curves(space, losses)
    for variable, table in zip(space.variables, curves.tables, strict=True):
        assert table[-1] == 0.0
        assert (np.diff(table) <= 0.0).all(), variable.name
    costs = Costs(graph, space, {})

    def macs(choices: Any) -> Any:
        return costs.values([Objective("macs", "macs")], choices)[:, 0]

    front = allocate(curves.tables, macs, points=8)
    found = macs(front)
    assert (np.diff(found) > 0).all()
    assert found[-1] == graph.macs({})
    assert found[0] == macs([space.narrowest])[0] == graph.macs(dict(space.policy(space.narrowest)))


def test_what_goes_alone_is_what_the_graph_says() -> None:
    for name in ("Vit", "Bert", "Llama", "Swin", "Resnet", "Parallel"):
        graph = traced(name)
        removal = Removal.of(graph, graph.groups)
        for group, closed in graph.closure.items():
            assert removal.vanished([group]) == set(closed)


def test_a_model_without_blocks_has_none_to_remove() -> None:
    graph = traced("Parallel")
    assert Removal.of(graph, ["left.two"]) == Removal()
    with pytest.raises(InputError, match="None may be removed whole: no block is a residual branch of its own"):
        SearchSpace.load({"rules": [{"minimum": 1.0}, {"match": "left.two", "remove": True}]}, graph)
