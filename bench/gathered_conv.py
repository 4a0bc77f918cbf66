"""The label's channel of a 3x3 convolution of K, another one for every image, which BAS trains on.

    python -m wsolfast.bench.gathered_conv [--device cuda] [--images N] [--seconds S] [--json FILE]

Contenders: BAS's own, a grouped convolution with one group per image, and im2col with a batched product. Each is timed
forward and backward, to the features and to the weights of all channels, once it is found right. A kernel of our own
would be worth having where BAS's own were not the fastest, or far above the time of reading the features.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.bench.measure import environment, milliseconds, write_json
from wsolfast.bench.rows import OURS
from wsolfast.methods.bas import chosen_channels
from wsolfast.testing import assert_close

SIDE = 28
# Channels of VGG16's and ResNet50's generators; classes of CUB and of ILSVRC.
CASES = tuple((channels, classes) for channels in (512, 1024) for classes in (200, 1000))
Contender = Callable[..., Tensor]


def ours(features: Tensor, weight: Tensor, bias: Tensor, label: Tensor) -> Tensor:
    return chosen_channels(features, weight, bias, label[:, None])


def grouped(features: Tensor, weight: Tensor, bias: Tensor, label: Tensor) -> Tensor:
    side_by_side = features.reshape(1, -1, *features.shape[2:])
    found = functional.conv2d(side_by_side, weight[label], bias[label], padding=1, groups=len(label))
    return found.transpose(0, 1)


def im2col(features: Tensor, weight: Tensor, bias: Tensor, label: Tensor) -> Tensor:
    columns = functional.unfold(features, 3, padding=1)
    found = torch.baddbmm(bias[label, None, None], weight[label].flatten(1)[:, None], columns)
    return found.unflatten(2, features.shape[2:])


CONTENDERS: dict[str, Contender] = {OURS: ours, "grouped convolution": grouped, "im2col and bmm": im2col}


def measure(channels: int, classes: int, images: int, device: str, seconds: float, side: int = SIDE) -> Iterator[dict]:
    """Rows of a case; those whose channel or gradients are wrong have no time."""
    make = torch.Generator().manual_seed(0)
    shapes = ((images, channels, side, side), (classes, channels, 3, 3), (classes,))
    inputs = [torch.randn(shape, generator=make).to(device).requires_grad_() for shape in shapes]
    label = torch.randint(classes, (images,), generator=make).to(device)
    seed = torch.randn(images, 1, side, side, generator=make).to(device)
    exact = _step(grouped, [one.detach().double().requires_grad_() for one in inputs], label, seed.double())
    for name, contender in CONTENDERS.items():
        row = {"case": f"{channels} channels, {classes} classes, {images} images", "contender": name}
        try:
            for found, expected in zip(_step(contender, inputs, label, seed), exact, strict=True):
                # Relative to the largest: sums of 9 C products in float32.
                assert_close(found / expected.abs().max(), expected / expected.abs().max(), 1e-5)
        except AssertionError as error:
            yield row | {"status": f"wrong: {error}"}
            continue
        call = functools.partial(_step, contender, inputs, label, seed)
        times = milliseconds([call], device, seconds, time.process_time)
        yield row | {"status": "ok", "calls": times.pop("calls"), "ms": times}


def _step(contender: Contender, inputs: list[Tensor], label: Tensor, seed: Tensor) -> list[Tensor]:
    """Return the channel and its gradients."""
    found = contender(*inputs, label)
    return [found, *torch.autograd.grad(found, inputs, seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    clock = "wall time" if options.device == "cuda" else "CPU time of the process"
    rows = []
    for channels, classes in CASES:
        for row in measure(channels, classes, options.images, options.device, options.seconds):
            rows.append(row)
            shown = f"{row['ms']['p50']:.1f} ms" if row["status"] == "ok" else row["status"]
            print(f"{row['case']}: {row['contender']}: {shown}", flush=True)
    if options.json is not None:
        found = {"bench": "gathered_conv", "environment": environment(options.device, 1) | {"clock": clock}}
        write_json(options.json, found | {"rows": rows})
    sys.exit(5 if any(row["status"] != "ok" for row in rows) else 0)


if __name__ == "__main__":
    main()
