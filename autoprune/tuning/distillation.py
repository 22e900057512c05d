"""Knowledge distillation: what a student loses by answering otherwise than its teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from autoprune.core.errors import InputError
from autoprune.tuning.batches import describe, main_output, tensors_of


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float, dim: int = 1) -> torch.Tensor:
    """T^2 KL(teacher || student) of distributions softened by T, the mean over all but the class dimension.

    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; the factor T^2
    keeps gradients of one size for all temperatures.

    Args:
        student, teacher: logits.  # (n, classes, ...)
        temperature: T > 0.
        dim: the class dimension.
    """
    log_student = functional.log_softmax(student / temperature, dim=dim)
    log_teacher = functional.log_softmax(teacher / temperature, dim=dim)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return divergence.sum(dim=dim).mean() * temperature**2


def relative_squared_error(student: Any, teacher: Any) -> torch.Tensor:
    """The mean squared error over the teacher's mean square, averaged over all floating outputs of equal shape.

    Relative, so that its size does not depend on the scale of the outputs.

    Raises:
        InputError: no output of the student has the shape of the teacher's.
    """
    mine, theirs = tensors_of(student), tensors_of(teacher)
    pairs = [(mine[key], theirs[key]) for key in mine if key in theirs and mine[key].shape == theirs[key].shape]
    if not pairs:
        raise InputError(
            f"distillation: expected outputs of the teacher's shapes ({describe(teacher)}), got {describe(student)}. "
            "Set distill to false, or give a teacher with the same outputs."
        )
    errors = [functional.mse_loss(s, t) / t.square().mean().clamp_min(1e-12) for s, t in pairs]
    return torch.stack(errors).mean()


def distillation_loss(
    student: Any, teacher: Any, temperature: float, *, logits: bool, class_dim: int | None = None
) -> torch.Tensor:
    """What the student is to minimise besides its task's loss.

    Args:
        student, teacher: outputs of the two models on the same inputs.
        temperature: for logits.
        logits: whether outputs are scores of classes: soft cross-entropy then, else relative squared error.
        class_dim: the class dimension; by default 1, or the last of three (tokens).

    Raises:
        InputError: outputs of different shapes.
    """
    if not logits:
        return relative_squared_error(student, teacher)
    mine, theirs = main_output(student), main_output(teacher)
    if mine.shape != theirs.shape:
        raise InputError(
            f"distillation: expected logits of the teacher's shape {tuple(theirs.shape)}, got {tuple(mine.shape)}."
        )
    dim = class_dim if class_dim is not None else (-1 if mine.ndim in (1, 3) else 1)
    return soft_cross_entropy(mine, theirs, temperature, dim)
