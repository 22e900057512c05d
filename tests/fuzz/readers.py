"""Every reader of files or texts that somebody else may have written: a sample, how it is made hostile, and a use."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tests.fuzz import hardware, runs, tensors, texts
from tests.fuzz.reader import Reader


@functools.cache
def readers() -> Mapping[str, Reader]:
    """Name -> reader."""
    rooms = (texts, hardware, runs, tensors)
    return {reader.name: reader for room in rooms for reader in room.readers()}
