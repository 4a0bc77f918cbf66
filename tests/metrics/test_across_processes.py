import pytest
import torch
from oracles.random_images import images, part

from wsolfast.metrics import BoxAccuracy


def _count_share(rank, store, world_size):
    """Images are dealt out unevenly, without padding."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    metric = BoxAccuracy("spa", max_box=False)
    metric.update(*part(images(7), list(range(rank, 7, world_size))))
    metric.all_reduce()
    torch.save(metric.state_dict(), f"{store}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path):
    store = tmp_path / "store"
    torch.multiprocessing.spawn(_count_share, (str(store), 2), nprocs=2)
    whole, reduced = (BoxAccuracy("spa", max_box=False) for _ in range(2))
    whole.update(*images(7))
    for rank in range(2):
        reduced.load_state_dict(torch.load(f"{store}.{rank}", weights_only=True))
        assert reduced.compute() == whole.compute()
