"""torchvision in the coverage benchmark: one model of every classification family, segmentation and video."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_zoo import ROWS, Entry, images

CLASSES = 10


def _named(name: str, size: int, **settings: Any) -> Entry:
    def build() -> tuple[nn.Module, Any]:
        from torchvision import models

        return models.get_model(name, weights=None, **{"num_classes": CLASSES, **settings}), images(size)

    return Entry(f"torchvision/{name}", build)


def _segmentation(name: str, size: int) -> Entry:
    return _named(name, size, weights_backbone=None)


def _clip() -> Tensor:
    return torch.randn(ROWS, 3, 4, 64, 64)  # (rows, colours, frames, height, width)


def _video(name: str, **settings: Any) -> Entry:
    def build() -> tuple[nn.Module, Any]:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=CLASSES, **settings), _clip()

    return Entry(f"torchvision/{name}", build)


def _vit() -> tuple[nn.Module, Any]:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=64, patch_size=16, num_layers=4, num_heads=4, hidden_dim=96, mlp_dim=384, num_classes=CLASSES
    )
    return model, images(64)


def _swin() -> tuple[nn.Module, Any]:
    from torchvision.models import SwinTransformer

    model = SwinTransformer([4, 4], 48, [2, 2, 2, 2], [2, 4, 8, 16], [4, 4], num_classes=CLASSES)
    return model, images(128)


def _swin_v2() -> tuple[nn.Module, Any]:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    model = SwinTransformer(
        [4, 4], 48, [2, 2, 2], [2, 4, 8], [4, 4], num_classes=CLASSES,
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip
    return model, images(64)


def _swin3d() -> tuple[nn.Module, Any]:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    model = SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=48, depths=[2, 2], num_heads=[2, 4], window_size=[2, 4, 4], num_classes=CLASSES
    )
    return model, _clip()


def _maxvit() -> tuple[nn.Module, Any]:
    from torchvision.models import MaxVit

    model = MaxVit(
        input_size=(64, 64), stem_channels=32, partition_size=4, block_channels=[32, 64], block_layers=[1, 2],
        head_dim=16, stochastic_depth_prob=0.0, num_classes=CLASSES,
    )  # fmt: skip
    return model, images(64)


ENTRIES = (
    # Full size: the one whose time from policy to model has a bound of its own.
    _named("resnet50", 224, num_classes=1000),
    _named("resnet18", 64),
    _named("resnext50_32x4d", 64),
    _named("wide_resnet50_2", 64),
    _named("alexnet", 96),
    _named("vgg11_bn", 64),
    _named("squeezenet1_1", 64),
    _named("densenet121", 64),
    _named("googlenet", 64, aux_logits=False, init_weights=False),
    _named("inception_v3", 96, aux_logits=False, init_weights=False),
    _named("mobilenet_v2", 64),
    _named("mobilenet_v3_small", 64),
    _named("shufflenet_v2_x1_0", 64),
    _named("mnasnet0_5", 64),
    _named("efficientnet_b0", 64),
    _named("efficientnet_v2_s", 64),
    _named("regnet_x_400mf", 64),
    _named("regnet_y_400mf", 64),
    _named("convnext_tiny", 64),
    Entry("torchvision/vit", _vit),
    Entry("torchvision/swin", _swin),
    Entry("torchvision/swin_v2", _swin_v2),
    Entry("torchvision/maxvit", _maxvit),
    _segmentation("deeplabv3_resnet50", 64),
    _segmentation("fcn_resnet50", 64),
    _segmentation("lraspp_mobilenet_v3_large", 64),
    _video("r2plus1d_18"),
    _video("r3d_18"),
    Entry("torchvision/swin3d", _swin3d),
)
