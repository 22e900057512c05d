"""The search itself: batches of proposals, checked against the tables, evaluated by an executor, stored, and told.

What is proposed depends on (seed, trial number) alone: a batch is asked for as a whole, from what earlier batches
found, with a seed of its own. So it does not matter how many workers there are or in which order they finish, and a
search interrupted anywhere proposes the same again, takes from storage what is finished, and evaluates the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.search.executors import Executor, Job
from autoprune.search.interrupts import Interrupts
from autoprune.search.judge import Judge, SearchProblem
from autoprune.search.lock import FolderLock
from autoprune.search.prior import Prior, make_prior
from autoprune.search.progress import Plateau, Progress, ProgressMeter, TimeBudget
from autoprune.search.proposals import Proposal, derived_seed, without_repeats
from autoprune.search.samplers import SAMPLERS, Sampler, SamplerSettings
from autoprune.search.storage import Record, TrialStorage
from autoprune.search.trial import Choice, Origin, Seed, Trial

__all__ = ["Progress", "SearchProblem", "Seed", "StudySettings", "Trial", "run_search"]

SCHEMA = "autoprune.study/1"
MAX_FAILURES = 5  # evaluations that all fail alike before the first success; then it is not the policies
MAX_BARREN = 20  # batches in a row in which no policy meets the constraints

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySettings:
    """How it is searched.

    Attributes:
        trials: policies to evaluate, seeds included. Infeasible ones are recorded besides: they cost nothing.
        sampler: a registered sampler.
        seed: of all proposals.
        time_budget_s: no evaluation is started that would probably end after this long (in this process; a resumed run
            has it again).
        batch: proposals a batch; the sampler decides where None. A resumed run keeps what it was started with.
        storage: URL of a database for the trials, instead of the journal in the run folder.
        racing: an evaluation is told the quality of the best policy that costs no more in anything else, where one is
            known, as a third argument: it may stop once it is surely worse.
        plateau: stop after so many evaluations without a rise of the hypervolume by a thousandth; None goes on to the
            last trial. A search stopped so stops there again when it is called again, and goes on with a larger one.

    Raises:
        InputError: fewer than one trial, a seed below 0, a time budget that is not above 0, or a plateau below 1.
    """

    trials: int = 200
    sampler: str = "surrogate"
    seed: int = 0
    time_budget_s: float | None = None
    batch: int | None = None
    storage: str | None = field(default=None, repr=False)  # it may hold a password
    racing: bool = False
    plateau: int | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"search: expected trials >= 1, got {self.trials}.")
        if self.plateau is not None and self.plateau < 1:
            raise InputError(f"search: expected a plateau of at least 1 evaluation, got {self.plateau}.")
        if self.seed < 0:
            raise InputError(f"search: expected a seed >= 0, got {self.seed}.")
        if self.time_budget_s is not None and not self.time_budget_s > 0.0:
            raise InputError(f"search: expected a time budget above 0 s, got {self.time_budget_s}.")


@dataclass(frozen=True)
class Later:
    """What is worked out once the first seeds are evaluated: they do not need it, and it takes longer than they do.

    Attributes:
        seeds: how many seeds it brings at most.
        work_out: tells them, and what samplers know of the problem. Called once a `run_search`: a search that goes on
            must be told the same.
    """

    seeds: int
    work_out: Callable[[], tuple[Sequence[Seed], Prior]]


def run_search(
    problem: SearchProblem,
    executor: Executor,
    settings: StudySettings,
    *,
    seeds: Sequence[Seed] = (),
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    evaluate: Callable[..., Any] | None = None,
    lock: FolderLock | None = None,
    prior: Prior | None = None,
    later: Later | None = None,
) -> tuple[Trial, ...]:
    """Search, or go on with the search that is stored in `folder`.

    Args:
        problem: space, objectives, bounds, tables, task.
        executor: its workers hold an `Evaluator` (or what `evaluate` takes first).
        settings: how.
        seeds: policies evaluated first; NSGA-II's first parents are chosen among them and the rest of the first batch.
        folder: of the run.
        progress: called after every trial.
        evaluate: `evaluate(context, policy, number)` -> `Evaluation` or `Failure`; `Evaluator.evaluate` where None.
        lock: of `folder`, where the caller holds it already.
        prior: damage curves for samplers that use them (`make_prior`); only the tables where None.
        later: seeds and a prior in place of `prior` that are worked out once `seeds` are evaluated.

    Returns:
        All trials, by number: evaluated, failed and infeasible ones.

    Raises:
        InputError: the folder holds another search (the difference is named) or is in use, or no policy is feasible.
        AutopruneError: every evaluation fails.
        KeyboardInterrupt: Ctrl-C. Everything finished is stored; calling again goes on.
    """
    if evaluate is None:
        from autoprune.search.evaluation import Evaluator

        evaluate = Evaluator.evaluate
    names = tuple(variable.name for variable in problem.space.variables)
    objectives = tuple(objective.name for objective in problem.objectives)
    with TrialStorage(folder, names, problem.space.levels, objectives, settings.storage, lock) as storage:
        known = prior or make_prior(problem)
        search = _Search(problem, executor, settings, _seeds(problem, seeds), storage, progress, evaluate, known, later)
        return search.run()


def _seeds(problem: SearchProblem, seeds: Sequence[Seed]) -> dict[Choice, Origin]:
    """Choices of the seeds, each once, in order."""
    found: dict[Choice, Origin] = {}
    for seed in seeds:
        found.setdefault(problem.space.choice(seed.policy), seed.origin)
    return found


class _Search:
    """One call of `run_search`."""

    def __init__(
        self,
        problem: SearchProblem,
        executor: Executor,
        settings: StudySettings,
        seeds: dict[Choice, Origin],
        storage: TrialStorage,
        progress: Callable[[Progress], None] | None,
        evaluate: Callable[..., Any],
        prior: Prior,
        later: Later | None,
    ) -> None:
        self._problem = problem
        self._judge = Judge(problem)
        self._space = problem.space
        self._executor = executor
        self._settings = settings
        self._storage = storage
        self._evaluate = evaluate
        batch = _sampler(problem, settings, settings.batch, prior).batch_size
        wanted = _identity(problem, settings, batch, len(seeds) if later is None else later.seeds)
        found = storage.settings(wanted)
        _check_same(found, wanted)
        self._records = _retried(storage.load())
        self._seen = {record.choice for record in self._records.values()}
        self._batch = int(found["batch"])
        whole = max(self._batch, int(found["seeds"]))
        self._sizes = [whole] if later is None else [len(seeds), whole]  # of the first batches
        self._sampler = _sampler(problem, settings, self._batch, prior)
        self._seeds = [tuple(seeds.items())[: self._sizes[0]]]  # of the first batches
        self._later = later
        self._failures: list[Failure] = []
        self._meter = ProgressMeter(settings.trials, settings.time_budget_s, progress)
        self._plateau = Plateau(settings.plateau)
        self._time = TimeBudget(settings.time_budget_s)
        self._interrupts = Interrupts()

    def run(self) -> tuple[Trial, ...]:
        with self._interrupts:
            self._run_batches()
        if self._interrupts.asked:
            raise KeyboardInterrupt
        trials = tuple(self._judge.trial(self._records[number]) for number in sorted(self._records))
        self._check_outcome(trials)
        return trials

    def _run_batches(self) -> None:
        """Batch after batch, recorded ones included, until trials, time or policies run out."""
        batch, first, evaluated, barren = 0, 0, 0, 0
        while evaluated < self._settings.trials and not self._stopping():
            size = self._sizes[batch] if batch < len(self._sizes) else self._batch
            proposals = self._propose(batch, first, size)
            if not proposals:
                return  # everything there is has been tried
            for number in [p.number for p in proposals if p.number in self._records]:
                self._meter.recall(self._judge.trial(self._records[number]))
            chosen, complete = self._screen(batch, proposals, self._settings.trials - evaluated)
            self._evaluate_all(batch, chosen)
            if not complete or any(proposal.number not in self._records for proposal in proposals):
                return
            evaluated += len(chosen)
            if evaluated < self._settings.trials and not self._stopping():
                self._prepare()
            self._sampler.tell([self._judge.told(self._records[proposal.number]) for proposal in proposals])
            self._meter.batch_done()
            barren = 0 if chosen else barren + 1
            if barren == MAX_BARREN:
                return
            if self._plateau.reached(evaluated, self._meter.hypervolume):
                _LOG.info("the hypervolume stands still: the search ends after %d evaluations", evaluated)
                return
            batch, first = batch + 1, first + size

    def _prepare(self) -> None:
        """Once the first seeds are evaluated: the later ones, and a sampler that knows more."""
        if self._later is None:
            return
        begun = time.monotonic()
        with self._interrupts.released():  # what is worked out keeps what it has itself
            seeds, prior = self._later.work_out()
        self._meter.waited(time.monotonic() - begun)
        (opening,) = self._seeds
        fresh = [seed for seed in _seeds(self._problem, seeds).items() if seed[0] not in dict(opening)]
        self._seeds.append(tuple(fresh[: self._sizes[-1]]))
        self._sampler = _sampler(self._problem, self._settings, self._batch, prior)
        self._later = None

    def _propose(self, batch: int, first: int, size: int) -> list[Proposal]:
        """The proposals of a batch; what is recorded is not asked for again."""
        numbers = range(first, first + size)
        if all(number in self._records for number in numbers):
            return [self._recorded(number) for number in numbers]
        seeds = self._seeds[batch] if batch < len(self._seeds) else ()
        left = size - len(seeds)
        asked = self._sampler.ask(left, derived_seed(self._settings.seed, first)) if left else []
        wanted: list[tuple[Choice, Origin]] = [*seeds, *((choice, "sampler") for choice in asked)]
        new = [
            Proposal(number, choice, origin)
            for number, (choice, origin) in zip(numbers, wanted, strict=True)
            if number not in self._records
        ]
        fresh = without_repeats(new, self._seen, self._space.levels, self._settings.seed, self._space.canonical)
        known = [self._recorded(number) for number in numbers if number in self._records]
        return sorted([*known, *fresh], key=lambda proposal: proposal.number)

    def _recorded(self, number: int) -> Proposal:
        record = self._records[number]
        return Proposal(number, record.choice, record.origin)

    def _screen(self, batch: int, proposals: Sequence[Proposal], left: int) -> tuple[list[Proposal], bool]:
        """Which proposals to evaluate: the first `left` that the tables allow; and whether that is all of them.

        Those that the tables do not allow are recorded.
        """
        violations = self._judge.check(proposals)
        chosen: list[Proposal] = []
        for proposal, violated in zip(proposals, violations, strict=True):
            recorded = proposal.number in self._records
            if isinstance(violated, Failure) or any(value > 0.0 for value in violated.values()):
                if not recorded:
                    self._record(self._judge.refused(batch, proposal, violated))
            elif len(chosen) == left:
                return chosen, False
            else:
                chosen.append(proposal)
        return chosen, True

    def _evaluate_all(self, batch: int, chosen: Sequence[Proposal]) -> None:
        """Evaluate what is not recorded yet; the executor asks for a job whenever a worker is free."""
        proposals = {proposal.number: proposal for proposal in chosen if proposal.number not in self._records}
        rivals: list[float | None] = [None] * len(proposals)
        if self._settings.racing:
            rivals = self._judge.rivals(batch, tuple(proposals.values()), self._records.values())

        def jobs() -> Iterator[Job]:
            for (number, proposal), rival in zip(proposals.items(), rivals, strict=True):
                if self._stopping():
                    return
                known = () if rival is None else (rival,)
                self._time.started(number)
                yield Job(number, self._evaluate, (self._space.policy(proposal.choice), number, *known))

        for number, result in self._executor.run(jobs()):
            self._time.finished(number)
            self._record(self._judge.judged(batch, proposals[number], result))
            self._note_failure(result)

    def _record(self, record: Record) -> None:
        with self._interrupts.shield():
            self._storage.add(record)
            self._records[record.number] = record
            self._seen.add(record.choice)
        self._meter.found(self._judge.trial(record))

    def _note_failure(self, result: Any) -> None:
        """Stop a search in which nothing can be evaluated."""
        if self._meter.succeeded or not isinstance(result, Failure):
            return
        self._failures.append(result)
        if len(self._failures) >= MAX_FAILURES and len({failure.kind for failure in self._failures}) == 1:
            raise AutopruneError(f"the first {len(self._failures)} evaluations all failed: {result}")

    def _stopping(self) -> bool:
        return self._interrupts.asked or self._time.over

    def _check_outcome(self, trials: Sequence[Trial]) -> None:
        """A search without a single success is an error that says why."""
        if not trials or any(trial.evaluated and trial.failure is None for trial in trials):
            return
        failures = [trial.failure for trial in trials if trial.failure is not None]
        if failures:
            raise AutopruneError(f"all {len(failures)} evaluations failed; the first: {failures[0]}")
        if all(trial.violation > 0.0 for trial in trials):
            nearest = self._records[min(trials, key=lambda trial: trial.violation).number]
            missed = ", ".join(f"{name} (past it by {v:.1%})" for name, v in nearest.violations.items() if v > 0.0)
            raise InputError(
                f"constraints: none of {len(trials)} policies meets them; the nearest misses {missed}. Relax them, or "
                "let the search space go narrower."
            )


def _sampler(problem: SearchProblem, settings: StudySettings, batch: int | None, prior: Prior) -> Sampler:
    shape = SamplerSettings(problem.space.levels, len(problem.objectives), settings.trials, batch, prior)
    return SAMPLERS.get(settings.sampler)(shape)


def _retried(records: Sequence[Record]) -> dict[int, Record]:
    """Records by number. Where nothing ever succeeded, the failures are left out: their cause may be mended."""
    success = any(record.evaluated and record.failure is None for record in records)
    return {record.number: record for record in records if success or record.failure is None}


def _identity(problem: SearchProblem, settings: StudySettings, batch: int, seeds: int) -> dict[str, Any]:
    """What a search is resumed by; all but `batch` and `seeds` must be the same."""
    return {
        "schema": SCHEMA,
        "search space": problem.space.hash,
        "objectives": [objective.name for objective in problem.objectives],
        "constraints": [str(bound) for bound in problem.bounds],
        "sampler": settings.sampler,
        "seed": settings.seed,
        "racing": settings.racing,
        "batch": batch,
        "seeds": seeds,
    }


def _check_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if key not in ("batch", "seeds") and found.get(key) != value:
            raise InputError(
                f"run folder: expected {key} {found.get(key)!r} of the search stored there, got {value!r}. Use another "
                "run folder, or what that search was started with."
            )
    if not all(isinstance(found.get(key), int) and found[key] >= 0 for key in ("batch", "seeds")):
        raise InputError("run folder: the stored settings of its search are damaged. Use another run folder.")
