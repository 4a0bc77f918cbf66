import pytest

from wsolfast.recipe import parse_recipe

TINY = """
summary = "a recipe that trains in a second"
[data]
name = "synthetic"
resize = 40
crop = 32
[data.options]
num_classes = 2
size = 48
num_train = 20
num_val = 6
num_test = 10
[[stage]]
name = "localizer"
method = "cam"
epochs = 2
batch_size = 8
[stage.backbone]
name = "small"
[stage.optim]
lr = 0.01
nesterov = true
[stage.optim.lr_factors]
head_weight = 2.0
[stage.schedule]
name = "step"
milestones = [1]
[evaluate]
protocol = "wsolevaluation"
batch_size = 4
[runtime]
workers = 0
device = "cpu"
"""


@pytest.fixture
def tiny():
    """Makes the tiny recipe with overrides."""
    return lambda *overrides: parse_recipe(TINY, "tiny", overrides)


@pytest.fixture
def tiny_file(tmp_path):
    """The tiny recipe as a file."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file
