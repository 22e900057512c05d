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


def _model(name: str, model: str, config: str, inputs: Callable[[], Any], **settings: Any) -> Entry:
    """A class of transformers from a configuration of its own, attention as `sdpa` picks it."""

    def build() -> tuple[nn.Module, Any]:
        import transformers

        chosen = getattr(transformers, config)(**settings)
        chosen.use_cache = False
        return getattr(transformers, model)(chosen), inputs()

    return Entry(f"transformers/{name}", build)


_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "max_position_embeddings": 64,
}  # fmt: skip
_DECODER: dict[str, Any] = {**_ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
                            "eos_token_id": 2}  # fmt: skip

ENTRIES = (
    _model("bert", "BertForSequenceClassification", "BertConfig", _text, **_ENCODER),
    _model("llama", "LlamaForCausalLM", "LlamaConfig", _text, **_DECODER),
)
_ = images
