"""A method that learns levels above the classes: how it gets them, and what is said where there are none."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsolfast.data import DataError
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods.danet import DANet
from wsolfast.recipe import RecipeError

# Two species of two families: birds and fish.
LEVELS = (
    "stage.method=danet",
    'stage.model={head = "linear", maps_per_class = 2, level_sizes = [2], level_channels = [4]}',
)


def test_the_hierarchy_is_in_the_weights_and_a_stopped_run_continues_bit_for_bit(
    tiny, tmp_path, coarse_sweep, interrupt
):
    whole = RunFolder.create(tmp_path / "whole", tiny(*LEVELS))
    train(whole)
    evaluate(whole)
    calls = interrupt(DANet, "training_step", 4)
    stopped = RunFolder.create(tmp_path / "stopped", tiny(*LEVELS))
    with pytest.raises(Interrupted):
        train(stopped)
    train(RunFolder(stopped.path))
    assert len(calls) == 6
    expected, found = (load_file(run.weights_path("localizer")) for run in (whole, stopped))
    assert expected["parents"].tolist() == [[0, 1]]
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_other_sizes_of_the_levels_are_named_with_those_of_the_data(tiny, tmp_path):
    wrong = tiny(*LEVELS, "stage.model.level_sizes=[5]")
    with pytest.raises(RecipeError, match=r"stage\.localizer\.model\.level_sizes: .* \[5\] above .* has 2 and \[2\]"):
        train(RunFolder.create(tmp_path / "run", wrong))


@pytest.fixture
def animals(tmp_path):
    """A folder of two classes, with a table of one of them."""
    folder = tmp_path / "animals"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30)).save(folder / f"{name}.jpg")
    (folder / "annotations.csv").write_text("image,class_name,split\na.jpg,ant,train\nb.jpg,bee,train\n")
    (folder / "own.csv").write_text("class,genus\nant,Formica\n")
    return f"data={{name = 'folder', root = '{folder}', resize = 40, crop = 32}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "localizer: danet learns 1 level above the classes, and the data says none: name data.options.hierarchy"),
        (("data.options.hierarchy=own.csv",), "own.csv: the class 'bee' has no genus; give it a row with its genus"),
        (("data.options.hierarchy=cub",), "hierarchy 'cub': the class 'ant' has no family"),
    ],
)
def test_a_class_without_a_parent_is_named_at_the_start(tiny, tmp_path, animals, overrides, message):
    with pytest.raises(DataError, match=message) as raised:
        train(RunFolder.create(tmp_path / "run", tiny(*LEVELS, animals, *overrides)))
    assert raised.value.exit_code == 3
    assert not (tmp_path / "run").exists()
