"""Storage of a study, and Optuna's way back to it: one line for everything that can go wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy import NullPool
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from optimize.study.config import Goal, StudyConfig
from safethink.config.mismatch import other_settings
from safethink.errors import ConfigError, RecordError
from safethink.files import json_hash

DIRECTIONS: Final[dict[Goal, Literal["minimize", "maximize"]]] = {
    "recovery_rate": "maximize",
    "asr": "minimize",
    "accuracy_loss": "minimize",
    "length": "minimize",
}
SQLITE_TIMEOUT_S = 60
"""Seconds a worker waits while another one writes."""
TABLE_ATTEMPTS, TABLE_WAIT_S = 5, 0.5
FINGERPRINT, SETTINGS = "fingerprint", "settings"
"""Attributes of a study: a hash of what it is over, and what that is."""
UNDERWAY = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


def url(config: StudyConfig, out: Path) -> str:
    """The database: the configured one, or a file in the study's folder."""
    return config.storage or f"sqlite:///{(out / 'study.db').resolve()}"


def open_study(config: StudyConfig, out: Path, worker: int = 0) -> optuna.Study:
    """Create the study, or join one that was begun.

    Args:
        config: what is studied.
        out: folder of the study.
        worker: index of this process; every one brings a sampler of its own, with its own seed.

    Raises:
        ConfigError: no database driver or a URL that is none; a study of that name over something else; what differs is
            named.
        RecordError: the storage cannot be reached, or is of another schema.
    """
    where = url(config, out)
    with reachable(config, out):
        study = optuna.create_study(
            storage=_storage(config, where),
            study_name=config.name,
            directions=[DIRECTIONS[goal] for goal in config.goals],
            load_if_exists=True,
            sampler=_sampler(config, worker),
            pruner=_pruner(config),
        )
        # A study that stopped before anything came of it, at a misspelt path for instance, has no claim to the name.
        begun = study.user_attrs.get(FINGERPRINT) if study.get_trials(deepcopy=False, states=UNDERWAY) else None
        if begun is None:
            study.set_user_attr(FINGERPRINT, json_hash(settings(config)))
            study.set_user_attr(SETTINGS, settings(config))
    if begun not in (None, json_hash(settings(config))):
        place = f"{_shown(where)}: the name {config.name!r}"
        there = study.user_attrs.get(SETTINGS)
        raise ConfigError(other_settings(place, there, settings(config), "another study", "give it another --name"))
    return study


def fail_stale(study: optuna.Study) -> None:
    """End the trials whose worker died without a word; Optuna itself looks for them only before a further trial."""
    optuna.storages.fail_stale_trials(study)


def settings(config: StudyConfig) -> dict[str, Any]:
    """The settings that decide a trial's outcome; how many trials there are, and by whom they are run, does not."""
    return config.model_dump(mode="json", exclude={"trials", "workers", "storage", "heartbeat_s", "retries"})


@contextmanager
def reachable(config: StudyConfig, out: Path) -> Generator[None, None, None]:
    """Say in one line that the storage is gone.

    Raises:
        RecordError: the storage cannot be reached.
    """
    where = _shown(url(config, out))
    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        raise RecordError(f"the storage {where} cannot be used: {_first_line(error.__cause__ or error)}") from error


def _storage(config: StudyConfig, where: str) -> RDBStorage:
    """The database, if it is one that this version of Optuna reads."""
    try:
        return _with_tables(where, config)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(f"storage: {_shown(where)}: {_first_line(error)}") from error
    except RuntimeError as error:
        # What Optuna raises for a table schema of another version.
        if "schema" not in str(error):
            raise
        raise RecordError(f"the storage {_shown(where)} cannot be used: {_first_line(error)}") from error


def _with_tables(where: str, config: StudyConfig) -> RDBStorage:
    """Of several processes that make the tables at once all but one fail, and look again."""
    for _ in range(TABLE_ATTEMPTS - 1):
        try:
            return _connect(where, config)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if "exist" not in str(error):
                raise
            time.sleep(TABLE_WAIT_S)
    return _connect(where, config)


def _connect(where: str, config: StudyConfig) -> RDBStorage:
    on_sqlite = where.startswith("sqlite")
    return RDBStorage(
        where,
        # Without a pool no connection outlives what it was opened for, whether or not anybody closes the study.
        engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_S}} if on_sqlite else {"poolclass": NullPool},
        heartbeat_interval=config.heartbeat_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=config.retries),
    )


def _sampler(config: StudyConfig, worker: int) -> BaseSampler:
    seed = config.seed + worker
    return TPESampler(seed=seed) if config.sampler == "tpe" else RandomSampler(seed=seed)


def _pruner(config: StudyConfig) -> BasePruner:
    return WilcoxonPruner() if config.pruner == "wilcoxon" and len(config.goals) == 1 else NopPruner()


def _shown(where: str) -> str:
    """The URL without its password."""
    head, at, tail = where.rpartition("@")
    return f"{head.rpartition(':')[0]}:***@{tail}" if at and head.count(":") > 1 else os.fspath(where)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
