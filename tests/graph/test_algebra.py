"""The dimension algebra: refinement, factoring, cutting and unification, and what they cannot express."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.graph import dimension
from autoprune.graph.algebra import (
    AlgebraError,
    Atom,
    Product,
    Sum,
    concatenation,
    constant,
    cut,
    factor,
    freeze,
    leaves,
    product,
    resolve,
    size,
    unify,
)
from autoprune.graph.dimension import Batch, Concatenation, Constant, Dimension, Width


def test_a_reshape_factors_an_atom() -> None:
    atom = Atom(768)
    heads, width = factor([atom], [12, 64])
    assert [size(heads), size(width)] == [12, 64]
    assert resolve(atom) == Product((heads, width))
    assert product([heads, width]) == resolve(atom)


def test_unified_atoms_are_one() -> None:
    a, b, c = Atom(6), Atom(6), Atom(6)
    unify(a, b, "add")
    unify(b, c, "add")
    assert resolve(a) is resolve(b) is resolve(c)
    freeze(c, "because")
    assert leaves(a)[0].frozen == "because"


def test_a_concatenation_meets_an_atom() -> None:
    a, b, joined = Atom(4), Atom(6), Atom(10)
    unify(joined, concatenation([a, b]), "conv")
    assert resolve(joined) == Sum((a, b))
    left, middle, right = cut(joined, [2, 5, 3])
    assert [size(part) for part in (left, middle, right)] == [2, 5, 3]
    assert isinstance(resolve(a), Sum)


def test_a_shuffle_unifies_the_halves_of_a_concatenation() -> None:
    a, b = Atom(8), Atom(8)
    two, rest = factor([concatenation([a, b])], [2, 8])
    assert leaves(two)[0].frozen is not None
    assert resolve(a) is resolve(b) is rest


def test_structures_that_do_not_fit_are_frozen() -> None:
    a, b = product([Atom(4), Atom(9)]), product([Atom(9), Atom(4)])
    unify(a, b, "add")
    assert all(leaf.frozen for leaf in [*leaves(a), *leaves(b)])


def test_a_dimension_tied_to_a_part_of_itself_is_frozen() -> None:
    a = Atom(4)
    whole = Product((a, constant(1, "x")))
    unify(Sum((a, Atom(4))), product([Atom(2), a]), "odd")
    assert leaves(a)[0].frozen or whole


def test_the_batch_is_not_cut() -> None:
    with pytest.raises(AlgebraError, match="batch"):
        cut(Atom(7, frozen="is the batch", batch=True), [3, 4])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_factor_keeps_the_size(sizes: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(sizes))
    atoms = [Atom(units) for units in sizes]
    try:
        dims = factor(atoms, order)
    except AlgebraError:
        return
    assert [size(d) for d in dims] == list(order)
    assert size(product(dims)) == int(np.prod(sizes))


widths = st.integers(1, 5)


@st.composite
def dimensions(draw: st.DrawFn) -> tuple[Dimension, dict[str, int]]:
    groups = {name: draw(widths) for name in "abc"}
    leaf: st.SearchStrategy[Dimension] = st.sampled_from(
        [Width(name, units) for name, units in groups.items()]
    ) | widths.map(Constant)
    tree: st.SearchStrategy[Dimension] = st.recursive(
        leaf,
        lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda items: st.sampled_from([dimension.Product(tuple(items)), Concatenation(tuple(items))])
        ),
        max_leaves=5,
    )
    whole: Dimension = draw(tree)
    return whole, groups


@given(dimensions(), st.data())
def test_sizes_indices_and_units_agree(drawn: tuple[Dimension, dict[str, int]], data: st.DataObject) -> None:
    whole, groups = drawn
    kept = {
        name: np.array(sorted(data.draw(st.sets(st.integers(0, units - 1), min_size=1))), dtype=np.int64)
        for name, units in groups.items()
    }
    index = dimension.indices(whole, kept)
    assert index.size == dimension.size(whole, {name: len(units) for name, units in kept.items()})
    assert np.all(np.diff(index) > 0)
    for group in dimension.groups_of(whole):
        units = dimension.units_of(whole, group)
        assert set(units[index]) - {-1} <= set(kept[group])
    assert dimension.from_data(dimension.to_data(whole)) == whole


@given(dimensions())
def test_arrays_of_widths_give_arrays_of_sizes(drawn: tuple[Dimension, dict[str, int]]) -> None:
    whole, groups = drawn
    many = {name: np.arange(1, 4) for name in groups}
    expected = [dimension.size(whole, dict.fromkeys(groups, n)) for n in (1, 2, 3)]
    assert np.array_equal(np.broadcast_to(dimension.size(whole, many), 3), expected)


@pytest.mark.parametrize("data", [-1, True, 1.5, "b", {"width": ["a"]}, {"product": 3}, None, {"x": []}])
def test_only_dimensions_are_read_back(data: object) -> None:
    with pytest.raises(ValueError, match=r"not a dimension"):
        dimension.from_data(data)


def test_the_batch_counts_where_it_is_given() -> None:
    whole = dimension.Product((Batch(), Constant(3)))
    assert dimension.size(whole, {}) == 3
    assert dimension.size(whole, {Batch.KEY: 5}) == 15
    assert dimension.text(whole) == "batch*3"
