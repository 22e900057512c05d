"""What users name, whoever they are, stands in a report as text: no tag, attribute or script comes of it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoprune.artifacts.layout import FRONT, METRICS, RECIPE, RUN, member_folder
from autoprune.artifacts.records import MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.report.data import load_report_data
from autoprune.artifacts.report.page import render
from autoprune.artifacts.table import read_table, write_table
from tests.artifacts.samples import write_sample

EVIL = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'onmouseover='alert(1)",
    "</script><script>alert(1)//",
    "<!--",
    "]]>", "&lt;b&gt;", "{{7*7}}", "<svg/onload=alert(1)>", "javascript:alert(1)", "\u2028alert(1)",
    "<a href='x'>",
)  # fmt: skip


class _Shape(HTMLParser):
    """Tags with the names of their attributes, and what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def _shape(page: str) -> _Shape:
    found = _Shape()
    found.feed(page)
    return found


def _named(folder: Path, word: str) -> str:
    """The page of a run in which everything that has a name is called `word`."""
    folder.mkdir()
    run = write_sample(folder, members=2)
    record = RunRecord.read(run / RUN)
    metric = f"m{word}"
    groups = tuple(group.model_copy(update={"id": f"{word}{i}"}) for i, group in enumerate(record.groups))
    record.model_copy(
        update={
            "name": word, "metrics": (metric,), "notes": (word,), "constraints": (word,),
            "objectives": (word, "latency_p50"),
            "versions": {word: word}, "hashes": {word: word}, "config": {word: word}, "groups": groups,
        }
    ).write(run / RUN)  # fmt: skip
    rows = [{k.replace("accuracy", metric): v for k, v in row.items()} for row in read_table(run / FRONT, "front")]
    write_table(run / FRONT, rows, (metric,))
    for row in rows[1:]:
        member = member_folder(run, str(row["member"]))
        recipe = Recipe.read(member / RECIPE)
        policy = dict(zip((group.id for group in groups), recipe.policy.values(), strict=True))
        recipe.model_copy(update={"policy": policy, "criterion": word}).write(member / RECIPE)
        metrics = MetricsRecord.read(member / METRICS)
        failures = {
            f"{word}{i}": f.model_copy(update={"message": word}) for i, f in enumerate(metrics.failures.values())
        }
        metrics.model_copy(update={"failures": failures}).write(member / METRICS)
    return render(load_report_data(run))


@pytest.mark.parametrize("word", EVIL)
def test_names_are_text(word: str, tmp_path: Path) -> None:
    plain, evil = _shape(_named(tmp_path / "plain", "word")), _shape(_named(tmp_path / "evil", word))
    assert evil.tags == plain.tags
    assert evil.handlers == plain.handlers == []
