"""Several processes are held against one: the same batches, losses, pools and results."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from ranks import on_ranks

from wsolfast.engine.assembly import network as network_module
from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.assembly.stage_refs import fits
from wsolfast.engine.demo import demo_recipes
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.run import distributed
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training import stage as stage_module
from wsolfast.engine.training.train import train
from wsolfast.methods import list_methods
from wsolfast.methods._context_pool import ContextPool
from wsolfast.metrics import PROTOCOLS
from wsolfast.recipe import load_recipe

# Method and batch size of what is evaluated.
EVALUATED = [("spa", 1), ("spa", 7), ("spa", 32), ("ci_cam", 4)]
POOLED = (torch.tensor([3, 0, 0, 1, 3, 0, 2]), torch.arange(175.0).sin().view(7, 5, 5))
RESULT_FILES = ("results", "curves", "per_image")

# 20 images in batches of 7: two processes get 4 and 3 of them, three get 3, 2 and 2. Pairs of images stay together.
# What is trained: "cam-tap" is CAM with another pooling.
METHODS = [*list_methods(), "cam-tap", "adl-tap"]
BATCH_SIZES = {method: 8 if method == "i2c" else 7 for method in METHODS}

RECIPES = {name.rpartition("/")[2]: name for name in demo_recipes(baselines=True)}

# Ways of running that processes are to share: method, overrides, and those of every stage.
FAST = ("runtime.channels_last=true", "runtime.fused_optimizer=true", "runtime.compile=true")
WAYS = {
    "pool of accumulated parts": ("ci_cam", (), ("accumulate=3",)),
    "pairs of accumulated parts": ("csoa", (), ("accumulate=2",)),
    "pairs of one class, compiled": ("i2c", FAST, ("accumulate=2",)),
    "erased features, compiled": ("eil", FAST, ("accumulate=2",)),
    "thresholded means, compiled": ("adl-tap", FAST, ("accumulate=2",)),
    "two stages, compiled": ("spol", FAST, ("accumulate=2",)),
    "constant layers, compiled": ("bas", FAST, ("accumulate=2",)),
    "pseudo boxes, compiled": ("psol", FAST, ("accumulate=2",)),
    "a frozen classifier, compiled": ("gc_net", FAST, ("accumulate=2",)),
    "levels above the classes": (
        "danet",
        FAST,
        ("accumulate=2", "model.level_sizes=[3]", "model.level_channels=[8]"),
    ),
    "bfloat16, compiled": ("spa", (*FAST, "runtime.amp=bf16"), ("accumulate=2",)),
    "clipped, averaged, by layers": (
        "cam",
        (),
        (
            "accumulate=2",
            'optim={name="sgd", lr=0.02, layer_decay=0.5, grad_clip=0.1, ema=0.8}',
            'schedule={name="cosine", warmup_steps=1}',
        ),
    ),
    "AdamW": ("cam", (), ('optim={name="adamw", lr=1e-3, weight_decay=0.05}',)),
}

SMALL = (
    "data.resize=64",
    "data.crop=56",
    "data.options.size=64",
    "data.options.num_train=20",
    "data.options.num_val=5",
    "data.options.num_test=11",
    "data.options.num_classes=3",
    "evaluate.resize=56",
    "evaluate.protocol=spa",
    "evaluate.batch_size=4",
    "runtime.workers=0",
    "runtime.device=cpu",
    "runtime.amp=none",
)
EACH_STAGE = (
    "epochs=1",
    "sync_bn=true",
    'optim={name="sgd", lr=0.02}',  # Adam divides gradients by their own size: rounding of small ones takes whole steps
    'schedule={name="constant"}',
)


def recipe_of(method, *overrides, each_stage=()):
    """The method's demo recipe, made small."""
    name, pool = RECIPES[method.partition("-")[0]], method.partition("-")[2]
    if pool:
        overrides = (f"stage.model.pool={pool}", *overrides)
    stages = [
        f"stage.{stage.name}.{text}"
        for stage in load_recipe(name).stage
        for text in (f"batch_size={BATCH_SIZES[method]}", *(() if fits(stage) else (*EACH_STAGE, *each_stage)))
    ]
    return load_recipe(name, [*SMALL, *stages, *overrides])


def train_all(folder, methods, *overrides, each_stage=(), double=True):
    """Train as every process does, in double precision; the state that each ends with is kept beside the run.

    In single precision a rectified class map near zero has the sign of its rounding: SPOL's gradients then differ by
    percents between any two orders of summation.
    """
    build, save = stage_module.build_method, stage_module.save_weights

    def build_double(*given, **options):
        return build(*given, **options).double()

    def save_everywhere(file, state, about):
        save(file, state, about)
        torch.save(state, folder / method / f"{about['stage']}.rank{distributed.rank()}")

    with pytest.MonkeyPatch.context() as patch:
        if double:
            patch.setattr(stage_module, "build_method", build_double)
            # Of the networks that a later stage trains with.
            patch.setattr(network_module, "build_method", build_double)
        patch.setattr(stage_module, "save_weights", save_everywhere)
        for method in methods:
            train(RunFolder.create(folder / method, recipe_of(method, *overrides, each_stage=each_stage)))


def train_in_every_way(folder):
    compiled = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        # What is ours is that DDP, batch norms and the compiled backbone go together; generating code takes minutes.
        patch.setattr(torch, "compile", lambda *args, **options: compiled(*args, backend="aot_eager", **options))
        for name, (method, overrides, each_stage) in WAYS.items():
            double = "runtime.amp=bf16" not in overrides
            train_all(folder / name, [method], *overrides, each_stage=each_stage, double=double)


def grow_pool(folder, classes, maps):
    part = distributed.split(range(len(maps)), distributed.world_size())[distributed.rank()]
    pool = ContextPool(4, 5, contrib="predicted", rows="all", rate=0.3, eps=1e-5)
    for _ in range(3):
        pool.update(classes[part], classes[part], maps[part])
    torch.save(pool.maps, folder / f"pool.rank{distributed.rank()}")


@contextmanager
def coarse_thresholds():
    protocol = PROTOCOLS["wsolevaluation"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, protocol.name, replace(protocol, thresholds=tuple(k * 0.05 for k in range(20))))
        yield


def evaluate_all(source, folder, evaluated=tuple(EVALUATED)):
    """Copies of the runs in ``source`` are evaluated at coarse thresholds."""
    with coarse_thresholds():
        for method, batch_size in evaluated:
            target = folder / f"{method}-{batch_size}"
            distributed.on_first(lambda method=method, target=target: shutil.copytree(source / method, target))
            evaluate(RunFolder(target), recipe_of(method, f"evaluate.batch_size={batch_size}"))


def at_eight(source, folder):
    """More processes than there are batches, chunks, or images in a batch."""
    train_all(folder, ["ci_cam"], "stage.localizer.batch_size=10")
    grow_pool(folder, *POOLED)
    evaluate_all(source, folder, [("ci_cam", 4)])


def everything(source, folder, methods):
    train_all(folder, methods)
    grow_pool(folder, *POOLED)
    evaluate_all(source, folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folders of what one, two and three processes did; three train nothing."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two", "three")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes: sums are taken in another order by two
    everything(folders[0], folders[0], METHODS)
    torch.set_num_threads(threads)
    on_ranks(2, everything, folders[0], folders[1], METHODS)
    on_ranks(3, everything, folders[0], folders[2], [])
    return folders


@pytest.fixture(scope="module")
def eight(done, tmp_path_factory):
    """Folders of what one and eight processes did."""
    one, folder = (tmp_path_factory.mktemp(name) for name in ("alone", "eight"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_all(one, ["ci_cam"], "stage.localizer.batch_size=10")
    torch.set_num_threads(threads)
    on_ranks(8, at_eight, done[0], folder)
    return one, folder


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_losses_of_one(done, method):
    one, two = (events(folder / method) for folder in done[:2])
    assert len(one) == len(two) >= 3
    for alone, shared in zip(one, two, strict=True):
        losses = [name for name in alone if name.startswith("loss")]
        assert losses
        for name in losses:
            # Losses are logged in single precision.
            assert shared[name] == pytest.approx(alone[name], rel=1e-6, abs=1e-7), (name, alone["step"])


@pytest.mark.parametrize("method", METHODS)
def test_all_processes_end_with_the_same_bits_and_one_process_nearly_so(done, method):
    one, two = (folder / method for folder in done[:2])
    for file in one.glob("*.rank0"):
        alone, first, second = (
            torch.load(path, weights_only=True) for path in (file, two / file.name, two / f"{file.stem}.rank1")
        )
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), name
            # Sums over the batch are taken in another order, and steps amplify what that rounds.
            torch.testing.assert_close(
                first[name], value, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Folders of what one and two processes did in every way."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one-way", "two-ways"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_in_every_way(one)
    torch.set_num_threads(threads)
    on_ranks(2, train_in_every_way, two)
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_accumulated_compiled_and_in_bfloat16_two_processes_have_the_losses_of_one(ways, name):
    method, overrides, _ = WAYS[name]
    one, two = (events(folder / name / method) for folder in ways)
    assert len(one) == len(two) >= 3
    # bfloat16 has eight bits, and sums of other parts are rounded to them at other places.
    tolerance = 0.02 if "runtime.amp=bf16" in overrides else 1e-6
    for alone, shared in zip(one, two, strict=True):
        for loss in (key for key in alone if key.startswith("loss")):
            assert shared[loss] == pytest.approx(alone[loss], rel=tolerance, abs=1e-7), (loss, alone["step"])
    for file in (ways[0] / name / method).glob("*.rank0"):
        first, second = (
            torch.load(ways[1] / name / method / f"{file.stem}.rank{rank}", weights_only=True) for rank in (0, 1)
        )
        assert all(torch.equal(value, second[key]) for key, value in first.items())
        if tolerance < 0.01:
            for key, value in torch.load(file, weights_only=True).items():
                torch.testing.assert_close(
                    first[key], value, rtol=1e-7, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
                )


def test_a_context_pool_was_filled_on_the_way(done):
    for folder in done[:2]:
        assert torch.load(folder / "ci_cam" / "localizer.rank0", weights_only=True)["pool.maps"].any()


def test_pools_of_one_two_and_three_processes_have_the_same_bits(done):
    alone, *others = (torch.load(file) for folder in done for file in sorted(folder.glob("pool.rank*")))
    assert len(others) == 5
    assert alone.any()
    assert all(torch.equal(alone, other) for other in others)


def results(folder):
    """All that an evaluation found, without how and when."""
    found = {name: json.loads((folder / "eval" / "test" / f"{name}.json").read_text()) for name in RESULT_FILES}
    for name in ("images_per_second", "seconds", "seconds_metrics", "throughput", "evaluated", "environment"):
        found["results"].pop(name)
    return found


@pytest.mark.parametrize(("method", "batch_size"), EVALUATED)
def test_one_two_and_three_processes_find_the_same(done, method, batch_size):
    alone, *others = (results(folder / f"{method}-{batch_size}") for folder in done)
    assert alone["results"]["num_images"] == len(alone["per_image"]["images"]) == 11
    for other in others:
        assert other == alone


def maps_of(folder):
    rows = ScoreMaps(folder / "eval" / "test" / "maps").rows(range(11))
    return torch.stack([rows[k] for k in range(11)])


@pytest.mark.parametrize("batch_size", [7, 32])
def test_the_size_of_batches_changes_no_result_but_by_the_networks_rounding(done, batch_size):
    """Convolutions of one image sum in another order: maps differ by 1e-6, and PxAP by less than 1e-4 points.

    Scaling maps to [0, 1] magnifies the rounding, here to 18 units in the last place of 1 on AVX2.
    """
    folders = [done[0] / f"spa-{size}" for size in (1, batch_size)]
    assert (maps_of(folders[0]) - maps_of(folders[1])).abs().max() < 32 * torch.finfo(torch.float32).eps
    single, several = map(results, folders)
    assert single["results"].pop("pixel") == pytest.approx(several["results"].pop("pixel"), abs=1e-4)
    assert single["results"].pop("transferred") == pytest.approx(several["results"].pop("transferred"), abs=1e-4)
    assert single == several


def test_alone_images_have_the_same_bits_at_any_size_of_batches(done, tmp_path):
    one, *others = (evaluated_singly(done[0] / "spa", tmp_path / f"{size}", size) for size in (1, 7, 32))
    assert all(torch.equal(maps_of(one), maps_of(other)) for other in others)
    assert all(results(one) == results(other) for other in others)
    assert results(one) == results(done[0] / "spa-1")


def evaluated_singly(trained, folder, size):
    shutil.copytree(trained, folder)
    recipe = recipe_of("spa", f"evaluate.batch_size={size}", "runtime.deterministic=true")
    with coarse_thresholds():
        evaluate(RunFolder(folder), recipe)
    return folder


def test_without_rounding_the_size_of_batches_changes_nothing(done):
    """In double precision every map has the same bits, of which it keeps single ones, at any size of batches."""
    dataset = open_eval_data(recipe_of("spa"), "test")
    method = load_localizer(RunFolder(done[0] / "spa"), recipe_of("spa"), 3).double().eval()
    images = torch.stack([dataset[k].image for k in range(len(dataset))])
    found = []
    with torch.inference_mode():
        for size in (1, 7, 32):
            batches = zip(images.split(size), dataset.labels.split(size), strict=True)
            maps = [method.localize(image, label=label, topk=0).localization_map for image, label in batches]
            found.append(torch.cat(maps).float())
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_eight_processes_find_what_one_does_though_most_have_nothing_to_do(done, eight):
    assert results(eight[1] / "ci_cam-4") == results(done[0] / "ci_cam-4")
    pools = [torch.load(file) for file in sorted(eight[1].glob("pool.rank*"))]
    assert len(pools) == 8
    assert all(torch.equal(pool, torch.load(done[0] / "pool.rank0")) for pool in pools)


def test_eight_processes_train_one_model(eight):
    alone, shared = (folder / "ci_cam" for folder in eight)
    states = [torch.load(shared / f"localizer.rank{rank}", weights_only=True) for rank in range(8)]
    expected = torch.load(alone / "localizer.rank0", weights_only=True)
    assert expected["pool.maps"].any()
    for name, value in expected.items():
        assert all(torch.equal(states[0][name], state[name]) for state in states[1:]), name
        # As between one process and two.
        torch.testing.assert_close(
            states[0][name], value, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )
    for one, eight_ in zip(events(alone), events(shared), strict=True):
        assert eight_["loss"] == pytest.approx(one["loss"], rel=1e-6)
