"""The emulator finds what it is there to find."""

import pytest
import torch
from cuda_emulated import ORDERS

THREADS = 64
MISTAKES = (
    "none",
    "no barrier",
    "divergent barrier",
    "leaves before the barrier",
    "divergent shuffle",
    "shuffle without the lane",
    "past shared memory",
    "past device memory",
    "unwritten shared memory",
    "lost update",
)
EXPECTED = torch.tensor([i + 1 + (i + 32) % THREADS for i in range(THREADS)], dtype=torch.int32)


def run(library, mistake):
    out = torch.full((THREADS,), -1, dtype=torch.int32)
    library.call("run_with_mistake", MISTAKES.index(mistake), out)
    return out


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_kernel_is_right_in_every_order(library, order):
    for seed in range(20):
        library.set_order(order, seed)
        assert torch.equal(run(library, "none"), EXPECTED)


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_gives_a_wrong_result(library, order):
    library.set_order(order, 1)
    assert not torch.equal(run(library, "no barrier"), EXPECTED)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("divergent barrier", "divergent CTA"),
        ("leaves before the barrier", "have left the kernel"),
        ("divergent shuffle", "waits for all of its lanes at a shuffle"),
        ("shuffle without the lane", "lacks the lane itself"),
        ("past shared memory", "wrote past 256 bytes of dynamic shared memory"),
        ("past device memory", "wrote past 100 bytes of device memory"),
    ],
)
def test_undefined_behaviour_is_an_error(emulated, mistake, said):
    with pytest.raises(RuntimeError, match=said):
        run(emulated, mistake)
    assert torch.equal(run(emulated, "none"), EXPECTED)


def test_unwritten_shared_memory_is_poisoned(emulated):
    assert run(emulated, "unwritten shared memory")[32] != EXPECTED[32]


def test_a_shuffled_order_comes_between_two_atomics(library):
    library.set_order("ascending")
    assert run(library, "lost update")[0] == THREADS
    library.set_order("shuffled", 1)
    assert run(library, "lost update")[0] < THREADS
