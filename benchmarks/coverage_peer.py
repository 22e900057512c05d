"""Torch-Pruning on the models of the coverage benchmark, with the settings that its own examples use.

It is told what it cannot find out: the last layers, the projections of each attention with their heads, and after
pruning each attention's new sizes. Three settings are tried (whole heads, head dimensions, heads unknown) and the
first that gives a smaller model which runs is the one reported.
"""

from __future__ import annotations

import copy
import signal
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.coverage_text import first_line

FELL = 0.9  # a model with more than this share of its parameters has not been pruned
REPEATS = 3  # of the settings that work; medians are reported
REPEATING_S = 15.0  # no further repetition after this

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
_HEAD_SIZES = ("head_dim", "attention_head_size", "dim_head", "dim_per_head", "key_value_proj_dim", "head_size")
_TOTALS = ("attn_dim", "all_head_size", "inner_dim", "all_head_dim")
_FUSED = ("qkv", "qkv_proj", "query_key_value", "Wqkv", "c_attn")
_SEPARATE = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"),
    ("query_proj", "key_proj", "value_proj"), ("to_q", "to_k", "to_v"), ("q", "kv"), ("q_proj", "kv_proj"),
)  # fmt: skip


class _TooLongError(BaseException):
    """The time for a model is over. Not an `Exception`: those are answers."""


@dataclass(frozen=True, eq=False)
class _Attention:
    """An attention module's projections."""

    module: nn.Module
    projections: tuple[nn.Module, ...]  # the query's (or the fused one) first
    heads: int
    key_heads: int

    @property
    def fused(self) -> bool:
        return len(self.projections) == 1


@dataclass(frozen=True)
class _Setting:
    """One way to call the pruner."""

    name: str
    arguments: Mapping[str, Any]
    heads: bool


_SETTINGS = (
    _Setting("whole heads", {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}, True),
    _Setting("head dimensions", {}, True),
    _Setting("heads unknown", {}, False),
)


def torch_pruning_row(model: nn.Module, inputs: Any, last_layers: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Whether Torch-Pruning halves the model within the limit, and in what time.

    Args:
        model: is copied, not changed.
        inputs: example inputs: a tensor, a tuple, or keyword inputs.
        last_layers: names of modules that produce the outputs; empty: the last convolution or linear layer.
        limit_s: for all settings together.

    Returns:
        `handled`, `setting`, `parameters` (share left), and in ms `copy_ms` (deep copy), `build_ms` (its dependency
        graph and pruner) and `step_ms` (ranking and pruning); or `handled` False with each setting's `reason`.
    """
    settings = _SETTINGS if any(True for _ in _attentions(model)) else _SETTINGS[2:]
    found: list[dict[str, float]] = []
    reasons: list[str] = []
    used = ""
    start = time.perf_counter()
    for left, setting in zip(range(len(settings), 0, -1), settings, strict=True):
        used = setting.name
        share_s = (limit_s - (time.perf_counter() - start)) / left  # one that hangs must not use up the others' time
        try:
            with warnings.catch_warnings(), _alarm(max(share_s, 0.1)):
                warnings.simplefilter("ignore")
                while not found or (len(found) < REPEATS and time.perf_counter() - start < REPEATING_S):
                    found.append(_attempt(model, inputs, last_layers, setting))
        except _TooLongError:
            reasons.append(f"{used}: not done after {share_s:.0f} s")
        except Exception as error:  # its outcome is what is asked
            reasons.append(f"{used}: {type(error).__name__}: {first_line(error)}")
        if found:
            break
    if found:
        return {
            "handled": True, "setting": used, "reason": "; ".join(reasons),
            **{key: statistics.median(each[key] for each in found) for key in found[0]},
        }  # fmt: skip
    return {"handled": False, "reason": "; ".join(reasons)}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise _TooLongError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, should a bare `except` have swallowed the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _attempt(model: nn.Module, inputs: Any, last_layers: Sequence[str], setting: _Setting) -> dict[str, float]:
    import torch_pruning

    start = time.perf_counter()
    small = copy.deepcopy(model)
    copied = time.perf_counter()
    attentions = list(_attentions(small)) if setting.heads else []
    pruner = torch_pruning.pruner.BasePruner(
        small,
        inputs if isinstance(inputs, dict) else _positional(inputs),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=_ignored(small, last_layers),
        num_heads=_heads(attentions),
        out_channel_groups=dict.fromkeys(_gated(small), 2),
        output_transform=_tensors,
        **setting.arguments,
    )
    built = time.perf_counter()
    pruner.step()
    done = time.perf_counter()
    for attention in attentions:
        _resized(attention, pruner.num_heads)
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    if share > FELL:
        raise RuntimeError(f"pruned next to nothing: {share:.0%} of the parameters are left")
    _check_outputs(model, small, inputs)
    return {
        "parameters": share,
        "copy_ms": 1e3 * (copied - start),
        "build_ms": 1e3 * (built - copied),
        "step_ms": 1e3 * (done - built),
    }


def _positional(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        model.eval()
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*_positional(inputs))
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _check_outputs(model: nn.Module, small: nn.Module, inputs: Any) -> None:
    wanted = [tuple(tensor.shape) for tensor in _run(model, inputs)]
    try:
        got = [tuple(tensor.shape) for tensor in _run(small, inputs)]
    except Exception as error:
        raise RuntimeError(f"the pruned model does not run: {first_line(error)}") from error
    if wanted != got:
        raise RuntimeError(f"the pruned model's outputs are {got[:2]}, the dense model's {wanted[:2]}")


def _tensors(outputs: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad_fn is not None]


def _ignored(model: nn.Module, last_layers: Sequence[str]) -> list[nn.Module]:
    known = dict(model.named_modules())
    found = [known[name] for name in last_layers if name in known]
    if found:
        return found
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return [*layers[-1:]]


def _gated(model: nn.Module) -> Iterator[nn.Module]:
    """Gates and values of an MLP in one layer."""
    for name, module in model.named_modules():
        if name.endswith("gate_up_proj") and isinstance(module, nn.Linear):
            yield module


def _setting_of(module: nn.Module, names: Sequence[str]) -> int | None:
    for owner in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    return None


def _attentions(model: nn.Module) -> Iterator[_Attention]:
    for module in model.modules():
        heads = _setting_of(module, _HEADS)
        projections = _projections(module)
        if heads and projections:
            yield _Attention(module, projections, heads, _setting_of(module, _KEY_HEADS) or heads)


def _projections(module: nn.Module) -> tuple[nn.Module, ...]:
    for names in (*((name,) for name in _FUSED), *_SEPARATE):
        found = tuple(getattr(module, name, None) for name in names)
        if all(isinstance(item, (nn.Linear, nn.Conv2d)) for item in found):
            return tuple(item for item in found if isinstance(item, nn.Module))
    return ()


def _heads(attentions: Sequence[_Attention]) -> dict[nn.Module, int]:
    heads: dict[nn.Module, int] = {}
    for attention in attentions:
        first, *others = attention.projections
        heads[first] = attention.heads
        heads.update(dict.fromkeys(others, attention.key_heads))
    return heads


def _resized(attention: _Attention, heads: Mapping[nn.Module, int]) -> None:
    """The new sizes, where the module keeps them as attributes."""
    first = attention.projections[0]
    width = first.out_features if isinstance(first, nn.Linear) else first.out_channels
    if not isinstance(width, int):
        return
    total = width // 3 if attention.fused else width
    count = heads.get(first, attention.heads) or 1
    values = dict.fromkeys(_HEADS, count) | dict.fromkeys(_HEAD_SIZES, total // count)
    values |= dict.fromkeys(_TOTALS, total)
    for name, value in values.items():
        if isinstance(attention.module.__dict__.get(name), int):
            setattr(attention.module, name, value)
    if "num_key_value_groups" in attention.module.__dict__:
        attention.module.__dict__["num_key_value_groups"] = max(1, count // attention.key_heads)
