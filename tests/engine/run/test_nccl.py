"""The way of GPUs: what can be seen of it without one, and with one or two."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from wsolfast.engine.assembly.build import choose_device
from wsolfast.engine.run.distributed import processes
from wsolfast.engine.run.errors import BackendError, RunError

needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: NCCL takes one process on each")


@pytest.fixture
def machine(monkeypatch):
    """A process of torchrun on a machine that seems to have GPUs; returns what is asked of torch."""
    asked = {}

    def launched(gpus, rank, world_size, local_rank):
        for name, value in (("RANK", rank), ("WORLD_SIZE", world_size), ("LOCAL_RANK", local_rank)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda index: asked.update(device=index))
        monkeypatch.setattr(
            torch.distributed, "init_process_group", lambda backend, **given: asked.update(backend=backend, **given)
        )
        monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: asked.update(left=True))
        return asked

    return launched


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_process_takes_the_gpu_of_its_local_rank_and_joins_by_nccl(machine, device):
    asked = machine(gpus=4, rank=6, world_size=8, local_rank=2)
    with processes(device, timeout_minutes=7):
        assert "left" not in asked
    assert asked == {
        "device": 2,
        "backend": "cpu:gloo,cuda:nccl",
        "timeout": timedelta(minutes=7),
        "rank": 6,
        "world_size": 8,
        "left": True,
    }


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 4), ("auto", 0)])
def test_without_gpus_processes_join_by_gloo_and_bind_none(machine, device, gpus):
    asked = machine(gpus=gpus, rank=1, world_size=2, local_rank=1)
    with processes(device):
        pass
    assert asked["backend"] == "gloo"
    assert asked["timeout"] == timedelta(minutes=30)
    assert "device" not in asked


def test_one_process_of_torchrun_joins_nobody(machine):
    asked = machine(gpus=1, rank=0, world_size=1, local_rank=0)
    with processes("cuda"):
        pass
    assert asked == {}
    assert choose_device("cuda") == torch.device("cuda")


def test_each_process_trains_on_a_gpu_of_its_own(machine, monkeypatch):
    machine(gpus=4, rank=6, world_size=8, local_rank=2)
    monkeypatch.setattr("wsolfast.engine.assembly.build.world_size", lambda: 8)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:2")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    machine(gpus=2, rank=6, world_size=8, local_rank=2)
    with pytest.raises(BackendError, match=r"device 'cuda:2': torch .* finds 2 CUDA devices"):
        choose_device("cuda")


def test_a_peer_that_is_lost_by_nccl_is_told_in_one_line(machine):
    machine(gpus=2, rank=0, world_size=2, local_rank=0)
    with pytest.raises(RunError, match=r"0 of 2 lost another one, .*with --resume") as raised, processes("cuda"):
        raise RuntimeError("NCCL communicator was aborted on rank 0.\nOriginal reason: watchdog timeout")
    assert "\n" not in str(raised.value)


def torchrun(folder, count, *words):
    """Run the command in ``count`` processes, as a user would."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [*launcher, "-m", "wsolfast", *words], cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("device", "count"),
    [
        pytest.param("cpu", 2, marks=pytest.mark.slow),
        pytest.param("cuda", 1, marks=pytest.mark.cuda),
        pytest.param("cuda", 2, marks=[pytest.mark.cuda, needs_two]),
    ],
)
def test_torchrun_trains_and_measures(tmp_path, tiny_file, device, count):
    place = ("--runs", ".", "--name", "run", "--device", device)
    assert torchrun(tmp_path, count, "train", tiny_file.name, "stage.epochs=1", *place).count("trained: run") == 1
    told = json.loads(torchrun(tmp_path, count, "eval", "run", "--json"))
    assert told["num_images"] == 10
    assert told["device"].startswith(device)
    assert told["environment"]["processes"] == count
    assert json.loads((tmp_path / "run" / "env.json").read_text())["processes"] == count


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_tensors_and_counters_travel(device):
    """NCCL on one GPU knows a group of one only: enough to see that everything that is sent can be."""
    from wsolfast.methods._across_ranks import of_every_process
    from wsolfast.metrics import ErrorSplit

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1
    )
    try:
        rows = torch.arange(6.0, device=device).view(3, 2).requires_grad_()
        gathered = of_every_process(rows)
        gathered.sum().backward()
        assert torch.equal(gathered, rows)
        assert torch.equal(rows.grad, torch.ones_like(rows))
        counters = ErrorSplit("spa")
        before = counters.state_dict()
        counters.all_reduce()
        assert all(
            torch.equal(value, before[name]) for name, value in counters.state_dict().items() if name != "config"
        )
    finally:
        torch.distributed.destroy_process_group()
