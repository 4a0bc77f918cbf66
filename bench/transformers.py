"""A transformer's training step beside plain timm: time in turns, and what is kept for the backward pass.

python bench/transformers.py --json bench/results/vit-step-1thread.json
python bench/transformers.py --device cuda --batch 128 --turns 20
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.engine.run.environment import describe_environment
from wsolfast.engine.run.run_folder import write_json
from wsolfast.methods import get_stage
from wsolfast.types import Batch, TrainState

# Times plain timm's, in time and in memory.
LIMIT = 1.10
_STATE = TrainState(epoch=0, epochs=1, step=0, steps=1)


def plain(name: str, classes: int, side: int) -> tuple[torch.nn.Module, Callable[[Batch], Tensor]]:
    """Build timm's own network with its own head, and the loss of a batch."""
    net = import_timm().create_model(name, num_classes=classes, img_size=side)
    mean, std = (torch.tensor(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))

    def loss(batch: Batch) -> Tensor:
        image = (batch.image / 255 - mean.to(batch.image.device)) / std.to(batch.image.device)
        return functional.cross_entropy(net(image), batch.label)

    return net, loss


def ours(method: str, name: str, classes: int, side: int) -> tuple[torch.nn.Module, Callable[[Batch], Tensor]]:
    """Build a method on the same network, and the loss of a batch."""
    net = get_stage(method)(backbones.build(f"timm:{name}", input_size=side), classes)
    return net, lambda batch: net.training_step(batch, _STATE)["loss"]


def saved_bytes(loss: Callable[[Batch], Tensor], batch: Batch) -> int:
    """Return the bytes that a step keeps for its backward pass besides parameters, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = loss(batch)
    found.backward()
    return sum(kept.values())


def measure(name: str, device: str, batch: int, classes: int, side: int, turns: int) -> dict:
    """Time every contender's step in turns.

    Args:
        name: of timm's network.
        device: "cpu" or "cuda".
        batch: images of a step.
        classes: K.
        side: of the square images, in pixels.
        turns: how many steps each takes after one that is not counted.

    Returns:
        By contender: the least seconds of a step, the bytes that it keeps, and both as shares of plain timm's.
    """
    torch.manual_seed(0)
    image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    example = Batch(image, torch.arange(batch) % classes, ("",) * batch).to(device)
    made = {"timm": plain(name, classes, side)} | {
        method: ours(method, name, classes, side) for method in ("cam", "ts_cam", "scm")
    }
    optimizers = {
        key: torch.optim.AdamW(net.to(device).train().parameters(), lr=1e-6) for key, (net, _) in made.items()
    }
    kept = {key: saved_bytes(loss, example) for key, (_, loss) in made.items()}
    times: dict[str, list[float]] = {key: [] for key in made}
    for turn in range(turns + 1):
        for key, (_, loss) in made.items():
            _wait(device)
            # On a shared machine, what other processes take is nobody's.
            start = time.process_time() if device == "cpu" else time.perf_counter()
            optimizers[key].zero_grad(set_to_none=True)
            loss(example).backward()
            optimizers[key].step()
            _wait(device)
            end = time.process_time() if device == "cpu" else time.perf_counter()
            if turn:
                times[key].append(end - start)
    # What disturbs a step makes it slower.
    seconds = {key: min(found) for key, found in times.items()}
    return {
        key: {
            "seconds": round(seconds[key], 4),
            "kept_mb": round(kept[key] / 1e6, 2),
            "time_ratio": round(seconds[key] / seconds["timm"], 3),
            "memory_ratio": round(kept[key] / kept["timm"], 3),
        }
        for key in made
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="deit_small_patch16_224")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = measure(given.network, given.device, given.batch, given.classes, given.side, given.turns)
    for name, row in rows.items():
        told = f"{row['seconds']:8.3f} s {row['time_ratio']:6.2f}  {row['kept_mb']:9.1f} MB {row['memory_ratio']:6.2f}"
        print(f"{name:8} {told}")
    slow = [name for name, row in rows.items() if max(row["time_ratio"], row["memory_ratio"]) > LIMIT]
    print(f"more than {LIMIT} times plain timm: {', '.join(slow) or 'none'}")
    if given.json:
        settings = {key: value for key, value in vars(given).items() if key != "json"}
        write_json(
            given.json, {"settings": settings, "environment": describe_environment(), "limit": LIMIT, "rows": rows}
        )


if __name__ == "__main__":
    main()
