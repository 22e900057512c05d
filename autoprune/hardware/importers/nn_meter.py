"""Profiled kernels of nn-Meter's builder: JSON, `{kernel type: {id: {config, latency}}}`, `mean +- std` in ms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.errors import InputError, shortened
from autoprune.graph.kernel import Kernel
from autoprune.hardware.importers import Imported, ImportSettings, Timing
from autoprune.hardware.importers.layers import Layers
from autoprune.hardware.importers.reading import check_count, not_negative, read_json_file, time_us, whole

WHAT = "nn-Meter file"
MAX_LATENCY = 100  # characters
_LATENCY = re.compile(r"\s*(?P<mean>[^\s+]+)\s*(?:\+-\s*(?P<std>\S+))?\s*")
# In `conv-block` and `dwconv-block` the activation is the one that the test models of nn-Meter have.
_TAILS = {"": "", "bn": "", "block": "relu"} | {
    f"{norm}{name}": name for norm in ("", "bn-") for name in ("relu", "relu6", "hswish")
}
CONVOLUTIONS = ("conv", "dwconv")
WITH_MORE = ("concat", "maxpool", "avgpool")  # types with more to say than height and channels
LEFT_OUT = ("split", "channelshuffle", "bn", "bnrelu")  # no kernels of their own in a deployed program


class NnMeter:
    """One file of `predictor_build/results`, with configurations in it."""

    def read(self, path: Path, settings: ImportSettings) -> Imported:
        """The times of every kernel with a latency."""
        data = read_json_file(path, WHAT)
        if not isinstance(data, dict) or not all(isinstance(value, dict) for value in data.values()):
            raise InputError(f"{WHAT} {path}: expected {{kernel type: {{id: {{config, latency}}}}}}, got other JSON.")
        check_count(sum(map(len, data.values())), f"{WHAT} {path}")
        timings = []
        left_out: dict[str, int] = {}
        seen: dict[tuple[str, str], str] = {}
        for kind, entries in data.items():
            if kind in LEFT_OUT:
                left_out[kind] = len(entries)
                continue
            for name, entry in entries.items():
                place = f"{WHAT} {path}, {shortened(kind)}, {shortened(name)}"
                timings.append(_timing(kind, entry, place, settings.batch))
                key = (kind, repr(sorted(entry["config"].items())))
                if key in seen:
                    raise InputError(f"{place}: expected each configuration once, got that of {seen[key]} again.")
                seen[key] = name
        notes = tuple(f"{count} of type {kind} left out: no kernel of its own" for kind, count in left_out.items())
        return Imported(tuple(timings), notes)


def _timing(kind: str, entry: Any, place: str, batch: int) -> Timing:
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict) or "latency" not in entry:
        raise InputError(
            f"{place}: expected 'config' and 'latency', got {shortened(str(entry))}. "
            "Profile with DETAIL: TRUE, so that configurations are kept."
        )
    latency = entry["latency"]
    told = str(latency) if isinstance(latency, (str, int, float)) else ""
    found = _LATENCY.fullmatch(told) if len(told) <= MAX_LATENCY else None
    if found is None:
        got = shortened(repr(latency))
        raise InputError(f"{place}, latency: expected '<mean> +- <std>' in milliseconds, got {got}.")
    return Timing(
        place=place,
        kernels=_kernels(kind, entry["config"], place, batch),
        mean_us=time_us(found["mean"], f"{place}, latency", 1e3),
        std_us=1e3 * not_negative(found["std"] or 0.0, f"{place}, latency"),
    )


def _kernels(kind: str, config: Mapping[str, Any], place: str, batch: int) -> tuple[Kernel, ...]:
    def number(name: str) -> int:
        if name not in config:
            got = shortened(", ".join(config)) or "nothing"
            raise InputError(f"{place}: expected '{name}' in 'config', got {got}.")
        return whole(config[name], f"{place}, {name}", 1, 100_000)

    anchor, _, tail = kind.partition("-")
    if kind == "fc":
        return Layers((batch, number("CIN"))).linear(number("COUT")).kernels()
    if anchor not in CONVOLUTIONS and kind not in (*WITH_MORE, *_PLAIN):
        known = ", ".join((*(f"{name}-*" for name in CONVOLUTIONS), "fc", *WITH_MORE, *_PLAIN))
        raise InputError(f"{place}: expected a kernel type of {known}, got '{shortened(kind)}'.")
    side = number("HW")
    channels = number("CIN1" if kind == "concat" else "CIN")
    network = Layers((batch, channels, side, side))
    if anchor in CONVOLUTIONS:
        if tail not in _TAILS:
            known = ", ".join(filter(None, _TAILS))
            raise InputError(f"{place}: expected an ending of {known}, got '{shortened(tail)}'.")
        stride, depthwise = number("STRIDES"), anchor == "dwconv"
        left = -(-side // stride)  # padding SAME
        out = channels if depthwise else number("COUT")
        groups = channels if depthwise else 1
        return network.conv(out, number("KERNEL_SIZE"), (left, left), stride, groups).activation(_TAILS[tail]).kernels()
    if kind in ("maxpool", "avgpool"):
        return network.pool(kind[:3], number("KERNEL_SIZE"), number("POOL_STRIDES")).kernels()
    if kind == "concat":
        return network.concat([number(name) for name in ("CIN2", "CIN3", "CIN4") if config.get(name)]).kernels()
    return _PLAIN[kind](network).kernels()


_PLAIN = {
    "se": lambda network: network.squeeze_excite(max(1, network.shape[1] // 4)),
    "global-avgpool": lambda network: network.global_pool(),
    "hswish": lambda network: network.activation("hswish"),
    "relu": lambda network: network.activation("relu"),
    "add": lambda network: network.add(),
    "addrelu": lambda network: network.add().activation("relu"),
    "add-relu": lambda network: network.add().activation("relu"),
}
