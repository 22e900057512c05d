"""timm in the coverage benchmark: one model a family, small ones where the family has them."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.coverage_zoo import Entry, images


def _named(name: str, size: int, **settings: Any) -> Entry:
    def build() -> tuple[nn.Module, Any]:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **settings), images(size)

    return Entry(f"timm/{name}", build)


def _vit(name: str, **settings: Any) -> Entry:
    """A vision transformer of four narrow blocks."""
    return _named(name, 64, **{"img_size": 64, "depth": 4, "embed_dim": 96, "num_heads": 4, **settings})


ENTRIES = (
    # plain and hierarchical transformers
    _vit("vit_small_patch16_224"),
    _vit("deit3_small_patch16_224"),
    _vit("beit_base_patch16_224"),
)
