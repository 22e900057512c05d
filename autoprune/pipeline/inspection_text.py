"""An inspection as text for a terminal: a tree of groups, what is frozen, and what is in reach."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autoprune.core.units import format_count, format_us
from autoprune.pipeline.tree import Node, folded_tree, tree

if TYPE_CHECKING:
    from autoprune.pipeline.inspection import InspectedGroup, Inspection

_LEAST_WIDTH = 60  # columns below which nothing is wrapped any more


def summary(inspection: Inspection, everything: bool, width: int) -> str:
    """All of an inspection; see `Inspection.summary`."""
    width = max(width, _LEAST_WIDTH)
    sections = [
        [_head(inspection)],
        _groups(inspection, everything, width),
        _frozen(inspection, everything, width),
        _reach(inspection),
        [line for warning in inspection.warnings for line in _wrapped(f"warning: {warning}", width)],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _head(inspection: Inspection) -> str:
    count = len(inspection.groups)
    return (
        f"{count} group{'' if count == 1 else 's'}, {inspection.graph.prunable_share():.1%} of "
        f"{format_count(inspection.params[0])} parameters in prunable dimensions, "
        f"{format_count(inspection.macs[0])} MACs"
    )


def _groups(inspection: Inspection, everything: bool, width: int) -> list[str]:
    if not inspection.groups:
        return []
    named = [(group.id, group) for group in inspection.groups]
    roots = tree(named) if everything else folded_tree(named, _kind, lambda group: (group.params, group.macs))
    rows: list[tuple[str, ...]] = [("group", "unit", "size", "least", "params", "MACs", "")]
    rows += [_row(depth, node) for root in roots for depth, node in root.walk()]
    return [*_aligned(rows, left=(0, 1, 6)), "", *(line for text in _legend(rows) for line in _wrapped(text, width))]


def _kind(group: InspectedGroup) -> tuple[object, ...]:
    return group.unit, group.size, group.narrowest, group.stream, group.removable


def _row(depth: int, node: Node[InspectedGroup]) -> tuple[str, ...]:
    name = "  " * depth + node.name + (f"  x{node.times}" if node.times > 1 else "")
    if not node.items:
        return (name, "", "", "", "", "", "")
    group = node.items[0]
    return (
        name,
        group.unit,
        str(group.size),
        str(group.narrowest),
        _span(item.params for item in node.items),
        _span(item.macs for item in node.items),
        "stream" if group.stream else "removable" if group.removable else "",
    )


def _span(values: Iterable[int]) -> str:
    """One count, or the range of several."""
    found = sorted(values)
    ends = list(dict.fromkeys((format_count(found[0]), format_count(found[-1]))))
    return "-".join(ends)


def _legend(rows: Sequence[Sequence[str]]) -> list[str]:
    """What the columns mean; marks only where they are used."""
    marks = {row[6] for row in rows}
    lines = [
        "least: the fewest units of the search space. params, MACs: what goes with the units; a weight between two "
        "groups counts for both.",
    ]
    if any("  x" in row[0] for row in rows):
        lines.append("xN: N that are alike; figures are those of one of them, or their range.")
    if "stream" in marks:
        lines.append("stream: the width of a residual stream, which blocks read and add to.")
    if "removable" in marks:
        lines.append("removable: may be removed whole (`remove: true` in a search space), and its block with it.")
    return lines


def _frozen(inspection: Inspection, everything: bool, width: int) -> list[str]:
    if not inspection.frozen:
        return []
    total = max(inspection.params[0], 1)
    rows = [("frozen because", "dims", "params", "locked")]
    rows += [
        (item.reason, str(item.dimensions), format_count(item.params), f"{item.locked / total:.1%}")
        for item in inspection.frozen
    ]
    table = _aligned(rows, left=(0,))
    lines = [f"{table[0]}  such as"]
    lines += [
        f"{line}  {_fitting(item.examples, width - len(line) - 2)}"
        for line, item in zip(table[1:], inspection.frozen, strict=True)
    ]
    lines += ["", "locked: share of the parameters that have no other dimension to shrink."]
    if everything:
        each = (f"  {item.parameter}[{item.axis}] ({item.size}): {item.reason}" for item in inspection.graph.frozen)
        lines += ["", "every frozen dimension:", *each]
    return lines


def _reach(inspection: Inspection) -> list[str]:
    rows = [("in reach", "dense", f"space '{inspection.space}'", "limit of the model")]
    for what, (dense, least, limit) in (("parameters", inspection.params), ("MACs", inspection.macs)):
        rows.append((what, format_count(dense), _fewer(dense, least), _fewer(dense, limit)))
    for name, (dense_us, least_us) in inspection.latency_us.items():
        faster = f"{format_us(least_us)} ({_times(dense_us / least_us)} faster)"
        rows.append((f"latency p50 on {name}", format_us(dense_us), faster, ""))
    return _aligned(rows, left=(0,))


def _fewer(dense: int, least: int) -> str:
    if not least:
        return "none left"
    return f"{format_count(least)} ({_times(dense / least)} fewer)"


def _times(factor: float) -> str:
    return f"{factor:.2f}x" if factor < 2.0 else f"{factor:.1f}x" if factor < 10.0 else f"{factor:,.0f}x"


def _fitting(examples: Sequence[str], width: int) -> str:
    """As many of them as fit; the first in any case."""
    shown = examples[0]
    for example in examples[1:]:
        if len(shown) + 2 + len(example) <= width:
            shown += f", {example}"
    return shown


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows as lines, columns two spaces apart, right-aligned but those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines
