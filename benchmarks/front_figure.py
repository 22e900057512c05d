"""A figure of the front benchmark with the bound that is asked of it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Something that is asked.

    Attributes:
        name: what.
        value: measured, None where there are no parts to tell it.
        asked: the bound.
        least: whether the bound is a lower one.
    """

    name: str
    value: float | None
    asked: float
    least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None where that is not known."""
        if self.value is None or math.isnan(self.value):
            return None
        return self.value >= self.asked if self.least else self.value <= self.asked

    def __str__(self) -> str:
        word = {None: "not run", True: "met", False: "MISSED"}[self.met]
        value = "-" if self.value is None else f"{self.value:.3f}"
        return f"{self.name}: {value} (asked {'>=' if self.least else '<='} {self.asked:g}): {word}"
