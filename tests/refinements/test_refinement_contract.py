"""The contract of every refinement in the folder, behind every method in its folder."""

import importlib

import pytest
import torch
from refined import (
    LABEL,
    LIKE_CAM,
    NONSENSE,
    NUM_CLASSES,
    OPTIONS,
    PAIRS,
    behind,
    build,
    built,
    images,
    maps_of,
    refined,
)

from wsolfast import backbones
from wsolfast.backbones import BackboneError, StageInfo
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.methods import Method, Refined, get_stage, list_stages
from wsolfast.methods._base import wanted_classes
from wsolfast.refinements import (
    IMAGE,
    FeatureError,
    LinearHead,
    Refinement,
    Seen,
    display_name,
    get_refinement,
    list_refinements,
    options_of,
)
from wsolfast.testing import assert_close
from wsolfast.types import Localization

every_pair = pytest.mark.parametrize(("stage", "name"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])
DIFFERENT = [pair for pair in PAIRS if pair[0] not in LIKE_CAM]
every_different_pair = pytest.mark.parametrize(("stage", "name"), DIFFERENT, ids=[" ".join(pair) for pair in DIFFERENT])
every_refinement = pytest.mark.parametrize("name", list_refinements())
# Networks that nothing has trained give negative logits, of which BagCAMs tells.
pytestmark = pytest.mark.filterwarnings("ignore:bagcams. a logit is not positive")


@every_pair
def test_maps_are_in_the_unit_interval_and_deterministic(stage, name):
    found, again = maps_of(stage, name), refined(stage, name).localize(images(), LABEL, topk=2)
    assert found.shape[:2] == again.classes.shape == (3, 3 if built(stage).classifies else 1)
    assert found.dtype.is_floating_point
    assert not found.requires_grad
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.any(), "a test of nothing"
    assert torch.equal(found, again.localization_map)
    assert torch.equal(again.classes[:, 0], LABEL)


@every_pair
def test_nothing_but_the_maps_changes(stage, name):
    plain, found = built(stage), refined(stage, name).localize(images(), LABEL, topk=2)
    expected = plain.localize(images(), LABEL, topk=2)
    assert torch.equal(found.classes, expected.classes)
    if plain.classifies:
        assert_close(found.logits, expected.logits, tolerance=tolerance(name))
        assert not found.logits.requires_grad
        assert torch.equal(refined(stage, name).classify(images()), plain.classify(images()))
    else:
        assert found.logits is None


@every_different_pair
def test_a_batch_of_any_size_gives_the_same_maps(stage, name):
    singly = [refined(stage, name).localize(images()[n : n + 1], LABEL[n : n + 1], topk=2) for n in range(3)]
    assert_close(torch.cat([one.localization_map for one in singly]), maps_of(stage, name), tolerance=tolerance(name))
    none = refined(stage, name).localize(images(0), LABEL[:0], topk=2)
    assert none.localization_map.shape[0] == 0
    assert none.localization_map.shape[1] == maps_of(stage, name).shape[1]


@every_different_pair
def test_several_classes_per_pass_are_those_that_one_at_a_time_gives(stage, name):
    classes = refined(stage, name).localize(images(), LABEL, topk=2).classes
    for m, one in enumerate(classes.unbind(1)):
        alone = refined(stage, name).localize(images(), one, topk=0).localization_map
        assert_close(alone[:, 0], maps_of(stage, name)[:, m], tolerance=tolerance(name))
    if built(stage).classifies:
        predicted = refined(stage, name).localize(images(), topk=9)
        assert predicted.classes.shape == (3, NUM_CLASSES)
        assert_close(predicted.localization_map[:, :2], maps_of(stage, name)[:, 1:], tolerance=tolerance(name))


def tolerance(name: str) -> float | None:
    """Return how far maps may differ where sums run in another order: in Backprop the image is float32."""
    return 1e-5 if name == "backprop" else None


@every_different_pair
def test_features_of_one_pass_are_localised_again_and_again(stage, name):
    net = refined(stage, name)
    features = net.features(images())
    for _ in range(2):
        found = net.localize_features(features, images().shape[2:], LABEL, 2).localization_map
        assert torch.equal(found, maps_of(stage, name))


@every_different_pair
def test_nan_in_the_features_is_an_error_that_names_the_stage(stage, name):
    first = next(built(stage).backbone.parameters())
    kept = first.clone()
    try:
        first.fill_(float("nan"))
        with pytest.raises(
            FeatureError, match=rf"^{name}: features of (conv|block)\d hold NaN or infinity; there is no map of"
        ):
            refined(stage, name).localize(images(), LABEL, topk=0)
    finally:
        first.copy_(kept)


@every_different_pair
def test_it_does_not_matter_whether_gradients_are_recorded_outside(stage, name):
    net = refined(stage, name)  # its parameters are made outside, as a run's are
    for outside in (torch.inference_mode, torch.no_grad):
        with outside():
            # Labels of an evaluation are made in there, too.
            found = net.localize(images(), LABEL + 0, topk=2)
        assert_close(found.localization_map, maps_of(stage, name), tolerance=tolerance(name))


@every_different_pair
def test_bfloat16_maps_are_finite(stage, name):
    net = built(stage, dtype=torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = behind(net, name).localize(images(), LABEL, topk=1).localization_map
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1


@every_refinement
def test_folded_batch_norms_change_nothing(name):
    net = build("nl_ccam")
    net.backbone.fold_batch_norms()
    found = behind(net, name).localize(images(), LABEL, topk=2)
    assert_close(found.localization_map, maps_of("nl_ccam", name), tolerance=tolerance(name))


@every_refinement
def test_predictor_gives_the_same_bits_one_image_at_a_time(name):
    predictor = Predictor(refined("cam", name, **{}).float(), device=torch.device("cpu"), singly=True)
    together = predictor(images(), None, LABEL)[0]
    alone = torch.cat([predictor(images()[n : n + 1], None, LABEL[n : n + 1])[0] for n in range(3)])
    assert torch.equal(together, alone)
    assert predictor(images(), None, None)[0].shape == together.shape


@every_refinement
def test_constant_features_give_a_map_of_zeros(name):
    """Every value that a refinement may read is the same at all positions."""
    stages = (StageInfo("conv4", 3, 8), StageInfo("conv5", 3, 8))
    leaves = {key: torch.full((2, 3, 4, 5), 0.7, requires_grad=True) for key in ("conv4", "conv5", IMAGE)}
    weight = torch.tensor([[1.0, -2, 0.5], [0.3, 0.2, -0.1], [1, 1, 1]])
    logits = sum(leaves.values()).mean((2, 3)) @ weight.T + 5
    head = LinearHead(leaves["conv5"], weight, torch.zeros(3))
    classes = torch.tensor([[0, 2], [1, 1]])
    maps = torch.full((2, 2, 4, 5), 0.4)
    options = {key: value for key, value in OPTIONS.get(name, {}).items() if key != "layers"}
    refine = get_refinement(name)(stages, **options)
    for its_head in (head, None):
        if its_head is None and refine.needs(False).head:
            continue
        found = refine(Seen((32, 40), leaves, classes, logits, logits, maps, its_head))
        assert found.shape == (2, 1 if name in ("ccam", "feature_norm") else 2, *found.shape[2:])
        assert not found.any()


# Behind a map of no class, or a classifier of another kind.
WHY = {
    "scores": r"{}: (SPOLSeg|DDT) ranks no classes, and {} starts from a class's score",
    "head": r"{}: CSoA has no linear classifier on pooled features, from which {} starts",
}


@pytest.mark.parametrize(("stage", "name"), sorted(NONSENSE))
def test_what_makes_no_sense_is_refused_in_one_line(stage, name):
    with pytest.raises(ValueError, match=WHY["scores"].format(name, name)):
        refined(stage, name)


def test_a_score_of_the_class_token_has_gradients_at_earlier_layers():
    maps = refined("class_attention", "grad_cam", layer="block0").localize(images(), LABEL, topk=0).localization_map
    assert maps.flatten(2).amax(2).eq(1).any()
    with pytest.raises(
        FeatureError, match=r"^the class scores do not depend on 'block1': they have no gradient there$"
    ):
        refined("class_attention", "grad_cam").localize(images(), LABEL, topk=0)
    with pytest.raises(ValueError, match=r"^nwc: ClassAttention has no linear classifier on pooled features"):
        refined("class_attention", "nwc")


@every_refinement
def test_a_method_without_a_linear_classifier(name):
    """Its logits are the mean of two classifiers'."""
    net = build("csoa", scores="mean")
    assert not net.has_linear_head
    if name in ("ccam", "nwc"):
        with pytest.raises(ValueError, match=WHY["head"].format(name, name)):
            Refined(net, name)
        return
    found = behind(net, name).localize(images(), LABEL, topk=2)
    assert found.localization_map.shape[:2] == (3, 3)
    assert found.localization_map.any()
    assert_close(found.logits, net.classify(images()), tolerance=tolerance(name))


class Own(Method):
    """A method of one's own: it says neither ``linear_head`` nor anything of refinements."""

    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        self.out = torch.nn.Linear(backbone.stages[-1].channels, num_classes)

    def classify_features(self, features):
        return self.out(features[self.last_stage].amax((2, 3)))

    def localize_features(self, features, size, label, topk, *, ranking=None):
        logits = self.classify_features(features)
        classes = wanted_classes(logits, label, topk)
        maps = features[self.last_stage].sigmoid().mean(1, keepdim=True)
        return Localization(logits, classes, maps.expand(-1, classes.shape[1], -1, -1))


@every_refinement
def test_a_method_of_ones_own(name):
    torch.manual_seed(0)
    net = Own(backbones.build("small"), NUM_CLASSES).double().eval()
    if name in ("ccam", "nwc"):
        with pytest.raises(ValueError, match=f"{name}: Own has no linear classifier on pooled features, from which"):
            Refined(net, name)
        return
    found = behind(net, name).localize(images(), LABEL, topk=1)
    assert found.localization_map.shape[:2] == (3, 2)
    assert 0 <= found.localization_map.min() < found.localization_map.max() <= 1


@pytest.mark.parametrize("stage", [stage for stage in list_stages() if get_stage(stage).has_linear_head])
def test_linear_head_of_a_method_has_its_logits(stage):
    net = built(stage)
    assert net.has_linear_head
    features = net.features(images())
    head = net.linear_head(features)
    assert_close(head.logits(), net.classify_features(features))
    classes = torch.arange(NUM_CLASSES).expand(3, -1)
    maps = head.class_maps(classes)
    assert_close((maps.relu() if head.relu_maps else maps).mean((2, 3)), head.logits())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@every_refinement
def test_layout_of_the_image_plays_no_role(name, layout):
    image = images().contiguous(memory_format=layout)
    found = refined("spa", name).localize(image, LABEL, topk=2).localization_map
    assert_close(found, maps_of("spa", name), tolerance=tolerance(name))


@pytest.fixture(scope="module")
def timm_cam():
    torch.manual_seed(0)
    return get_stage("cam")(backbones.build("timm:resnet10t"), NUM_CLASSES).eval().requires_grad_(False)


@every_refinement
def test_behind_a_network_of_timm(name, timm_cam):
    # Its last map has six positions.
    options = {"seeds": 2} if name == "sem" else OPTIONS.get(name, {})
    with torch.inference_mode():
        found = Refined(timm_cam, name, **options).localize(images(2).repeat(1, 1, 2, 2), LABEL[:2], topk=1)
    assert found.localization_map.shape[:2] == (2, 2)
    assert 0 <= found.localization_map.min() < found.localization_map.max() <= 1


@pytest.mark.parametrize("layer", ["conv2", "conv4"])
def test_inner_layer_of_a_network_of_timm(layer, timm_cam):
    """It runs as a whole: the gradient is that of the features on the way."""
    with torch.inference_mode():
        found = Refined(timm_cam, "layer_cam", layer=layer).localize(images(1), LABEL[:1], topk=0).localization_map
    features = timm_cam.backbone.extract(timm_cam.backbone.normalize(images(1)).requires_grad_())
    score = timm_cam.classify_features(features)[0, LABEL[0]]
    product = torch.autograd.grad(score, features[layer])[0].relu() * features[layer].detach()
    expected = product.sum(1)[0]
    assert_close(found[0, 0], (expected - expected.min()) / (expected.max() - expected.min()))


def test_inner_layer_of_a_network_that_keeps_channels_last_is_refused():
    torch.manual_seed(0)
    backbone = backbones.build("timm:swin_tiny_patch4_window7_224", input_size=56)
    net = get_stage("cam")(backbone, NUM_CLASSES).eval().requires_grad_(False)
    image = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    inner, last = backbone.stages[-2].name, backbone.stages[-1].name
    with pytest.raises(
        BackboneError, match=f"backbone: this timm network has no gradients at '{inner}'; choose '{last}"
    ):
        Refined(net, "grad_cam", layer=inner).localize(image, topk=1)
    assert Refined(net, "grad_cam", layer=last).localize(image, topk=1).localization_map.isfinite().all()


@every_refinement
def test_names(name):
    assert issubclass(get_refinement(name), Refinement)
    assert importlib.import_module(f"wsolfast.refinements.{name}").REFINEMENT is get_refinement(name)
    spelt = display_name(name).replace("++", "pp")
    assert "".join(filter(str.isalnum, spelt)).lower() == name.replace("_", "")
    assert len(set(options_of(name))) == len(options_of(name))


def test_unknown_name_names_the_nearest():
    for ask in (get_refinement, display_name, options_of):
        with pytest.raises(KeyError, match="no refinement named 'gradcam'; did you mean 'grad_cam'"):
            ask("gradcam")


def test_options_by_name():
    assert options_of("sem") == ["seeds", "aggregate", "features"]
    assert options_of("layer_cam") == ["layer"]
    assert options_of("nwc") == []
    assert {"layers", "resize_roundtrip", "delta_h"} < set(options_of("scg"))
