"""Several processes are held against one: the same batches, losses, pools and results."""

import json
import os
import shutil
import socket
from dataclasses import replace

import pytest
import torch
from torch import multiprocessing

from wsolfast.engine import distributed
from wsolfast.engine.demo import demo_recipes
from wsolfast.engine.evaluate import evaluate
from wsolfast.engine.run_folder import RunFolder
from wsolfast.engine.train import _StageTraining, train
from wsolfast.methods import list_methods
from wsolfast.methods._context_pool import ContextPool
from wsolfast.metrics import PROTOCOLS
from wsolfast.recipe import load_recipe
from wsolfast.types import Clock

# Method and batch size of what is evaluated.
EVALUATED = [("spa", 1), ("spa", 4), ("ci_cam", 4)]
RESULT_FILES = ("results", "curves", "per_image")

RECIPES = {name.rpartition("/")[2]: name for name in demo_recipes(baselines=True)}

# 20 images in batches of 7: two processes get 4 and 3 of them, three get 3, 2 and 2.
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
    "batch_size=7",
    "sync_bn=true",
    'optim={name="sgd", lr=0.02}',  # Adam divides gradients by their own size: rounding of small ones takes whole steps
    'schedule={name="constant"}',
)


def recipe_of(method, *overrides):
    """The method's demo recipe, made small."""
    name = RECIPES[method]
    stages = [f"stage.{stage.name}.{text}" for stage in load_recipe(name).stage for text in EACH_STAGE]
    return load_recipe(name, [*SMALL, *stages, *overrides])


def train_all(folder, methods):
    """What every process does, in double precision; the state that each ends with is kept beside the run.

    In single precision a rectified class map near zero has the sign of its rounding: SPOL's gradients then differ by
    percents between any two orders of summation.
    """
    build, go, draw = _StageTraining._build, _StageTraining.go, Clock.generator
    drawing = []

    def go_and_keep(self):
        go(self)
        torch.save(self.method.state_dict(), self.run.path / f"{self.stage.name}.rank{distributed.rank()}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_StageTraining, "_build", lambda self, pretrained: build(self, pretrained).double())
        patch.setattr(_StageTraining, "go", go_and_keep)
        patch.setattr(Clock, "generator", lambda self: drawing.append(method) or draw(self))
        for method in methods:
            train(RunFolder.create(folder / method, recipe_of(method)))
    (folder / f"drawing.rank{distributed.rank()}").write_text(" ".join(drawing))


def as_rank(rank, world_size, port, work, arguments):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with distributed.processes("cpu", timeout_minutes=1):
        work(*arguments)


def on_ranks(world_size, work, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(as_rank, (world_size, port, work, arguments), nprocs=world_size)


def grow_pool(folder, classes, maps):
    part = distributed.split(range(len(maps)), distributed.world_size())[distributed.rank()]
    pool = ContextPool(4, 5, contrib="predicted", rows="all", rate=0.3, eps=1e-5)
    for _ in range(3):
        pool.update(classes[part], classes[part], maps[part])
    torch.save(pool.maps, folder / f"pool.rank{distributed.rank()}")


def evaluate_all(source, folder):
    """Copies of the runs in ``source`` are evaluated at coarse thresholds."""
    protocol = PROTOCOLS["wsolevaluation"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, protocol.name, replace(protocol, thresholds=tuple(k * 0.05 for k in range(20))))
        for method, batch_size in EVALUATED:
            target = folder / f"{method}-{batch_size}"
            distributed.on_first(lambda method=method, target=target: shutil.copytree(source / method, target))
            evaluate(RunFolder(target), recipe_of(method, f"evaluate.batch_size={batch_size}"))


def everything(source, folder, methods):
    train_all(folder, methods)
    grow_pool(folder, torch.tensor([3, 0, 0, 1, 3, 0, 2]), torch.arange(175.0).sin().view(7, 5, 5))
    evaluate_all(source, folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folders of what one, two and three processes did; three train nothing."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two", "three")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes: sums are taken in another order by two
    everything(folders[0], folders[0], list_methods())
    torch.set_num_threads(threads)
    on_ranks(2, everything, folders[0], folders[1], list_methods())
    on_ranks(3, everything, folders[0], folders[2], [])
    return folders


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", list_methods())
def test_two_processes_have_the_losses_of_one(done, method):
    one, two = (events(folder / method) for folder in done[:2])
    assert len(one) == len(two) >= 3
    if method in (done[0] / "drawing.rank0").read_text().split():
        # Every process draws its own, so only the course of things can be the same.
        assert [event["step"] for event in one] == [event["step"] for event in two]
        assert all(event["loss"] > 0 for event in two)
        return
    for alone, shared in zip(one, two, strict=True):
        losses = [name for name in alone if name.startswith("loss")]
        assert losses
        for name in losses:
            # Losses are logged in single precision.
            assert shared[name] == pytest.approx(alone[name], rel=1e-6, abs=1e-7), (name, alone["step"])


@pytest.mark.parametrize("method", list_methods())
def test_all_processes_end_with_the_same_bits_and_one_process_nearly_so(done, method):
    one, two = (folder / method for folder in done[:2])
    for file in one.glob("*.rank0"):
        alone, first, second = (
            torch.load(path, weights_only=True) for path in (file, two / file.name, two / f"{file.stem}.rank1")
        )
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), name
            if method in (done[0] / "drawing.rank0").read_text().split():
                continue
            # Sums over the batch are taken in another order, and steps amplify what that rounds.
            torch.testing.assert_close(
                first[name], value, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
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


def test_the_size_of_batches_changes_no_result_but_by_the_networks_rounding(done):
    """Convolutions of one image sum in another order: maps differ by 1e-6, and PxAP by less than 1e-4 points."""
    single, four = (results(done[0] / f"spa-{batch_size}") for batch_size in (1, 4))
    assert single["results"].pop("pixel") == pytest.approx(four["results"].pop("pixel"), abs=1e-4)
    assert single["results"] == four["results"]
    assert single["curves"] == four["curves"]
