"""Decoders and the cache of decoded images, as recipes ask for them."""

import logging

import pytest
import torch

from wsolfast.data import Dataset
from wsolfast.engine.assembly.build import open_training_data
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import change_runtime, recipe_hash, train
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe

CHANGING = ("seconds", "evaluated", "images_per_second", "throughput", "environment")


def weights(run):
    from safetensors.torch import load_file

    return load_file(run.weights_path("localizer"))


@pytest.mark.parametrize("gigabytes", ["1", "0.0001"])
def test_training_and_evaluation_are_the_same_from_the_cache(trained, tiny, tmp_path, gigabytes, caplog):
    expected = evaluate(trained)
    cached = [f"runtime.cache_gb={gigabytes}", f"runtime.cache_dir={tmp_path / 'cache'}"]
    for name in ("first", "second"):
        run = RunFolder.create(tmp_path / name, tiny(*cached))
        with caplog.at_level(logging.WARNING):
            train(run)
        assert all(torch.equal(ours, weights(trained)[key]) for key, ours in weights(run).items())
        results = evaluate(run)
        assert {key: value for key, value in results.to_json().items() if not key.startswith(CHANGING)} == {
            key: value for key, value in expected.to_json().items() if not key.startswith(CHANGING)
        }
    total = sum(file.stat().st_size for file in (tmp_path / "cache").iterdir())
    assert 0 < total <= float(gigabytes) * 1e9
    assert ("is full" in caplog.text) == (gigabytes != "1")


@pytest.mark.parametrize(("gigabytes", "decoded"), [("1", "once"), ("0.00001", "every epoch")])
def test_training_is_the_same_from_images_in_the_devices_memory(
    trained, tiny, tmp_path, monkeypatch, gigabytes, decoded
):
    reads = []
    wholes = Dataset._wholes
    monkeypatch.setattr(Dataset, "_wholes", lambda self, *image: reads.append(image) or wholes(self, *image))
    run = RunFolder.create(tmp_path / "held", tiny(f"runtime.device_cache_gb={gigabytes}"))
    train(run)
    assert all(torch.equal(ours, weights(trained)[key]) for key, ours in weights(run).items())
    images = len(open_training_data(run.recipe, run.recipe.stage[0]))
    assert (len(reads) == images) == (decoded == "once")
    assert ("are decoded every epoch" in (run.path / "train.log").read_text()) == (decoded == "every epoch")


def test_images_that_are_resampled_are_not_held(tiny, tmp_path):
    run = RunFolder.create(tmp_path / "held", tiny("runtime.device_cache_gb=1", "data.crop_area=[0.5, 1.0]"))
    with pytest.raises(RecipeError, match=r"runtime\.device_cache_gb: images are held for views that crop and mirror"):
        train(run)


def test_absent_settings_leave_recipes_and_checkpoints_as_they_were(tiny):
    text = dump_recipe(tiny())
    assert "decoder" not in text
    assert "cache" not in text
    same = recipe_hash(tiny())
    assert recipe_hash(tiny("data.decoder=pil", "runtime.cache_gb=2")) == same


def test_a_run_continues_with_another_decoder_and_not_with_another_view(trained):
    text = dump_recipe(trained.recipe)
    change_runtime(trained, parse_recipe(text, "tiny", ["data.decoder=pil"]))
    with pytest.raises(RecipeError, match="continues with its own recipe"):
        change_runtime(trained, parse_recipe(text, "tiny", ["data.keep_aspect=true"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.decoder=nvjpeg", "data.decoder: expected one of auto, pil, simplejpeg, cuda, got 'nvjpeg'"),
        ("data.decoder=fast", "data.decoder: expected one of auto, pil, simplejpeg, cuda, got 'fast'"),
        ("runtime.cache_gb=-1", "runtime.cache_gb: expected 0 or more, got -1"),
        ("runtime.device_cache_gb=-1", "runtime.device_cache_gb: expected 0 or more, got -1"),
    ],
)
def test_what_cannot_be_meant_is_said(tiny, override, message):
    with pytest.raises(RecipeError, match=message):
        tiny(override)


@pytest.fixture
def photographs(tmp_path):
    """A ``folder`` of JPEGs."""
    import numpy as np
    from PIL import Image

    rows = ["image,split,class_id,x0,y0,x1,y1"]
    for i in range(8):
        smooth = np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((90, 100), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.jpg")
        rows.append(f"{i}.jpg,{('train', 'test')[i % 2]},{i // 2 % 2},10,10,60,70")
    (tmp_path / "annotations.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_the_decoder_is_named_and_maps_do_not_depend_on_it(tiny_file, photographs, coarse_sweep):
    pytest.importorskip("simplejpeg")
    text = tiny_file.read_text().replace('name = "synthetic"', 'name = "folder"')
    text = text[: text.index("[data.options]")] + text[text.index("[[stage]]") :]
    recipe = parse_recipe(text, "photographs", [f"data.root={photographs}"])
    run = RunFolder.create(photographs / "run", recipe)
    train(run)
    maps = run.eval_path("test") / "maps" / "000000-000004.safetensors"

    def evaluated(decoder):
        results = evaluate(run, parse_recipe(dump_recipe(recipe), recipe.name, [f"data.decoder={decoder}"]))
        return results.decoder, maps.stat().st_mtime_ns

    name, written = evaluated("pil")
    assert name == "pil"
    assert evaluated("simplejpeg") == ("simplejpeg", written)
    assert evaluated("auto") == ("simplejpeg", written)


def test_runs_of_earlier_versions_name_their_decoder_among_the_options(photographs, tiny_file):
    from wsolfast.engine.assembly.build import open_eval_data

    text = tiny_file.read_text().replace('name = "synthetic"', 'name = "folder"')
    text = text[: text.index("[data.options]")] + '[data.options]\ndecoder = "pil"\n' + text[text.index("[[stage]]") :]
    dataset = open_eval_data(parse_recipe(text, "photographs", [f"data.root={photographs}"]), "test")
    assert dataset[0].image.shape == (3, 32, 32)
