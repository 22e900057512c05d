"""The user's own class at a member's sizes, where it can be patched and gives the same outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from autoprune.artifacts.front import Member


def native_model(member: Member, dense_model: nn.Module | None) -> tuple[nn.Module | None, str]:
    """The patched model and an empty reason, or None and why there is none.

    Args:
        member: a member of a front; its model is compared with the patched one on random inputs.
        dense_model: the model that the search started from; not changed. None where it is not at hand.
    """
    if dense_model is None:
        return None, "the dense model is not at hand; give it to load_front(run, model=...)"
    from autoprune.graph.native import patch

    return patch(dense_model, member.model)
