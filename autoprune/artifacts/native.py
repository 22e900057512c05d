"""The user's own class at a member's sizes, where it can be patched and gives the same outputs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from autoprune.artifacts.front import Member


def native_model(member: Member, dense_model: nn.Module | None) -> tuple[nn.Module | None, str]:
    """The patched model and an empty reason, or None and why there is none."""
    if dense_model is None:
        return None, "the dense model is not at hand; give it to load_front(run, model=...)"
    try:
        patch = import_module("autoprune.graph.native").patch
    except ImportError:
        return None, "this version of autoprune cannot patch a model's own class yet; use member.model"
    found: tuple[nn.Module | None, str] = patch(dense_model, member.model)
    return found
