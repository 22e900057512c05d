"""Search spaces: rules, ties, safe reading, and messages that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, SparsityPolicy, trace
from autoprune.search.space import SearchSpace, list_spaces
from tests.search.models import SPACE, example, small_graph


@pytest.fixture(scope="module")
def graph() -> DependencyGraph:
    return small_graph()


def load(graph: DependencyGraph, *rules: dict[str, Any], quantum: int = 1) -> SearchSpace:
    return SearchSpace.load({"rules": list(rules)}, graph, quantum)


def test_widths_are_multiples_between_the_minimum_and_dense(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "*", "multiple": 4, "minimum": 0.5})
    assert space.widths == {"stem": (4, 8), "block1.conv1": (8, 12, 16), "block2.conv1": (8, 12)}
    assert space.levels == (2, 3, 2)
    assert space.size == 12


def test_later_rules_override_only_what_they_name(graph: DependencyGraph) -> None:
    space = load(
        graph,
        {"match": "*", "multiple": 4, "minimum": 4},
        {"match": "block*", "minimum": 8},
        {"match": ["stem", "nothing"], "freeze": True},
        {"match": "*", "unit": "head", "minimum": 1, "multiple": 1},
    )
    assert space.widths == {"stem": (8,), "block1.conv1": (8, 12, 16), "block2.conv1": (8, 12)}
    assert [variable.name for variable in space.variables] == ["block1.conv1", "block2.conv1"]


def test_levels_spread_evenly_and_keep_both_ends(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "*", "levels": 3, "minimum": 2})
    assert space.widths["block1.conv1"] == (2, 9, 16)


def test_quantum_is_halved_for_narrow_groups(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "*", "multiple": "quantum"}, quantum=8)
    assert space.widths["block1.conv1"] == (4, 8, 12, 16)
    assert space.widths["stem"] == (2, 4, 6, 8)
    assert load(graph, {"match": "*", "multiple": "quantum"}, quantum=4).widths["block1.conv1"] == (4, 8, 12, 16)


def test_tied_groups_share_one_relative_width(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "*", "multiple": 4}, {"match": "block*.conv1", "tie": "blocks"})
    assert [(v.name, v.groups) for v in space.variables] == [
        ("stem", ("stem",)),
        ("blocks", ("block1.conv1", "block2.conv1")),
    ]
    assert space.variables[1].widths == ((4, 4), (8, 4), (12, 8), (16, 12))
    policy = space.policy((1, 2))
    assert dict(policy) == {"stem": 8, "block1.conv1": 12, "block2.conv1": 8}
    assert space.choice(policy) == (1, 2)


def test_tie_names_take_what_the_wildcards_match(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "block*.conv1", "multiple": 4, "tie": "stage{1}"})
    assert [variable.name for variable in space.variables] == ["stage1", "stage2"]


def test_group_without_a_rule_stays_dense(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "stem", "multiple": 4})
    assert dict(space.policy(space.narrowest)) == {"stem": 4, "block1.conv1": 16, "block2.conv1": 12}


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_choices_and_policies_are_the_same_thing(graph: DependencyGraph, data: st.DataObject) -> None:
    space = SearchSpace.load(SPACE, graph)
    choices = data.draw(st.lists(st.tuples(*(st.integers(0, n - 1) for n in space.levels)), min_size=1, max_size=5))
    for choice, widths in zip(choices, space.group_widths(choices), strict=True):
        policy = space.policy(choice)
        assert space.choice(policy) == choice
        assert [policy[group] for group in space.groups] == widths.tolist()
        assert graph.check(policy) == policy


def test_uniform_dense_and_random(graph: DependencyGraph) -> None:
    space = SearchSpace.load(SPACE, graph)
    assert space.uniform(0.0) == space.dense == (1, 3, 2)
    assert space.uniform(1.0) == space.narrowest == (0, 0, 0)
    assert dict(space.policy(space.uniform(0.5))) == {"stem": 4, "block1.conv1": 8, "block2.conv1": 8}
    draws = {space.random(np.random.default_rng(seed)) for seed in range(200)}
    assert len(draws) == space.size == 24
    assert space.random(np.random.default_rng(3)) == space.random(np.random.default_rng(3))
    with pytest.raises(InputError, match="ratio from 0"):
        space.uniform(1.5)


def test_hash_tells_widths_apart_and_nothing_else(graph: DependencyGraph) -> None:
    one, same = load(graph, {"match": "*", "multiple": 4}), load(graph, {"match": ["s*", "b*"], "multiple": 4})
    assert one.hash == same.hash
    assert one.hash != load(graph, {"match": "*", "multiple": 2}).hash


def test_policy_outside_the_space_is_refused(graph: DependencyGraph) -> None:
    space = load(graph, {"match": "block*", "multiple": 4})
    with pytest.raises(InputError, match=r"expected one of 4, 8, 12, 16 for 'block1.conv1', got \(5,\)"):
        space.choice(SparsityPolicy({"block1.conv1": 5}))
    with pytest.raises(InputError, match="'stem' is not searched"):
        space.choice({"stem": 4})
    with pytest.raises(InputError, match=r"unknown group 'stm'.*stem"):
        space.choice({"stm": 4})
    with pytest.raises(InputError, match="expected 2 levels"):
        space.policy((0,))
    with pytest.raises(InputError, match=r"level from 0 to 3 for 'block1.conv1', got 4"):
        space.policy((4, 0))


def test_ties_by_size_and_unit(graph: DependencyGraph) -> None:
    space = load(graph, {"multiple": 4, "tie": "{unit} {size}"})
    assert [variable.name for variable in space.variables] == ["channel 8", "channel 16", "channel 12"]
    assert space.hash != load(graph, {"multiple": 4}).hash


def test_a_later_rule_can_untie(graph: DependencyGraph) -> None:
    space = load(graph, {"multiple": 4, "tie": "all"}, {"match": "stem", "tie": None})
    assert [(v.name, v.groups) for v in space.variables] == [
        ("stem", ("stem",)),
        ("all", ("block1.conv1", "block2.conv1")),
    ]


def test_shipped_spaces_load_by_name(graph: DependencyGraph) -> None:
    spaces = list_spaces()
    assert set(spaces) == {"cnn", "depth", "llm", "transformer"}
    for name, description in spaces.items():
        assert description
        space = SearchSpace.load(name, graph, quantum=8)
        assert space.name == name
        assert space.size > 1


def test_auto_is_the_space_for_the_kind_of_model(graph: DependencyGraph) -> None:
    assert SearchSpace.load("auto", graph).name == "cnn"
    assert SearchSpace.load("auto", graph).hash == SearchSpace.load("cnn", graph).hash


def test_extended_rules_come_first(graph: DependencyGraph, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("rules:\n  - multiple: 4\n    minimum: 0.5\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nrules:\n  - {match: stem, freeze: true}\n")
    (tmp_path / "both.yaml").write_text("extends: [depth, mine.yaml]\n")
    space = SearchSpace.load(tmp_path / "mine.yaml", graph)
    assert space.widths == {"stem": (8,), "block1.conv1": (8, 12, 16), "block2.conv1": (8, 12)}
    assert SearchSpace.load({"extends": str(tmp_path / "mine.yaml")}, graph).hash == space.hash
    both = SearchSpace.load(str(tmp_path / "both.yaml"), graph)
    assert both.widths == {"stem": (8,), "block1.conv1": (0, 8, 12, 16), "block2.conv1": (0, 8, 12)}


def test_wrong_extensions_are_refused(graph: DependencyGraph, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: ./b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"extends: ../{tmp_path.name}/a.yaml\n")
    with pytest.raises(InputError, match=r"a.yaml: expected spaces that do not extend each other in a circle"):
        SearchSpace.load(tmp_path / "a.yaml", graph)
    with pytest.raises(InputError, match=r"unknown search space 'transfomer'. Did you mean 'transformer'\?"):
        SearchSpace.load({"extends": "transfomer", "rules": [{"remove": True}]}, graph)
    with pytest.raises(InputError, match="cannot read search space"):
        SearchSpace.load({"extends": "missing.yaml"}, graph)
    with pytest.raises(InputError, match="expected 1 to 1000 rules, extended ones included, got 0"):
        SearchSpace.load({"description": "nothing"}, graph)
    with pytest.raises(InputError, match="expected 1 to 1000 rules, extended ones included, got 2001"):
        SearchSpace.load({"extends": ["cnn"] * 1000, "rules": [{"levels": 3}]}, graph)


def test_loads_from_a_path(graph: DependencyGraph, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rules:\n  - match: '*'\n    multiple: 4\n")
    assert SearchSpace.load(path, graph).hash == SearchSpace.load(SPACE, graph).hash
    assert SearchSpace.load(str(path), graph).name == "mine"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"mach": "*"}, "unknown key 'rules[0].mach'. Did you mean 'match'?"),
        ({"unit": "heads"}, "rules[0].unit: expected one of channel, hidden, head, query, head_dim, group"),
        ({"unit": ["head", "had"]}, "or a list of them, got ['head', 'had']"),
        ({"stream": "yes"}, "rules[0].stream"),
        ({"remove": 1}, "rules[0].remove"),
        ({"tie": "{stage}"}, "rules[0].tie: expected {1} to {9}, {size} or {unit} as placeholders, got '{stage}'"),
        ({"match": "*", "minimum": 0}, "(`remove: true` allows width 0), got 0"),
        ({"match": "*", "minimum": 0}, "rules[0].minimum: expected a count of at least 1, or a share"),
        ({"match": "*", "minimum": 1.5}, "got 1.5"),
        ({"match": "*", "minimum": True}, "got True"),
        ({"match": "*", "multiple": "quantm"}, "a whole number of at least 1, or 'quantum', got 'quantm'"),
        ({"match": "*", "levels": 1}, "greater than or equal to 2, got 1"),
        ({"match": []}, "expected a text of 1 to 200 characters"),
        ({"match": "*a" * 9}, "at most 8 wildcards"),
        ({"match": "*", "freeze": "maybe"}, "rules[0].freeze"),
    ],
)
def test_wrong_rules_are_refused(graph: DependencyGraph, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace.load({"rules": [rule]}, graph)
    assert message in str(caught.value)


def test_unknown_space_lists_the_known(graph: DependencyGraph) -> None:
    with pytest.raises(InputError, match=r"unknown search space 'cn'. Did you mean 'cnn'\? Known: .*cnn"):
        SearchSpace.load("cn", graph)
    with pytest.raises(InputError, match="cannot read search space"):
        SearchSpace.load("missing/file.yaml", graph)
    with pytest.raises(InputError, match="quantum of at least 1"):
        SearchSpace.load("cnn", graph, quantum=0)


def test_nothing_left_says_why(graph: DependencyGraph) -> None:
    with pytest.raises(InputError, match=r"3 groups \(stem, block1.conv1, block2.conv1, ...\), but the rules freeze"):
        load(graph, {"match": "*", "freeze": True})
    with pytest.raises(InputError, match="match none of them"):
        load(graph, {"match": "layer*"})
    frozen = trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), example())
    with pytest.raises(InputError, match=r"Nothing in this model can be pruned: .*output of the model"):
        SearchSpace.load("cnn", frozen)
