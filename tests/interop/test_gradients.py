"""Gradients and their maps at layers of any network, without a trace left in it."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsolfast import interop, ops

KINDS = ("grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "bagcams")
CLASSES = 5


class Net(nn.Module):
    """Layers in place and called twice, a branch beside the way, and a head of ``head``'s making."""

    def __init__(self, head=lambda logits: logits):
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.twice, self.aside = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.pair, self.fc, self.head = nn.LSTM(4, 4), nn.Linear(4, CLASSES), head

    def forward(self, image):
        first = self.relu(self.norm(self.stem(image)))
        self.aside(first)
        second = self.relu(self.twice(first))
        third = self.relu(self.twice(second))
        return self.head(self.fc(self.pair(third.mean((2, 3))[None])[0][0]))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net().double().eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 6, 7, generator=torch.Generator().manual_seed(2)).double()


def state_of(net):
    return {
        name: (value.clone(), value.requires_grad, value.grad)
        for name, value in [*net.named_parameters(), *net.named_buffers()]
    }


def assert_untouched(net, before):
    assert not any(child._forward_hooks or child._backward_hooks for child in net.modules())
    for name, (value, required, gradient) in state_of(net).items():
        old, old_required, old_gradient = before[name]
        assert torch.equal(value, old)
        assert (required, gradient) == (old_required, old_gradient)


@pytest.mark.parametrize("layer", ["stem", "norm", "twice", "relu"])
def test_gradients_are_the_differences_of_scores(net, images, layer):
    """Central differences of the output that the layer gives last; ReLUs after it work in place."""
    classes = torch.tensor([[0, 3], [1, 1], [4, 2]])
    logits, features, gradients = interop.gradients_of(net, images, layer, classes)
    assert gradients.shape == (3, 2, *features.shape[1:])
    assert not any(found.requires_grad for found in (logits, features, gradients))
    calls = {"twice": 2, "relu": 3}.get(layer, 1)
    step = 1e-6 * torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def moved(by):
        seen = []

        def move(_module, _inputs, output):
            seen.append(output)
            return output + by if len(seen) == calls else None

        handle = dict(net.named_modules())[layer].register_forward_hook(move)
        with torch.no_grad():
            found = net(images)
        handle.remove()
        return found.gather(1, classes)

    wanted = (moved(step) - moved(-step)) / 2
    found = (gradients * step[:, None]).sum((2, 3, 4))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-12)  # scores of 1 round beside differences of 1e-7
    assert torch.equal(logits, net(images).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_stays_as_it_is(net, images, kind):
    net.aside.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    before = state_of(net)
    with warnings.catch_warnings():
        # The logarithm of a logit of BagCAMs.
        warnings.simplefilter("ignore")
        first = interop.grad_cam(net, images, "twice", kind=kind)
        again = interop.grad_cam(net, images, "twice", kind=kind)
    assert torch.equal(first, again)
    interop.backprop(net, images)
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError):
        interop.grad_cam(net, images[:, :1], "twice", kind=kind)
    assert torch.is_grad_enabled()
    assert_untouched(net, before)


def test_nothing_is_kept_or_computed_below_the_layer(net, images):
    below, above = [], []
    net.stem.register_forward_hook(lambda _module, _inputs, output: below.append(output.requires_grad))
    net.fc.register_forward_hook(lambda _module, _inputs, output: above.append(output.requires_grad))
    interop.gradients_of(net, images, "norm")
    assert (below, above) == ([False], [True])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_does_not_matter(net, images, mode):
    wanted = interop.grad_cam(net, images, "norm"), interop.backprop(net, images)
    with mode():
        given = images.clone()
        before = torch.is_grad_enabled()
        found = interop.grad_cam(net, given, "norm"), interop.backprop(net, given)
        assert torch.is_grad_enabled() == before
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_classes_are_those_asked_for_or_the_most_likely(net, images):
    classes = torch.tensor([[0, 3], [1, 1], [4, 2]])
    both = interop.grad_cam(net, images, "norm", classes, kind="layer_cam")
    assert both.shape == (3, 2, 6, 7)
    for column in (0, 1):
        one = interop.grad_cam(net, images, "norm", classes[:, column], kind="layer_cam")
        torch.testing.assert_close(both[:, column], one, rtol=0, atol=1e-12)  # sums in another order
    single = interop.grad_cam(net, images[1:2], "norm", classes[1:2, 0], kind="layer_cam")
    torch.testing.assert_close(both[1:2, 0], single, rtol=0, atol=1e-12)  # another batch sums in another order
    likely = net(images).argmax(1)
    assert torch.equal(interop.grad_cam(net, images, "norm"), interop.grad_cam(net, images, "norm", likely))
    assert interop.grad_cam(net, images, "norm", classes[:, :0]).shape == (3, 0, 6, 7)


def test_no_images_have_no_maps(net, images):
    assert interop.grad_cam(net, images[:0], "norm").shape == (0, 6, 7)
    assert interop.backprop(net, images[:0], torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 6, 7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sizes_and_layouts_of_images(net, images, layout):
    maps = interop.grad_cam(net, images.contiguous(memory_format=layout), "norm", kind="hires_cam")
    wide = interop.grad_cam(net, images, "norm", kind="hires_cam", size=(12, 20))
    resized = functional.interpolate(maps[:, None], (12, 20), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(wide, ops.min_max_normalize(resized), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "head",
    [
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: (logits, torch.zeros(3)),
        lambda logits: type("Output", (), {"logits": logits})(),
    ],
)
def test_logits_are_found_in_what_networks_return(net, images, head):
    wanted = interop.grad_cam(net, images, "norm")
    net.head = head
    assert torch.equal(interop.grad_cam(net, images, "norm"), wanted)


def test_backprop_is_the_gradient_of_the_image(net, images):
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)
    wanted = ops.min_max_normalize(gradient.abs().amax(1))
    found = interop.backprop(net, images, torch.full((3,), 2), smooth=0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert not torch.equal(interop.backprop(net, images, torch.full((3,), 2), smooth=0.1), found)


def test_bagcams_clips_gradients_at_modules_and_functions(images):
    """With guidance, paths that go down through a ReLU count for nothing, whichever way the ReLU is called."""

    class Functional(nn.Module):
        def __init__(self, relu):
            super().__init__()
            self.layer, self.relu = nn.Conv2d(3, 4, 1), relu
            self.fc = nn.Linear(4, 2)

        def forward(self, image):
            return self.fc(self.relu(self.layer(image)).mean((2, 3)))

    torch.manual_seed(0)
    found = []
    for relu in (nn.ReLU(), nn.ReLU(inplace=True), functional.relu, torch.relu, lambda x: x.relu()):
        torch.manual_seed(0)
        net = Functional(relu).double().eval()
        with torch.no_grad():
            net.fc.weight.copy_(torch.tensor([[1.0, -1, 2, -2], [0, 0, 0, 1]]))
            net.fc.bias.fill_(50.0)
        classes = torch.zeros(3, dtype=torch.int64)
        found.append(interop.grad_cam(net, images, "layer", classes, kind="bagcams"))
        plain = interop.grad_cam(net, images, "layer", classes, kind="bagcams", guided=False)
    for one in found[1:]:
        assert torch.equal(one, found[0])
    _, features, gradients = interop.gradients_of(net, images, "layer", classes)
    score = net(images)[:, 0].detach()
    for maps, gradient in ((found[0], gradients.clamp(min=0)), (plain, gradients)):
        product = gradient / score[:, None, None, None] * features
        wanted = ((1 + product.mean((2, 3), keepdim=True)) * product).relu().sum(1)
        torch.testing.assert_close(maps, ops.min_max_normalize(wanted), rtol=0, atol=1e-10)


class Tokens(nn.Module):
    """A class token beside 2 x 3 patches, mixed by one attention layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.last = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Identity()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, tokens):
        tokens = self.norm(self.embed(tokens))
        return self.fc(self.last(self.mix(tokens, tokens, tokens)[0])[:, 0])


def test_tokens_become_maps():
    torch.manual_seed(0)
    net, tokens = Tokens().eval(), torch.rand(2, 7, 4)
    reshape = functools.partial(interop.tokens_to_map, grid=(2, 3))
    _, features, gradients = interop.gradients_of(net, tokens, "norm", reshape=reshape)
    _, as_channels, moved = interop.gradients_of(net, tokens, "norm", reshape=lambda x: x.mT[..., None])
    assert features.shape == gradients.shape == (2, 8, 2, 3)
    torch.testing.assert_close(features.flatten(2), as_channels[:, :, 1:, 0], rtol=0, atol=0)
    torch.testing.assert_close(gradients.flatten(2), moved[:, :, 1:, 0], rtol=0, atol=0)
    maps = interop.grad_cam(net, tokens, "norm", kind="hires_cam", reshape=reshape)
    torch.testing.assert_close(maps, ops.min_max_normalize((features * gradients).sum(1).relu()))


def test_a_layer_after_which_patches_are_not_read_has_a_zero_map_and_a_warning():
    net, reshape = Tokens().eval(), functools.partial(interop.tokens_to_map, grid=(2, 3))
    with pytest.warns(UserWarning, match="gradient of a class at 'last' is zero everywhere"):
        maps = interop.grad_cam(net, torch.rand(2, 7, 4), "last", reshape=reshape)
    assert not maps.any()


def test_a_map_that_is_zero_for_want_of_evidence_is_no_reason_to_warn(net, images):
    with torch.no_grad():
        net.norm.weight.fill_(0)
        net.norm.bias.fill_(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = interop.grad_cam(net, images, "twice", torch.zeros(3, dtype=torch.int64), kind="layer_cam")
    assert maps.shape == (3, 6, 7)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("stemm", {}, "^grad_cam: Net has no layer 'stemm'; did you mean 'stem'"),
        ("head", {}, "^grad_cam: Net has no layer 'head'"),
        ("aside", {}, "^grad_cam: the class scores do not depend on 'aside'"),
        ("pair", {}, "'pair' gives a tuple, not a tensor; choose another"),
        (
            "fc",
            {},
            r"layer 'fc': expected floating-point maps \[N, C, h, w\], got torch.float64 \[3, 5\]; give reshape",
        ),
        ("norm", {"reshape": lambda x: x[0]}, "got torch.float64 .4, 6, 7.; from reshape"),
        ("norm", {"kind": "layercam"}, "no kind 'layercam'; did you mean 'layer_cam'"),
        ("norm", {"kind": "scg"}, "no kind 'scg'"),
        ("norm", {"kind": "bagcams", "giuded": True}, "bagcams has no option 'giuded'; it has guided"),
        ("norm", {"guided": True}, "grad_cam has no option 'guided'; it has none"),
        ("norm", {"classes": torch.tensor([0, 5, 1])}, "^grad_cam: classes are 0 to 4, got 0 to 5"),
        ("norm", {"classes": torch.tensor([0, 1])}, "expected integer classes of 3 images"),
        ("norm", {"classes": torch.tensor([0.0, 1, 2])}, "expected integer classes"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(net, images, layer, options, message):
    with pytest.raises(ValueError, match=message) as error:
        interop.grad_cam(net, images, layer, **options)
    assert "\n" not in str(error.value)
    assert not any(child._forward_hooks for child in net.modules())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda logits: {"scores": logits}, "expected logits .3, K. from the network, got a dict without them"),
        (lambda logits: logits[:, :, None], r"got \[3, 5, 1\]"),
        (lambda logits: (), "got a tuple without them"),
        (lambda logits: logits.detach(), "do not depend on 'norm'"),
    ],
)
def test_outputs_without_scores_are_refused(net, images, head, message):
    net.head = head
    with pytest.raises(ValueError, match=message):
        interop.grad_cam(net, images, "norm")


@pytest.mark.parametrize("call", [interop.grad_cam, interop.gradients_of])
def test_training_mode_is_refused(net, images, call):
    with pytest.raises(ValueError, match=r"Net is in training mode.*call model\.eval\(\) first"):
        call(net.train(), images, "norm")
    net.eval().norm.train()
    with pytest.raises(ValueError, match="norm is in training mode"):
        call(net, images, "norm")


def test_values_that_are_not_finite_are_refused(net, images):
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="features or gradients of 'norm' hold NaN"):
        interop.grad_cam(net, images, "norm")


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), {}, "expected floating-point images"),
        (torch.zeros(2, 3, 4), {}, "expected floating-point images"),
        (torch.zeros(2, 3, 6, 7).double(), {"smooth": 0.5}, "smooth"),
    ],
)
def test_images_without_gradients_are_refused(net, images, options, message):
    with pytest.raises(ValueError, match=message):
        interop.backprop(net, images, **options)


def test_sem_compares_with_seeds():
    features = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]]).view(1, 2, 2, 2)
    maps = torch.tensor([0.9, 0.5, 0.2, 0]).view(1, 2, 2)
    for seeds, wanted in ((1, [1, 0.5**0.5, 0, 0]), (2, [1, 1, 0.5**0.5, 0])):
        found = interop.sem(features, maps, seeds=seeds)
        torch.testing.assert_close(found.flatten(), torch.tensor(wanted))
    both = interop.sem(features, torch.stack([maps, 1 - maps], 1), seeds=1)
    assert both.shape == (1, 2, 2, 2)
    torch.testing.assert_close(both[:, 0], interop.sem(features, maps, seeds=1))


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        (torch.zeros(3, 4, 4), {}, "sem: expected floating-point features"),
        (torch.zeros(2, 4), {}, "sem: expected floating-point features"),
        (torch.zeros(2, 4, 4), {"seeds": 0}, "seeds: expected at least 1"),
        (torch.zeros(2, 4, 4), {"aggregate": "sum"}, "aggregate: expected one of max, mean"),
    ],
)
def test_sem_refuses_what_does_not_fit(maps, options, message):
    with pytest.raises(ValueError, match=message):
        interop.sem(torch.zeros(2, 3, 4, 4), maps, **options)
