"""How to fine-tune, and how many."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from autoprune.core.files import canonical_json, digest


class FinetuneSettings(BaseModel):
    """How to fine-tune.

    Attributes:
        epochs: passes over the train split; 0 only evaluates.
        lr: the highest learning rate; by default after the optimizer and the model (see `peak_rate`).
        weight_decay: of matrices and kernels (vectors are never decayed); by default 1e-2 for adamw, 5e-4 for sgd.
        optimizer: `adamw`, or `sgd` with Nesterov momentum 0.9.
        schedule: `cosine` (warm-up, then down to 0), or `onecycle` (up and down on cosines, Smith and Topin 2018).
        warmup: the share of all steps that warms up.
        distill: learn from the teacher's outputs too, where there is a teacher.
        temperature: softens both distributions (Hinton et al. 2015).
        alpha: the share of distillation in the loss.
        mixed_precision: `bf16`, `off`, or `auto`: bf16 where the device computes in it.
        max_batches: at most this many batches an epoch.
        clip_norm: gradients are scaled down to this norm; None leaves them.
        seed: decides the order of batches, augmentation and dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(2, ge=0, le=100_000)
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    weight_decay: float | None = Field(None, ge=0, allow_inf_nan=False)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "onecycle"] = "cosine"
    warmup: float = Field(0.1, ge=0, le=1)
    distill: bool = True
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    alpha: float = Field(0.7, ge=0, le=1)
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"
    max_batches: int | None = Field(None, ge=1)
    clip_norm: float | None = Field(5.0, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def decay(self) -> float:
        """The weight decay, as set or by default."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 1e-2 if self.optimizer == "adamw" else 5e-4

    @property
    def id(self) -> str:
        """A hash of all settings."""
        return digest(canonical_json(self.model_dump()))


class MemberSettings(FinetuneSettings):
    """What `finetune` may say: how to fine-tune, and how many.

    Attributes:
        members: how many candidates are fine-tuned in full and published.
        candidates: so many are fine-tuned a little first, and the most promising spread of them in full; as many as
            `members` where None, which are then chosen by their quality before any training.
        short_epochs: that little.
        function: `module:function`, a user's own training in the place of the built-in one (see `tuning.custom`).
    """

    members: StrictInt = Field(8, ge=1, le=1000)
    candidates: StrictInt | None = Field(None, ge=1, le=10_000)
    short_epochs: StrictInt = Field(1, ge=1, le=100_000)
    function: str | None = Field(None, min_length=1, max_length=4096)

    @property
    def training(self) -> FinetuneSettings:
        """How, without how many."""
        return FinetuneSettings(**{name: getattr(self, name) for name in FinetuneSettings.model_fields})
