"""The models that local latency predictions are checked on: two CNNs, a vision transformer, a text encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoprune.demo import Network
from benchmarks.data import ResNet20

Example = tuple[nn.Module, tuple[Tensor, ...]]


def resnet18() -> Example:
    """ResNet-18 at 224 x 224."""
    from torchvision.models import resnet18 as build

    return build(), (torch.zeros(1, 3, 224, 224),)


def resnet50() -> Example:
    """ResNet-50 at 224 x 224."""
    from torchvision.models import resnet50 as build

    return build(), (torch.zeros(1, 3, 224, 224),)


def mobilenet() -> Example:
    """MobileNetV2 at 224 x 224."""
    from torchvision.models import mobilenet_v2 as build

    return build(), (torch.zeros(1, 3, 224, 224),)


def vit() -> Example:
    """A vision transformer of six blocks, six heads of 32 and patches of 16, at 224 x 224."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=224, patch_size=16, num_layers=6, num_heads=6, hidden_dim=192, mlp_dim=768, num_classes=100
    )
    return model, (torch.zeros(1, 3, 224, 224),)


def bert() -> Example:
    """A BERT of four layers, 256 wide, four heads, on 128 tokens."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=4000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return BertModel(config, add_pooling_layer=False), (torch.zeros(1, 128, dtype=torch.long),)


def resnet20() -> Example:
    """ResNet-20 on 28 x 28 images."""
    return ResNet20(), (torch.zeros(1, 1, 28, 28),)


def demo() -> Example:
    """The demo's network of residual and depthwise blocks on 28 x 28 images."""
    return Network(), (torch.zeros(1, 1, 28, 28),)


MODELS: dict[str, Callable[[], Example]] = {
    "resnet18": resnet18,
    "mobilenet": mobilenet,
    "vit": vit,
    "bert": bert,
    "resnet20": resnet20,
    "demo": demo,
    "resnet50": resnet50,
}
