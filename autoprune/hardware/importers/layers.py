"""Layers as others name them, written as the kernels that a traced model with the same layers has.

A network is written as the text of a program (see `autoprune.graph.kernel`) and cut into kernels by the same rules as a
traced model (`autoprune.graph.fusion`), so that what is imported is found again under the same key.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.errors import InputError
from autoprune.graph.fusion import kernel_slots
from autoprune.graph.kernel import Kernel

ACTIVATIONS = {
    "relu": "relu.default({})",
    "relu6": "hardtanh.default({},0.0,6.0)",
    "hswish": "hardswish.default({})",
    "hsigmoid": "hardsigmoid.default({})",
    "swish": "silu.default({})",
    "sigmoid": "sigmoid.default({})",
    "gelu": "gelu.default({})",
}


class Layers:
    """A network under construction; methods add a layer behind the last one and return the network.

    Args:
        shape: of the input, batch first: (n, channels, height, width), or (..., features).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._statements: list[str] = []
        self._inputs = 0
        self.last = self._input(shape)
        self.shape = tuple(shape)

    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels it runs as."""
        program = Kernel(";".join(self._statements), ()).program()
        return tuple(slot.kernel({}) for slot in kernel_slots(program))

    def _input(self, shape: Sequence[int]) -> str:
        name = f"x{self._inputs}"
        self._inputs += 1
        self._statements.append(f"{name}:{_text(shape)}")
        return name

    def _layer(self, shape: Sequence[int], call: str) -> Layers:
        name = f"y{len(self._statements)}"
        self._statements.append(f"{name}:{_text(shape)}={call}")
        self.last, self.shape = name, tuple(shape)
        return self

    def conv(self, channels: int, kernel: int, side: tuple[int, int], stride: int = 1, groups: int = 1) -> Layers:
        """A convolution with its norm folded in, padded so that it leaves `side` (height, width)."""
        inner, rest = divmod(self.shape[1], groups)
        if rest or channels % groups:
            raise InputError(
                f"layer: expected channels that {groups} groups divide, got {self.shape[1]} in and {channels} out."
            )
        padding = tuple(
            max(0, -(-((out - 1) * stride + kernel - given) // 2))
            for out, given in zip(side, self.shape[2:], strict=True)
        )
        reached = tuple(
            (given + 2 * pad - kernel) // stride + 1 for given, pad in zip(self.shape[2:], padding, strict=True)
        )
        if reached != tuple(side) or max(padding) >= max(kernel, 2):
            raise InputError(
                f"layer: expected an output that a {kernel}x{kernel} convolution of stride {stride} leaves of "
                f"{_sides(self.shape[2:])}, got {_sides(side)}."
            )
        weight = f"w({channels},{inner},{kernel},{kernel}),w({channels},)"
        call = f"conv2d.default({self.last},{weight},{_text((stride, stride))},{_text(padding)},(1,1),{groups})"
        return self._layer((self.shape[0], channels, *side), call)

    def activation(self, name: str) -> Layers:
        """One of `ACTIVATIONS`; an empty name adds nothing."""
        return self._layer(self.shape, ACTIVATIONS[name].format(self.last)) if name else self

    def linear(self, features: int) -> Layers:
        """A linear layer with bias over the last axis."""
        call = f"linear.default({self.last},w({features},{self.shape[-1]}),w({features},))"
        return self._layer((*self.shape[:-1], features), call)

    def pool(self, kind: str, kernel: int, stride: int, padding: int | None = None) -> Layers:
        """`max` or `avg` pooling, padded by just under half the kernel unless said otherwise."""
        padding = (kernel - 1) // 2 if padding is None else padding
        side = tuple((given + 2 * padding - kernel) // stride + 1 for given in self.shape[2:])
        arguments = [_text((kernel, kernel)), _text((stride, stride))] + [_text((padding, padding))] * bool(padding)
        return self._layer((*self.shape[:2], *side), f"{kind}_pool2d.default({','.join([self.last, *arguments])})")

    def global_pool(self) -> Layers:
        """The mean over height and width."""
        return self._layer((*self.shape[:2], 1, 1), f"adaptive_avg_pool2d.default({self.last},(1,1))")

    def flatten(self) -> Layers:
        """Everything but the batch on one axis."""
        features = 1
        for size in self.shape[1:]:
            features *= size
        return self._layer((self.shape[0], features), f"flatten.using_ints({self.last},1)")

    def add(self, other: str | None = None) -> Layers:
        """The sum with an earlier value by name, or with another input; the earlier one first."""
        first = self._input(self.shape) if other is None else other
        return self._layer(self.shape, f"add.Tensor({first},{self.last})")

    def concat(self, others: Sequence[int]) -> Layers:
        """The concatenation with further inputs of so many channels."""
        names = [self._input((self.shape[0], channels, *self.shape[2:])) for channels in others]
        total = self.shape[1] + sum(others)
        parts = ",".join([self.last, *names])
        return self._layer((self.shape[0], total, *self.shape[2:]), f"cat.default(({parts},),1)")

    def squeeze_excite(self, hidden: int, gate: str = "hsigmoid") -> Layers:
        """Channel attention: pooled, squeezed to `hidden` channels, widened, gated and multiplied."""
        name, shape = self.last, self.shape
        self.global_pool().conv(hidden, 1, (1, 1)).activation("relu").conv(shape[1], 1, (1, 1)).activation(gate)
        return self._layer(shape, f"mul.Tensor({name},{self.last})")

    def softmax(self) -> Layers:
        """Softmax over the last axis."""
        return self._layer(self.shape, f"softmax.int({self.last},-1)")

    def layer_norm(self) -> Layers:
        """Layer norm over the last axis."""
        size = self.shape[-1]
        return self._layer(self.shape, f"layer_norm.default({self.last},({size},),w({size},),w({size},),1e-05,False)")

    def matmul(self, columns: int) -> Layers:
        """The product with another input, batched over all axes but the last two."""
        other = self._input((*self.shape[:-2], self.shape[-1], columns))
        return self._layer((*self.shape[:-1], columns), f"matmul.default({self.last},{other})")


def _text(sizes: Sequence[int]) -> str:
    return "(" + ",".join(str(size) for size in sizes) + ("," if len(sizes) == 1 else "") + ")"


def _sides(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
