"""An Optuna study in memory, fed with what was found: what Optuna's samplers look at when they propose."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.samplers.sampler import SamplerSettings, Told
from autoprune.search.trial import Choice


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna warns of parts that it calls experimental, and logs each study made; users did not ask for either."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Shared(IntDistribution):
    """Nothing changes a distribution; not copying forty of them with each trial saves half a millisecond."""

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


class MemoryStudy:
    """The study, and the search space without its variables of one level (Optuna's samplers do not take those)."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._names = tuple(f"x{i}" for i in range(len(settings.levels)))
        self._all: dict[str, BaseDistribution] = {
            name: _Shared(0, count - 1) for name, count in zip(self._names, settings.levels, strict=True)
        }
        self.space = {name: d for name, d in self._all.items() if not d.single()}
        self._objectives = settings.objectives
        self.restart()

    def restart(self) -> None:
        """Forget all trials. What a sampler looks at must not grow with the search: it looks at it for each draw."""
        self._storage = optuna.storages.InMemoryStorage()
        with quiet():
            study = optuna.create_study(storage=self._storage, directions=["minimize"] * self._objectives)
        self._study_name = study.study_name

    def study(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """The study as it is now. Not kept, as an Optuna study remembers the trials that it saw first."""
        return optuna.load_study(study_name=self._study_name, storage=self._storage, sampler=sampler)

    def add(self, batch: Sequence[Told], system_attrs: dict[str, int]) -> None:
        """Add what was found; failures are not for samplers to see."""
        study = self.study(optuna.samplers.RandomSampler())
        for told in batch:
            if told.values is not None:
                study.add_trial(
                    optuna.trial.create_trial(
                        values=told.values,
                        params=dict(zip(self._names, told.choice, strict=True)),
                        distributions=self._all,
                        system_attrs=dict(system_attrs),
                        constraints=told.violations,
                    )
                )

    def keep(self, trials: Sequence[FrozenTrial]) -> None:
        """Add trials of before a restart."""
        study = self.study(optuna.samplers.RandomSampler())
        for trial in trials:
            study.add_trial(trial)

    def ask(
        self, sampler: optuna.samplers.BaseSampler, count: int, system_attrs: dict[str, int], relative: bool = True
    ) -> list[Choice]:
        """`count` choices of an Optuna sampler, drawn through its public methods without leaving running trials behind.

        Args:
            system_attrs: of the trial that the sampler is made to believe it draws for.
            relative: draw all variables together; the sampler's independent draws otherwise.
        """
        trial = _running(system_attrs)
        study = self.study(sampler)
        return [self._draw(study, trial, relative) for _ in range(count)]

    def _draw(self, study: optuna.Study, trial: FrozenTrial, relative: bool) -> Choice:
        drawn = study.sampler.sample_relative(study, trial, self.space) if relative and self.space else {}
        for name, distribution in self.space.items():
            if name not in drawn:
                drawn[name] = study.sampler.sample_independent(study, trial, name, distribution)
        return tuple(int(drawn.get(name, 0)) for name in self._names)


def _running(system_attrs: dict[str, int]) -> FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.RUNNING, system_attrs=dict(system_attrs))
