"""Loggers that a recipe names: real event files and tables, and stand-ins for the packages that tests do without."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks import on_ranks

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.loggers.opening import check_loggers
from wsolfast.engine.run.errors import BackendError, Interrupted
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM
from wsolfast.recipe import RecipeError

VALIDATED = "stage.validate={held_out = 0.2}"
# Calls are written down in the order in which they come: name, positional and named arguments.
RECORDER = "CALLS = []\n"
# The parts of wandb 0.31 that the adapter calls, with their signatures.
WANDB = (
    RECORDER
    + """
class Settings:
    def __init__(self, *, console=None, silent=None):
        pass

class Image:
    def __init__(self, data_or_path, mode=None, caption=None):
        self.picture, self.caption = data_or_path, caption

class Summary(dict):
    pass

class Run:
    def __init__(self):
        self.summary = Summary()

    def define_metric(self, name, step_metric=None):
        CALLS.append(("define_metric", (name,), {"step_metric": step_metric}))

    def log(self, data, step=None, commit=None):
        CALLS.append(("log", (data,), {}))

    def finish(self, exit_code=None, quiet=None):
        CALLS.append(("finish", (dict(self.summary),), {"exit_code": exit_code}))

def init(entity=None, project=None, dir=None, id=None, name=None, config=None, resume=None, settings=None):
    CALLS.append(("init", (), {"dir": dir, "id": id, "name": name, "config": config, "resume": resume}))
    return Run()
"""
)
# The parts of mlflow 3.18 that the adapter calls, with their signatures.
MLFLOW = (
    RECORDER
    + """
from types import SimpleNamespace

class MlflowClient:
    def __init__(self, tracking_uri=None, registry_uri=None):
        pass

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location=None, tags=None):
        CALLS.append(("create_experiment", (name,), {}))
        return "7"

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        CALLS.append(("create_run", (experiment_id,), {"run_name": run_name}))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def update_run(self, run_id, status=None, name=None):
        CALLS.append(("update_run", (run_id,), {"status": status}))

    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None, dataset=None, model_id=None):
        CALLS.append(("log_batch", (run_id,), {"metrics": list(metrics), "params": list(params)}))

    def log_image(self, run_id, image, artifact_file=None, key=None, step=None, timestamp=None, synchronous=None):
        CALLS.append(("log_image", (run_id, image), {"key": key, "step": step}))

    def set_terminated(self, run_id, status=None, end_time=None):
        CALLS.append(("set_terminated", (run_id,), {"status": status}))
"""
)
ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step):
        self.key, self.value, self.timestamp, self.step = key, value, timestamp, step

class Param:
    def __init__(self, key, value):
        self.key, self.value = key, value
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a module in place of a package, as it would be installed; returns the calls that it gets."""

    def put(name, source, **parts):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        for part, text in parts.items():
            (folder / f"{part}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        for known in [known for known in sys.modules if known.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, known)
        importlib.invalidate_caches()
        calls = importlib.import_module(name).CALLS
        for part in parts:
            importlib.import_module(f"{name}.{part}")
        # Also where nothing of it was imported before.
        for known in (name, *(f"{name}.{part}" for part in parts)):
            monkeypatch.setitem(sys.modules, known, sys.modules[known])
        return calls

    return put


def start(folder, recipe):
    run = RunFolder.create(folder, recipe)
    train(run)
    return run


def lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def stopped(folder, recipe, interrupt, step):
    run = RunFolder.create(folder, recipe)
    interrupt(CAM, "training_step", step)
    with pytest.raises(Interrupted):
        train(run)
    return run


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def scalars(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_event_files_hold_what_metrics_jsonl_holds(tiny, tmp_path, coarse_sweep):
    run = start(tmp_path / "run", tiny(VALIDATED, 'runtime.loggers=["tensorboard"]'))
    results = evaluate(run)
    events = read_events(run.path / "loggers" / "tensorboard" / "localizer")
    training = [line for line in lines(run) if "loss" in line]
    for key in ("loss", "accuracy", "lr", "images_per_second"):
        wanted = [(line["step"], np.float32(line[key])) for line in training]  # the format holds float32
        assert scalars(events, f"train/{key}") == wanted
    checked = [line for line in lines(run) if "validation" in line]
    wanted = [(line["step"], np.float32(line["validation"]["loss"])) for line in checked]
    assert scalars(events, "validation/loss") == wanted
    assert sorted(events.Tags()["scalars"]) == [
        "train/accuracy",
        "train/images_per_second",
        "train/loss",
        "train/lr",
        "validation/accuracy",
        "validation/loss",
    ]
    pictures = events.Tags()["images"]
    assert len(pictures) == 4
    for tag in pictures:
        assert tag.startswith("maps/")
        assert [(one.step, one.width, one.height) for one in events.Images(tag)] == [(2, 32, 32), (4, 32, 32)]
    measured = read_events(run.path / "loggers" / "tensorboard" / "evaluation")
    assert scalars(measured, "test/gt_known_loc") == [(0, np.float32(results.metrics["gt_known_loc"]))]


def test_a_resumed_run_goes_on_in_its_event_files_without_repeating_a_step(tiny, tmp_path, monkeypatch):
    recipe = tiny('runtime.loggers=["tensorboard"]')
    run = RunFolder.create(tmp_path / "run", recipe)
    step, calls = CAM.training_step, 0

    def dying(self, batch, state):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise SystemError("died")
        return step(self, batch, state)

    monkeypatch.setattr(CAM, "training_step", dying)
    run.keep()
    with pytest.raises(SystemError):
        train(run)
    train(RunFolder(run.path))  # from the end of the first epoch, the third step
    events = read_events(run.path / "loggers" / "tensorboard" / "localizer")
    assert [step for step, _ in scalars(events, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4, 5, 4, 5, 6]


def test_tables_hold_what_metrics_jsonl_holds_and_a_resumed_run_repeats_no_row(tiny, tmp_path, interrupt, coarse_sweep):
    recipe = tiny(VALIDATED, 'runtime.loggers=["csv"]')
    run = stopped(tmp_path / "run", recipe, interrupt, 3)
    # As if it had gone on without a checkpoint.
    table = run.path / "loggers" / "csv" / "localizer-train.csv"
    with table.open("a") as stream:
        stream.write("1,4,0.5,7.0,0.1,3.0\n")
    train(RunFolder(run.path))
    rows = list(csv.DictReader(table.open()))
    training = [line for line in lines(run) if "loss" in line]
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [
        (line["step"], line["loss"]) for line in training
    ]
    rows = list(csv.DictReader((table.parent / "localizer-validation.csv").open()))
    checked = [line["validation"] for line in lines(run) if "validation" in line]
    assert [(float(row["loss"]), float(row["accuracy"])) for row in rows] == [
        (line["loss"], line["accuracy"]) for line in checked
    ]
    results = evaluate(RunFolder(run.path))
    evaluate(RunFolder(run.path))
    rows = list(csv.DictReader((table.parent / "evaluation.csv").open()))
    told = {row["metric"]: float(row["percent"]) for row in rows if row["evaluation"] == "test"}
    assert told == pytest.approx(results.measured)
    assert len(rows) == len(told)


def test_wandb_gets_events_pictures_and_results_under_one_id(tiny, tmp_path, stand_in, interrupt, coarse_sweep):
    calls = stand_in("wandb", WANDB)
    run = stopped(tmp_path / "run", tiny(VALIDATED, 'runtime.loggers=["wandb"]'), interrupt, 3)
    train(RunFolder(run.path))
    results = evaluate(RunFolder(run.path))
    begun = [options for name, _, options in calls if name == "init"]
    assert len(begun) == 3
    assert len({options["id"] for options in begun}) == 1
    assert begun[0]["resume"] == "allow"
    assert begun[0]["config"]["stage"][0]["optim"]["lr"] == 0.01
    assert Path(begun[0]["dir"]) == run.path / "loggers"
    assert ("define_metric", ("localizer/*",), {"step_metric": "localizer/step"}) in calls
    logged = [arguments[0] for name, arguments, _ in calls if name == "log"]
    losses = [(one["localizer/step"], one["localizer/train/loss"]) for one in logged if "localizer/train/loss" in one]
    assert losses == [(line["step"], line["loss"]) for line in lines(run) if "loss" in line]
    assert sum("localizer/validation/accuracy" in one for one in logged) == 2
    shown = [one["localizer/maps"] for one in logged if "localizer/maps" in one]
    assert [len(pictures) for pictures in shown] == [4, 4]
    assert shown[0][0].picture.size == (32, 32)
    ends = [(options["exit_code"], *arguments) for name, arguments, options in calls if name == "finish"]
    assert [code for code, _ in ends] == [1, 0, 0]
    assert ends[2][1]["evaluation/test/gt_known_loc"] == results.metrics["gt_known_loc"]


def test_mlflow_gets_events_pictures_and_results_in_one_run(tiny, tmp_path, stand_in, interrupt, coarse_sweep):
    calls = stand_in("mlflow", MLFLOW, entities=ENTITIES)
    run = stopped(tmp_path / "run", tiny(VALIDATED, 'runtime.loggers=["mlflow"]'), interrupt, 3)
    train(RunFolder(run.path))
    results = evaluate(RunFolder(run.path))
    names = [name for name, *_ in calls]
    assert names.count("create_run") == 1
    assert names.count("update_run") == 2
    batches = [options for name, _, options in calls if name == "log_batch"]
    parameters = {one.key: one.value for batch in batches for one in batch["params"]}
    assert all(len(batch["params"]) <= 100 for batch in batches)
    assert parameters["stage.localizer.optim.lr"] == "0.01"
    metrics = [one for batch in batches for one in batch["metrics"]]
    losses = [(one.step, one.value) for one in metrics if one.key == "localizer/train/loss"]
    assert losses == [(line["step"], line["loss"]) for line in lines(run) if "loss" in line]
    (found,) = [one.value for one in metrics if one.key == "evaluation/test/gt_known_loc"]
    assert found == results.metrics["gt_known_loc"]
    pictures = [options for name, _, options in calls if name == "log_image"]
    assert sorted({one["step"] for one in pictures}) == [2, 4]
    assert len({one["key"] for one in pictures}) == 4
    ends = [options["status"] for name, _, options in calls if name == "set_terminated"]
    assert ends == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_package_itself_takes_it(tiny, tmp_path, monkeypatch, name):
    pytest.importorskip(name, reason=f"needs {name}, of the extra '{name}', which is too large for the tests")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run = start(tmp_path / "run", tiny(VALIDATED, f'runtime.loggers=["{name}"]'))
    assert (run.path / "loggers" / f"{name}.id").is_file()
    assert "failed and is left out" not in (run.path / "train.log").read_text()


def test_a_package_that_is_not_installed_is_refused_before_anything_is_left(tiny_file, tmp_path, wsolfast, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = wsolfast("train", tiny_file, 'runtime.loggers=["wandb"]')
    assert (code, out) == (4, "")
    assert err == "error: runtime.loggers: wandb is not installed: pip install 'wsolfast[wandb]'\n"
    assert not (tmp_path / "runs").exists()
    code, _, err = wsolfast("reproduce", "--recipes", tiny_file, 'runtime.loggers=["mlflow"]')
    assert (code, "mlflow is not installed" in err) == (4, True)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "mlflow").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(BackendError, match=r"mlflow is not installed: pip install 'wsolfast\[mlflow\]'"):
        check_loggers(["mlflow"])


def test_an_unknown_logger_is_named(tiny):
    words = "tensorboard, wandb, mlflow, csv"
    with pytest.raises(RecipeError, match=rf"loggers: expected one of {words}, got .*; did you mean 'tensorboard'\?"):
        tiny('runtime.loggers=["tensorbord"]')
    with pytest.raises(RecipeError, match=f"loggers: expected an array of {words}, got 'csv'"):
        tiny("runtime.loggers=csv")


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_logger_that_fails_says_so_once_and_the_run_goes_on(tiny, tmp_path, stand_in, fails):
    place = fails if fails == "init" else f"Run.{fails}"
    source = f"{WANDB}\ndef fail(*given, **options):\n    raise OSError('no network')\n\n{place} = fail\n"
    stand_in("wandb", source)
    run = start(tmp_path / "run", tiny(VALIDATED, 'runtime.loggers=["wandb", "csv"]'))
    told = (run.path / "train.log").read_text()
    assert told.count("warning: WandB failed and is left out from now on: OSError: no network") == 1
    assert run.weights_path("localizer").exists()
    assert (run.path / "loggers" / "csv" / "localizer-train.csv").exists()


def test_the_first_process_alone_tells(tiny, tmp_path):
    recipe = tiny(VALIDATED, 'runtime.loggers=["tensorboard", "csv"]')
    on_ranks(2, train_on_ranks, tmp_path / "run", recipe)
    assert len(list((tmp_path / "run" / "loggers" / "tensorboard" / "localizer").iterdir())) == 1
    rows = list(csv.DictReader((tmp_path / "run" / "loggers" / "csv" / "localizer-train.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]


def train_on_ranks(folder, recipe):
    train(RunFolder.create(folder, recipe))
