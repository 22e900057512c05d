"""Seeds, damage curves, the search, and then the finish: the whole run, resumable at every stage."""

from __future__ import annotations

from pathlib import Path

from autoprune.artifacts.bundle import write_run
from autoprune.artifacts.layout import FRONT
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.pipeline import finish, training
from autoprune.pipeline.curves import damage_note, run_damage, write_prediction
from autoprune.pipeline.evaluator import add_notes, make_evaluator
from autoprune.pipeline.problem import Problem, Progress, SearchSettings, run_record
from autoprune.pipeline.seeds import allocated_seeds, make_seeds, most_allocated, opening_seeds
from autoprune.pipeline.software import begun, continued
from autoprune.pruning.pruner import Pruner
from autoprune.search.damage import DamageCurves
from autoprune.search.executors import Executor, open_executor
from autoprune.search.lock import FolderLock
from autoprune.search.prior import Prior, make_prior
from autoprune.search.progress import Progress as Report
from autoprune.search.study import Later, Seed, StudySettings, Trial, run_search

__all__ = ["explore", "run_pipeline"]

STATE = "state.json"
STATE_SCHEMA = "autoprune.state/1"


def run_pipeline(problem: Problem, settings: SearchSettings, progress: Progress) -> None:
    """Run or resume the search in `problem.run`; returns when the front and its members are written.

    Raises:
        InputError: the folder holds a run of something else (the difference is named), or the task cannot be sent to
            workers.
        AutopruneError: nothing could be evaluated or fine-tuned.
    """
    with FolderLock(problem.run) as lock:
        lock.tidy()
        _run(problem, settings, lock, progress)


def _run(problem: Problem, settings: SearchSettings, lock: FolderLock, progress: Progress) -> None:
    """The whole run, under the lock of its folder."""
    record = continued(begun(problem.run), run_record(problem, settings))
    record = write_run(problem.run, problem.graph, record)
    key = digest(canonical_json([record.hashes, record.config, list(record.objectives), list(record.constraints)]))
    if is_finished(problem.run, key):
        return
    progress("calibrate", 0, 1)
    evaluator, notes = make_evaluator(problem, settings)
    add_notes(problem.run, notes)
    progress("calibrate", 1, 1)
    with open_executor(evaluator, settings.executor) as executor:
        trials = explore(problem, settings, executor, evaluator.pruner, progress, lock)
        add_notes(problem.run, damage_note(problem.run))
        finish.record_trials(trials, problem)
        trained = training.train(trials, problem, settings, executor, progress)
    finish.finish(trained, problem, settings, evaluator.pruner, progress)
    write_json(problem.run / STATE, {"schema": STATE_SCHEMA, "finished": key})


def is_finished(run: Path, key: str) -> bool:
    """Whether this very run has ended before. Another number of trials or members goes on from what is there.

    Raises:
        InputError: `state.json` cannot be read.
    """
    path = run / STATE
    if not (path.is_file() and (run / FRONT).is_file()):
        return False
    return bool(read_json(path, "state of the run", STATE_SCHEMA).get("finished") == key)


def explore(
    problem: Problem,
    settings: SearchSettings,
    executor: Executor,
    pruner: Pruner,
    progress: Progress,
    lock: FolderLock | None = None,
) -> tuple[Trial, ...]:
    """The multi-objective search from real seeds: the dense and uniform ones, and those that damage curves allocate.

    Args:
        problem: what is searched.
        settings: how.
        executor: its workers hold an `Evaluator`.
        pruner: the evaluator's.
        progress: called with (stage, done, total).
        lock: of the run folder, where the caller holds it.
    """
    predicted = settings.damage_points == 0  # then nothing has to be evaluated while damage is measured
    known: list[DamageCurves] = []

    def report(found: Report) -> None:
        progress("search policies", found.done, found.trials)

    def work_out() -> tuple[list[Seed], Prior]:
        known.append(run_damage(problem, settings, executor, progress, pruner))
        seeds = make_seeds if predicted else allocated_seeds
        return seeds(problem, known[-1], settings), make_prior(problem, known[-1])

    wanted = StudySettings(
        trials=settings.trials,
        sampler=settings.sampler,
        seed=settings.seed,
        time_budget_s=settings.time_budget_s,
        racing=settings.racing,
        storage=settings.storage,
        plateau=settings.plateau,
        overlap=settings.overlap,
        batch=settings.batch,
    )
    seeds, prior = work_out() if predicted else (opening_seeds(problem), None)
    found = run_search(
        problem,
        executor,
        wanted,
        seeds=seeds,
        prior=prior,
        later=None if predicted else Later(most_allocated(problem, settings), work_out),
        folder=problem.run,
        progress=report,
        lock=lock,
    )
    if known:
        write_prediction(problem, known[-1], found)
    return found
