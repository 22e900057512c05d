"""The report: complete, self-contained, and deaf to what names try to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.artifacts.layout import FRONT, REPORT, RUN, TRIALS
from autoprune.artifacts.records import GroupRecord, RunRecord
from autoprune.artifacts.report import write_report
from autoprune.artifacts.report.budget import fastest_within, staircase
from autoprune.artifacts.report.data import load_report_data
from autoprune.artifacts.report.page import script_json
from autoprune.artifacts.table import Row, read_table, write_table
from autoprune.core.errors import InputError
from tests.artifacts.samples import write_sample


class Page(HTMLParser):
    """Collects tags, text and scripts as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag in ("script", "style")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.text += data
        elif self.scripts:
            self.scripts[-1] += data


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


def payload(page: Page) -> dict[str, object]:
    found: dict[str, object] = json.loads(page.scripts[1])
    return found


def test_sections_and_figures(tmp_path: Path) -> None:
    page = page_of(write_sample(tmp_path / "sample"))
    for title in ("The front", "Members", "Widths per layer", "Can the figures be trusted?", "How it was made"):
        assert title in page.text
    assert "98.00\xa0% accuracy" in page.text
    assert "1.74\N{MULTIPLICATION SIGN} faster" in page.text
    assert "pt2: refused <here>" in page.text
    figures = payload(page)["figures"]
    assert isinstance(figures, dict)
    assert {"front-p50", "front-p95", "prediction-p50", "provenance-", "widths"} <= figures.keys()
    front = {trace.get("name"): trace for trace in figures["front-p50"]["data"]}
    assert len(front["members, measured latency"]["x"]) == 6
    assert len(front["trials (200), before fine-tuning"]["x"]) == 200
    assert front["dense"]["y"] == [pytest.approx(2.0)]
    assert figures["widths"]["data"][0]["z"][0][0] <= 1.0


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = page_of(write_sample(tmp_path / "sample"))
    assert len(page.scripts) == 3
    for tag, attributes in page.tags:
        assert not {"src", "href", "srcset", "data"} & attributes.keys(), (tag, attributes)
    policy = next(attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def strings(data: object) -> Iterator[str]:
    """All texts in JSON data that are shown: values, not keys."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, (list, dict)):
        for item in data.values() if isinstance(data, dict) else data:
            yield from strings(item)


HOSTILE = '<img src=x onerror=alert(1)></script><script>alert("2")</script>&amp;'


def test_names_are_escaped(tmp_path: Path) -> None:
    run = write_sample(tmp_path / "sample", metric=HOSTILE, profiles=("cpu", HOSTILE))
    record = RunRecord.read(run / RUN)
    groups = tuple(GroupRecord(id=f"{HOSTILE}{group.id}", size=group.size) for group in record.groups)
    record.model_copy(
        update={
            "name": HOSTILE, "groups": groups, "notes": (HOSTILE,), "versions": {HOSTILE: HOSTILE},
            "config": {HOSTILE: [HOSTILE]}, "constraints": (HOSTILE,), "hashes": {HOSTILE: HOSTILE},
        }
    ).write(run / RUN)  # fmt: skip
    clean, page = page_of(write_sample(tmp_path / "clean", profiles=("cpu", "phone"))), page_of(run)
    assert len(page.scripts) == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert {tag for tag, _ in page.tags} - {"ul", "li"} <= {tag for tag, _ in clean.tags}
    assert HOSTILE in page.text
    raw = (run / REPORT).read_text().split('type="application/json">')[1].split("</script>")[0]
    assert "<" not in raw
    assert not [text for text in strings(json.loads(raw)) if "<img" in text or "<script" in text]


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_script_json_cannot_close_its_tag(data: object) -> None:
    text = script_json(data)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == data


def test_without_trials_measurements_recipes_or_dense(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    RunRecord(name="bare", metrics=("loss",), minimize=("loss",), objectives=("loss", "latency_p50")).write(run / RUN)
    rows: list[Row] = [{"member": f"m{i}", "loss": 1.0 / (i + 1), "latency_p50_us": 10.0 * (i + 1)} for i in range(3)]
    write_table(run / FRONT, rows, ("loss",))
    page = page_of(run)
    assert "lower is better" in json.dumps(payload(page))
    assert "Widths per layer" not in page.text
    write_table(run / FRONT, [{"member": "only"}])
    assert "The front" not in page_of(run).text


def test_report_messages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder"):
        write_report(tmp_path / "none")
    run = write_sample(tmp_path / "sample")
    (run / TRIALS).write_text("number,accuracy\n1,high\n")
    with pytest.raises(InputError, match=r"trials.csv, row 2, column 'accuracy'"):
        write_report(run)


def test_staircase_is_the_best_that_fits(tmp_path: Path) -> None:
    data = load_report_data(write_sample(tmp_path / "sample"))
    view = data.views[0]
    steps = staircase(data, view)
    rows = [*data.members, data.dense]
    for budget in (240.0, 250.0, 480.0, 487.5, 700.0, 1e6):
        fit = [row for row in rows if row is not None and view.latency_us(row) <= budget]
        chosen = [step for step in steps if step.latency_us <= budget]
        if fit:
            assert data.loss(chosen[-1].row) == min(data.loss(row) for row in fit)
        else:
            assert not chosen
    found = fastest_within(data, view, 1.0)
    assert found is not None
    assert found[0]["member"] == "member-4"
    assert fastest_within(data, view, 0.0) is None


def test_a_front_for_each_device_and_the_joint_one(tmp_path: Path) -> None:
    run = write_sample(tmp_path / "sample", profiles=("cpu", "phone"))
    rows = [dict(row) for row in read_table(run / FRONT, "front")]
    for place, row in enumerate(rows):
        row |= {"on_front@cpu": 1, "on_front@phone": int(place % 2 == 0), "speedup@phone": 2.0}
    write_table(run / FRONT, rows)
    page = page_of(run)
    figures = payload(page)["figures"]
    assert isinstance(figures, dict)
    for view, members in (("p50@cpu", 6), ("p50@phone", 3)):
        traces = {trace["name"]: trace for trace in figures[f"front-{view}"]["data"] if "ids" in trace}
        (trace,) = traces.values()
        assert len(trace["x"]) == members
    apart = [t for t in figures["front-p50@phone"]["data"] if t.get("name") == "members of other devices' fronts"]
    assert len(apart[0]["x"]) == 3
    (cells,) = figures["devices"]["data"]
    assert cells["x"] == ["cpu", "phone"]
    assert len(cells["y"]) == 6
    assert cells["text"][0][1].endswith("\u00d7") or cells["text"][0][1].endswith("\u25cf")
    assert "on the front of" in page.text
    assert "cpu, phone" in page.text


def test_how_well_stages_rank_stands_in_every_report(tmp_path: Path) -> None:
    page = page_of(write_sample(tmp_path / "sample"))
    assert "Do the cheap stages rank like the dear ones?" in page.text
    assert "accuracy: no fine-tuning and full fine-tuning" in page.text
    assert "latency_p50: predicted and measured" in page.text
