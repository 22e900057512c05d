"""One local Ray for all tests of this room that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune.search.executors import Executor, ExecutorSettings, open_executor


@pytest.fixture(scope="package")
def local_ray() -> Iterator[Executor]:
    """The executor that started it; others use what runs already."""
    import ray

    assert not ray.is_initialized()
    with open_executor(None, ExecutorSettings("ray", workers=3)) as started:
        yield started
    assert not ray.is_initialized()
