"""Where data that ships with the package lies: search spaces and hardware profiles."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """The folder of shipped data called `name`: `autoprune/_data/<name>` when installed, else `<checkout>/<name>`."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
