"""Trees of dotted names: what is folded, what is not, and how it is named."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.pipeline.tree import Node, folded_tree, tree


def shown(roots: tuple[Node[int], ...]) -> list[str]:
    return [
        "  " * depth
        + node.name
        + (f" x{node.times}" if node.times > 1 else "")
        + (f" {list(node.items)}" * bool(node.items))
        for root in roots
        for depth, node in root.walk()
    ]


def fold(items: Mapping[str, int]) -> list[str]:
    """Items are alike where they have the same last digit, and equal where they are."""
    return shown(folded_tree(list(items.items()), lambda item: item % 10, lambda item: item))


def test_a_tree_follows_the_names() -> None:
    items = {"stem": 1, "body.0.conv": 2, "body.0.norm": 3, "body.1.conv": 4, "head.inner.out": 5}
    assert shown(tree(list(items.items()))) == [
        "stem [1]",
        "body",
        "  0",
        "    conv [2]",
        "    norm [3]",
        "  1.conv [4]",
        "head.inner.out [5]",
    ]


def test_modules_that_are_alike_are_folded() -> None:
    assert fold({f"layers.{i}.{part}": number for i in range(48) for part, number in (("a", 1), ("b", 2))}) == [
        "layers.{0..47} x48",
        f"  a {[1] * 48}",
        f"  b {[2] * 48}",
    ]


def test_a_chain_of_one_is_one_line() -> None:
    assert fold({f"layers.{i}.mlp.up": 1 for i in range(3)}) == ["layers.{0..2}.mlp.up x3 [1, 1, 1]"]


def test_what_differs_stands_apart() -> None:
    items = {"block_0.a": 1, "block_1.a": 1, "block_1.b": 2, "block_2.a": 11, "block_4.a": 1, "other_5.a": 1}
    assert fold(items) == [
        "block_{0,2,4}.a x3 [1, 11, 1]",
        "block_1",
        "  a [1]",
        "  b [2]",
        "other_5.a [1]",
    ]


def test_siblings_that_are_no_modules_must_be_equal() -> None:
    assert fold({"a.conv1": 1, "a.conv2": 1, "a.conv3": 11}) == ["a", "  conv{1,2} x2 [1, 1]", "  conv3 [11]"]


def test_inner_folds_count_by_themselves() -> None:
    items = {f"layers.{i}.{part}": 1 for i in range(3) for part in ("router", *(f"experts.{e}.up" for e in range(8)))}
    assert fold(items) == ["layers.{0..2} x3", "  router [1, 1, 1]", f"  experts.{{0..7}}.up x8 {[1] * 24}"]


def test_names_with_several_numbers_are_left_alone() -> None:
    assert fold({"conv_1a_3x3.w": 1, "conv_2a_3x3.w": 1, "b01.w": 1, "b02.w": 1}) == [
        "conv_1a_3x3.w [1]",
        "conv_2a_3x3.w [1]",
        "b01.w [1]",
        "b02.w [1]",
    ]


def test_a_name_may_hold_a_group_and_others() -> None:
    assert shown(tree([("a", 1), ("a.b", 2)])) == ["a [1]", "  b [2]"]


def test_all_items_are_there() -> None:
    items = [(f"s.{i}.{j}.c", i) for i in range(3) for j in range(4)]
    roots = folded_tree(items, lambda item: 0, lambda item: item)
    assert sorted(item for root in roots for _, node in root.walk() for item in node.items) == sorted(
        i for _, i in items
    )
