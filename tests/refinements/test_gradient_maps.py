"""Grad-CAM and its kin: their formulas, where no backward pass runs, and how little is kept where one does."""

import pytest
import torch
from torch import nn

from wsolfast import backbones
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements import LinearHead, Needs, Seen, get_refinement
from wsolfast.testing import assert_close, seeded

FAMILY = ["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam"]
STAGES = (backbones.StageInfo("conv4", 6, 8), backbones.StageInfo("conv5", 6, 8))


def build(method="cam", num_classes=5, **options):
    torch.manual_seed(0)
    return get_stage(method)(backbones.build("small"), num_classes, **options).double().eval()


def scaled(one):
    """Scale a map [h, w] to [0, 1]; zero if it is constant."""
    span = one.max() - one.min()
    return (one - one.min()) / span if span > 0 else torch.zeros_like(one)


def channel_weights(name, features, gradient, cube="own"):
    """The factor of every channel's map [h, w], channel by channel, as the papers write them."""
    weights = []
    for a, g in zip(features, gradient, strict=True):
        if name == "grad_cam":
            weights.append(g.mean())
        elif name == "hires_cam":
            weights.append(g)
        elif name == "layer_cam":
            weights.append(g.clamp(min=0))
        else:
            summed = float((a * g**3).sum())
            of_channel = 0.0
            for slope in g.flatten().tolist():
                third = float(a.sum()) * slope**3 if cube == "own" else summed
                denominator = 2 * slope**2 + third
                alpha = slope**2 / ((denominator or 1) + 1e-7)
                of_channel += alpha * max(slope, 0)
            weights.append(torch.tensor(of_channel, dtype=a.dtype))
    return weights


def by_hand(name, features, gradient, **options):
    """The map [h, w] of one image from A and g [C, h, w], before it is scaled."""
    weights = channel_weights(name, features, gradient, **options)
    return sum(w * a for w, a in zip(weights, features, strict=True)).clamp(min=0)


HAND_A = torch.tensor([[2.0, 0], [1, 3]], dtype=torch.float64).view(1, 2, 1, 2)
HAND_G = torch.tensor([[0.5, 0.1], [-0.2, 0.4]], dtype=torch.float64).view(1, 2, 1, 2)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("grad_cam", {}, (0.7, 0.3)),
        ("grad_cam_pp", {"cube": "summed"}, (0.467725, 0.380952)),
        # The weights are 1/6 + 1/22 and 1/9.
        ("grad_cam_pp", {}, (2 * (1 / 6 + 1 / 22) + 1 / 9, 1 / 3)),
        ("hires_cam", {}, (0.8, 1.2)),
        ("layer_cam", {}, (1, 1.2)),
    ],
)
def test_hand_checked_values(name, options, expected):
    refinement = get_refinement(name)(STAGES, **options)
    found = refinement.of_class(HAND_A, HAND_G, torch.ones(1, dtype=torch.float64))
    assert_close(found.flatten(), torch.tensor(expected), tolerance=1e-6)  # the values are given to six digits
    assert_close(found[0], by_hand(name, HAND_A[0], HAND_G[0], **options))


def test_hand_checked_weights_of_grad_cam_pp():
    weights = channel_weights("grad_cam_pp", HAND_A[0], HAND_G[0], cube="summed")
    assert_close(torch.stack(weights), torch.tensor([0.170370, 0.126984]), tolerance=1e-6)  # given to six digits


def test_grad_cam_pp_without_a_gradient_is_zero():
    zero = torch.zeros_like(HAND_G)  # every denominator is exactly zero
    assert not get_refinement("grad_cam_pp")(STAGES).of_class(HAND_A, zero, torch.ones(1)).any()


@pytest.mark.parametrize("layer", ["conv2", "conv4", "conv5"])
@pytest.mark.parametrize("name", FAMILY)
def test_map_of_a_layer_is_the_formula_on_autograds_gradient(name, layer, batch):
    method = build(head="conv2", hidden_channels=16).requires_grad_(False)
    image = batch.image[:3, :, :48]
    found = Refined(method, name, layer=layer).localize(image, batch.label[:3], topk=1)
    for n in range(3):
        leaf = method.backbone(image[n : n + 1])[layer].requires_grad_()
        last = leaf if layer == "conv5" else method.backbone.extract_from(layer, leaf)["conv5"]
        logits = method.classify_features({"conv5": last})
        for m, k in enumerate(found.classes[n]):
            gradient = torch.autograd.grad(logits[0, k], leaf, retain_graph=True)[0]
            expected = scaled(by_hand(name, leaf.detach()[0], gradient[0]))
            assert_close(found.localization_map[n, m], expected)
        assert_close(found.logits[n], logits.detach()[0])


def head_of(relu_maps, features):
    weight, bias = seeded((7, 6), dtype=torch.float64, seed=1), seeded((7,), dtype=torch.float64, seed=2)
    return LinearHead(features, weight, bias, relu_maps)


@pytest.mark.parametrize("relu_maps", [False, True])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("name", FAMILY)
def test_closed_form_is_autograd_at_the_same_features(name, rectified, relu_maps):
    features = seeded((3, 6, 4, 5), dtype=torch.float64)
    leaf = (features.relu() if rectified else features).requires_grad_()
    head = head_of(relu_maps, leaf)
    maps = torch.einsum("kc,nchw->nkhw", head.weight, leaf) + head.bias[:, None, None]
    logits = (maps.relu() if relu_maps else maps).mean((2, 3))
    classes = torch.tensor([[0, 3], [6, 6], [2, 1]])
    refine = get_refinement(name)(STAGES)
    assert refine.needs(True) == Needs(head=True, scores=True)
    assert refine.needs(False) == Needs(scores=True, graph_from="conv5")
    closed = refine(Seen((64, 80), {}, classes, head.logits().detach(), head=head))
    general = refine(Seen((64, 80), {"conv5": leaf}, classes, logits))
    assert closed.any()
    assert_close(closed, general)
    assert_close(head.logits(), logits)


CLOSED = {
    "linear": ("cam", {}),
    "conv2": ("cam", {"head": "conv2", "hidden_channels": 16}),
    "relu maps": ("spol.cam", {"width": 16}),
    "plain maps": ("spol.cam", {"width": 16, "map_relu": False}),
    "combined": ("nl_ccam", {"nl_positions": ["conv4"]}),
}


@pytest.mark.parametrize("case", CLOSED)
@pytest.mark.parametrize("name", FAMILY)
def test_closed_form_behind_a_method_is_autograd_at_what_its_classifier_reads(name, case, batch):
    stage, options = CLOSED[case]
    method = build(stage, **options)
    with torch.no_grad():
        found = Refined(method, name).localize(batch.image, batch.label, topk=1)
    features = method.linear_head(method.features(batch.image)).features.detach().requires_grad_()
    # The same method, entered where its classifier reads.
    logits = [name for name, module in method.named_modules() if name.endswith("classifier")]
    classifier = method.get_submodule(logits[0])
    read = features.mean((2, 3)) if isinstance(classifier, nn.Linear) else features
    scores = classifier(read) if isinstance(classifier, nn.Linear) else classifier(features)
    if scores.dim() == 4:
        scores = (scores.relu() if case == "relu maps" else scores).mean((2, 3))
    seen = Seen((64, 64), {"conv5": features}, found.classes, scores)
    assert_close(found.localization_map, get_refinement(name)(STAGES)(seen))


def pretrained_head():
    """CAM with a classifier that came with its weights and rectifies its maps, as SqueezeNet's does."""
    torch.manual_seed(0)
    backbone = backbones.build("small")
    backbone.classifier = backbones.ClassifierHead(seeded((5, 128)), 0.1 * seeded((5,), seed=1), relu_maps=True)
    return get_stage("cam")(backbone, 5, head="pretrained").double().eval()


@pytest.mark.parametrize("name", FAMILY)
def test_a_pretrained_head_that_rectifies_its_maps(name, batch):
    """Its gradient is the weight where the class map is positive, zero elsewhere."""
    method = pretrained_head()
    closed, general = (
        Refined(method, name, layer=layer).localize(batch.image, batch.label, topk=1) for layer in (None, "conv5")
    )
    maps = method.head.class_maps(method.backbone(batch.image)["conv5"])
    assert 0 < (maps > 0).float().mean() < 1
    assert_close(closed.localization_map, general.localization_map)
    assert_close(closed.logits, general.logits)
    assert torch.equal(closed.classes, general.classes)


@torch.no_grad()
def test_at_what_a_linear_classifier_pools_they_are_cam_and_nwc(batch):
    method = build()
    method.head.classifier.bias.normal_()
    maps = {
        name: Refined(method, name).localize(batch.image, batch.label, topk=1).localization_map
        for name in (*FAMILY, "nwc")
    }
    features = method.backbone(batch.image)["conv5"]
    classes = method.localize(batch.image, batch.label, topk=1).classes
    cam = torch.einsum("nmc,nchw->nmhw", method.head.classifier.weight.flatten(1)[classes], features).relu()
    expected = torch.stack([torch.stack([scaled(one) for one in image]) for image in cam])
    assert_close(maps["grad_cam"], expected)
    assert_close(maps["hires_cam"], expected)
    assert_close(maps["layer_cam"], maps["nwc"])


@pytest.fixture
def backward_passes(monkeypatch):
    """The shapes of the scores whose gradients are taken, one for each backward pass."""
    taken, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: taken.append(args[0].shape) or grad(*args, **kw))
    monkeypatch.setattr(torch.Tensor, "backward", None)
    return taken


@pytest.mark.parametrize("name", FAMILY)
def test_no_backward_pass_runs_in_the_closed_form(name, batch, backward_passes):
    Refined(build(), name).localize(batch.image, batch.label, topk=3)
    Refined(build("spol.cam", width=16), name).localize(batch.image, batch.label, topk=3)
    assert not backward_passes


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {"layer": "conv4"}) for name in FAMILY), ("bagcams", {"guided": False}), ("backprop", {})],
)
def test_gradients_are_taken_once_per_class_for_the_whole_batch(name, options, batch, backward_passes):
    Refined(build(), name, **options).localize(batch.image, batch.label, topk=2)
    assert backward_passes == [(6,)] * 3


class Kept:
    """Sizes of what autograd saves while it is entered."""

    def __init__(self):
        self.shapes = []
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)

    def _keep(self, tensor):
        self.shapes.append(tuple(tensor.shape))
        return tensor

    def __enter__(self):
        self.hooks.__enter__()
        return self.shapes

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


@pytest.mark.parametrize("outside", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_no_graph_is_kept_below_the_layer(outside, batch):
    method = build().requires_grad_(False)
    refined = Refined(method, "grad_cam", layer="conv4")
    with outside(), Kept() as kept:
        found = refined.features(batch.image)
    assert set(found) == {"conv4", "conv5"}
    leaf = found["conv4"]
    assert leaf.is_leaf
    assert leaf.requires_grad
    with torch.enable_grad(), Kept() as above:
        method.backbone.extract_from("conv4", leaf.detach().requires_grad_())
    assert kept == above
    with Kept() as nothing:
        Refined(method, "grad_cam").features(batch.image)
    assert not nothing


def test_the_last_layer_keeps_nothing_of_the_backbone(batch):
    refined = Refined(build().requires_grad_(False), "grad_cam", layer="conv5")
    with Kept() as kept:
        refined.features(batch.image)
    assert not kept


@pytest.mark.parametrize("name", [*FAMILY, "bagcams", "backprop"])
def test_the_backbone_runs_once(name, batch):
    method = build()
    passes = []
    for stage in ("stem", "conv2", "conv5"):
        method.backbone.get_submodule(stage).register_forward_hook(lambda *_, stage=stage: passes.append(stage))
    Refined(method, name, **({"layer": "conv3"} if name != "backprop" else {})).localize(batch.image, topk=2)
    assert passes == ["stem", "conv2", "conv5"]


def test_parameters_are_left_without_gradients(batch):
    method = build()
    Refined(method, "grad_cam", layer="conv3").localize(batch.image, batch.label)
    assert all(parameter.grad is None for parameter in method.parameters())


def test_a_network_in_training_mode_is_refused(batch):
    refined = Refined(build(), "grad_cam", layer="conv4").train()
    with pytest.raises(ValueError, match=r"grad_cam: gradients of single images need evaluation mode; call .eval\(\)"):
        refined.localize(batch.image, batch.label)


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="grad_cam: layer: this backbone has the stages conv2, conv3, conv4, conv5, n"):
        Refined(build(), "grad_cam", layer="conv9")


def test_a_layer_that_the_logits_do_not_read_is_named():
    method = build("csoa", head="linear", co_aug=False, conf_seg=False, late="conv4")
    Refined(method, "grad_cam", layer="conv3")
    with pytest.raises(ValueError, match="layer_cam: layer: CSoA reads nothing above 'conv4', not 'conv5'"):
        Refined(method, "layer_cam", layer="conv5")
