"""timm in the coverage benchmark: one model a family, small ones where the family has them."""

from __future__ import annotations

from importlib import import_module
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


def _classed(name: str, module: str, kind: str, size: int, **settings: Any) -> Entry:
    """A class of `timm.models`, where its registered models do not take smaller settings."""

    def build() -> tuple[nn.Module, Any]:
        made = getattr(import_module(f"timm.models.{module}"), kind)(num_classes=10, **settings)
        return made, images(size)

    return Entry(f"timm/{name}", build)


def _mvitv2() -> tuple[nn.Module, Any]:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    cfg = MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=48)
    return MultiScaleVit(cfg, img_size=(64, 64), num_classes=10), images(64)


ENTRIES = (
    # Vision transformers: plain, with other positions, distilled, with convolutional stems
    _vit("vit_small_patch16_224"),
    _vit("vit_relpos_small_patch16_224"),
    _vit("deit3_small_patch16_224"),
    _vit("deit_tiny_distilled_patch16_224"),
    _vit("beit_base_patch16_224"),
    _vit("eva02_tiny_patch14_224", img_size=64, patch_size=16),
    _vit("samvit_base_patch16_224", global_attn_indexes=[1, 3]),
    _vit("cait_xxs24_224"),
    _vit("convit_tiny"),
    _vit("xcit_nano_12_p16_224"),
    _classed(
        "volo",
        "volo",
        "VOLO",
        64,
        img_size=64,
        layers=(1, 1, 1, 1),
        embed_dims=(48, 96, 96, 96),
        num_heads=(2, 4, 4, 4),
    ),
    _named("tnt_s_patch16_224", 64, img_size=64, depth=3),
    _named("crossvit_tiny_240", 240, depth=[[1, 1, 0]]),
    _named("pit_ti_224", 64, img_size=64, depth=[1, 1, 1]),
    _named("vit_small_r26_s32_224", 64, img_size=64, depth=2),
    # Hierarchical, windowed and pooled attention
    _named(
        "swin_tiny_patch4_window7_224", 112, img_size=112, depths=(2, 2, 2, 2), embed_dim=48, num_heads=(2, 4, 8, 16)
    ),
    _named("swinv2_tiny_window8_256", 64, img_size=64, depths=(2, 2, 2), embed_dim=48, num_heads=(2, 4, 8)),
    _named(
        "swinv2_cr_tiny_224", 64, img_size=64, window_size=2, depths=(1, 1, 1, 1), embed_dim=48, num_heads=(2, 4, 8, 16)
    ),
    _named("twins_svt_small", 64, depths=(1, 1, 1, 1)),
    _named("pvt_v2_b0", 64),
    Entry("timm/mvitv2", _mvitv2),
    _named("hiera_tiny_224", 224, stages=(1, 1, 2, 1)),
    _classed("nest", "nest", "Nest", 64, img_size=64, depths=(1, 1, 2), embed_dims=(32, 64, 128), num_heads=(2, 4, 8)),
    _classed(
        "gcvit",
        "gcvit",
        "GlobalContextVit",
        64,
        img_size=64,
        window_size=(4, 4, 4, 2),
        depths=(1, 1, 2, 1),
        embed_dim=32,
    ),
    _named("davit_tiny", 64, depths=(1, 1, 1, 1)),
    _classed("focalnet", "focalnet", "FocalNet", 64, depths=(1, 1, 2, 1), embed_dim=48),
    # Convolution and attention together
    _named("levit_128s", 224),
    _named("coat_lite_tiny", 64, img_size=64),
    _named("coatnet_nano_rw_224", 64, img_size=64),
    _named("maxvit_pico_rw_256", 64, img_size=64),
    _named("edgenext_xx_small", 64),
    _named("efficientformer_l1", 224),
    _named("efficientformerv2_s0", 224),
    _named("efficientvit_b0", 64),
    _named("efficientvit_m0", 224),
    _named("fastvit_t8", 64),
    _named("mobilevit_xxs", 64),
    _named("mobilevitv2_050", 64),
    _named("nextvit_small", 64),
    _named("tiny_vit_5m_224", 64),
    _named("swiftformer_xs", 64),
    _named("visformer_tiny", 64, img_size=64),
    _named("vitamin_small_224", 64, img_size=64),
    _named("repvit_m0_9", 64),
    _named("shvit_s1", 128),
    _named("botnet26t_256", 64, img_size=64),
    # Mixers and other token mixing
    _classed("mixer", "mlp_mixer", "MlpMixer", 64, img_size=64, num_blocks=3, embed_dim=96),
    _named("gmlp_ti16_224", 64, img_size=64),
    _named("resmlp_12_224", 64, img_size=64),
    _classed("convmixer", "convmixer", "ConvMixer", 64, depth=4, dim=96),
    _named("poolformer_s12", 64),
    _named("caformer_s18", 64),
    _named("mambaout_femto", 64),
    _named("sequencer2d_s", 64, img_size=64, layers=(1, 1, 1, 1)),
    # Convolutional: residual, dense, mobile, searched
    _named("resnet26d", 64),
    _named("resnetv2_50x1_bit", 64),
    _named("seresnext26t_32x4d", 64),
    _named("ecaresnet26t", 64),
    _named("skresnet18", 64),
    _named("resnest14d", 64),
    _named("res2net50_26w_4s", 64),
    _named("convnextv2_atto", 64),
    _named("inception_next_atto", 64),
    _named("nf_resnet26", 64),
    _named("regnety_002", 64),
    _named("regnetz_b16", 64),
    _named("repvgg_a0", 64),
    _named("mobileone_s0", 64),
    _named("cspresnet50", 64),
    _named("darknet17", 64),
    _named("densenet121", 64),
    _named("rdnet_tiny", 64),
    _named("dla34", 64),
    _named("dpn48b", 64),
    _named("hrnet_w18_small", 64),
    _named("hgnetv2_b0", 64),
    _named("vovnet39a", 64),
    _named("selecsls42b", 64),
    _named("xception41", 64),
    _named("inception_v4", 96),
    _named("tresnet_m", 64),
    _named("ghostnet_100", 64),
    _named("mobilenetv3_small_100", 64),
    _named("mobilenetv4_conv_small", 64),
    _named("mobilenetv4_hybrid_medium", 64),
    _named("efficientnet_b0", 64),
    _named("mixnet_s", 64),
    _named("lcnet_050", 64),
    _named("rexnet_100", 64),
    _named("fasternet_t0", 64),
    _named("starnet_s050", 64),
    _classed("nasnet", "nasnet", "NASNetALarge", 96, stem_size=16, num_features=480),
)
