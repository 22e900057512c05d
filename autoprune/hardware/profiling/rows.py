"""From times of kernels alone to rows of the kernel table."""

from __future__ import annotations

from autoprune.core.errors import Failure
from autoprune.graph.fusion import kernel_slots, value_bytes
from autoprune.graph.kernel import Kernel
from autoprune.hardware.edges import Edges
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.measure import Measurement
from autoprune.hardware.plan import PlannedKernel

LEAST_SHARE, LEAST_US = 0.02, 0.001  # of a kernel's time that is left whatever is taken off


def kernel_work(kernel: Kernel) -> tuple[float, float]:
    """Floating-point operations and bytes of a kernel, from its key alone."""
    slots = kernel_slots(kernel.program())
    return float(sum(slot.flops({}) for slot in slots)), float(sum(slot.bytes({}) for slot in slots))


def activation_bytes(kernel: Kernel) -> tuple[int, ...]:
    """Bytes of each activation that comes in or goes out."""
    program = kernel.program()
    [slot] = kernel_slots(program)
    return tuple(int(value_bytes(program.values[name], {})) for name in (*slot.inputs, *slot.outputs))


def timed_row(
    item: PlannedKernel, found: Measurement, correction: float, empty_us: float = 0.0, edges: Edges | None = None
) -> KernelRow:
    """A row: what the kernel takes without what it pays only alone, at the machine's typical speed.

    Args:
        item: which kernel.
        found: its time alone, at the sentinel's reference.
        correction: from that reference to the sentinel's typical time.
        empty_us: what running anything at all takes, at the reference.
        edges: what its activations pay at the edges, at the reference.
    """
    least = max(LEAST_SHARE * found.p50_us, LEAST_US)
    paid = edges or Edges()
    inside = paid.inside_us(item.operator, max(found.p50_us - empty_us, least), activation_bytes(item.kernel))
    taken_off = found.p50_us - inside

    def own(time_us: float) -> float:
        return round(correction * max(time_us - taken_off, least), 3)

    flops, bytes_ = kernel_work(item.kernel)
    return KernelRow(
        family=item.kernel.family,
        sizes=item.kernel.sizes,
        operator=item.operator,
        n=found.n,
        mean_us=own(found.mean_us),
        p50_us=own(found.p50_us),
        p90_us=own(found.p90_us),
        p95_us=own(found.p95_us),
        p99_us=own(found.p99_us),
        std_us=round(correction * found.std_us, 3),
        flops=flops,
        bytes=bytes_,
    )


def failed_row(item: PlannedKernel, failure: Failure | str) -> KernelRow:
    """The row of a kernel that could not be timed."""
    return KernelRow.failed(
        item.kernel.family, item.kernel.sizes, item.operator, str(failure), *kernel_work(item.kernel)
    )
