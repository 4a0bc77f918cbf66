"""SCG behind any method, and inside SPA."""

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones, ops
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements.scg import SelfCorrelation
from wsolfast.testing import assert_close, seeded

# A method with the smallest options that make it run on the batch of this folder.
METHODS = {
    "cam": {},
    "spa": {"head": "linear", "refine": False},
    "nl_ccam": {"nl_positions": ["conv4"], "gamma_m": 2},
    "ci_cam": {"nl_positions": [], "pool_size": 4, "gamma": "sum", "gamma_r": 2},
    "csoa": {"head": "linear", "co_aug": False, "early": "conv4"},
}
SCG = {"fo_th": 0.2, "so_th": 0.3, "so_weight": 1.0, "delta_h": 0.4, "delta_l": 0.1}
RULE = ops.CorrelationRule(**SCG)


def build(method, **options):
    torch.manual_seed(0)
    return get_stage(method)(backbones.build("small"), 5, **METHODS[method] | options).double().eval()


@pytest.mark.parametrize("roundtrip", [True, False])
@torch.no_grad()
def test_cam_refined_is_the_localisation_of_spa_with_its_weights(batch, roundtrip):
    options = SCG | {"resize_roundtrip": roundtrip}
    spa = build("spa", refine=True, scg=options)
    cam = build("cam", cam_relu=True)
    cam.load_state_dict(spa.state_dict())
    expected, found = (m.localize(batch.image, batch.label, topk=2) for m in (spa, Refined(cam, "scg", **options)))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.classes, expected.classes)
    # SPA adds 1e-10 to the range of its CAM.
    assert_close(found.localization_map, expected.localization_map, tolerance=1e-7)
    assert not torch.equal(found.localization_map, cam.localize(batch.image, batch.label, topk=2).localization_map)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_maps_of_any_method_are_refined_and_nothing_else_changes(method, batch):
    plain = build(method)
    expected = plain.localize(batch.image, batch.label, topk=1)
    features = plain.backbone(batch.image)
    refined = Refined(plain, "scg", layers=["conv5"], resize_roundtrip=False, **SCG)
    found = refined.localize(batch.image, batch.label, topk=1)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.classes, expected.classes)
    assert torch.equal(refined.classify(batch.image), plain.classify(batch.image))
    correlated = ops.self_correlation_map([features["conv5"]], expected.localization_map.contiguous(), RULE)
    assert torch.equal(found.localization_map, correlated)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_refinement_takes_one_backbone_pass(method, batch):
    refined = Refined(build(method), "scg")
    passes = []
    refined.backbone.register_forward_hook(lambda *_: passes.append(1))
    refined.localize(batch.image, batch.label)
    assert len(passes) == 1


def test_a_method_whose_maps_have_no_known_features_is_refused():
    class Own(get_stage("cam")):
        def localize(self, image, label=None, topk=1, *, ranking=None):
            return super().localize(255 - image, label, topk)

    with pytest.raises(ValueError, match="scg: Own defines localize; its maps can be refined if it defines localize_f"):
        Refined(Own(backbones.build("small"), 5), "scg")


@torch.no_grad()
def test_another_views_ranking_reaches_the_method(batch):
    plain = build("nl_ccam")
    ranking = torch.zeros(6, 5, dtype=torch.float64)
    ranking[:, 3] = 1
    found = Refined(plain, "scg").localize(batch.image, topk=1, ranking=ranking)
    assert found.classes.tolist() == [[3]] * 6


@torch.no_grad()
def test_maps_of_another_size_are_resized_to_the_features():
    features, maps = {"conv5": seeded((2, 3, 4, 5))}, torch.rand(2, 1, 16, 20)
    refine = SelfCorrelation((backbones.StageInfo("conv5", 3, 16),), **SCG)
    small = functional.interpolate(maps, (4, 5), mode="bilinear")
    assert torch.equal(
        refine.correlate(features, maps, (64, 80)), ops.self_correlation_map([features["conv5"]], small, RULE)
    )


def test_layers_by_default_are_those_of_the_last_two_that_fit_the_map():
    stages = [backbones.StageInfo(name, 8, stride) for name, stride in (("a", 8), ("b", 16), ("c", 16))]
    assert SelfCorrelation(stages).layers == ("b", "c")
    assert SelfCorrelation(stages[:2]).layers == ("b",)


@pytest.mark.parametrize(
    ("layer", "message"),
    [("conv9", "has the stages conv2, conv3, conv4, conv5, not 'conv9'"), ("conv3", "'conv3' has stride 8, .*conv5")],
)
def test_a_layer_that_does_not_fit_is_named(layer, message):
    with pytest.raises(ValueError, match=f"scg: layers: .*{message}"):
        Refined(build("cam"), "scg", layers=[layer])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 1}, r"scg: no option 'delta'; did you mean 'delta_[hl]'"),
        ({"hsc_variant": "head"}, "scg: no option 'hsc_variant'; did you mean 'variant'"),
        ({"resize_round_trip": True}, "scg: no option 'resize_round_trip'; did you mean 'resize_roundtrip'"),
        ({"variant": "tail"}, "CorrelationRule: variant must be one of 'head', 'v0', 'paper', got 'tail'"),
    ],
)
def test_options_are_the_same_in_spa_and_behind_any_method(options, message):
    for refined in (lambda: build("spa", refine=True, scg=options), lambda: Refined(build("cam"), "scg", **options)):
        with pytest.raises(ValueError, match=message):
            refined()


def test_a_refined_method_makes_the_labels_that_it_made():
    plain = get_stage("spol.seg")(backbones.build("small"), 5, width=8)
    cam = torch.rand(8, 8)
    assert torch.equal(Refined(plain, "scg").mask_maker()(cam, (32, 32)), plain.mask_maker()(cam, (32, 32)))


def test_a_refined_method_trains_as_it_did(batch, state):
    plain = build("cam").train()
    refined = Refined(plain, "scg")
    assert torch.equal(*(m.training_step(batch, state)["loss"] for m in (plain, refined)))
    assert [g.name for g in refined.param_groups()] == [g.name for g in plain.param_groups()]
