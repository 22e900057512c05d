"""Energy of a few kernels of every operator class, where the machine has a counter."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.errors import Failure
from autoprune.graph.kernel import Kernel
from autoprune.hardware.energy import available_meter
from autoprune.hardware.measure import Measurement
from autoprune.hardware.plan import PlannedKernel
from autoprune.hardware.profiling.bench import Bench
from autoprune.hardware.profiling.records import EnergyLine, lines
from autoprune.hardware.runtimes.model import Model

A_CLASS = 3  # kernels of each operator class; a reading takes half a second
LEAST_US = 20.0  # kernels shorter than this are mostly the runtime's own work


def energies(bench: Bench, timed: Sequence[tuple[PlannedKernel, Measurement]]) -> tuple[dict[Kernel, float], str]:
    """Energy of one run of the longest kernels of each operator class, microjoules, and where it comes from.

    Empty, with the reason, where the machine has no counter or the runtime runs where the counter does not count.
    """
    kept = next(lines(bench.journal, EnergyLine), None)
    if kept:
        known = {item.kernel.key: item.kernel for item, _ in timed}
        return {known[key]: value for key, value in kept.energies if key in known}, kept.source
    meter = available_meter(bench.settings.processor)
    if isinstance(meter, Failure):
        return {}, str(meter.message)
    found: dict[Kernel, float] = {}
    for item in chosen(timed):
        runner = bench.compile(Model.of_kernel(item.kernel))
        if isinstance(runner, Failure):
            continue
        try:
            found[item.kernel] = meter.run_uj(runner)
        except OSError as error:
            return {}, f"energy: the counter failed: {error}"
        except Exception:  # the kernel fails while it runs: its energy stays unknown
            continue
    bench.keep("energy", source=meter.source, energies=[[kernel.key, value] for kernel, value in found.items()])
    return found, meter.source


def chosen(timed: Sequence[tuple[PlannedKernel, Measurement]]) -> list[PlannedKernel]:
    """The longest kernels of each class."""
    classes: dict[str, list[tuple[float, str, PlannedKernel]]] = {}
    for item, found in timed:
        if found.p50_us >= LEAST_US:
            classes.setdefault(item.operator, []).append((-found.p50_us, item.kernel.key, item))
    return [item for own in classes.values() for _, _, item in sorted(own, key=lambda entry: entry[:2])[:A_CLASS]]
