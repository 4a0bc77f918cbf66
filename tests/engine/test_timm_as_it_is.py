"""Networks of timm as they are localise photos: by CAM or by class attention, whichever their classifier allows."""

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


@pytest.mark.parametrize(("name", "method"), [("test_vit", "class_attention"), ("test_resnet", "cam")])
def test_a_photo_is_localised_with_weights_from_a_file(wsolfast, tmp_path, photo, name, method):
    torch.manual_seed(0)
    net = import_timm().create_model(name)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "own.safetensors")
    code, out, err = wsolfast("localize", f"timm:{name}", photo, "--weights", "own.safetensors")
    assert code == 0, err
    run = tmp_path / "runs" / f"timm-{name}"
    (image,) = json.loads((run / "localized" / "boxes.json").read_text())["images"]
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


@pytest.mark.parametrize("name", ["test_convnext", "test_vit2", "test_vit3", "deit_tiny_distilled_patch16_224"])
def test_networks_whose_features_give_no_map_are_refused(name):
    with pytest.raises(UsageError, match=f"^timm:{name}: more than a linear layer stands between [^\n]*$"):
        recipe_of(f"timm:{name}")


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
