"""Dense linear algebra on one thread: the same to the last bit on any machine, and no threads that wait for each other.

NumPy's BLAS takes all cores and cannot be told otherwise from here; matrices of some hundred rows gain nothing from
that, and lose much while workers keep the cores busy. Torch can be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Floats: TypeAlias = npt.NDArray[np.float64]


def product(one: Floats, other: Floats) -> Floats:
    """The matrix product.  # (n, k), (k, m) -> (n, m); (n, k), (k,) -> (n,)"""
    with _one_thread():
        return _array(_tensor(one) @ _tensor(other))


def cholesky(matrix: Floats) -> Floats:
    """The lower factor of a positive definite matrix.  # (n, n) -> (n, n)

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """
    with _one_thread():
        factor, failed = torch.linalg.cholesky_ex(_tensor(matrix))
    if int(failed):
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return _array(factor)


def solved(lower: Floats, right: Floats) -> Floats:
    """The solution x of lower @ x = right.  # (n, n), (n, m) -> (n, m)"""
    with _one_thread():
        return _array(torch.linalg.solve_triangular(_tensor(lower), _tensor(right), upper=False))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensor(array: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))  # torch warns of arrays that are read-only


def _array(tensor: torch.Tensor) -> Floats:
    found: Floats = tensor.numpy()
    return found
