"""Several processes for one run: torchrun or srun starts them, each takes its share, the first one alone writes."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from wsolfast.engine.run.errors import RunError

Value = TypeVar("Value")

_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out", "timeout caused pair closure")


@dataclass(frozen=True)
class Rank:
    """Number of this process and count of all, over all machines and on its own."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str | None = None  # host and port of the first process, where no launcher has set them
    port: int | None = None


def find_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Read what torchrun, or Slurm's srun, put into the environment; one process alone if neither did."""
    if "WORLD_SIZE" in environment and "RANK" in environment:
        world_size = int(environment["WORLD_SIZE"])
        return Rank(
            int(environment["RANK"]),
            world_size,
            int(environment.get("LOCAL_RANK", 0)),
            int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        )
    # Set by srun for the tasks of a step; the batch script around it sees SLURM_NTASKS alone.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        per_node = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        return Rank(
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
            int(environment["SLURM_LOCALID"]),
            int(per_node.group()) if per_node else 1,
            _first_host(environment["SLURM_STEP_NODELIST"]),
            20000 + (int(environment["SLURM_JOB_ID"]) * 31 + int(environment.get("SLURM_STEP_ID", 0))) % 20000,
        )
    return Rank()


def _first_host(nodes: str) -> str:
    """Return the first host of Slurm's list: ``gpu007`` of ``gpu[007-009,12],cpu1``."""
    name, _, rest = nodes.partition("[")
    return name + re.split(r"[-,\]]", rest)[0] if rest and "," not in name else nodes.split(",")[0]


@contextmanager
def processes(device: str, timeout_minutes: float = 30.0) -> Iterator[None]:
    """Join the processes that torchrun or srun started, while entered; alone, nothing happens.

    Args:
        device: the recipe's; tensors on a GPU travel by NCCL, everything else by gloo.
        timeout_minutes: how long to wait for another process.

    Raises:
        RunError: if another process ended or does not answer.
    """
    mine = find_rank()
    if mine.world_size == 1 or distributed.is_initialized():
        yield
        return
    if mine.address is not None:
        os.environ.setdefault("MASTER_ADDR", mine.address)
        os.environ.setdefault("MASTER_PORT", str(mine.port))
    on_gpu = (device == "auto" or device.startswith("cuda")) and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(mine.local_rank % torch.cuda.device_count())
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timedelta(minutes=timeout_minutes),
            rank=mine.rank,
            world_size=mine.world_size,
        )
        yield
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise RunError(
            f"process {mine.rank} of {mine.world_size} lost another one, which ended or stands still "
            f"({str(error).splitlines()[0]}); look for its message, then continue with --resume"
        ) from error
    # After an error the others may be gone: only those that end together say goodbye.
    distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in _LOST)


def rank() -> int:
    """Return the number of this process; 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def from_first(value: Value) -> Value:
    """Return the first process's ``value``, in every process."""
    if world_size() == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def from_all(value: Value) -> list[Value]:
    """Return the ``value`` of every process, by rank, in every process."""
    values = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(values, value)
    return values


def sum_over_all(tensor: Tensor) -> Tensor:
    """Add up ``tensor`` over the processes, in place, and return it."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def on_first(act: Callable[[], object]) -> None:
    """Call ``act`` in the first process while the others wait.

    Raises:
        RunError: in the others if the first one failed, with its message, and of its class if that is a RunError. The
            first one raises its own error, of any class.
    """
    if not is_first():
        complaint = cast("tuple[type[RunError], str] | None", from_first(None))
        if complaint is not None:
            kind, text = complaint
            raise kind(f"the first process stopped: {text}")
        return
    try:
        act()
    except Exception as error:
        from_first((type(error) if isinstance(error, RunError) else RunError, str(error)))
        raise
    from_first(None)


def split(items: Sequence[Value], parts: int) -> list[Sequence[Value]]:
    """Return consecutive parts whose lengths differ by one at most, the longer ones first."""
    size, longer = divmod(len(items), parts)
    cuts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(cuts)]


def synchronize_batch_norm(net: nn.Module, device: torch.device) -> None:
    """Replace every batch norm of ``net`` by one over the batches of all processes; alone, nothing happens.

    Raises:
        ValueError: if a batch norm contains other modules, as timm's do their activation.
    """
    if world_size() == 1:
        return
    # Imports torch's compiler, which takes seconds.
    from wsolfast.engine.run.synced_batch_norm import SyncedBatchNorm

    norms = {
        path: module for path, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    for path, module in norms.items():
        if any(module.children()):
            raise ValueError(f"sync_bn: {path} is a {type(module).__name__}, which cannot be synchronised")
        # torch's own is faster and knows no CPU.
        synced = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm
        twin = synced(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            setattr(twin, name, tensor)
        net.set_submodule(path, twin.train(module.training))
