"""A search problem with a known front, and jobs for executors: all importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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

    def unpicklable(self) -> Any:
        """A result that cannot be sent back."""
        return lambda: None


class TorchBench:
    """A context that computes with torch."""

    def __init__(self) -> None:
        import torch

        self.tensor = torch.ones(1)

    def threads(self) -> int:
        """A job."""
        import torch

        return int(torch.get_num_threads())
