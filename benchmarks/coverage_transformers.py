"""transformers in the coverage benchmark: task models of small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_zoo import ROWS, Entry, images

VOCABULARY = 256
TOKENS = 12


def tokens(length: int = TOKENS, vocabulary: int = VOCABULARY) -> Tensor:
    """Token numbers, none of them among the first ten, which configurations reserve.  # (ROWS, length)"""
    return torch.randint(10, vocabulary, (ROWS, length))


def _text() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.int64)}


class Reads(nn.Module):
    """A model of which a task reads one output: the others would hold the residual width as outputs."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, **inputs: Tensor) -> Tensor:
        found: Tensor = getattr(self.model(**inputs), self.output)
        return found


def _model(
    name: str, model: str, config: str, inputs: Callable[[], Any], reads: str | None = None, **settings: Any
) -> Entry:
    """A class of transformers from a configuration of its own; with `reads`, that one of its outputs."""

    def build() -> tuple[nn.Module, Any]:
        import transformers

        chosen = getattr(transformers, config)(**settings)
        chosen.use_cache = False
        chosen._experts_implementation = "batched_mm"  # the default is an operator of its own
        made = getattr(transformers, model)(chosen)
        return (made if reads is None else Reads(made, reads)), inputs()

    return Entry(f"transformers/{name}", build)


_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "max_position_embeddings": 64,
}  # fmt: skip
_SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER: dict[str, Any] = {**_ENCODER, **_SPECIAL, "num_key_value_heads": 2}
_BOTH: dict[str, Any] = {  # encoder and decoder
    "vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64,
    "decoder_start_token_id": 1, "forced_eos_token_id": None, **_SPECIAL,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
_SPEECH: dict[str, Any] = {
    **_ENCODER, "conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32,
}  # fmt: skip
_CLASSES: dict[str, Any] = {"num_labels": 10}
_GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, **_SPECIAL}


def _pair() -> dict[str, Tensor]:
    return {**_text(), "decoder_input_ids": tokens(8)}


def _pixels(size: int = 64) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": images(size)}


def _text_and_pixels() -> dict[str, Tensor]:
    return {**_text(), "pixel_values": images(64)}


def _wave() -> dict[str, Tensor]:
    return {"input_values": torch.randn(ROWS, 2400)}


def _spectrum(name: str, mels: int, frames: int, transposed: bool = False) -> Callable[[], dict[str, Tensor]]:
    shape = (ROWS, frames, mels) if transposed else (ROWS, mels, frames)
    return lambda: {name: torch.randn(*shape)}


def _whisper() -> dict[str, Tensor]:
    return {**_spectrum("input_features", 16, 64)(), "decoder_input_ids": tokens(8)}


def _boxed_text() -> dict[str, Tensor]:
    boxes = torch.randint(0, 100, (ROWS, TOKENS, 4)).sort(-1).values
    return {**_text(), "bbox": boxes}


_IMAGES_OF_TEXT = {"text_config": {**_ENCODER, **_SPECIAL}, "vision_config": _VISION, "projection_dim": 32}


ENTRIES = (
    # Encoders
    _model("bert", "BertForSequenceClassification", "BertConfig", _text, **_ENCODER, **_CLASSES),
    _model("roberta", "RobertaForSequenceClassification", "RobertaConfig", _text, **_ENCODER, **_CLASSES),
    _model("electra", "ElectraForSequenceClassification", "ElectraConfig", _text,
           **_ENCODER, embedding_size=32, **_CLASSES),
    _model("albert", "AlbertForSequenceClassification", "AlbertConfig", _text,
           **_ENCODER, embedding_size=32, **_CLASSES),
    _model("distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", _text,
           vocab_size=VOCABULARY, dim=64, hidden_dim=128, n_layers=2, n_heads=4, max_position_embeddings=64,
           **_CLASSES),
    _model("deberta_v2", "DebertaV2ForSequenceClassification", "DebertaV2Config", _text,
           **_ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], **_CLASSES),
    _model("mpnet", "MPNetForSequenceClassification", "MPNetConfig", _text, **_ENCODER, **_CLASSES),
    _model("squeezebert", "SqueezeBertForSequenceClassification", "SqueezeBertConfig", _text,
           **_ENCODER, embedding_size=64, **_CLASSES),
    _model("modernbert", "ModernBertForSequenceClassification", "ModernBertConfig", _text,
           **_ENCODER, **_SPECIAL, cls_token_id=1, sep_token_id=2, **_CLASSES),
    _model("layoutlm", "LayoutLMForSequenceClassification", "LayoutLMConfig", _boxed_text, **_ENCODER, **_CLASSES),
    # Decoders: plain and grouped-query attention, mixtures of experts
    _model("gpt2", "GPT2LMHeadModel", "GPT2Config", _text, **_GPT2, n_positions=64),
    _model("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", _text, **_ENCODER, **_SPECIAL),
    _model("opt", "OPTForCausalLM", "OPTConfig", _text,
           vocab_size=VOCABULARY, hidden_size=64, word_embed_proj_dim=64, num_hidden_layers=2, num_attention_heads=4,
           ffn_dim=128, max_position_embeddings=64, **_SPECIAL),
    _model("bloom", "BloomForCausalLM", "BloomConfig", _text,
           vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4, **_SPECIAL),
    _model("falcon", "FalconForCausalLM", "FalconConfig", _text,
           vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, **_SPECIAL),
    _model("llama", "LlamaForCausalLM", "LlamaConfig", _text, **_DECODER),
    _model("mistral", "MistralForCausalLM", "MistralConfig", _text, **_DECODER),
    _model("qwen2", "Qwen2ForCausalLM", "Qwen2Config", _text, **_DECODER),
    _model("qwen3", "Qwen3ForCausalLM", "Qwen3Config", _text, **_DECODER, head_dim=16),
    _model("gemma2", "Gemma2ForCausalLM", "Gemma2Config", _text, **_DECODER, head_dim=16),
    _model("phi3", "Phi3ForCausalLM", "Phi3Config", _text, **_DECODER),
    _model("olmo2", "Olmo2ForCausalLM", "Olmo2Config", _text, **_DECODER),
    _model("stablelm", "StableLmForCausalLM", "StableLmConfig", _text, **_DECODER),
    _model("mixtral", "MixtralForCausalLM", "MixtralConfig", _text, **_DECODER, num_local_experts=4),
    _model("qwen2_moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", _text, **_DECODER,
           num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, shared_expert_intermediate_size=128),
    # Encoders with decoders
    _model("t5", "T5ForConditionalGeneration", "T5Config", _pair, "logits", **_T5),
    _model("bart", "BartForConditionalGeneration", "BartConfig", _pair, "logits", **_BOTH),
    _model("marian", "MarianMTModel", "MarianConfig", _pair, "logits", **_BOTH),
    _model("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", _pair, "logits", **_BOTH),
    # Vision
    _model("vit", "ViTForImageClassification", "ViTConfig", _pixels(), **_VISION, **_CLASSES),
    _model("deit", "DeiTForImageClassification", "DeiTConfig", _pixels(), **_VISION, **_CLASSES),
    _model("beit", "BeitForImageClassification", "BeitConfig", _pixels(), **_VISION, **_CLASSES),
    _model("dinov2", "Dinov2ForImageClassification", "Dinov2Config", _pixels(), **_VISION, **_CLASSES),
    _model("swin", "SwinForImageClassification", "SwinConfig", _pixels(),
           image_size=64, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, **_CLASSES),
    _model("pvt_v2", "PvtV2ForImageClassification", "PvtV2Config", _pixels(),
           image_size=64, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 64], num_attention_heads=[1, 2, 4, 4],
           **_CLASSES),
    _model("convnext", "ConvNextForImageClassification", "ConvNextConfig", _pixels(),
           depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 64, 128], **_CLASSES),
    _model("mobilevit", "MobileViTForImageClassification", "MobileViTConfig", _pixels(), image_size=64, **_CLASSES),
    _model("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig", _pixels(),
           depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 64, 128], **_CLASSES),
    # Segmentation, depth and detection
    _model("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", _pixels(),
           depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 64], decoder_hidden_size=32, **_CLASSES),
    _model("glpn", "GLPNForDepthEstimation", "GLPNConfig", _pixels(),
           depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 64], num_attention_heads=[1, 2, 4, 4],
           decoder_hidden_size=32),
    _model("yolos", "YolosForObjectDetection", "YolosConfig", _pixels(), "logits",
           **{**_VISION, "image_size": [64, 64]}, num_detection_tokens=8, **_CLASSES),
    # Speech and audio
    _model("wav2vec2", "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _wave, **_SPEECH, **_CLASSES),
    _model("hubert", "HubertForSequenceClassification", "HubertConfig", _wave, **_SPEECH, **_CLASSES),
    _model("whisper", "WhisperForConditionalGeneration", "WhisperConfig", _whisper, "logits",
           **{key: value for key, value in _BOTH.items() if key != "max_position_embeddings"}, num_mel_bins=16,
           max_source_positions=32, max_target_positions=32),
    _model("ast", "ASTForAudioClassification", "ASTConfig", _spectrum("input_values", 32, 64, transposed=True),
           **{key: value for key, value in _VISION.items() if key != "image_size"}, num_mel_bins=32, max_length=64,
           **_CLASSES),
    # Images with text
    _model("clip", "CLIPModel", "CLIPConfig", _text_and_pixels, "logits_per_image", **_IMAGES_OF_TEXT),
    _model("siglip", "SiglipModel", "SiglipConfig", _text_and_pixels, "logits_per_image", **_IMAGES_OF_TEXT),
    _model("vilt", "ViltForQuestionAnswering", "ViltConfig", _text_and_pixels, **_ENCODER, image_size=64, patch_size=16,
           **_CLASSES),
    # Video
    _model("timesformer", "TimesformerForVideoClassification", "TimesformerConfig",
           lambda: {"pixel_values": torch.randn(ROWS, 4, 3, 64, 64)}, **_VISION, num_frames=4, **_CLASSES),
)  # fmt: skip
