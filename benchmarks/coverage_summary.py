"""The coverage benchmark's figures over all rows, beside what is asked of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

SCHEMA = "autoprune.coverage/1"
OPERATORS = 1500  # analysis time is bounded up to here
FULL_SIZE = "torchvision/resnet50"


@dataclass(frozen=True)
class Figure:
    """One figure of the summary.

    Attributes:
        name: what it is, with its unit.
        value: None where no row has it.
        asked: what is accepted, as text.
        met: whether it is; None where nothing is asked.
    """

    name: str
    value: float | None
    asked: str
    met: bool | None


def handled(row: Row) -> bool:
    """Whether this package prunes the model: traced, every policy equal to the oracle, half the units leave clearly
    fewer parameters (the bound that Torch-Pruning is held to as well), and the result trains."""
    policies = row.get("policies") or []
    return (
        bool(policies)
        and all(policy["equal"] for policy in policies)
        and (row.get("half") or {}).get("parameters", 1.0) <= 0.9
        and bool((row.get("training") or {}).get("ok"))
    )


def ratio(row: Row, key: str = "policy_ms", copied: bool = False) -> float | None:
    """Torch-Pruning's time from a policy to its model over this package's.

    It prunes the model it is given, so that each policy needs a deep copy first, which counts where `copied`.
    """
    peer = row.get("peer") or {}
    mine = row.get(key)
    if not mine or not peer.get("handled"):
        return None
    theirs = peer["build_ms"] + peer["step_ms"] + (peer["copy_ms"] if copied else 0.0)
    return float(theirs / mine)


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Every figure, in the order of the acceptance."""
    policies = [policy for row in rows for policy in row.get("policies") or []]
    shares = [row.get("prunable_share", 0.0) for row in rows]
    times = [row["analysis_s"] for row in rows if row.get("analysis_s") is not None and row["operators"] <= OPERATORS]
    full = next((row for row in rows if row["name"] == FULL_SIZE), {})
    ours, theirs = sum(map(handled, rows)), sum(bool((row.get("peer") or {}).get("handled")) for row in rows)
    copied = _median(ratio(row, copied=True) for row in rows)
    times_faster, owned = _median(map(ratio, rows)), _median(ratio(row, "owned_ms") for row in rows)
    return [
        Figure("models", float(len(rows)), "", None),
        _at_least("policies equal to the oracle, %", _percent([p["equal"] for p in policies]), 100.0),
        Figure("models without a policy checked", float(sum(not row.get("policies") for row in rows)), "", None),
        _at_least("models with main widths prunable, %", _percent([bool(r.get("main_widths")) for r in rows]), 97.0),
        _at_least("models with share >= 0.9, %", _percent([share >= 0.9 for share in shares]), 90.0),
        _at_least("models handled", float(ours), 1.0),
        Figure("models handled by Torch-Pruning", float(theirs), f"well below {ours}", ours > theirs if rows else None),
        _at_least("policy to model, times faster than Torch-Pruning, median", times_faster, 50.0),
        Figure("the same, its deep copy of the model counted, median", copied, "", None),
        Figure("the same, every tensor of ours copied, median", owned, "", None),
        _at_most("worst analysis up to 1,500 operators, s", max(times, default=None), 2.0),
        _at_most("policy to model, ResNet-50, ms", full.get("policy_ms"), 20.0),
        Figure("the same with every tensor copied, ms", full.get("owned_ms"), "", None),
        Figure("models trained a step, %", _percent([_ok(row, "training") for row in rows]), "", None),
        Figure("models exported to ONNX, %", _percent([_ok(row, "onnx") for row in rows]), "", None),
        Figure("models exported to pt2, %", _percent([_ok(row, "pt2") for row in rows]), "", None),
        Figure("models with a native model, %", _percent([_ok(row, "native") for row in rows]), "", None),
    ]


def _ok(row: Row, stage: str) -> bool:
    return bool((row.get(stage) or {}).get("ok"))


def _percent(flags: Sequence[bool]) -> float | None:
    return 100.0 * sum(flags) / len(flags) if flags else None


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _at_least(name: str, value: float | None, bound: float) -> Figure:
    return Figure(name, value, f">= {bound:g}", None if value is None else value >= bound)


def _at_most(name: str, value: float | None, bound: float) -> Figure:
    return Figure(name, value, f"<= {bound:g}", None if value is None else value <= bound)
