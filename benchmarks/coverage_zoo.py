"""What the coverage benchmark runs over: entries that build small models with random weights, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FAMILIES = ("torchvision", "timm", "transformers")
ROWS = 2  # examples a batch


@dataclass(frozen=True)
class Entry:
    """One model of the benchmark.

    Attributes:
        name: unique; `family/architecture`.
        build: the model, as its library constructs it, and its example inputs: a tensor, a tuple or keyword inputs.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Any]]

    @property
    def family(self) -> str:
        """The library it is from."""
        return self.name.partition("/")[0]


def entries() -> dict[str, Entry]:
    """Every entry by name. None of the three libraries is imported before one of its entries is built."""
    from benchmarks import coverage_timm, coverage_torchvision, coverage_transformers

    listed = [*coverage_torchvision.ENTRIES, *coverage_timm.ENTRIES, *coverage_transformers.ENTRIES]
    found = {entry.name: entry for entry in listed}
    if len(found) != len(listed):
        raise ValueError("two entries of the coverage benchmark have the same name")
    return found


def built(entry: Entry, seed: int = 0) -> tuple[nn.Module, Any]:
    """The entry's model in eval mode, its weights random everywhere (see `randomise`), and its inputs."""
    torch.manual_seed(seed)
    model, inputs = entry.build()
    randomise(model, seed)
    settle(model.eval(), inputs, seed)
    return model, inputs


def run(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs for inputs as an entry gives them, without gradients."""
    with torch.no_grad():
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random values in the place of parameters that are one value throughout, or next to zero.

    Zero-initialised branches, unit scales and heads scaled down would hide wrong units behind equal numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() == 0:
                continue
            first = parameter.flatten()[0]
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 12
            if bool((parameter == first).all()):
                noise = torch.rand(parameter.shape, generator=generator).to(parameter.dtype)
                if float(first) == 0.0:  # biases, and the last layers of residual branches
                    parameter.copy_((noise - 0.5) * (12.0 / max(1, fan_in)) ** 0.5)
                else:
                    parameter.copy_(0.5 + noise)  # scales; layer scales too, which start at 1e-6
            elif parameter.ndim > 1 and float(parameter.std()) < 0.1 * fan_in**-0.5:
                parameter.mul_(fan_in**-0.5 / max(float(parameter.std()), 1e-12))


def settle(model: nn.Module, inputs: Any, seed: int = 0) -> None:
    """Batch-norm statistics of the example inputs, a little off: activations keep their size through any depth."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        run(model, inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    generator = torch.Generator().manual_seed(seed)
    for norm in norms:
        variance = norm.running_var
        if isinstance(variance, Tensor):
            noise = 0.5 + torch.rand(variance.shape, generator=generator)
            variance.mul_(noise).add_(0.1 * variance.mean())


def images(size: int, channels: int = 3) -> Tensor:
    """Normal noise.  # (ROWS, channels, size, size)"""
    return torch.randn(ROWS, channels, size, size)
