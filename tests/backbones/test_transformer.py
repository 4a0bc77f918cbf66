"""Vision transformers as backbones: tokens on their grid, and class attention that fused attention does not keep."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.backbones import CLASS_ATTENTION, CLASS_TOKEN, BackboneError, _timm
from wsolfast.backbones._transformer import TransformerBackbone
from wsolfast.testing import assert_close, seeded

# Of two blocks each: the plain one, and every way in which queries and keys are changed before they meet.
KINDS = {
    "plain": ("deit_tiny_patch16_224", {}),
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
    "normalised queries and keys": ("deit_tiny_patch16_224", {"qk_norm": True}),
    "rotated": ("eva02_tiny_patch14_224", {}),
    "rotated, registers": ("vit_small_patch16_dinov3", {}),
    "position biases": ("beit_base_patch16_224", {}),
}


def create(kind, **options):
    """A backbone of two blocks in float64, on images of 4 x 4 patches."""
    torch.manual_seed(0)
    name, own = KINDS[kind]
    side = 56 if "patch14" in name else 64
    net = import_timm().create_model(name, num_classes=0, depth=2, img_size=side, **own, **options)
    return TransformerBackbone(net).double().eval()


def images(backbone, count=2, height=4, width=4):
    stride = backbone.stages[-1].stride
    return torch.randint(0, 256, (count, 3, height * stride, width * stride), dtype=torch.uint8)


def build(name="deit_tiny_patch16_224", size=64, **options):
    torch.manual_seed(0)
    return backbones.build(f"timm:{name}", input_size=size, **options).double().eval()


def unfused_attention(backbone, image):
    """timm's own softmax of every block, [N, L, H, T, T], by its code without fused attention."""
    net, seen = copy.deepcopy(backbone.net), []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    net.forward_features(backbone.normalize(image))
    return torch.stack(seen, 1)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_class_attention_is_the_row_of_unfused_attention(kind):
    backbone = create(kind)
    image = images(backbone)
    plain = backbone(image)
    assert CLASS_ATTENTION not in plain
    backbone.require_class_attention("evaluation")
    found = backbone(image)
    expected = unfused_attention(backbone, image)[:, :, :, 0, backbone.prefix_tokens :]
    assert_close(found[CLASS_ATTENTION].flatten(3), expected)
    assert found[CLASS_ATTENTION].shape[3:] == (4, 4)
    # The features still come from fused attention.
    assert all(torch.equal(found[name], one) for name, one in plain.items())
    assert CLASS_ATTENTION not in backbone.train()(image)


class Largest(TorchFunctionMode):
    """Notes the most elements of any tensor that a function returns."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.elements = max(self.elements, found.numel())
        return found


@torch.no_grad()
def test_no_square_of_tokens_is_made():
    backbone = build(size=224)
    backbone.require_class_attention("evaluation")
    with Largest() as seen:
        backbone(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    tokens, width = 197, 192
    assert seen.elements == tokens * 4 * width  # the hidden layer of a block
    assert seen.elements < 3 * tokens**2 * 12  # the attention of all blocks, which the released code stacks


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_last_stage_is_the_patches_after_the_final_norm(kind):
    backbone = create(kind)
    image = images(backbone)
    found = backbone(image)
    tokens = backbone.net.forward_features(backbone.normalize(image))
    if backbone.net.global_pool == "avg" and isinstance(backbone.net.norm, torch.nn.Identity):
        tokens = backbone.net.fc_norm(tokens)
    assert [stage.name for stage in backbone.stages] == ["block0", "block1"]
    prefix = backbone.prefix_tokens
    assert torch.equal(found["block1"].flatten(2).mT, tokens[:, prefix:])
    assert torch.equal(found[CLASS_TOKEN], tokens[:, 0])


def test_four_stages_are_read_from_deep_networks():
    backbone = build()
    assert [(stage.name, stage.channels, stage.stride) for stage in backbone.stages] == [
        (f"block{index}", 192, 16) for index in (2, 5, 8, 11)
    ]


@torch.no_grad()
def test_patches_stand_row_by_row_on_grids_that_are_not_square():
    backbone = build()
    image = torch.zeros(1, 3, 48, 80, dtype=torch.uint8)
    plain = backbone(image)["block11"]
    assert plain.shape == (1, 192, 3, 5)
    image[..., 16:32, 64:80] = 255
    moved = (backbone(image)["block2"] - backbone(torch.zeros_like(image))["block2"]).abs().sum(1)[0]
    assert divmod(int(moved.argmax()), 5) == (1, 4)


def test_images_that_no_grid_fits_are_refused():
    with pytest.raises(ValueError, match="multiples of the patch, 16x16 pixels, got 60x64"):
        build()(torch.zeros(1, 3, 60, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"takes images of \(64, 64\) only, got 32x64"):
        create("position biases")(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))


def test_an_empty_batch_has_features_and_attention():
    backbone = build()
    backbone.require_class_attention("always")
    found = backbone(torch.zeros(0, 3, 64, 64, dtype=torch.uint8))
    assert found["block11"].shape == (0, 192, 4, 4)
    assert found[CLASS_ATTENTION].shape == (0, 12, 3, 4, 4)


@torch.no_grad()
def test_attention_of_16_bits_is_float32():
    backbone = build().float()
    backbone.require_class_attention("evaluation")
    image = images(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(image)[CLASS_ATTENTION]
    assert found.dtype == torch.float32
    exact = backbone(image)[CLASS_ATTENTION]
    torch.testing.assert_close(found, exact, rtol=0.03, atol=0.01)  # 8 bits of mantissa, scores below 1


def test_attention_in_training_passes_gradients_to_queries_and_keys():
    backbone = create("plain")
    backbone.require_class_attention("always")
    backbone.train()(images(backbone))[CLASS_ATTENTION][..., 0, 0].sum().backward()
    grad = backbone.net.blocks[1].attn.qkv.weight.grad
    width = grad.shape[1]
    assert grad[: 2 * width].any()
    assert not grad[2 * width :].any()  # values of the last block have no part in it


def test_networks_without_class_attention_say_so():
    for name in ("small", "timm:test_vit2", "timm:resnet10t"):
        with pytest.raises(BackboneError, match="has no class token; choose a transformer with one"):
            backbones.build(name, input_size=64).require_class_attention("evaluation")
    backbone = create("plain", attn_layer="diff")
    with pytest.raises(BackboneError, match=r"blocks\.0 has DiffAttention; class attention wants one softmax"):
        backbone.require_class_attention("evaluation")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint of timm's own, made for 224 pixels, and the network that it is of."""
    torch.manual_seed(1)
    net = import_timm().create_model("deit_tiny_patch16_224", num_classes=7).eval()
    torch.nn.init.normal_(net.head.weight)
    file = tmp_path_factory.mktemp("weights") / "deit.safetensors"
    save_file(net.state_dict(), file)
    return file, net


@torch.no_grad()
def test_position_embeddings_are_resized_to_the_input(published):
    file, whole = published
    backbone = build(size=96, weights=str(file))
    assert backbone.net.pos_embed.shape == (1, 37, 192)
    twin = copy.deepcopy(whole).double()
    twin.set_input_size((96, 96))
    image = images(backbone, height=6, width=6)
    expected = twin.forward_features(backbone.normalize(image))
    found = backbone(image)["block11"].flatten(2).mT
    assert_close(found, expected[:, 1:], tolerance=1e-5)  # the embedding is resized in float32 there and here
    assert backbone.load_report.left_in_file == ()
    again = build(size=128)
    again.load_state_dict(backbone.state_dict())
    assert again.net.pos_embed.shape == (1, 65, 192)


@torch.no_grad()
def test_the_classifier_of_the_class_token_comes_with_the_weights(published):
    file, whole = published
    backbone = backbones.build("timm:deit_tiny_patch16_224", weights=str(file)).eval()
    image = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    classifier = backbone.classifier
    assert classifier.of_class_token
    logits = functional.linear(backbone(image)[CLASS_TOKEN], classifier.weight, classifier.bias)
    torch.testing.assert_close(logits, whole(backbone.normalize(image)))


def test_only_linear_heads_count_as_classifiers():
    create_model = import_timm().create_model
    heads = {name: _timm._head_of(create_model(name)) for name in ("test_vit", "test_vit2", "test_vit3")}
    assert heads == {"test_vit": "head", "test_vit2": None, "test_vit3": None}
    assert _timm._head_of(create_model("vit_tiny_patch16_224", global_pool="avg", fc_norm=False)) == "head"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["block0", "block1"])
def test_gradients_at_a_stage_are_those_of_the_whole_graph(kind, stage):
    backbone = create(kind).requires_grad_(False)
    image = images(backbone)
    weight = seeded((backbone.stages[-1].channels, 4, 4), dtype=torch.float64)
    found = backbone.features_with_graph(image, stage)
    (grad,) = torch.autograd.grad((found["block1"] * weight).sum(), found[stage])
    plain = backbone(image)
    assert all(torch.equal(found[name], one) for name, one in plain.items())
    # Central differences along one direction of the patches.
    direction, step = seeded(found[stage].shape, dtype=torch.float64), 1e-6
    if stage == "block1":
        assert_close(grad, weight.expand_as(grad))
        return
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(backbone)
        moved.insert(stage, "move", Move(sign * step * direction))
        ends.append((moved(image)["block1"] * weight).sum())
    numeric = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((grad * direction).sum(), numeric, rtol=1e-6, atol=1e-6)  # truncation of the step


class Move(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, features):
        return features + self.by


@torch.no_grad()
def test_inserted_modules_see_patches_and_later_blocks_read_them():
    backbone = build()
    image = images(backbone)
    plain = backbone(image)
    same = copy.deepcopy(backbone)
    same.insert("block5", "same", torch.nn.Identity())
    same.insert("block11", "last", Move(torch.ones(())))
    found = same(image)
    assert torch.equal(found["block8"], plain["block8"])
    assert torch.equal(found["block11"], plain["block11"] + 1)
    other = copy.deepcopy(backbone)
    other.insert("block5", "moved", Move(torch.ones(())))
    found = other(image)
    assert torch.equal(found["block5"], plain["block5"] + 1)
    assert not torch.equal(found["block8"], plain["block8"])
    twin = copy.deepcopy(other)
    other.moved.by.zero_()
    assert torch.equal(twin(image)["block5"], found["block5"])
    with pytest.raises(BackboneError, match="there is a 'moved' already"):
        other.insert("block2", "moved", torch.nn.Identity())
    with pytest.raises(BackboneError, match="no stage 'conv5' to insert 'x' after; there are block2, block5"):
        other.insert("conv5", "x", torch.nn.Identity())


@torch.no_grad()
def test_images_that_a_module_adds_take_the_prefix_of_the_first():
    class Twice(torch.nn.Module):
        def forward(self, features):
            return torch.cat([features, features[:1]])

    backbone = create("registers")
    image = images(backbone)
    plain = backbone(image)["block1"]
    backbone.insert("block0", "twice", Twice())
    found = backbone(image)["block1"]
    assert_close(found, torch.cat([plain, plain[:1]]))


def test_frozen_blocks_take_no_gradient():
    backbone = build()
    backbone.freeze("block5")
    backbone.train()(images(backbone))["block11"].square().sum().backward()
    reached = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    open_blocks = {"net.norm.weight", "net.norm.bias"}
    later = tuple(f"net.blocks.{index}." for index in range(6, 12))
    open_blocks |= {name for name, _ in backbone.named_parameters() if name.startswith(later)}
    assert reached == open_blocks
    whole = build()
    whole.freeze("block11")
    assert not any(parameter.requires_grad for parameter in whole.parameters())


def test_a_transformer_runs_from_the_image_on():
    backbone = build()
    features = backbone(images(backbone))
    assert backbone.extract_from("block11", features["block11"]) == {}
    with pytest.raises(BackboneError, match="does not run from 'block5' on"):
        backbone.extract_from("block5", features["block5"])


def test_drop_path_skips_branches_in_training_alone():
    backbone = build(drop_path=0.5)
    rates = [block.drop_path1.drop_prob for block in backbone.net.blocks[1:]]
    assert rates == pytest.approx([0.5 * index / 11 for index in range(1, 12)], rel=1e-6)  # float32 in timm
    image = images(backbone)
    assert torch.equal(backbone(image)["block11"], build()(image)["block11"])
    first, second = (backbone.train()(image)["block11"] for _ in range(2))
    assert not torch.equal(first, second)
