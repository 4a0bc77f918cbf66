"""Networks of earlier stages that a later one trains with: named, frozen, and in no checkpoint."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import StageTraining, train
from wsolfast.methods.gc_net import GCNet
from wsolfast.recipe import RecipeError, parse_recipe

STAGES = """
[data]
name = "synthetic"
resize = 48
options = {num_classes = 3, size = 48, num_train = 6, num_val = 3, num_test = 3}
[[stage]]
name = "classifier"
method = "cam"
epochs = 1
batch_size = 6
backbone = {name = "small"}
[[stage]]
name = "cells"
method = "ddt"
epochs = 1
backbone = {name = "small"}
[[stage]]
name = "detector"
method = "gc_net"
networks = {classifier = "classifier"}
epochs = 1
batch_size = 6
backbone = {name = "small"}
[evaluate]
localizer = "detector"
classifier = "classifier"
[runtime]
workers = 0
device = "cpu"
"""


def recipe_of(*overrides):
    return parse_recipe(STAGES, "taught", overrides)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stage.detector.networks={}", "stage.detector.networks: gc_net trains with a frozen 'classifier'; name the"),
        (
            "stage.detector.networks={classifier='classifier', clasifier='classifier'}",
            "stage.detector.networks.clasifier: gc_net takes no such network; did you mean 'classifier'?",
        ),
        ("stage.classifier.num_classes=7", "networks.classifier: stage 'classifier' knows 7 classes, expected 3"),
        ("stage.detector.networks={classifier='cells'}", "networks.classifier: stage 'cells' does not classify"),
        ("stage.detector.networks={classifier='detector'}", "networks.classifier: no earlier stage named 'detector'"),
        ("stage.cells.networks={classifier='classifier'}", "stage.cells.networks: ddt is fitted to whole images"),
    ],
)
def test_networks_are_looked_at_before_the_first_stage_is_trained(tmp_path, monkeypatch, change, told):
    monkeypatch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
    with pytest.raises(RecipeError) as error:
        train(RunFolder.create(tmp_path / "run", recipe_of(change)))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_that_takes_no_network_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
    changes = ("stage.detector.method=cam", "stage.detector.model={}")
    with pytest.raises(RecipeError, match=r"networks.classifier: cam takes no such network; it takes none"):
        train(RunFolder.create(tmp_path / "run", recipe_of(*changes)))


def test_the_classifier_is_given_frozen_and_stays_out_of_the_checkpoint(tmp_path, monkeypatch):
    given = {}
    run = RunFolder.create(tmp_path / "run", recipe_of())
    step = GCNet.training_step

    def looked_at(self, batch, state):
        network = given["classifier"] = self.frozen["classifier"]
        # What a folded batch norm leaves behind does nothing in either mode.
        assert not any(module.training for module in network.modules() if not isinstance(module, nn.Identity))
        assert not any(parameter.requires_grad for parameter in network.parameters())
        return step(self, batch, state)

    monkeypatch.setattr(GCNet, "training_step", looked_at)
    train(run)
    assert given
    left = load_file(run.weights_path("detector"))
    assert {name for name in left if not name.startswith("backbone.")} == {"head.weight", "head.bias", "sharpness"}
    # As the earlier stage left it; batch norms are folded.
    assert torch.equal(
        given["classifier"].head.classifier.weight, load_file(run.weights_path("classifier"))["head.classifier.weight"]
    )


def test_a_network_that_the_method_cannot_use_is_named(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", recipe_of("stage.classifier.epochs=0"))

    def refuse(self, name, network):
        raise ValueError("it is too old")

    monkeypatch.setattr(GCNet, "take_network", refuse)
    with pytest.raises(RecipeError, match=r"^stage.detector.networks.classifier: it is too old$"):
        train(run)
