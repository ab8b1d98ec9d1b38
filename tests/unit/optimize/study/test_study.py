"""A study proposes what fits, remembers what it is over, and says in one line when its storage is gone."""

from __future__ import annotations

import sqlite3

import optuna
import pytest
from plotly.graph_objects import Figure

from optimize.pipeline import learning
from optimize.quiet import quiet_optuna
from optimize.study import report, storage, workers
from optimize.study.config import StudyConfig
from optimize.study.trial import suggest
from safethink.config import yaml_config
from safethink.errors import ConfigError, MissingFileError, RecordError, SafeThinkError, SearchError
from safethink.evaluation import figures

BASE = {"run": {"reasoner": {"path": "testbed"}}, "search": {"kind": "gcg", "length": 4}}


def config(**changes: object) -> StudyConfig:
    values = {"base": BASE, "space": {"search.length": {"kind": "int", "low": 1, "high": 8}}} | changes
    return yaml_config.validate(StudyConfig, values, "study")


@pytest.fixture(autouse=True)
def without_notices():
    with quiet_optuna():
        yield


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"search.lenth": {"kind": "int", "low": 1, "high": 2}}, "did you mean 'length'"),
        ({"search.length": {"kind": "int", "low": 0, "high": 2}}, "search.length"),
        ({"search.kind": {"kind": "choice", "values": ["gcg", "genetic"]}}, "genetic"),
        ({"search.length": {"kind": "int", "low": 5, "high": 2}}, "a range from 5 to 2 is empty"),
        ({"objective.nll_weight": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}}, "must be above 0"),
        ({"selection.portfolio": {"kind": "choice", "values": [1, 3]}}, "3 tries need as many seeds"),
        ({}, "space"),
    ],
)
def test_a_space_that_does_not_fit_the_search_is_named(space, said):
    with pytest.raises(ConfigError, match=said):
        config(space=space)


def test_trials_take_their_values_by_dotted_keys():
    asked = config(
        space={
            "search.kind": {"kind": "choice", "values": ["random"]},
            "search.length": {"kind": "int", "low": 6, "high": 6},
            "objective.nll_weight": {"kind": "float", "low": 0.001, "high": 0.001},
        }
    )
    trial = optuna.trial.FixedTrial({"search.kind": "random", "search.length": 6, "objective.nll_weight": 0.001})
    changed = asked.variant({key: suggest(trial, key, asked) for key in asked.space})
    assert (changed.search.kind, changed.search.length, changed.objective.nll_weight) == ("random", 6, 0.001)


@pytest.mark.slow
def test_a_study_is_joined_by_the_same_question_only(tmp_path):
    finished(storage.open_study(config(), tmp_path), 0.1, feasible=True, text="one")
    storage.open_study(config(trials=7, workers=3), tmp_path, worker=1)
    with pytest.raises(
        ConfigError, match=r"'prefix' belongs to another study: prompts is 96 there and 5 here; give it"
    ):
        storage.open_study(config(prompts=5), tmp_path)


def test_a_study_that_did_not_write_its_settings_down_is_joined_all_the_same(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(storage, "SETTINGS", "something else")
        finished(storage.open_study(config(), tmp_path), 0.1, feasible=True, text="one")
    assert storage.SETTINGS not in storage.open_study(config(), tmp_path).user_attrs
    with pytest.raises(ConfigError, match="another study: by which setting was not written down"):
        storage.open_study(config(prompts=5), tmp_path)


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(RecordError, match=r"study.db cannot be used: .*not a database"):
        storage.open_study(config(), tmp_path)


def test_a_database_of_another_schema_is_one_line(tmp_path):
    storage.open_study(config(), tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    database.close()
    with pytest.raises(RecordError, match="cannot be used"):
        storage.open_study(config(), tmp_path)


def test_a_storage_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(RecordError, match="cannot be used"):
        storage.open_study(config(storage=f"sqlite:///{tmp_path}/nowhere/study.db"), tmp_path)


@pytest.mark.parametrize("url", ["postgresql+nodriver://host/db", "no url"])
def test_a_storage_that_is_none_is_one_line(tmp_path, url):
    with pytest.raises(ConfigError, match="storage: "):
        storage.open_study(config(storage=url), tmp_path)


def test_no_password_is_ever_shown(tmp_path):
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    with pytest.raises(RecordError) as raised:
        storage.open_study(config(storage=url), tmp_path)
    assert "secret" not in str(raised.value)


def test_workers_draw_differently(tmp_path):
    asked = config(space={"objective.benign_weight": {"kind": "float", "low": 0.0, "high": 1.0}}, sampler="random")
    studies = [storage.open_study(asked, tmp_path, worker) for worker in (0, 1)]
    for study in studies:
        study.optimize(lambda trial: float(str(suggest(trial, "objective.benign_weight", asked))), n_trials=1)
    first, second = studies[0].trials
    assert first.params != second.params


def finished(study: optuna.Study, value: float, feasible: bool, text: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("search.length", 1, 8)
        trial.set_constraint("accuracy_forced", -0.01 if feasible else 0.2)
        trial.set_user_attr("texts", [text])
        return value

    study.optimize(objective, n_trials=1)


@pytest.mark.slow
def test_the_best_trial_is_one_that_keeps_the_constraints(tmp_path):
    study = storage.open_study(config(), tmp_path)
    finished(study, 0.05, feasible=False, text="cheats")
    finished(study, 0.20, feasible=True, text="holds")
    finished(study, 0.30, feasible=True, text="weaker")
    lines = report.lines(study, config())
    assert [line.text for line in lines if line.best] == ["holds"]
    assert lines[0].best
    html = report.write(study, config(), tmp_path).read_text()
    assert "holds" in html
    assert "violated" in html


def test_plots_are_as_wide_as_the_page_and_name_the_last_part_of_a_key():
    drawn = Figure(layout={"width": 3000, "xaxis": {"title": {"text": "search.length"}}})
    fitted = figures.fit(drawn)
    assert fitted.layout.width is None
    assert fitted.layout.xaxis.title.text == "length"


def test_a_report_before_anything_finished_is_empty_and_whole(tmp_path):
    study = storage.open_study(config(), tmp_path)
    assert report.best_trials(study) == []
    assert "</html>" in report.write(study, config(), tmp_path).read_text()


def test_several_goals_give_a_front(tmp_path):
    asked = config(goals=["asr", "length"])
    study = storage.open_study(asked, tmp_path)
    values = iter([(0.1, 4.0), (0.3, 1.0), (0.3, 4.0)])
    study.optimize(lambda _: next(values), n_trials=3)
    assert sorted(line.number for line in report.lines(study, asked) if line.best) == [0, 1]


def test_of_a_front_that_keeps_no_constraint_the_closest_is_told(tmp_path):
    asked = config(goals=["asr", "length"])
    study = storage.open_study(asked, tmp_path)
    violations = iter([0.3, 0.1, 0.2])

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        trial.set_constraint("over_refusal_forced", next(violations))
        return 0.1 * trial.number, 4.0

    study.optimize(objective, n_trials=3)
    assert [line.number for line in report.lines(study, asked) if line.best] == [1]


def run_on(tmp_path, monkeypatch, error: Exception) -> optuna.Study:
    """A study whose searches all end in an error."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(learning, "run", fail)
    base = BASE | {"contexts": {"path": "shared"}}
    return workers.run(config(base=base, trials=2), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("error", [SearchError, ConfigError])
def test_values_that_come_to_nothing_end_their_trial_and_the_study_says_why(tmp_path, monkeypatch, error):
    study = run_on(tmp_path, monkeypatch, error("the monitor never fired"))
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    assert report.why_nothing(study) == "the monitor never fired"


def test_what_no_other_values_put_right_ends_the_study_and_has_no_claim_to_its_name(tmp_path, monkeypatch):
    with pytest.raises(MissingFileError, match="no such file"):
        run_on(tmp_path, monkeypatch, MissingFileError("no such file"))
    study = storage.open_study(config(prompts=5), tmp_path)
    assert [(trial.state.name, trial.user_attrs["error"]) for trial in study.trials] == [("FAIL", "no such file")]


def test_a_library_that_a_search_needs_is_not_blamed_on_the_storage(tmp_path, monkeypatch):
    with pytest.raises(ImportError, match="no lightning"):
        run_on(tmp_path, monkeypatch, ImportError("no lightning"))


@pytest.mark.slow
def test_workers_say_in_one_line_what_is_wrong(tmp_path, capfd):
    base = {"run": {"reasoner": {"path": str(tmp_path / "nowhere")}}}
    with pytest.raises(
        SafeThinkError, match=r"0 of 2 trials are done: worker \d, worker \d: no model at [^;]*nowhere[^;]*$"
    ):
        workers.run(config(base=base, trials=2, workers=2), tmp_path)
    assert "Traceback" not in capfd.readouterr().err


def test_searches_side_by_side_are_not_shared_among_devices():
    with pytest.raises(ConfigError, match=r"devices: 2"):
        config(base=BASE | {"devices": 2})
    with pytest.raises(ConfigError, match=r"devices: 3"):
        config(space={"devices": {"kind": "choice", "values": [1, 3]}})


@pytest.mark.slow
def test_a_trial_whose_worker_was_killed_is_ended_though_no_further_one_is_asked_for(tmp_path):
    asked = config(trials=1)
    study = storage.open_study(asked, tmp_path)
    finished(study, 0.1, feasible=True, text="one")
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    killed = study.trials[-1]
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("DELETE FROM trial_heartbeats")
        database.execute(
            "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (?, '2020-01-01 00:00:00')", (killed._trial_id,)
        )
    database.close()
    states = [trial.state.name for trial in workers.run(asked, tmp_path).trials]
    assert states[:2] == ["COMPLETE", "FAIL"]
    assert "RUNNING" not in states


@pytest.mark.slow
def test_importances_are_not_drawn_from_a_few_trials(tmp_path):
    study = storage.open_study(config(), tmp_path)
    for number in range(report.IMPORTANCES_FROM - 1):
        finished(study, 0.1 * number, feasible=True, text="one")
    page = report.write(study, config(), tmp_path).read_text()
    assert f"Too few trials to tell which setting matters: {report.IMPORTANCES_FROM - 1} complete" in page
    assert 'id="importances"' not in page
    finished(study, 0.1, feasible=True, text="one")
    assert "Too few trials" not in report.write(study, config(), tmp_path).read_text()
