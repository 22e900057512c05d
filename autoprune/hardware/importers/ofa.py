"""Latency tables of Once-for-All and ProxylessNAS: YAML, a block a key, `{mean, std, count}` in milliseconds.

    Conv-input:224x224x3-output:112x112x32: {count: 50, mean: 1.2, std: 0.1}
    expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0: {...}

Shapes are height x width x channels. A block (expansion, depthwise, projection) is several kernels, and its time is
split over them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError, shortened, unknown_name
from autoprune.graph.kernel import Kernel
from autoprune.hardware.importers import Imported, ImportSettings, Timing
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.importers.reading import check_count, not_negative, read_yaml_table, time_us, whole

WHAT = "latency table"
BLOCKS = ("expanded_conv", "MBConv")
FIRST = ("Conv", "first_conv")
POINTWISE = ("Conv_1", "Conv_2", "final_expand_layer", "feature_mix_layer")
POOLS = ("AvgPool2D", "avg_pool2d")
CLASSIFIERS = ("Logits", "classifier")
LARGEST_RATIO = 12  # expansion ratios end here, channels of an expansion begin here
MAX_KEY = 300  # characters
_KEY = re.compile(r"(?P<kind>[A-Za-z_0-9]+)(?P<fields>(?:-[a-z]+:[0-9x]+)+)")


@dataclass(frozen=True)
class LatencyTable:
    """A table by key.

    Attributes:
        path: of the file.
        times_us: key -> mean time.
    """

    path: Path
    times_us: Mapping[str, float]

    def network_us(self, keys: Iterable[str]) -> float:
        """The sum over a network's blocks.

        Raises:
            InputError: a key that the table has not, by name.
        """
        total = 0.0
        for key in keys:
            if key not in self.times_us:
                raise unknown_name(f"key of {WHAT} {self.path}", key, self.times_us)
            total += self.times_us[key]
        return total


class OnceForAll:
    """Tables in which `expand` is the number of channels between expansion and projection."""

    ratio = False

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every key."""
        data = read_yaml_table(path, WHAT)
        if not data:
            raise InputError(
                f"{WHAT} {path}: expected keys such as 'Conv-input:224x224x3-output:112x112x32', got none."
            )
        check_count(len(data), f"{WHAT} {path}")
        timings = tuple(self._timing(path, key, value, settings.batch) for key, value in data.items())
        return Imported(timings)

    def table(self, path: Path) -> LatencyTable:
        """The file as a table to look blocks up in, without kernels."""
        timings = self.read(path, ImportSettings()).timings
        return LatencyTable(path, {timing.place.rpartition(", key ")[2]: timing.mean_us for timing in timings})

    def _timing(self, path: Path, key: str, value: Any, batch: int) -> Timing:
        if len(key) > MAX_KEY:
            raise InputError(f"{WHAT} {path}: expected keys of at most {MAX_KEY} characters, got {shortened(key)}.")
        place = f"{WHAT} {path}, key {shortened(key, MAX_KEY)}"
        if not isinstance(value, dict) or "mean" not in value:
            raise InputError(f"{place}: expected {{mean, std, count}} in milliseconds, got {shortened(str(value))}.")
        return Timing(
            place=place,
            kernels=self._kernels(key, place, batch),
            mean_us=time_us(value["mean"], f"{place}, mean", 1e3),
            std_us=1e3 * not_negative(value.get("std", 0.0), f"{place}, std"),
            n=whole(value.get("count", 1), f"{place}, count", 1, 1_000_000_000),
        )

    def _kernels(self, key: str, place: str, batch: int) -> tuple[Kernel, ...]:
        found = _KEY.fullmatch(key)
        if found is None:
            raise InputError(f"{place}: expected <layer>-input:HxWxC-output:HxWxC[-name:number...], got this key.")
        fields = dict(item.split(":") for item in found["fields"][1:].split("-"))
        given, left = _shape(fields, "input", place), _shape(fields, "output", place)
        network = Layers((batch, given[2], *given[:2]))
        kind = found["kind"]
        if kind in FIRST:
            network.conv(left[2], 3, left[:2], _stride(given, left)).activation("relu6" if self.ratio else "hswish")
        elif kind in POINTWISE:
            network.conv(left[2], 1, left[:2], _stride(given, left)).activation("relu6" if self.ratio else "hswish")
        elif kind in POOLS:
            network.global_pool()
        elif kind in CLASSIFIERS:
            pooled = network.global_pool() if given[:2] != (1, 1) else network
            pooled.flatten().linear(left[2])
        elif kind in BLOCKS:
            self._block(network, fields, left, place)
        else:
            known = ", ".join((*FIRST, *POINTWISE, *POOLS, *CLASSIFIERS, *BLOCKS))
            raise InputError(f"{place}: expected a layer of {known}, got '{kind}'.")
        return network.kernels()

    def _block(self, network: Layers, fields: Mapping[str, str], left: tuple[int, int, int], place: str) -> None:
        """Expansion (where there is one), depthwise, channel attention (`se`), projection, sum (`idskip`)."""
        number = {
            name: whole(_field(fields, name, place), f"{place}, {name}", least, 100_000)
            for name, least in (("expand", 1), ("kernel", 1), ("stride", 1), ("idskip", 0))
        }
        shape, first = network.shape, network.last
        hidden = self._hidden(number["expand"], shape[1], place)
        activation = "relu6" if self.ratio else ("hswish" if fields.get("hs") == "1" else "relu")
        if hidden != shape[1]:
            network.conv(hidden, 1, (shape[2], shape[3])).activation(activation)
        network.conv(hidden, number["kernel"], left[:2], number["stride"], groups=hidden).activation(activation)
        if fields.get("se") == "1":
            network.squeeze_excite(max(8, (hidden // 4 + 4) // 8 * 8))  # as Once-for-All rounds it
        network.conv(left[2], 1, left[:2])
        if number["idskip"]:
            if network.shape != shape:
                raise InputError(f"{place}: expected equal input and output where idskip is 1, got others.")
            network.add(first)

    def _hidden(self, expand: int, channels: int, place: str) -> int:
        if self.ratio and expand > LARGEST_RATIO:
            raise InputError(
                f"{place}: expected an expansion ratio of at most {LARGEST_RATIO}, got {expand}; that is a number of "
                "channels. Import it as format 'ofa'."
            )
        if not self.ratio and expand < channels and expand <= LARGEST_RATIO:
            raise InputError(
                f"{place}: expected the channels of the expansion, at least {channels}, got {expand}; that is a "
                "ratio. Import it as format 'proxylessnas'."
            )
        return expand * channels if self.ratio else expand


class ProxylessNas(OnceForAll):
    """Tables in which `expand` is the ratio of the expansion to the input."""

    ratio = True


def _field(fields: Mapping[str, str], name: str, place: str) -> str:
    if name not in fields:
        raise InputError(f"{place}: expected '{name}:' in the key, got none.")
    return fields[name]


def _shape(fields: Mapping[str, str], name: str, place: str) -> tuple[int, int, int]:
    parts = [whole(part, f"{place}, {name}", 1, 100_000) for part in _field(fields, name, place).split("x")]
    match parts:
        case [channels]:
            return 1, 1, channels
        case [height, width, channels]:
            return height, width, channels
    raise InputError(f"{place}: expected {name}:HxWxC, got '{shortened(fields[name])}'.")


def _stride(given: tuple[int, int, int], left: tuple[int, int, int]) -> int:
    return max(1, round(given[0] / left[0]))
