"""The command and its errors: published checkpoints in, runs out, and nothing of a checkpoint is ever run."""

import argparse
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published import CiCam, NlCcam, Spa, Trunk, ready
from safetensors.torch import load_file, save_file

from wsolfast.convert import list_sources, read_checkpoint
from wsolfast.recipe import list_recipes, load_recipe

SMALL_IMAGES = [
    "data.name=synthetic",
    "data.options={num_classes=7, size=64, num_test=4, num_val=2}",
    "data.resize=64",
    "data.crop=48",
]


@pytest.fixture(scope="module")
def spa_state():
    return ready(Spa(7, 8)).state_dict()


@pytest.fixture(scope="module")
def ci_cam():
    return ready(CiCam(Trunk((2, 3, 4, 5)), 512, 7, 14))


class Evil:
    """Pickled code that would leave a file behind."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


SPA = ["--name", "spa", "stage.model.hidden_channels=8"]


def refused(wsolfast, code, *words):
    found, out, err = wsolfast("convert", *words)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("error: ")
    assert not Path("it-ran").exists()
    assert not Path("runs").exists()
    return err


def test_a_converted_run_is_measured_and_used_as_it_is(wsolfast, tmp_path):
    net = ready(NlCcam(7))
    torch.save(net.state_dict(), "vgg_cnn_cub_100.pth")
    code, out, err = wsolfast("convert", "vgg_cnn_cub_100.pth", "stage.model.gamma_m=3", *SMALL_IMAGES)
    assert code == 0, err
    run = Path("runs") / "nlccam_cub_vgg16-published"
    assert f"measure it: wsolfast eval {run} data.root=DIR" in out
    kept = load_file(run / "checkpoints" / "model.safetensors")
    assert torch.equal(kept["classifier.weight"], net.classifier[0].weight)
    card = json.loads((run / "card.json").read_text())
    assert card["source"] == "nl_ccam"
    assert card["file"]["name"] == "vgg_cnn_cub_100.pth"
    assert card["tensors"]["backbone.non_local_conv5.mix.weight"] == "conv.33.mix_conv.weight"
    assert card["published"]["top1_loc"] == 52.4
    assert card["parameters"] == sum(tensor.numel() for tensor in kept.values())
    code, out, err = wsolfast("eval", run, "--json", "--protocol", "spa")
    assert code == 0, err
    assert json.loads(out)["num_images"] == 4
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save("a.png")
    code, out, err = wsolfast("localize", run, "a.png")
    assert code == 0, err
    assert out.startswith("map: NL-CCAM\na.png: ")
    code, _, err = wsolfast("convert", "vgg_cnn_cub_100.pth")
    assert code == 2
    assert "start it over with --exist-ok" in err


def test_a_dry_run_prints_where_every_tensor_goes_and_writes_nothing(wsolfast, spa_state):
    torch.save({f"module.{name}": tensor for name, tensor in spa_state.items()}, "spa.pth")
    code, out, err = wsolfast("convert", "spa.pth", "--dry-run", *SPA)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["head.classifier.weight", "<-", "cls.4.weight", "[7,", "8,", "1,", "1]"] in lines
    assert ["backbone.features.28.bias", "<-", "conv5.4.bias", "[512]"] in lines
    assert "dropped 2 tensors: conv5_add.0.weight, conv5_add.0.bias (constructed, never run)" in out
    assert not Path("runs").exists()


def test_what_training_programs_store_besides_is_passed_over(wsolfast, spa_state):
    beside = {"args": argparse.Namespace(lr=0.1, gpus=[0]), "best": np.float64(71.5), "prec": torch.tensor(3.0)}
    torch.save(
        {"epoch": 3, "state_dict": spa_state, "optimizer": {"state": {}, "param_groups": []}} | beside, "spa.pth"
    )
    code, out, err = wsolfast("convert", "spa.pth", *SPA)
    assert code == 0, err
    assert "SPA, VGG16" in out


def test_a_legacy_file_and_safetensors_are_read(wsolfast, spa_state):
    torch.save({"state_dict": spa_state}, "old.pth.tar", _use_new_zipfile_serialization=False)
    save_file({name: tensor.contiguous() for name, tensor in spa_state.items()}, "new.safetensors")
    for file in ("old.pth.tar", "new.safetensors"):
        code, _, err = wsolfast("convert", file, *SPA, "--exist-ok", "--quiet")
        assert code == 0, err
        assert torch.equal(
            load_file("runs/spa/checkpoints/model.safetensors")["head.hidden.0.weight"], spa_state["cls.0.weight"]
        )


@pytest.mark.parametrize("where", ["beside", "inside", "in place of a tensor", "in the arguments"])
def test_code_in_a_checkpoint_is_refused_and_not_run(wsolfast, spa_state, where):
    content = {
        "beside": {"state_dict": spa_state, "hook": Evil()},
        "inside": spa_state | {"hook": Evil()},
        "in place of a tensor": spa_state | {"cls.0.weight": Evil()},
        "in the arguments": {"state_dict": spa_state, "args": argparse.Namespace(hook=Evil())},
    }[where]
    torch.save(content, "evil.pth")
    err = refused(wsolfast, 3, "evil.pth", *SPA)
    assert "posix.mkdir, which is not loaded because it could run anything" in err


def test_code_in_a_pool_is_refused_and_not_run(wsolfast, ci_cam):
    torch.save(ci_cam.state_dict(), "net_train_a.pth")
    pool = Path("mask_train_a.pth")
    pool.write_bytes(pickle.dumps(Evil()))
    assert "asks for posix.mkdir, which is not loaded" in refused(wsolfast, 3, "net_train_a.pth")
    # A tensor's storage is a file within the pickle: code could hide one level deeper.
    torch.save(Evil(), "storage", _use_new_zipfile_serialization=False)
    pool.write_bytes(pickle.dumps(_Disguised(Path("storage").read_bytes())))
    assert "cannot be read as a context pool: Weights only load failed" in refused(wsolfast, 3, "net_train_a.pth")


class _Disguised:
    """Pickled as torch pickles a tensor, with any bytes for its storage."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (_Storage(self.content), 0, (1, 2, 2), (4, 2, 1), False, {})


class _Storage(_Disguised):
    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def test_a_pool_is_looked_for_beside_the_checkpoint_or_named(wsolfast, ci_cam):
    torch.save(ci_cam.state_dict(), "net_train_a.pth")
    assert "no context pool at mask_train_a.pth; give --pool FILE" in refused(wsolfast, 3, "net_train_a.pth")
    os.rename("net_train_a.pth", "a.pth")
    assert "comes without its context pool" in refused(wsolfast, 3, "a.pth")
    Path("pool.pth").write_bytes(pickle.dumps(ci_cam.mask.cpu()))
    for pool, expected in (("pool.pth", ci_cam.mask), ("none", torch.zeros(7, 14, 14))):
        code, _, err = wsolfast("convert", "a.pth", "--pool", pool, "--exist-ok")
        assert code == 0, err
        assert torch.equal(
            load_file("runs/cicam_cub_vgg16-published/checkpoints/model.safetensors")["pool.maps"], expected
        )


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (torch.zeros(7, 14), "holds a tensor [7, 14], expected a context pool [classes, height, width]"),
        (torch.zeros(6, 14, 14), "pool.maps [6, 14, 14] instead of [7, 14, 14]"),
        ([1.0], "holds a list, expected a context pool"),
        (None, "cannot be read as a context pool"),
    ],
)
def test_a_pool_of_another_kind_is_refused(wsolfast, ci_cam, pool, message):
    torch.save(ci_cam.state_dict(), "net_train_a.pth")
    Path("mask_train_a.pth").write_bytes(b"\x80\x02torn" if pool is None else pickle.dumps(pool))
    assert message in refused(wsolfast, 3, "net_train_a.pth")


def test_damaged_and_absent_files_are_one_line(wsolfast, spa_state):
    torch.save(spa_state, "spa.pth")
    torch.save(spa_state, "old.pth", _use_new_zipfile_serialization=False)
    for file in map(Path, ("spa.pth", "old.pth")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        assert f"{file} cannot be read as weights" in refused(wsolfast, 3, file)
    assert "no weights at absent.pth" in refused(wsolfast, 3, "absent.pth")


def test_tensors_that_do_not_fit_are_named(wsolfast, spa_state):
    def saved(**changes):
        state = {name: tensor for name, tensor in (spa_state | changes).items() if tensor is not None}
        torch.save(state, "spa.pth")
        return "spa.pth"

    err = refused(wsolfast, 3, saved(**{"cls.2.bias": None}), *SPA)
    assert "lacks 1 tensors of recipe spa_cub_vgg16: cls.2.bias" in err
    err = refused(wsolfast, 3, saved(**{"cls.0.scale": torch.zeros(2)}), *SPA)
    assert "recipe spa_cub_vgg16 has no place for 1 tensors: cls.0.scale" in err
    err = refused(wsolfast, 3, saved(), "--name", "spa")
    assert "does not fit recipe spa_cub_vgg16 in shape: cls.0.weight [8, 512, 3, 3] instead of [1024, 512, 3, 3]" in err
    err = refused(wsolfast, 3, saved(**{"cls.4.weight": None}), *SPA)
    assert "lacks cls.4.weight, a row per class" in err


def test_unknown_and_wrong_sources_name_the_nearest(wsolfast, spa_state):
    torch.save(spa_state, "spa.pth")
    err = refused(wsolfast, 3, "spa.pth", "--source", "nl-ccam")
    assert "is of no known layout of nl_ccam; nearest is nl_ccam: NL-CCAM, VGG16" in err
    assert "lacks conv.0, conv.2, conv.5" in err
    assert "did you mean 'ci_cam'" in refused(wsolfast, 2, "spa.pth", "--source", "cicam")
    torch.save({"layer1.weight": torch.zeros(3)}, "other.pth")
    assert "other.pth is of no known layout; nearest is" in refused(wsolfast, 3, "other.pth")
    torch.save({name: spa_state[name] for name in spa_state if not name.startswith("conv4")}, "part.pth")
    assert "nearest is spa: SPA, VGG16 (recipe spa_cub_vgg16), of whose 16 modules it lacks conv4.0" in refused(
        wsolfast, 3, "part.pth"
    )
    assert "has no context pool; leave it out" in refused(wsolfast, 2, "spa.pth", "--pool", "none")


def test_the_number_of_classes_chooses_the_recipe(spa_state, tmp_path):
    for classes, name in ((200, "spa_cub_vgg16"), (1000, "spa_ilsvrc_vgg16"), (37, "spa_cub_vgg16")):
        head = {"cls.4.weight": torch.zeros(classes, 8, 1, 1), "cls.4.bias": torch.zeros(classes)}
        torch.save(spa_state | head, tmp_path / "spa.pth")
        found = read_checkpoint(tmp_path / "spa.pth", overrides=["stage.model.hidden_channels=8"])
        assert found.recipe.name == name
        assert found.recipe.stage[0].num_classes == classes


@pytest.mark.parametrize("source", list_sources())
def test_every_recipe_of_a_layout_exists_and_is_of_one_network(source):
    from wsolfast.convert import _source

    for layout in _source(source).LAYOUTS:
        recipes = [load_recipe(name) for name in layout.recipes.values()]
        assert set(layout.recipes.values()) <= set(list_recipes())
        assert len({recipe.stage[-1].backbone.name for recipe in recipes}) == 1
