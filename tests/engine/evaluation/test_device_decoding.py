"""Evaluations whose JPEG files a device decodes; Pillow stands in for it, so that the pixels are those of a CPU."""

import json

import pytest
import torch
from oracles.device_jpeg import Pillow, encoded, turned

from wsolfast import data
from wsolfast.cli._tables import print_comparison, print_results
from wsolfast.data.images.on_device import DeviceDecoder
from wsolfast.engine.assembly import decoders
from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.evaluation.decoding import DecodedBatches
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.report.report import write_report
from wsolfast.engine.reproduce import plan, reproduce
from wsolfast.engine.run.errors import BackendError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.run_records import read_runs
from wsolfast.engine.training.train import train
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe

CPU = torch.device("cpu")
UNREAD = encoded(size=(50, 70), seed=5)
# In several sizes, and what a device does not read: file 5 it refuses, the last three it is not given.
FILES = [
    *(encoded(size=size, seed=i) for i, size in enumerate([(90, 100), (50, 70), (90, 100), (64, 41), (50, 70)])),
    UNREAD,
    encoded("L", size=(90, 100), seed=6),
    encoded("CMYK", size=(90, 100), seed=7),
    turned(6, size=(50, 70), seed=8),
    encoded(size=(90, 100), seed=9, kind="PNG"),
]
BATCHES = [[9, 0, 3], [2, 7, 5], [8, 1, 6], [4]]


@pytest.fixture
def photographs(tmp_path):
    """A ``folder`` of the files, every other one a training image, and all of them test images."""
    rows = ["image,split,class_id,x0,y0,x1,y1"]
    for i, content in enumerate(FILES):
        (tmp_path / f"{i}.jpg").write_bytes(content)
        rows.append(f"{i}.jpg,test,{i % 2},10,10,30,30")
        if i % 2:
            (tmp_path / f"train{i}.jpg").write_bytes(encoded(seed=20 + i))
            rows.append(f"train{i}.jpg,train,{i // 2 % 2},10,10,30,30")
    (tmp_path / "annotations.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def recipe_file(tiny_file, photographs):
    text = tiny_file.read_text().replace('name = "synthetic"', f'name = "folder"\nroot = "{photographs}"')
    text = text[: text.index("[data.options]")] + text[text.index("[[stage]]") :]
    tiny_file.write_text(text)
    return tiny_file


@pytest.fixture
def recipe(recipe_file):
    """Makes the recipe of the photographs with overrides."""
    return lambda *overrides: parse_recipe(recipe_file.read_text(), "photographs", overrides)


@pytest.fixture
def device(monkeypatch):
    """Let Pillow decode where a device is asked to; the decoders that were opened."""
    opened = []

    def open_on_device(device):
        opened.append(DeviceDecoder(device, Pillow(unread=[UNREAD])))
        return opened[-1]

    monkeypatch.setattr(data, "open_on_device", open_on_device)
    return opened


def shown(dataset, **options):
    """Return what a step sees of the batches."""
    seen = []

    def step(image, wide, label):
        seen.append((image.clone(), None if wide is None else wide.clone(), label.clone()))
        return (label,)

    found = list(stream(dataset, BATCHES, step, device=CPU, **options))
    return seen, [label.tolist() for (label,) in found]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize(
    "view", [(), ("evaluate.ten_crop=true",), ("evaluate.protocol=eil",)], ids=["warped", "two views", "central crop"]
)
def test_batches_are_those_of_a_cpu(recipe, view, threads, pad):
    dataset, pillow = open_eval_data(recipe(*view), "test"), Pillow(unread=[UNREAD])
    decoder = DeviceDecoder(CPU, pillow)
    mine, order = shown(dataset, decoder=decoder, threads=threads, pad=pad)
    plain, same_order = shown(dataset, threads=threads, pad=pad)
    assert order == same_order == [[index % 2 for index in batch] for batch in BATCHES]
    for batch, one, other in zip(BATCHES, mine, plain, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert len(ours) == max(len(batch), pad)
                assert torch.equal(ours[: len(batch)], theirs[: len(batch)])
    assert (plain[0][1] is not None) == (view == ("evaluate.ten_crop=true",))
    assert decoder.left == 1
    # A batch at once; that with the file that cannot be read in halves.
    assert pillow.batches == [2, 2, 1, 1, 2, 1]


def test_a_device_resizes_few_pixels_at_once(recipe, monkeypatch):
    dataset = open_eval_data(recipe(), "test")
    sizes, show = [], data.Dataset.show
    monkeypatch.setattr(data.Dataset, "show", lambda self, images: sizes.append(len(images)) or show(self, images))
    batches = [[0, 2, 6, 1, 4]]
    for limit, expected in ((1 << 24, [3, 2]), (2 * 90 * 100, [2, 1, 2]), (1, [1] * 5)):
        sizes.clear()
        monkeypatch.setattr("wsolfast.engine.evaluation.decoding._PIXELS_AT_ONCE", limit)
        decoded = DecodedBatches(dataset, batches, threads=0, decoder=DeviceDecoder(CPU, Pillow()))
        with decoded.running():
            image = decoded.next().view("image")
        assert sizes == expected
        assert torch.equal(image, torch.stack([dataset[index].image for index in batches[0]]))


@pytest.mark.parametrize("threads", [0, 2])
def test_what_comes_before_an_unreadable_image_comes_out(recipe, photographs, threads):
    dataset = open_eval_data(recipe(), "test")
    (photographs / "5.jpg").unlink()
    step = lambda image, wide, label: (label,)  # noqa: E731
    found = stream(dataset, BATCHES, step, device=CPU, threads=threads, decoder=DeviceDecoder(CPU, Pillow()))
    assert next(found)[0].tolist() == [1, 0, 1]
    with pytest.raises(data.DataError, match=r"5\.jpg: no such image file"):
        next(found)


def test_images_of_two_sizes_are_named(photographs):
    dataset = data.open_dataset("folder", photographs, "test")
    decoder = DeviceDecoder(CPU, Pillow())
    with pytest.raises(data.DataError, match=r"set resize or crop to batch them"):
        list(stream(dataset, [[0, 1]], lambda image, wide, label: (label,), device=CPU, decoder=decoder))


def test_memory_is_used_again(recipe):
    dataset = open_eval_data(recipe(), "test")
    decoded = DecodedBatches(dataset, [[i % 10] for i in range(40)], threads=2, decoder=DeviceDecoder(CPU, Pillow()))
    places = set()
    with decoded.running():
        while (slot := decoded.next()) is not None:
            places.add(slot.view("image").data_ptr())
            decoded.release(slot)
    assert len(places) <= 4


class Heard(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def test_an_evaluation_says_that_its_decoder_is_lossy(recipe, photographs, coarse_sweep, device, tmp_path, capsys):
    run, heard = RunFolder.create(photographs / "run", recipe()), Heard()
    train(run)
    exact = evaluate(run)
    maps = run.eval_path("test") / "maps" / "000000-000004.safetensors"
    written = maps.stat().st_mtime_ns
    assert (exact.decoder, exact.lossy_decoder, exact.marks) != ("cuda", "cuda", ["lossy decoder"])
    assert "lossy_decoder" not in json.loads((run.eval_path("test") / "results.json").read_text())

    lossy = evaluate(run, recipe("data.decoder=cuda", "runtime.workers=2"), progress=heard)
    # Maps of other pixels are others, even where, as here, they are the same.
    assert maps.stat().st_mtime_ns != written
    assert "test: 1 JPEG file left to the CPU's decoder" in heard.lines
    assert device[-1].left == 1
    assert lossy.metrics == exact.metrics
    assert (lossy.decoder, lossy.lossy_decoder, lossy.marks) == ("cuda", "cuda", ["lossy decoder"])
    assert json.loads((run.eval_path("test") / "results.json").read_text())["lossy_decoder"] == "cuda"
    assert EvalResults.read(run.eval_path("test") / "results.json") == lossy

    print_results(lossy, None)
    assert "images were decoded by cuda, which is lossy: pixels are not Pillow's\n" in capsys.readouterr().out
    print_comparison({"one": lossy, "other": exact})
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][1:3] == [
        "one (lossy decoder)",
        "other",
    ]
    assert read_runs([run.path])[0].label == "CAM (lossy decoder)"
    page = write_report([run.path], tmp_path / "report.html", images=2).read_text()
    assert "The images of CAM (lossy decoder) were decoded by cuda, which is lossy" in page


def test_a_reproduced_row_says_so(recipe_file, photographs, coarse_sweep, device, tmp_path, monkeypatch):
    # Training refuses; one that did not, or a network that is not trained, is measured with the decoder.
    monkeypatch.setattr("wsolfast.engine.training.train.check_training_decoder", lambda recipe: None)
    jobs, _ = plan(tmp_path / "out", patterns=[str(recipe_file)], overrides=["data.decoder=cuda", "stage.epochs=1"])
    found = reproduce(jobs, tmp_path / "out")
    assert found.recipes["tiny"].lossy_decoder == "cuda"
    assert "| tiny | measured, seed 0, **lossy decoder** |" in (tmp_path / "out" / "reproduce.md").read_text()


def test_without_a_gpu_it_is_refused_before_anything_runs(recipe, photographs, coarse_sweep, wsolfast):
    run = RunFolder.create(photographs / "run", recipe())
    train(run)
    line = "data.decoder 'cuda': needs a CUDA device, and the device is cpu; use 'auto'"
    with pytest.raises(BackendError, match=line):
        evaluate(run, parse_recipe(dump_recipe(run.recipe), "photographs", ["data.decoder=cuda"]))
    assert not run.eval_path("test").exists()
    code, _, err = wsolfast("eval", run.path, "--decoder", "cuda")
    assert (code, err.splitlines()[-1]) == (4, f"error: {line}")


def test_training_and_the_cache_refuse_it(recipe, photographs, tmp_path):
    run = RunFolder.create(photographs / "run", recipe("data.decoder=cuda"))
    with pytest.raises(RecipeError, match=r"training needs Pillow's pixels; leave it out and evaluate with --decoder"):
        train(run)
    with pytest.raises(RecipeError, match=r"the cache keeps what a CPU decodes, and data\.decoder is 'cuda'"):
        decoders.open_decoder(recipe("data.decoder=cuda", "runtime.cache_gb=1"), CPU)


@pytest.mark.cuda
@pytest.mark.parametrize("view", ["evaluate.ten_crop=false", "evaluate.ten_crop=true"])
def test_a_gpu_decodes_and_cuts_what_a_cpu_does(recipe, view):
    dataset, gpu = open_eval_data(recipe(view), "test"), torch.device("cuda")
    decoder = data.open_on_device(gpu)
    # Round and round, so that memory is used again while batches are computed with.
    batches, seen = BATCHES * 8, []

    def step(image, wide, label):
        seen.append(tuple(None if one is None else one.clone() for one in (image, wide)))
        return (label,)

    list(stream(dataset, batches, step, device=gpu, threads=4, decoder=decoder))
    for batch, views in zip(batches, seen, strict=True):
        for row, index in enumerate(batch):
            sample = dataset[index]
            for mine, expected in zip(views, (sample.image, sample.wide), strict=True):
                assert (mine is None) == (expected is None)
                if mine is not None:
                    apart = (mine[row].cpu().int() - expected.int()).abs().float()
                    # Colours that are repeated and not interpolated are up to five levels off in so small pictures.
                    assert apart.mean() < 6
    assert decoder.left <= len(batches)
