"""The journal of a run: Optuna's own to the letter, without what Optuna does besides for each trial."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from autoprune.search import journal
from autoprune.search.backend import JOURNAL
from autoprune.search.journal import TrialJournal
from autoprune.search.storage import Record, TrialStorage

NAMES, LEVELS = ("a", "b", "c"), (4, 1, 12)
SHARED = {name: IntDistribution(0, count - 1) for name, count in zip(NAMES, LEVELS, strict=True)}


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def finished(values: list[float] | None, **fields: Any) -> FrozenTrial:
    now = datetime.now()
    given: dict[str, Any] = {
        "number": -1,
        "trial_id": -1,
        "state": TrialState.FAIL if values is None else TrialState.COMPLETE,
        "value": None,
        "values": values,
        "datetime_start": now,
        "datetime_complete": now,
        "params": {"a": 3, "b": 0, "c": 7},
        "distributions": SHARED,
        "user_attrs": {"number": 5, "metrics": {"accuracy": 0.5}},
        "system_attrs": {"generation": 2},
        "intermediate_values": {},
    }
    trial = FrozenTrial(**{**given, **fields})
    trial.set_constraint("size <= 1MB", -0.25)
    return trial


def written(path: Path, make: Callable[[JournalFileBackend], JournalStorage], trials: list[FrozenTrial]) -> list[Any]:
    """The records, without who wrote them."""
    storage = make(JournalFileBackend(str(path)))
    count = 1 if trials[0].values is None else len(trials[0].values)
    study = optuna.create_study(storage=storage, study_name="s", directions=["minimize"] * count)
    for trial in trials:
        study.add_trial(trial)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "worker_id"} for record in records]


@pytest.mark.parametrize(
    "trials",
    [
        [finished([0.25, 3.0]), finished([float("inf"), 1.0], distributions=dict(SHARED))],
        [finished([0.25]), finished([0.5], params={"a": 0, "b": 0, "c": 11}, intermediate_values={1: 0.5})],
        [finished(None)],
    ],
    ids=["several objectives", "one objective", "failed"],
)
def test_records_are_those_of_optuna(trials: list[FrozenTrial], tmp_path: Path) -> None:
    ours, theirs = (written(tmp_path / kind.__name__, kind, trials) for kind in (TrialJournal, JournalStorage))
    assert ours == theirs
    assert len(ours) == 1 + len(trials)


def test_other_distributions_are_described_anew(tmp_path: Path) -> None:
    wider = {name: IntDistribution(0, 99) for name in NAMES}
    trials = [finished([0.0]), finished([0.0], distributions=wider), finished([0.0])]
    found = [record["distributions"]["a"] for record in written(tmp_path / "j", TrialJournal, trials)[1:]]
    assert [json.loads(text)["attributes"]["high"] for text in found] == [3, 99, 3]


def test_trials_that_run_are_optunas_business(tmp_path: Path) -> None:
    study = optuna.create_study(storage=TrialJournal(JournalFileBackend(str(tmp_path / "j"))), study_name="s")
    study.add_trial(finished([0.5]))
    asked = study.ask(dict(SHARED))
    study.tell(asked, 0.25)
    assert [trial.value for trial in study.trials] == [0.5, 0.25]
    assert study.best_trial.number == asked.number == 1


def record(number: int) -> Record:
    return Record(number, 0, (number % 4, 0, number % 12), "sampler", (0.1 * number, 1.0), {}, evaluated=True)


def test_a_trial_costs_one_record_whatever_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions are described once a run; what is written is neither read back nor held."""
    calls: Counter[str] = Counter()

    def counted(name: str, module: Any) -> None:
        whole = getattr(module, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return whole(*arguments)

        monkeypatch.setattr(module, name, call)

    counted("distribution_to_json", journal)
    counted("json_to_distribution", optuna.storages.journal._storage)
    sizes = []
    with TrialStorage(tmp_path, NAMES, LEVELS, ("error", "latency"), None) as storage:
        assert storage.load() == []
        for number in range(60):
            storage.add(record(number))
            sizes.append((tmp_path / JOURNAL).stat().st_size)
        assert calls == {"distribution_to_json": len(NAMES)}
        assert max(late - early for early, late in itertools.pairwise(sizes)) < 1_000  # bytes a trial
        assert storage.load() == [record(number) for number in range(60)]
        assert calls["json_to_distribution"] == 60 * len(NAMES)
    with TrialStorage(tmp_path, NAMES, LEVELS, ("error", "latency"), None) as storage:
        assert storage.load() == [record(number) for number in range(60)]
        storage.add(record(60))
        assert [one.number for one in storage.load()] == list(range(61))
