"""Ctrl-C during a search: once finishes what is in hand, twice stops at once; a record being written is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Handles SIGINT while it is entered, in the main thread; elsewhere it does nothing."""

    def __init__(self) -> None:
        self._count = 0
        self._shielded = False
        self._before: Any = None
        self._installed = False

    @property
    def asked(self) -> bool:
        """Whether to stop when what is in hand is done."""
        return self._count > 0

    def __enter__(self) -> Self:
        handler = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        if main and handler is signal.default_int_handler:  # whoever handles it otherwise has reasons to
            self._before = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *details: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            self._installed = False

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let Ctrl-C end the block at once."""
        if not self._installed:
            yield
            return
        signal.signal(signal.SIGINT, self._before)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold a second Ctrl-C back until the block is done."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        self._raise_if_urgent()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._raise_if_urgent()

    def _raise_if_urgent(self) -> None:
        if self._count > 1 and not self._shielded:
            raise KeyboardInterrupt
