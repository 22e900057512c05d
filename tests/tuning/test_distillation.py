"""Distillation losses: closed forms, gradients, and outputs of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from autoprune.core.errors import InputError
from autoprune.tuning.distillation import distillation_loss, relative_squared_error, soft_cross_entropy


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_classes_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(soft_cross_entropy(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_zero_and_flat_only_at_the_teacher(temperature: float) -> None:
    teacher = logits(0, 8, 5)
    same = (teacher + 3.0).requires_grad_()  # a shift changes no distribution
    loss = soft_cross_entropy(same, teacher, temperature)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert same.grad is not None
    assert float(same.grad.abs().max()) == pytest.approx(0.0, abs=1e-12)
    assert float(soft_cross_entropy(logits(1, 8, 5), teacher, temperature)) > 0.01


def test_its_gradient_is_the_papers() -> None:
    """dC/dz = T (q - p), with q and p the softened distributions (Hinton et al. 2015, eq. 2, times T^2)."""
    teacher, student, temperature = logits(0, 4, 5), logits(1, 4, 5).requires_grad_(), 3.0
    soft_cross_entropy(student, teacher, temperature).backward()
    q, p = (functional.softmax(z.detach() / temperature, dim=1) for z in (student, teacher))
    assert torch.allclose(student.grad, temperature * (q - p) / 4)  # type: ignore[arg-type]


def test_gradcheck() -> None:
    teacher, student = logits(0, 3, 4), logits(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, teacher, 2.0), (student,))
    assert torch.autograd.gradcheck(lambda z: relative_squared_error(z, teacher), (student,))


def test_hot_temperatures_match_logits() -> None:
    """For T -> infinity it is the squared difference of centred logits over 2 N (section 2.1)."""
    teacher, student = logits(0, 6, 5), logits(1, 6, 5)
    centred = [z - z.mean(dim=1, keepdim=True) for z in (student, teacher)]
    expected = (centred[0] - centred[1]).square().sum(dim=1).mean() / (2 * 5)
    assert float(soft_cross_entropy(student, teacher, 1e4)) == pytest.approx(float(expected), rel=1e-3)


def test_pixels_and_tokens() -> None:
    student, teacher = logits(0, 2, 5, 3, 3), logits(1, 2, 5, 3, 3)
    flat = [z.permute(0, 2, 3, 1).reshape(-1, 5) for z in (student, teacher)]
    expected = float(soft_cross_entropy(flat[0], flat[1], 2.0))
    assert float(distillation_loss(student, teacher, 2.0, logits=True)) == pytest.approx(expected)
    tokens = [z.reshape(2, 9, 5) for z in flat]
    assert float(distillation_loss(tokens[0], tokens[1], 2.0, logits=True)) == pytest.approx(expected)
    first = [z.transpose(1, 2) for z in tokens]
    assert float(distillation_loss(first[0], first[1], 2.0, logits=True, class_dim=1)) == pytest.approx(expected)


def test_other_outputs_are_compared_relatively() -> None:
    boxes, more = (logits(3, 4, 2), logits(0, 4, 2)), (logits(4, 3), logits(1, 3))
    student = {"boxes": boxes[0], "more": [more[0], torch.arange(3)], "only": logits(5, 9)}
    teacher = {"boxes": boxes[1], "more": [more[1], torch.arange(3)], "only": logits(2, 2)}
    expected = [float(functional.mse_loss(s, t) / t.square().mean()) for s, t in (boxes, more)]
    loss = distillation_loss(student, teacher, 1.0, logits=False)
    assert float(loss) == pytest.approx(sum(expected) / 2)
    hundred = [{"x": 100 * z} for z in (logits(0, 4), logits(1, 4))]
    unit = [{"x": z} for z in (logits(0, 4), logits(1, 4))]
    assert float(relative_squared_error(*hundred)) == pytest.approx(float(relative_squared_error(*unit)))


def test_messages() -> None:
    with pytest.raises(InputError, match=r"expected outputs of the teacher's shapes \(tensor \(2, 3\)\), got tensor"):
        distillation_loss(torch.zeros(2, 4), torch.zeros(2, 3), 1.0, logits=False)
    with pytest.raises(InputError, match=r"expected logits of the teacher's shape \(2, 3\), got \(2, 4\)"):
        distillation_loss(torch.zeros(2, 4), torch.zeros(2, 3), 1.0, logits=True)
    with pytest.raises(InputError, match="expected a floating-point tensor among the model's outputs"):
        distillation_loss({"ids": torch.arange(3)}, torch.zeros(2, 3), 1.0, logits=True)
