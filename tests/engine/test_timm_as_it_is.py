"""Networks of timm as they are localise photos: by CAM, by class attention, or by gradients through their head."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wsolfast._compat import import_timm
from wsolfast.backbones import _weights, class_names_of
from wsolfast.engine.pretrained import recipe_of
from wsolfast.engine.run.errors import UsageError


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return "photo.png"


LINEAR = "HiResCAM at conv5: before its ReLU it adds up to the class score, as CAM does"
APPROXIMATE = "HiResCAM at block8: a linear approximation, the head is not linear"
NETWORKS = {
    "test_resnet": ("cam", "CAM"),
    "test_vit": ("class_attention", "Class attention: the same for every class"),
    "test_efficientnet": ("wsolfast.methods:WholeNetwork", LINEAR),
    "test_convnext": ("wsolfast.methods:WholeNetwork", LINEAR),
    "test_vit3": ("wsolfast.methods:WholeNetwork", APPROXIMATE),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_photo_is_localised_with_weights_from_a_file(wsolfast, tmp_path, photo, name):
    method, taken = NETWORKS[name]
    torch.manual_seed(0)
    net = import_timm().create_model(name)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "own.safetensors")
    code, out, err = wsolfast("localize", f"timm:{name}", photo, "--weights", "own.safetensors")
    assert code == 0, err
    assert out.startswith(f"map: {taken}\n")
    run = tmp_path / "runs" / f"timm-{name}"
    found = json.loads((run / "localized" / "boxes.json").read_text())
    (image,) = found["images"]
    assert found["map"] == taken
    names = class_names_of("pretrained", f"timm:{name}")
    assert len(names) == 1000
    assert image["class_name"] == names[image["class_id"]]
    assert f"photo.png: {image['class_name']}" in out
    assert image["boxes"]
    recipe = (run / "recipe.toml").read_text()
    assert f'method = "{method}"' in recipe
    code, _, err = wsolfast("localize", run, photo, "--class", names[7])
    assert code == 0, err


def test_images_are_seen_as_the_weights_want_them():
    recipe = recipe_of("timm:deit_base_patch16_384")
    (stage,) = recipe.stage
    assert (recipe.name, recipe.data.resize, recipe.data.crop) == ("timm/deit_base_patch16_384", 384, 384)
    assert (stage.method, stage.num_classes, stage.backbone.weights) == ("class_attention", 1000, "pretrained")
    assert recipe_of("imagenet/resnet50").stage[0].backbone.name == "resnet50"


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("regnetx_002", "cam"),
        ("vit_base_patch16_siglip_gap_224", None),
        ("deit_tiny_distilled_patch16_224", "wsolfast.methods:WholeNetwork"),
        ("swin_tiny_patch4_window7_224", "wsolfast.methods:WholeNetwork"),
        # Class tokens whose attention is the difference of two softmaxes.
        ("vit_dpwee_patch16_reg1_gap_256", "wsolfast.methods:WholeNetwork"),
        ("vit_small_patch14_reg4_dinov2", None),
        ("convnextv2_atto.fcmae", None),
    ],
)
def test_every_network_that_classifies_has_a_way_to_its_map(name, method):
    if method is None:
        with pytest.raises(UsageError, match=f"^timm:{name}: its weights have no classifier, [^\n]*$"):
            recipe_of(f"timm:{name}")
    else:
        recipe = recipe_of(f"timm:{name}")
        assert recipe.stage[0].method == method
        assert recipe.evaluate.post == ("none" if method == "cam" else "hires_cam")


def test_a_whole_network_wants_a_refinement_that_takes_gradients(wsolfast, tmp_path, photo):
    net = import_timm().create_model("test_convnext")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "own.safetensors")
    localize = ("localize", "timm:test_convnext", photo, "--weights", "own.safetensors", "--post")
    code, _, err = wsolfast(*localize, "none")
    assert (code, err.count("\n")) == (2, 1), err
    assert "evaluate.post: WholeNetwork has no maps by itself, got 'none'; use hires_cam" in err
    code, _, err = wsolfast(*localize, "nwc")
    assert (code, err.count("\n")) == (2, 1), err
    assert "WholeNetwork has no linear classifier on pooled features" in err
    code, out, err = wsolfast(*localize, "layer_cam")
    assert code == 0, err
    assert out.startswith("map: LayerCAM at conv5")


def test_what_is_absent_is_one_line(wsolfast, monkeypatch, photo):
    code, _, err = wsolfast("localize", "timm:resnet81", photo)
    assert (code, err.count("\n")) == (2, 1)
    assert "timm has no model 'resnet81'; did you mean" in err

    def offline(*args, **kwargs):
        raise TimeoutError("timed out")

    monkeypatch.setattr(_weights, "urlopen", offline)
    code, _, err = wsolfast("localize", "timm:test_vit", photo)
    assert (code, err.count("\n")) == (3, 1), err
    assert "is not cached and https://" in err
