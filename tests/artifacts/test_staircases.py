"""The picture of a profile: what is drawn, that it agrees with what is predicted, and that names stay text."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.artifacts.staircases import (
    FAMILIES,
    Predictor,
    families_of,
    figure,
    render,
    shapes,
    title,
    write_staircases,
)
from autoprune.core.errors import InputError
from autoprune.graph.kernel import Kernel
from autoprune.hardware.kernel_table import KernelRow
from autoprune.hardware.latency import LatencyTable
from autoprune.hardware.profile import HardwareProfile, list_profiles, load_profile
from autoprune.hardware.profiling import kernel_work
from tests.hardware.samples import dense_of, graph_of, header, row, synthetic_profile

CONV = "x0:(1,c0,8,8);x1:(1,c1,8,8);y0:(1,c1,8,8)=conv2d.default(x0,w(c1,c0,3,3),w(c1,),(1,1),(1,1),(1,1),1);" \
    "y1:(1,c1,8,8)=add.Tensor(y0,x1)"  # fmt: skip
RELU = "x0:(1,c0,4,4);y0:(1,c0,4,4)=relu.default(x0)"


def profile(*more: KernelRow, **fields: object) -> HardwareProfile:
    """A staircase of eight channels a step, and a straight line."""
    rows = [row(CONV, (a, b), 1.0 + b * -(-a // 8)) for a in (8, 16, 24, 32) for b in (8, 16)]
    rows += [row(RELU, (width,), 0.1 * width, operator="elementwise") for width in (8, 32)]
    return HardwareProfile(header(alignment_quantum=8, **fields), (*rows, *more))


def payload(page: str) -> dict[str, Any]:
    [text] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    figures: dict[str, Any] = json.loads(text)
    return figures


def test_families_that_take_longest_come_first() -> None:
    failed = KernelRow.failed("x0:(1,c0);y0:(1,c0)=relu.default(x0)", (8,), "elementwise", "refused", 1.0, 1.0)
    constant = row("x0:(1,4);y0:(1,4)=relu.default(x0)", (), 99.0)
    found = families_of(profile(failed, constant))
    assert [family.text for family in found] == [CONV, RELU]
    assert title(found[0]) == "conv: conv2d + add"
    assert shapes(found[0]) == "x0 (1, c0, 8, 8), x1 (1, c1, 8, 8) → y1 (1, c1, 8, 8)"


def test_a_figure_has_measured_points_and_the_steps_between_them() -> None:
    made = profile()
    drawn = figure(families_of(made)[0], Predictor(made))
    lines = {trace["name"]: trace for trace in drawn["data"] if trace["mode"] == "lines"}
    assert set(lines) == {"c1 8", "c1 16"}
    line = lines["c1 16"]
    assert dict(zip(line["x"], line["y"], strict=True))[17] == pytest.approx(1.0 + 16 * 3)  # whole blocks are paid for
    points = [trace for trace in drawn["data"] if trace["mode"] == "markers"]
    assert points[0]["x"] == [8, 16, 24, 32]
    assert points[0]["y"] == [17.0, 33.0, 49.0, 65.0]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "width c0"


def test_times_inside_models_are_drawn_beside_those_alone() -> None:
    inside = []
    for sizes in itertools.product((8, 16, 24, 32), (8, 16)):
        flops, bytes_ = kernel_work(Kernel(CONV, sizes))
        inside.append(row(CONV, sizes, 2.0 + flops / 1e4, within="model", flops=flops, bytes=bytes_))
    made = profile(*inside, within="model", context={"elementwise": 2.0})
    conv, relu = families_of(made)
    points = [trace for trace in figure(conv, Predictor(made))["data"] if trace["mode"] == "markers"]
    assert {trace["marker"]["symbol"] for trace in points} == {"circle", "diamond"}
    where = np.array([own.sizes for own in inside], dtype=np.int64)
    np.testing.assert_allclose(Predictor(made).times_us(conv, where), [own.p50_us for own in inside], rtol=0.1)
    assert Predictor(made).times_us(relu, np.array([[8]], dtype=np.int64)).tolist() == pytest.approx([1.6])


def test_lines_are_what_a_bound_profile_predicts() -> None:
    graph, dense = graph_of("Sequential"), dense_of("Sequential")
    made = synthetic_profile(graph, {group: (size // 4, size // 2, size) for group, size in dense.items()})
    made = replace(made, header=made.header.model_copy(update={"alignment_quantum": 4}))
    table, predictor = LatencyTable(made, graph), Predictor(made)
    widths = np.random.default_rng(0).integers([s // 4 for s in dense.values()], list(dense.values()), (20, len(dense)))
    times, kinds = table.slot_us(widths)
    drawn = {family.text: family for family in families_of(made)}
    compared = 0
    for index, slot in enumerate(table.slots):
        sizes = np.array([slot.kernel(dict(zip(dense, own, strict=True))).sizes for own in widths.tolist()])
        if slot.family(1) in drawn:
            known = kinds[:, index] < 2
            predicted = predictor.times_us(drawn[slot.family(1)], sizes.astype(np.int64))
            np.testing.assert_allclose(predicted[known], times[known, index])
            compared += int(known.sum())
    assert compared > 50


@pytest.mark.parametrize("name", [found["name"] for found in list_profiles()])
def test_every_profile_that_ships_is_drawn(name: str) -> None:
    shipped = load_profile(name)
    figures = payload(render(shipped))
    assert 1 <= len(figures) <= FAMILIES
    for drawn in figures.values():
        lines = [trace for trace in drawn["data"] if trace["mode"] == "lines"]
        times = [time for trace in lines for time in trace["y"] if time is not None]
        assert times
        assert min(times) >= 0


def test_analytical_profiles_are_said_to_be_and_drawn_below_their_widths() -> None:
    shipped = load_profile("mobile-pixel4-gpu-tflite")
    page = render(shipped)
    assert "Nothing here was timed" in page
    widths = [trace["x"] for drawn in payload(page).values() for trace in drawn["data"] if trace["mode"] == "lines"]
    assert any(len(line) > 10 for line in widths)


def test_names_are_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    made = profile()
    odd = row("x0:(1,c0);y0:(1,c0)=relu.default(x0)", (8,), 99.0, operator=f"{hostile}&")
    page_of = replace(made, header=made.header.model_copy(update={"name": hostile}), kernels=(*made.kernels, odd))
    write_staircases(page_of, tmp_path / "deep" / "page.html")
    page = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert hostile not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == page.count("</script>") == 3
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', page)
    assert "default-src 'none'" in page


def test_a_profile_without_widths() -> None:
    constant = row("x0:(1,4);y0:(1,4)=relu.default(x0)", (), 99.0)
    with pytest.raises(InputError, match="picture of 'test': expected kernels with widths, got none"):
        render(HardwareProfile(header(), (constant,)))
