"""The ``Study`` port on Optuna, whose storage is SQL: a study outlives the process, and optuna-dashboard opens it.

What is asked for next depends on the trials that have ended and on the seed alone, never on how often the search was
interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as State
from sqlalchemy.exc import SQLAlchemyError

from kaizen.canonical import digest
from kaizen.errors import LedgerError
from kaizen.records import Trial, TrialState
from kaizen.spec import ParameterSpec, TuneSpec

SCHEMA = "kaizen_tune"
"""Of a PostgreSQL database: Optuna's tables lie apart from everybody else's."""
_STATES: dict[State, TrialState] = {
    State.RUNNING: "running",
    State.COMPLETE: "complete",
    State.PRUNED: "pruned",
    State.FAIL: "failed",
}
_TORN = "ended while it was drawn"


@contextmanager
def open_study(url: str, name: str, tune: TuneSpec, *, higher_is_better: bool, seed: int) -> Iterator[OptunaStudy]:
    """The study called ``name`` in a database, made if it is not there.

    Raises ``LedgerError`` KZ511 if the database does not do its part, here and later.
    """
    # It tells every trial on stderr; the search tells them itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _open_storage(url)
        try:
            direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
            study = optuna.create_study(
                storage=storage, study_name=name, direction=direction, load_if_exists=True, pruner=MedianPruner()
            )
            yield OptunaStudy(study, storage, tune, seed)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise LedgerError(
            "KZ511",
            "the study cannot be kept",
            where=f"study {name}",
            value=f"{type(error).__name__}: {getattr(error, 'orig', None) or type(error.__cause__).__name__}"[:300],
            limit="the ledger's database, or a file beside the ledger's",
            action="start the database, or free its lock; a retry goes on with the trials that there were",
        ) from None


def _open_storage(url: str) -> RDBStorage:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    parsed = parsed.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(parsed, hide_parameters=True)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
    engine.dispose()
    settings = {"options": f"-c search_path={SCHEMA}", "connect_timeout": 10}
    return RDBStorage(
        parsed.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": settings, "hide_parameters": True, "pool_pre_ping": True},
    )


class OptunaStudy:
    """An open study; see ``kaizen.ports.Study``."""

    def __init__(self, study: optuna.Study, storage: RDBStorage, tune: TuneSpec, seed: int) -> None:
        self.name = study.study_name
        self._study, self._storage, self._tune, self._seed = study, storage, tune, seed

    def unfinished(self) -> Trial | None:
        """The trial that was asked for and not told the end of; one that was torn while it was drawn is ended."""
        for trial in self._frozen(State.RUNNING):
            if set(trial.params) == set(self._tune.parameters):
                return _as_trial(trial)
            self.tell(trial.number, "failed", 0.0, reason=_TORN)
        return None

    def ask(self) -> Trial:
        """A new trial; the default configuration unless it has been one."""
        if not any(trial.params == self._tune.defaults for trial in self._frozen(*_STATES)):
            self._study.enqueue_trial(self._tune.defaults, skip_if_exists=True)
        ended = len(self._study.trials)
        # A sampler of its own for every draw, so that a search that was interrupted draws as one that was not.
        self._study.sampler = TPESampler(seed=int(digest([self._seed, ended])[:8], 16))
        asked = self._study.ask({name: _distribution(p) for name, p in self._tune.parameters.items()})
        return Trial(asked.number, dict(asked.params), "running")

    def report(self, number: int, reports: Sequence[tuple[int, float]]) -> bool:
        """Keep what is new in a running trial's reports; whether it is not worth more time."""
        trial = self._one(number)
        if trial.state != State.RUNNING:
            return False
        lags = False
        for step, value in reports:
            if step not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
                trial.intermediate_values[step] = value
                # Step by step: another trial may have nothing to be compared with at the newest.
                lags = lags or self._study.pruner.prune(self._study, trial)
        return lags or self._study.pruner.prune(self._study, trial)

    def reports(self, number: int) -> list[tuple[int, float]]:
        """What was kept, by step."""
        return sorted(self._one(number).intermediate_values.items())

    def tell(
        self, number: int, state: TrialState, seconds: float, *, value: float | None = None, reason: str = ""
    ) -> None:
        """End a trial; one that has ended stays as it is. Only ``complete`` has a value."""
        trial = self._one(number)
        if trial.state != State.RUNNING:
            return
        self._storage.set_trial_user_attr(trial._trial_id, "seconds", seconds)
        self._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        told = next(known for known, name in _STATES.items() if name == state)
        self._storage.set_trial_state_values(trial._trial_id, told, None if value is None else [value])

    def trials(self) -> list[Trial]:
        """All of them but those that were torn while they were drawn, by number."""
        return [_as_trial(trial) for trial in self._frozen(*_STATES) if trial.user_attrs.get("reason") != _TORN]

    def importance(self) -> dict[str, float]:
        """By fANOVA (Hutter et al., 2014); {} for fewer than two values, or if nothing made a difference."""
        values = {trial.value for trial in self._frozen(State.COMPLETE)}
        if len(values) < 2:
            return {}
        found = get_param_importances(self._study, evaluator=FanovaImportanceEvaluator(seed=self._seed))
        return {name: float(share) for name, share in found.items()}

    def _frozen(self, *states: State) -> list[FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False, states=states))

    def _one(self, number: int) -> FrozenTrial:
        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return self._storage.get_trial(identity)


def _as_trial(trial: FrozenTrial) -> Trial:
    told = trial.user_attrs
    value = trial.value if trial.state == State.COMPLETE else None
    state = _STATES[trial.state]
    return Trial(trial.number, dict(trial.params), state, value, told.get("seconds", 0.0), told.get("reason", ""))


def _distribution(parameter: ParameterSpec) -> BaseDistribution:
    """A parameter's range, as Optuna draws from it."""
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    low, high = parameter.low or 0.0, parameter.high or 0.0
    if isinstance(parameter.default, int):
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)
