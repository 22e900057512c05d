"""The oracle: a sliced model equals the dense one with the consumers' columns of removed units zeroed."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.core.errors import InputError
from autoprune.graph import DependencyGraph, TracedModule, UnitOrder, trace
from autoprune.graph.dimension import Constant, Indices, Width, units_of
from autoprune.graph.native import patch
from autoprune.graph.serialize import program_from_data, program_to_data
from tests.graph.models import MODELS, SHAPE, trained
from tests.graph.transformers import TRANSFORMERS, transformer


@functools.cache
def traced(name: str) -> DependencyGraph:
    return trace(trained(name), torch.zeros(2, *SHAPE))


@functools.cache
def images() -> torch.Tensor:
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def zeroed(graph: DependencyGraph, kept: Mapping[str, Indices]) -> TracedModule:
    """The dense module, the consumers' columns of units not kept set to zero."""
    module = graph.module().clone_tensors()
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for group in graph.groups.values():
            gone = np.setdiff1d(np.arange(group.size), kept[group.id])
            for member in group.consumers:
                columns = np.flatnonzero(np.isin(units_of(member.dimension, group.id), gone))
                parameters[member.parameter].index_fill_(member.axis, torch.from_numpy(columns), 0.0)
    return module


@pytest.mark.parametrize("name", MODELS)
def test_dense_module_equals_the_model(name: str) -> None:
    with torch.no_grad():
        torch.testing.assert_close(traced(name).module()(images()), trained(name)(images()))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_groups_and_most_parameters_in_them(name: str) -> None:
    assert traced(name).groups
    assert traced(name).prunable_share() >= 0.9


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_sliced_equals_zeroed(name: str, data: st.DataObject) -> None:
    graph = traced(name)
    kept = {}
    for group in graph.groups.values():
        units = data.draw(st.sets(st.integers(0, group.size - 1), min_size=1), label=group.id)
        kept[group.id] = np.array(sorted(units), dtype=np.int64)
    with torch.no_grad():
        sliced, expected = graph.module(kept=kept)(images()), zeroed(graph, kept)(images())
    torch.testing.assert_close(sliced, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*MODELS, *TRANSFORMERS])
def test_ordered_once_policies_are_made_of_views(name: str) -> None:
    if name in TRANSFORMERS:
        inputs = TRANSFORMERS[name][1]()
        graph = trace(transformer(name), inputs)
    else:
        graph, inputs = traced(name), images()
    rng = np.random.default_rng(0)
    orders = {group.id: UnitOrder(group.id, rng.permutation(group.size)) for group in graph.groups.values()}
    ordered = graph.ordered(orders)
    for ratio in (0.0, 0.3, 0.6):
        policy = graph.uniform(ratio)
        kept = {group: order.kept(policy[group]) for group, order in orders.items()}
        found = ordered.module(policy)
        with torch.no_grad():
            torch.testing.assert_close(found(inputs), graph.module(kept=kept)(inputs), rtol=1e-4, atol=1e-5)
        for parameter, tensor in found.named_parameters():
            if all(isinstance(d, (Constant, Width)) for d in graph.program.values[parameter].dimensions):
                shared = ordered.state[parameter].untyped_storage().data_ptr()
                assert tensor.untyped_storage().data_ptr() == shared


@pytest.mark.parametrize("name", MODELS)
def test_policy_sets_sizes_and_counts(name: str) -> None:
    graph = traced(name)
    policy = graph.uniform(0.5)
    module = graph.module(policy)
    assert module.widths == graph.widths(policy)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert parameters == graph.parameter_count(graph.widths(policy))
    assert set(module.state_dict()) == set(trained(name).state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_slicing_leaves_the_dense_model_alone(name: str) -> None:
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = trace(model, torch.zeros(2, *SHAPE))
    small = graph.module(graph.uniform(0.5)).clone_tensors().train()
    torch.optim.SGD(small.parameters(), 0.1).zero_grad()
    small(images()).square().mean().backward()
    with torch.no_grad():
        for parameter in small.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", MODELS)
def test_a_program_survives_json_and_a_module_survives_pickle_and_copy(name: str) -> None:
    graph = traced(name)
    module = graph.module(graph.uniform(0.5))
    program = program_from_data(json.loads(json.dumps(program_to_data(graph.program))))
    assert program == graph.program
    rebuilt = TracedModule.from_sliced(program, module.widths, module.state_dict())
    with torch.no_grad():
        expected = module(images())
        for other in (rebuilt, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301 our own bytes
            assert torch.equal(other(images()), expected)


@pytest.mark.parametrize("name", ["Sequential", "Residual", "Depthwise", "Grouped"])
def test_native_model_is_the_users_class_with_the_same_outputs(name: str) -> None:
    graph, model = traced(name), trained(name)
    small = graph.module(graph.uniform(0.5))
    native, reason = patch(model, small, [images()])
    assert reason == ""
    assert type(native) is type(model)
    torch.testing.assert_close(native(images()), small(images()))


def test_native_model_says_why_not() -> None:
    graph, model = traced("Flattened"), trained("Flattened")
    native, reason = patch(model, graph.module({"b": 3}), [images()])  # the user's forward reads `[:, :5]`
    assert native is None
    assert "does not run at these sizes" in reason


def test_from_sliced_refuses_other_shapes() -> None:
    graph = traced("Sequential")
    state = dict(graph.module().state_dict())
    state["out.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"expected 'out.bias' of shape \(5,\), got \(3,\)"):
        TracedModule.from_sliced(graph.program, {}, state)
    del state["out.bias"]
    with pytest.raises(InputError, match=r"expected a tensor 'out.bias'"):
        TracedModule.from_sliced(graph.program, {}, state)


def test_batch_size_is_free() -> None:
    module = traced("Grouped").module()
    for batch in (1, 2, 7):
        assert module(torch.zeros(batch, *SHAPE)).shape == (batch, 5)


def test_wrong_calls_are_refused() -> None:
    module = traced("Sequential").module()
    with pytest.raises(InputError, match="expected 1 input tensors, got 2"):
        module(images(), images())
    with pytest.raises(InputError, match="got 'mask'"):
        module(images(), mask=images())
