"""Methods that answer with boxes instead of maps."""

import pytest
import torch

from wsolfast import backbones
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.export import export_program
from wsolfast.export.graph import output_names
from wsolfast.methods import Method, Refined
from wsolfast.methods._base import wanted_classes
from wsolfast.types import Localization


class BrightestBox(Method):
    """Give a box of the image's size, less its mean brightness, to every class."""

    gives_boxes = True

    def __init__(self):
        super().__init__()
        self.backbone = backbones.build("squeezenet1_1", weights="none").requires_grad_(False)

    def classify_features(self, features):
        return features[self.last_stage].mean((2, 3))[:, :3]

    def localize_features(self, features, size, label, topk, *, ranking=None):
        logits = self.classify_features(features)
        classes = wanted_classes(logits if ranking is None else ranking, label, topk)
        extent = torch.tensor([0, 0, size[1], size[0]]) - 0.25 * logits.mean(1, keepdim=True)
        return Localization(logits, classes, boxes=extent[:, None].expand(-1, classes.shape[1], -1))


@pytest.fixture
def method():
    torch.manual_seed(0)
    return BrightestBox().eval()


IMAGE = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("places", "given"),
    [({}, "neither"), ({"localization_map": torch.zeros(1, 1, 2, 2), "boxes": torch.zeros(1, 1, 4)}, "both")],
)
def test_a_localization_has_maps_or_boxes(places, given):
    with pytest.raises(ValueError, match=f"expected localization_map or boxes, got {given}"):
        Localization(None, torch.zeros(1, 1, dtype=torch.int64), **places)


@torch.no_grad()
def test_a_predictor_passes_the_boxes_on(method):
    expected = method.localize(IMAGE, torch.tensor([2, 0]), topk=0)
    boxes, classes, scores = Predictor(method, device=torch.device("cpu"), topk=3)(IMAGE, None, torch.tensor([2, 0]))
    torch.testing.assert_close(boxes, expected.boxes[:, 0])
    assert boxes.dtype == torch.float32
    assert classes.shape == scores.shape == (2, 3)


@pytest.mark.parametrize("name", ["scg", "grad_cam"])
def test_a_refinement_refuses_boxes(method, name):
    with pytest.raises(ValueError, match=f"{name}: BrightestBox gives boxes and no maps"):
        Refined(method, name)


def test_a_graph_gives_the_boxes(method):
    assert output_names(method) == ["logits", "classes", "boxes"]
    program = export_program(method, (64, 96), topk=2)
    with torch.no_grad():
        *_, boxes = program.module()(IMAGE)
        expected = method.localize(IMAGE, topk=2)
    assert boxes.shape == (2, 2, 4)
    torch.testing.assert_close(boxes, expected.boxes)
