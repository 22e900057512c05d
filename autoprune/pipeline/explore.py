"""Damage curves, seeds, the search, and then the finish: the whole run, resumable at every stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.artifacts.bundle import write_run
from autoprune.artifacts.layout import FRONT
from autoprune.core.errors import Failure, InputError
from autoprune.core.files import canonical_json, digest, read_json, write_json
from autoprune.graph.policy import SparsityPolicy
from autoprune.pipeline import finish
from autoprune.pipeline.problem import Problem, Progress, SearchSettings, run_record
from autoprune.pruning.pruner import Pruner
from autoprune.search.allocation import allocate
from autoprune.search.damage import DamageCurves, damage_curves, damage_plan
from autoprune.search.evaluation import Evaluator
from autoprune.search.executors import Executor, Job, open_executor
from autoprune.search.lock import FolderLock
from autoprune.search.progress import Progress as Report
from autoprune.search.study import Seed, StudySettings, Trial, run_search

DAMAGE = "damage.json"
DAMAGE_SCHEMA = "autoprune.damage/1"
STATE = "state.json"
STATE_SCHEMA = "autoprune.state/1"
LADDER = (0.25, 0.5, 0.75)  # uniform ratios among the seeds
SEED_SHARE = 0.3  # of all trials are seeds


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
    record = write_run(problem.run, problem.graph, run_record(problem, settings))
    key = digest(canonical_json([record.hashes, record.config, list(record.objectives), list(record.constraints)]))
    if _is_finished(problem, key):
        return
    progress("calibrate", 0, 1)
    calibration = problem.task.calibration_batches(seed=settings.seed)
    pruner = Pruner(problem.graph, settings.criterion, calibration, seed=settings.seed)
    progress("calibrate", 1, 1)
    evaluator = Evaluator(pruner, problem.task, threads=settings.executor.threads, seed=settings.seed)
    with open_executor(evaluator, settings.executor) as executor:
        curves = measured_damage(problem, settings, executor, progress)
        trials = explore(problem, settings, executor, curves, progress, lock)
        finish.record_trials(trials, problem)
        chosen = finish.choose(trials, problem, settings.members)
        tuned = finish.tune_all([trial.policy for trial in chosen], problem, settings, executor, progress)
    models = [finish.dense_member(problem), *finish.finished(tuned, problem)]
    measured = finish.measure_all(models, problem, progress) if settings.measure else {}
    table = finish.rows(models, problem, measured)
    beaten = finish.surely_dominated(table, problem)
    kept = [place for place in range(len(models)) if place == 0 or not beaten[place]]
    finish.publish([models[i] for i in kept], [table[i] for i in kept], problem, settings, pruner, progress)
    write_json(problem.run / STATE, {"schema": STATE_SCHEMA, "finished": key})


def _is_finished(problem: Problem, key: str) -> bool:
    """Whether this very run has ended before. Another number of trials or members goes on from what is there."""
    path = problem.run / STATE
    if not (path.is_file() and (problem.run / FRONT).is_file()):
        return False
    return bool(read_json(path, "state of the run", STATE_SCHEMA).get("finished") == key)


def measured_damage(problem: Problem, settings: SearchSettings, executor: Executor, progress: Progress) -> DamageCurves:
    """The damage curves; those that an earlier call measured are read back."""
    path = problem.run / DAMAGE
    if path.is_file():
        try:
            return DamageCurves.from_data(read_json(path, "damage curves", DAMAGE_SCHEMA)["curves"], problem.space)
        except (InputError, KeyError):
            path.unlink()  # cut off or of an older version: measured anew
    total = len(damage_plan(problem.space, settings.damage_points))

    def losses(policies: Sequence[SparsityPolicy]) -> Sequence[float | Failure]:
        found: dict[int, float | Failure] = {}
        jobs = [Job(place, Evaluator.loss, (policy,)) for place, policy in enumerate(policies)]
        progress("damage curves", 0, total)
        for place, loss in executor.run(jobs):
            found[place] = loss
            progress("damage curves", len(found), total)
        return [found[place] for place in range(len(policies))]

    curves = damage_curves(problem.space, losses, settings.damage_points)
    write_json(path, {"schema": DAMAGE_SCHEMA, "curves": curves.to_data()})
    return curves


def explore(
    problem: Problem,
    settings: SearchSettings,
    executor: Executor,
    curves: DamageCurves,
    progress: Progress,
    lock: FolderLock | None = None,
) -> tuple[Trial, ...]:
    """The multi-objective search from real seeds."""

    def report(found: Report) -> None:
        progress("search policies", found.done, found.trials)

    wanted = StudySettings(
        trials=settings.trials,
        sampler=settings.sampler,
        seed=settings.seed,
        time_budget_s=settings.time_budget_s,
        storage=settings.storage,
    )
    seeds = make_seeds(problem, curves, settings)
    return run_search(problem, executor, wanted, seeds=seeds, folder=problem.run, progress=report, lock=lock)


def make_seeds(problem: Problem, curves: DamageCurves, settings: SearchSettings) -> list[Seed]:
    """The dense policy, a ladder of uniform ratios, and the predicted front of damage against each latency or cost."""
    space = problem.space
    seeds = [Seed(space.policy(space.dense), "dense")]
    seeds += [Seed(space.policy(space.uniform(ratio)), "uniform") for ratio in LADDER]
    costs = [objective for objective in problem.objectives if not objective.evaluated]
    points = max(4, round(SEED_SHARE * settings.trials) - len(seeds))
    for objective in costs:

        def cost(choices: npt.NDArray[np.int64], objective: object = objective) -> npt.NDArray[np.float64]:
            return problem.costs.values([objective], choices)[:, 0]  # type: ignore[list-item]

        choices = allocate(curves.tables, cost, max(4, points // len(costs)), seed=settings.seed)
        feasible = choices[problem.costs.violations(problem.bounds, choices) <= 0.0]
        seeds += [Seed(space.policy(tuple(map(int, choice))), "allocation") for choice in feasible]
    return seeds
