"""What runs on workers in tests. Imports little, as each worker process imports it."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.core.errors import Failure


@dataclass
class Bench:
    """A context for executor tests: counts its calls, and marks in a folder what was ever started."""

    folder: Path | None = None
    calls: int = 0
    unpickled: int = field(default=0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.unpickled += 1

    def square(self, value: int) -> int:
        """A job."""
        self.calls += 1
        return value * value

    def where(self) -> tuple[int, int]:
        """Process id, and how often this copy was unpickled."""
        return os.getpid(), self.unpickled

    def nap(self, seconds: float) -> float:
        """A job that takes a while."""
        time.sleep(seconds)
        return seconds

    def fail(self, message: str) -> None:
        """A job that raises."""
        raise ValueError(message)

    def die(self, name: str, times: int) -> str:
        """A job that kills its worker the first `times` times it is tried."""
        assert self.folder is not None
        mark = self.folder / name
        tried = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("x" * (tried + 1))
        if tried < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    def hold(self, size: int, seconds: float) -> int:
        """A job that holds memory for a while."""
        held = bytearray(size)
        for place in range(0, size, 4096):
            held[place] = 1
        time.sleep(seconds)
        return len(held)

    def stop(self) -> None:
        """A job whose worker hangs: not even its threads run."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def child(self) -> int:
        """A job that starts a process, as data loaders do."""
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.0,))
        process.start()
        process.join()
        return int(process.exitcode or 0)

    def unpicklable(self) -> Any:
        """A result that cannot be sent back."""
        return (number for number in range(3))


class TorchBench:
    """A context that computes with torch."""

    def __init__(self) -> None:
        import torch

        self.tensor = torch.ones(1)

    def threads(self) -> int:
        """A job."""
        import torch

        return int(torch.get_num_threads())


@dataclass(frozen=True)
class Judgement:
    """What `SyntheticEvaluator` finds."""

    value: float
    metrics: dict[str, float]
    seconds: float
    raced_out: int = 0


@dataclass(frozen=True)
class SyntheticEvaluator:
    """Errors in closed form; notes every evaluation in a file, so that tests see what any process evaluated.

    Attributes:
        sensitivities: error that each variable adds when it is cut to its narrowest.
        levels: of each variable; width and level + 1 are the same thing.
        log: file that gets a line an evaluation.
        nap_s: how long an evaluation takes.
        fails: trial numbers that fail; interrupts: that raise KeyboardInterrupt; nan: that are NaN.
    """

    sensitivities: tuple[float, ...]
    levels: int
    log: str | None = None
    nap_s: float = 0.0
    fails: tuple[int, ...] = ()
    interrupts: tuple[int, ...] = ()
    nan: tuple[int, ...] = ()

    def error(self, policy: Mapping[str, int]) -> float:
        """Quadratic in what is cut off, with a little coupling of neighbours."""
        cut = [1.0 - (policy[f"g{i}"] - 1) / (self.levels - 1) for i in range(len(self.sensitivities))]
        coupling = sum(a * b for a, b in itertools.pairwise(cut)) / len(cut)
        return sum(s * c * c for s, c in zip(self.sensitivities, cut, strict=True)) + 0.01 * coupling

    def evaluate(self, policy: Mapping[str, int], number: int) -> Judgement | Failure:
        """The job of a search."""
        if number in self.interrupts:
            raise KeyboardInterrupt
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{number} {' '.join(str(policy[g]) for g in sorted(policy))}\n")
            with open(f"{self.log}.workers", "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {number}\n")
        time.sleep(self.nap_s)
        if number in self.fails:
            return Failure("diverged", f"loss is inf in trial {number}")
        value = math.nan if number in self.nan else self.error(policy)
        return Judgement(value, {"accuracy": 1.0 - value}, 0.001)


@dataclass(frozen=True)
class Uneven(SyntheticEvaluator):
    """Takes now longer and now shorter, so that trials finish in any order; one of them until another has begun.

    Attributes:
        slow: number of the trial that waits; -1: none does.
        awaited: number of the trial that it waits for.
    """

    slow: int = -1
    awaited: int = -1

    def evaluate_unevenly(self, policy: Mapping[str, int], number: int) -> Judgement | Failure:
        """The job of a search."""
        time.sleep(0.02 * random.Random(number).random() ** 3)
        end = time.monotonic() + 60.0
        while number == self.slow and not self._begun(self.awaited):
            if time.monotonic() > end:
                return Failure("waited in vain", f"for trial {self.awaited}")
            time.sleep(0.005)
        return self.evaluate(policy, number)

    def _begun(self, number: int) -> bool:
        lines = Path(self.log or "").read_text().splitlines()
        return any(line.startswith(f"{number} ") for line in lines)
