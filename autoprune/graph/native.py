"""The user's own class at a policy's sizes: copied once, tensors replaced, sizes patched, outputs compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.graph.dimension import Batch, size
from autoprune.graph.module import TracedModule

_SIZES = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
          "num_embeddings", "embedding_dim", "num_channels", "num_groups", "elementwise_affine")  # fmt: skip


def patch(
    dense_model: nn.Module, module: TracedModule, example_inputs: Sequence[torch.Tensor] = ()
) -> tuple[nn.Module | None, str]:
    """The user's model with the traced module's tensors and sizes, and an empty reason; or None and the reason.

    Args:
        dense_model: the model that was traced; not changed.
        module: what a policy made of it.
        example_inputs: flattened inputs, in the program's order, that both are compared on; without them random
            floats of the program's shapes are used.
    """
    native = copy.deepcopy(dense_model).eval()
    tensors: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        try:
            owner = native.get_submodule(path)
        except AttributeError:
            return None, f"the model has no module '{path}' that could hold '{name}'"
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor.detach().clone())
        elif leaf in owner._buffers:
            owner._buffers[leaf] = tensor.detach().clone()
        else:
            return None, f"'{name}' is not a parameter or buffer of the model's class"
    for path, traced in module.named_modules():
        if type(traced) is nn.Module or path == "":
            continue
        owner = native.get_submodule(path)
        for attribute in _SIZES:
            if hasattr(traced, attribute) and hasattr(owner, attribute):
                setattr(owner, attribute, getattr(traced, attribute))
    return _compared(native, module, example_inputs)


def _compared(
    native: nn.Module, module: TracedModule, example_inputs: Sequence[torch.Tensor]
) -> tuple[nn.Module | None, str]:
    inputs = list(example_inputs) or _random_inputs(module)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            expected = [leaf for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, torch.Tensor)]
            got = [leaf for leaf in pytree.tree_leaves(native(*inputs)) if isinstance(leaf, torch.Tensor)]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return None, f"the model's class does not run at these sizes: {first_line}"
    finally:
        module.train(was_training)
    if len(expected) != len(got):
        return None, f"the model's class gives {len(got)} outputs where {len(expected)} were traced"
    for mine, theirs in zip(expected, got, strict=True):
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5):
            return None, "the model's class gives other outputs at these sizes"
    return native, ""


def _random_inputs(module: TracedModule) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name in module.program.inputs:
        value = module.program.values[name]
        shape = [int(size(dimension, {Batch.KEY: 2})) for dimension in value.dimensions]
        dtype = getattr(torch, value.dtype)
        if dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            inputs.append(torch.zeros(shape, dtype=dtype))
    return inputs
