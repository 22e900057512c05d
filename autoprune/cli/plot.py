"""A scatter plot for the terminal: plain characters without colour, as wide as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_WIDTH = 34
MOST_WIDTH = 100
HEIGHT = 14
LEAST_SPAN = 1e-300  # numbers nearer to each other than this cannot be told apart by division


@dataclass(frozen=True)
class Point:
    """One point: where, its mark (one character) and its label."""

    x: float
    y: float
    mark: str
    label: str


@dataclass(frozen=True)
class Axis:
    """One axis: its title and how its values are written."""

    title: str
    text: Callable[[float], str]


@dataclass(frozen=True)
class Glyphs:
    """The characters that a plot is drawn with."""

    member: str
    other: str
    dense: str
    side: str
    tick: str
    corner: str
    floor: str


UNICODE = Glyphs("●", "○", "◆", "│", "┤", "└", "─")
ASCII = Glyphs("o", ".", "#", "|", "+", "+", "-")


def glyphs(encoding: str | None) -> Glyphs:
    """The finer characters where an output of this encoding has them, else ASCII."""
    try:
        "".join(vars(UNICODE).values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def scatter(points: Sequence[Point], x: Axis, y: Axis, width: int, drawn: Glyphs = UNICODE) -> list[str]:
    """The plot as lines of at most `width` characters; none where there is no point, or no room.

    Points that fall into one place share their mark (the first one's) and their label.
    """
    width = min(width, MOST_WIDTH)
    if not points or width < LEAST_WIDTH:
        return []
    low_y, high_y = _range([point.y for point in points])
    ticks = {row: y.text(high_y + (low_y - high_y) * row / (HEIGHT - 1)) for row in (0, HEIGHT // 2, HEIGHT - 1)}
    gutter = max(map(len, ticks.values()))
    columns = width - gutter - 2
    low_x, high_x = _range([point.x for point in points])
    places: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        row = round((high_y - point.y) / (high_y - low_y) * (HEIGHT - 1))
        column = round((point.x - low_x) / (high_x - low_x) * (columns - 1))
        places.setdefault((row, column), []).append(point)
    grid = _drawn(places, columns)
    lines = [y.title[:width]]
    for row, cells in enumerate(grid):
        text = "".join(cells).rstrip()
        lines.append(f"{ticks.get(row, ''):>{gutter}} {drawn.tick if row in ticks else drawn.side}{text}")
    lines.append(f"{'':>{gutter}} {drawn.corner}{drawn.floor * columns}")
    lines.append(f"{'':>{gutter + 2}}{_ends(x.text(low_x), x.title, x.text(high_x), columns)}")
    return lines


def _drawn(places: dict[tuple[int, int], list[Point]], columns: int) -> list[list[str]]:
    """Marks, then each label where it covers nothing: to the right, to the left, above or below."""
    grid = [[" "] * columns for _ in range(HEIGHT)]
    for (row, column), points in places.items():
        grid[row][column] = points[0].mark
    for (row, column), points in places.items():
        label = ",".join(point.label for point in points)
        middle = column - len(label) // 2
        for line, start in (
            (row, column + 2),
            (row, column - 1 - len(label)),
            *((near, place) for near in (row - 1, row + 1) for place in (middle, column, column + 1 - len(label))),
        ):
            if _free(grid, line, start, len(label)):
                grid[line][start : start + len(label)] = label
                break
    return grid


def _free(grid: list[list[str]], row: int, start: int, length: int) -> bool:
    """Whether a label fits there, with nothing but blanks right beside it in its line."""
    if not 0 <= row < len(grid) or start < 0 or start + length > len(grid[row]):
        return False
    around = grid[row][max(0, start - 1) : start + length + 1]
    return all(cell == " " for cell in around)


def _ends(left: str, title: str, right: str, columns: int) -> str:
    """A line with a text at each end and, where there is room, one in the middle."""
    room = columns - len(left) - len(right) - 4
    middle = title if len(title) <= room else ""
    return f"{left}{middle:^{max(1, columns - len(left) - len(right))}}{right}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The values' range, a little wider so that no mark lies on the frame."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    span = high - low
    if not span > max(1e-12 * size, LEAST_SPAN):  # all alike, as far as can be drawn
        span = size if size > LEAST_SPAN else 1.0
    return low - 0.05 * span, high + 0.05 * span
