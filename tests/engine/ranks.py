"""Several processes on one machine, as torchrun would start them, within seconds."""

import os
import socket

import torch
from torch import multiprocessing

from wsolfast.engine.run import distributed


def on_ranks(world_size, work, *arguments):
    """Run ``work(*arguments)`` in processes that share a run; an error in one of them is raised here."""
    _start(world_size, _as_rank, work, arguments)


def on_launched(world_size, work, *arguments):
    """The same, but the processes know from their environment alone what they are: the command is to join them."""
    _start(world_size, _as_launched, work, arguments)


def _start(world_size, target, work, arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One process imports torch, the others are its copies: eight ranks start as fast as two. They would each import
    # the compiler, too, which DistributedDataParallel asks for a setting.
    multiprocessing.set_forkserver_preload(
        ["wsolfast.engine.evaluation.evaluate", "wsolfast.engine.training.train", "torch._dynamo"]
    )
    multiprocessing.start_processes(
        target, (world_size, port, work, arguments), nprocs=world_size, start_method="forkserver"
    )


def _as_launched(rank, world_size, port, work, arguments):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work(*arguments)


def _as_rank(rank, world_size, port, work, arguments):
    _as_launched(rank, world_size, port, _joined, (work, arguments))


def _joined(work, arguments):
    with distributed.processes("cpu", timeout_minutes=1):
        work(*arguments)
