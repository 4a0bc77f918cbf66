"""The pipeline against a plain loop: the same bits, whatever decodes ahead and however batches are cut."""

import threading

import pytest
import torch

from wsolfast import data
from wsolfast.engine.assembly.build import build_method, open_eval_data, refine
from wsolfast.engine.assembly.cuda_graph import HostWaits
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.assembly.stage_refs import classifier_of, gives_boxes, localizer_of
from wsolfast.engine.demo import demo_recipes
from wsolfast.engine.evaluation.decoding import DecodedBatches
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.evaluation.stopwatch import FIELDS, STAGES, Stopwatch, describe, in_words
from wsolfast.methods import list_methods
from wsolfast.recipe import load_recipe

CPU = torch.device("cpu")
INDICES = [7, 0, 3, 9, 1, 5, 8]
BATCHES = [INDICES[:3], INDICES[3:6], INDICES[6:]]


class Images:
    """Ten images that know their number; the second view where asked for."""

    def __init__(self, broken=(), odd=(), wide=False):
        self.labels = torch.arange(10)
        self.broken, self.odd, self.wide = broken, odd, wide
        self.threads = set()

    def __getitem__(self, index):
        self.threads.add((threading.current_thread().name.partition("_")[0], torch.get_num_threads()))
        if index in self.broken:
            raise data.DataError(f"image {index}: cannot be decoded")
        image = torch.full((3, 5 if index in self.odd else 4, 6), index, dtype=torch.uint8)
        wide = torch.full((3, 8, 8), 100 + index, dtype=torch.uint8) if self.wide else None
        return data.Sample(image, index, f"image{index}", index, None, wide)


def plain_loop(recipe, method, dataset):
    """What evaluation has always done: collate, then the method, batch by batch."""
    for batch in BATCHES:
        samples = data.collate([dataset[i] for i in batch])
        with torch.inference_mode():
            found = method.localize(samples.image, label=samples.label, topk=0)
        best = found.logits.float().softmax(1).topk(2, dim=1)
        yield found.localization_map[:, 0], best.indices, best.values


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_have_the_bits_of_a_plain_loop(tiny, threads):
    recipe = tiny()
    dataset, method = open_eval_data(recipe, "test"), build_method(recipe, recipe.stage[0], 2).eval()
    predictor = Predictor(method, device=CPU, topk=2)
    found = list(stream(dataset, BATCHES, predictor, device=CPU, backbones=predictor.backbones, threads=threads))
    for mine, expected in zip(found, plain_loop(recipe, method, dataset), strict=True):
        for one, other in zip(mine, expected, strict=True):
            assert torch.equal(one, other)


def test_batch_norms_are_folded_and_change_no_more_than_rounding(tiny):
    recipe = tiny()
    dataset, method = open_eval_data(recipe, "test"), build_method(recipe, recipe.stage[0], 2)
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    expected = list(plain_loop(recipe, method.eval(), dataset))
    predictor = Predictor(method, device=CPU, topk=2)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in method.backbone.modules())
    for mine, other in zip(stream(dataset, BATCHES, predictor, device=CPU), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)  # values in [0, 1]; rounding moved them by 3e-6


@pytest.mark.parametrize("threads", [0, 2])
def test_both_views_and_labels_arrive_in_order(threads):
    def step(image, wide, label):
        return image[:, 0, 0, 0].clone(), wide[:, 0, 0, 0].clone(), label.clone()

    found = list(stream(Images(wide=True), BATCHES, step, device=CPU, threads=threads))
    for batch, (image, wide, label) in zip(BATCHES, found, strict=True):
        assert image.tolist() == label.tolist() == batch
        assert wide.tolist() == [100 + index for index in batch]


def test_threads_decode_and_start_no_threads_of_their_own():
    images, usual = Images(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(stream(images, BATCHES, lambda image, wide, label: (label,), device=CPU, threads=2))
        assert images.threads == {("decode", 1)}
        assert torch.get_num_threads() == 2
        late = []
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert late == [2]
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("threads", [0, 3])
def test_what_comes_before_an_unreadable_image_comes_out(threads):
    found = stream(Images(broken=[1]), BATCHES, lambda image, wide, label: (label,), device=CPU, threads=threads)
    assert next(found)[0].tolist() == BATCHES[0]
    with pytest.raises(data.DataError, match="image 1: cannot be decoded"):
        next(found)


def test_images_of_two_sizes_are_named():
    with pytest.raises(data.DataError, match=r"image0 is \[5, 6\] and others are \[4, 6\]: set resize or crop"):
        list(stream(Images(odd=[0]), BATCHES, lambda image, wide, label: (label,), device=CPU))


def test_batches_of_two_sizes_are_taken_as_they_come():
    cut = [[1, 2], [0], [3, 4]]
    sizes = [image.shape for image in shapes_of(Images(odd=[0]), cut, threads=2)]
    assert sizes == [(2, 3, 4, 6), (1, 3, 5, 6), (2, 3, 4, 6)]


def shapes_of(dataset, cut, **options):
    seen = []
    list(
        stream(dataset, cut, lambda image, wide, label: (seen.append(image.clone()), label)[1:], device=CPU, **options)
    )
    return seen


def test_padded_batches_have_one_size_and_their_padding_comes_out_nowhere():
    seen = shapes_of(Images(), BATCHES, threads=2, pad=3)
    assert [len(image) for image in seen] == [3, 3, 3]
    found = list(stream(Images(), BATCHES, lambda image, wide, label: (image[:, 0, 0, 0].clone(),), device=CPU, pad=3))
    assert [one.tolist() for (one,) in found] == BATCHES


def test_memory_is_used_again():
    decoded = DecodedBatches(Images(), [[i % 10] for i in range(40)], threads=2)
    places = set()
    with decoded.running():
        while (slot := decoded.next()) is not None:
            places.add(slot.view("image").data_ptr())
            decoded.release(slot)
    assert len(places) <= 4


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    found = stream(
        Images(), [[i % 10] for i in range(1000)], lambda image, wide, label: (label,), device=CPU, threads=3
    )
    next(found)
    assert threading.active_count() == before + 3
    found.close()
    assert threading.active_count() == before


def test_every_stage_is_timed(tiny):
    recipe = tiny()
    dataset, method = open_eval_data(recipe, "test"), build_method(recipe, recipe.stage[0], 2)
    predictor, stopwatch = Predictor(method, device=CPU), Stopwatch()
    list(stream(dataset, BATCHES, predictor, device=CPU, backbones=predictor.backbones, stopwatch=stopwatch))
    seconds = stopwatch.take()
    assert set(seconds) == set(FIELDS)
    assert all(seconds[stage] > 0 for stage in ("decode", "network", "maps", "wait", "all"))
    assert seconds["wait"] >= seconds["decode"]
    assert seconds["wait"] + seconds["network"] + seconds["maps"] <= seconds["all"]
    assert stopwatch.take()["network"] == 0
    assert not any(backbone._forward_hooks or backbone._forward_pre_hooks for backbone in predictor.backbones)


def test_the_slowest_stage_is_named():
    seconds = dict.fromkeys(STAGES, 0.5) | {"copy": 0.0, "network": 2.0, "wait": 1.0, "all": 4.0}
    found = describe(100, seconds)
    assert found.slowest == "network"
    assert found.images_per_second == {"decode": 200, "network": 50, "maps": 200, "boxes": 200, "write": 200}
    line = "images/s by stage: decode 200, network 50, maps 200, boxes 200, write 200; slowest: network; "
    assert in_words(found) == line + "together 25.0, 25 % of it waiting"


@pytest.mark.parametrize("way", ["evaluate.post=none", "evaluate.post=scg", "evaluate.ten_crop=true"])
@pytest.mark.parametrize("method", list_methods())
def test_no_batch_waits_for_a_number_but_refined_ones_for_one(method, way):
    name = next(name for name in demo_recipes(baselines=True) if name.rpartition("/")[2] == method)
    if way == "evaluate.post=scg" and gives_boxes(localizer_of(load_recipe(name)).stage):
        # There is no map to refine.
        way = "evaluate.post=none"
    small = ("data.options={num_classes=3, size=64, num_test=10}", "data.resize=64", "data.crop=56")
    recipe = load_recipe(name, [*small, "evaluate.resize=56", way])
    dataset, ranks = open_eval_data(recipe, "test"), classifier_of(recipe)
    method = build_method(recipe, localizer_of(recipe).stage, 3, pretrained=False)
    for label in range(3 * method.fits):
        method.keep_class(label, {"images": torch.tensor(1)})
    localizer = refine(method, recipe.evaluate)
    classifier = ranks and build_method(recipe, ranks.stage, 3, pretrained=False)
    predictor = Predictor(localizer, classifier, device=CPU, crop=56 if recipe.evaluate.ten_crop else None)
    asked, waits = [], HostWaits()

    def step(*given):
        if not asked:
            # What is asked once, whether DANet knows the levels above its classes for instance.
            asked.append(predictor(*given))
        with waits:
            return predictor(*given)

    assert len(list(stream(dataset, BATCHES, step, device=CPU))) == len(BATCHES)
    # Refined maps are asked whether they are finite, batch by batch.
    refined = way == "evaluate.post=scg"
    assert waits.found == ["_local_scalar_dense"] * (len(BATCHES) if refined else 0)


def test_waiting_for_a_number_would_be_seen():
    with HostWaits() as waits:
        torch.ones(3).sum().item()
        torch.ones(3)[torch.ones(3) > 0]
        torch.ones(3).nonzero()
    assert waits.found == ["_local_scalar_dense", "index", "nonzero"]


def test_a_compiled_backbone_finds_the_same(tiny, monkeypatch):
    """Compiling is torch's; what is ours is that it is asked for, with batches of one size, and without the clocks."""
    recipe = tiny()
    dataset, method = open_eval_data(recipe, "test"), build_method(recipe, recipe.stage[0], 2)
    expected = list(plain_loop(recipe, method.eval(), dataset))
    asked = []

    def compile_(function, **options):
        asked.append(options)
        return lambda image: asked.append(len(image)) or function(image)

    monkeypatch.setattr(torch, "compile", compile_)
    predictor = Predictor(method, device=CPU, topk=2, compiled=True)
    found = list(stream(dataset, BATCHES, predictor, device=CPU, backbones=predictor.backbones, pad=3))
    assert asked == [{"dynamic": False}, 3, 3, 3]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)  # the last batch has other neighbours: rounding


@pytest.mark.cuda
def test_a_gpu_finds_what_a_plain_loop_finds(tiny):
    recipe, device = tiny(), torch.device("cuda")
    dataset, method = open_eval_data(recipe, "test"), build_method(recipe, recipe.stage[0], 2)
    predictor, stopwatch = Predictor(method, device=device, topk=2), Stopwatch()
    found = list(
        stream(
            dataset, BATCHES, predictor, device=device, backbones=predictor.backbones, threads=4, stopwatch=stopwatch
        )
    )
    for batch, mine in zip(BATCHES, found, strict=True):
        samples = data.collate([dataset[i] for i in batch]).to(device)
        for one, other in zip(mine, predictor(samples.image, None, samples.label), strict=True):
            assert not one.is_cuda
            assert torch.equal(one, other.cpu())
    assert all(stopwatch.take()[stage] > 0 for stage in ("decode", "copy", "network", "maps"))
