"""Observers of a run: the calls that they get, and the end of those that fail."""

import json
from dataclasses import replace

import pytest

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.observers import Observer
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM


class Notes:
    """Has the three methods and nothing else."""

    def __init__(self):
        self.heard = []

    def on_event(self, event):
        self.heard.append(("event", event["step"], "validation" in event))

    def on_epoch(self, end):
        self.heard.append(("epoch", end.epochs, end.step, end.loss is not None, sorted(end.validation)))

    def on_evaluation(self, results):
        self.heard.append(("evaluation", results.split))


class Failing(Observer):
    """Raises in its second event."""

    def __init__(self):
        self.events = 0

    def on_event(self, event):
        self.events += 1
        if self.events == 2:
            raise ValueError("two\nlines")


def lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_any_object_hears_events_epochs_and_evaluations_in_their_order(tiny, tmp_path, coarse_sweep):
    run = RunFolder.create(tmp_path / "run", tiny("stage.validate={held_out = 0.2, every = 2}"))
    notes = Notes()
    train(run, observers=[notes])
    evaluate(run, observers=[notes])
    assert notes.heard == [
        ("event", 1, False),
        ("event", 2, False),
        ("epoch", 1, 2, True, []),
        ("event", 3, False),
        ("event", 4, False),
        ("event", 4, True),
        ("epoch", 2, 4, True, ["accuracy", "loss"]),
        ("evaluation", "test"),
    ]
    # Nobody listens longer than asked for.
    evaluate(run)
    assert len(notes.heard) == 8


@pytest.mark.parametrize(
    ("validate", "first", "second"),
    [
        ([], ("epoch", 1, 3, True, []), None),
        (['stage.validate={split = "train_fullsup"}'], None, ("epoch", 1, 3, False, ["accuracy", "loss"])),
    ],
)
def test_an_epoch_that_a_stop_ends_is_told_once(tiny, tmp_path, interrupt, validate, first, second):
    run = RunFolder.create(tmp_path / "run", tiny(*validate))
    notes = [Notes(), Notes()]
    interrupt(CAM, "training_step", 3)
    with pytest.raises(Interrupted):
        train(run, observers=notes[:1])
    train(RunFolder(run.path), observers=notes[1:])
    told = [[one for one in note.heard if one[:2] == ("epoch", 1)] for note in notes]
    assert told == [[one] if one else [] for one in (first, second)]


def test_one_that_fails_is_named_once_and_left_out_and_the_others_go_on(tiny, tmp_path):
    runs = [RunFolder.create(tmp_path / name, tiny()) for name in ("heard", "plain")]
    failing, notes = Failing(), Notes()
    train(runs[0], observers=[failing, notes])
    train(runs[1])
    assert failing.events == 2
    told = (runs[0].path / "train.log").read_text()
    assert told.count("warning: Failing failed and is left out from now on: ValueError: two lines\n") == 1
    assert [one[1] for one in notes.heard if one[0] == "event"] == [1, 2, 3, 4, 5, 6]
    losses = [[line["loss"] for line in lines(run)] for run in runs]
    assert losses[0] == losses[1]


def test_an_observer_that_hears_nothing_needs_no_method(tiny, tmp_path):
    recipe = tiny()
    short = replace(recipe, stage=(replace(recipe.stage[0], epochs=1),))
    run = RunFolder.create(tmp_path / "run", short)
    train(run, observers=[Observer()])
    assert "warning" not in (run.path / "train.log").read_text()
