"""The terminal plot: where marks and labels go, at every width, in every encoding."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoprune.cli.plot import ASCII, HEIGHT, LEAST_WIDTH, UNICODE, Axis, Point, glyphs, scatter

X, Y = (
    Axis("latency_p50", lambda value: f"{value:.0f} us"),
    Axis("accuracy (up is better)", lambda value: f"{value:.3g}"),
)


def test_a_plot() -> None:
    points = [Point(100.0, 0.95, "◆", "dense"), Point(20.0, 0.85, "●", "m1"), Point(60.0, 0.94, "●", "m2")]
    lines = scatter(points, X, Y, 48)
    assert lines[0] == "accuracy (up is better)"
    assert len(lines) == HEIGHT + 3
    places = {label: next(i for i, line in enumerate(lines) if label in line) for label in ("dense", "m1", "m2")}
    assert places["dense"] < places["m2"] < places["m1"]
    assert lines[places["dense"]].index("◆") > lines[places["m2"]].index("●") > lines[places["m1"]].index("●")
    assert lines[-2].lstrip().startswith("└──")
    assert lines[-1].split() == ["16", "us", "latency_p50", "104", "us"]


def test_points_in_one_place_share_a_mark_and_a_label() -> None:
    text = "\n".join(scatter([Point(1.0, 1.0, "◆", "dense"), Point(1.0, 1.0, "●", "m1")], X, Y, 60))
    assert text.count("◆") == 1
    assert "●" not in text
    assert "dense,m1" in text


def test_nothing_without_points_or_room() -> None:
    assert scatter([], X, Y, 80) == []
    assert scatter([Point(1.0, 1.0, "●", "m1")], X, Y, LEAST_WIDTH - 1) == []


@pytest.mark.parametrize(
    ("encoding", "drawn"), [("utf-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII), ("odd", ASCII)]
)
def test_what_an_encoding_can_show(encoding: str | None, drawn: object) -> None:
    assert glyphs(encoding) is drawn


NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


@example([(0.0, 0.0, "1"), (0.0, 5e-324, "1")], LEAST_WIDTH)  # nearer than division can tell
@example([(1.0, 1.0, "1"), (1.0 + 2.0**-52, 1.0, "1")], LEAST_WIDTH)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.text("m123", min_size=1, max_size=9)), min_size=1, max_size=30),
    st.integers(LEAST_WIDTH, 130),
)
def test_every_point_is_marked_within_the_width(found: list[tuple[float, float, str]], width: int) -> None:
    points = [Point(x, y, "●", name) for x, y, name in found]
    lines = scatter(points, Axis("x", lambda value: "x"), Axis("y", lambda value: "y"), width)
    assert len(lines) == HEIGHT + 3
    assert max(map(len, lines)) <= width
    marks = sum(line.count("●") for line in lines)
    assert 1 <= marks <= len({(x, y) for x, y, _ in found})
