"""Builds csrc/cuda for the host with the emulator beside this file and calls it on CPU tensors."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).parent / "emulator"
ROOT = Path(__file__).parents[2]
ORDERS = ("ascending", "descending", "shuffled")
# Contraction off as nvcc's --fmad=false has it.
FLAGS = (
    "-std=c++20 -O2 -fPIC -fvisibility=hidden -ffp-contract=off -U_FORTIFY_SOURCE "
    "-Wall -Wextra -Werror -Wno-unknown-pragmas"
)

# Processors, shared memory that a CTA can have and memory for what does not fit, in bytes.
H200 = (132, 227 * 1024, 1 << 27)
# The same for the contours of gaussian_prior_labels, which take less shared memory than there is.
CONTOURS = (132, 96 * 1024, 1 << 27)


def build(folder: Path) -> Path:
    """Compile the emulator and every kernel's entry into one library; ninja keeps what is up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    cxx = os.environ.get("CXX", "g++")
    lines = [
        "ninja_required_version = 1.5",
        "rule compile",
        f"  command = {cxx} -MMD -MF $out.d {FLAGS} -include {HERE}/cuda_emulator.h -I{HERE} -I{ROOT}/csrc "
        "-c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {cxx} -shared $in -o $out",
    ]
    objects = []
    for source in sorted(HERE.glob("*.cpp")):
        objects.append(f"{source.stem}.o")
        lines.append(f"build {source.stem}.o: compile {source}")
    library = folder / "cuda_emulated.so"
    lines.append(f"build {library.name}: link {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "ninja", "-C", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"compiling the emulated kernels failed:\n{done.stdout}{done.stderr}")
    return library


def compiler_is_missing() -> str | None:
    cxx = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(cxx) else f"no C++ compiler {cxx}"


class Emulated:
    """The functions of the library; a failing kernel raises RuntimeError."""

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))

    def call(self, function: str, *arguments) -> None:
        """Call a function: tensors go as pointers, floats as double, everything else as int64."""
        call = getattr(self._library, function)
        call.restype = ctypes.c_char_p
        error = call(*map(_as_c, arguments))
        if error is not None:
            raise RuntimeError(error.decode())

    def set_order(self, order: str, seed: int = 0) -> None:
        """Set the order of the threads in the launches that follow."""
        self._library.set_order(ORDERS.index(order), ctypes.c_uint64(seed))

    def min_max_normalize(self, maps: torch.Tensor, eps: float) -> torch.Tensor:
        maps = maps.contiguous()
        out = torch.full_like(maps, float("nan"))
        size = maps.shape[-1] * maps.shape[-2]
        self.call(f"min_max_normalize_{_suffix(maps)}", maps, maps.numel() // size, size, eps, out)
        return out

    def normalize_score_map(self, maps: torch.Tensor, size: Sequence[int], rule: Sequence[float]) -> torch.Tensor:
        maps = maps.contiguous()
        out = torch.full((len(maps), *size), float("nan"), dtype=torch.float64)
        given = (*_list(size, torch.int64), *_list(rule))
        self.call(f"normalize_score_map_{_suffix(maps)}", maps, *maps.shape, *given, out)
        return out

    def gaussian_prior_labels(
        self, maps: torch.Tensor, height: int, width: int, *codes, limits: tuple = CONTOURS
    ) -> torch.Tensor:
        maps = maps.contiguous()
        labels = torch.full((len(maps), height, width), 77, dtype=torch.uint8)
        if len(maps):
            rule, given = torch.tensor(codes, dtype=torch.float64), torch.tensor(limits, dtype=torch.int64)
            self.call(f"gaussian_prior_labels_{_suffix(maps)}", maps, *maps.shape, height, width, rule, given, labels)
        return labels

    def plan_contours(self, height: int, width: int, images: int, limits: tuple) -> dict[str, int]:
        """Return how the contours of maps would be spread over a device."""
        names = ("run_capacity", "item_capacity", "shared_bytes", "ctas", "slots")
        out = torch.zeros(len(names), dtype=torch.int64)
        self.call("plan_contours", height, width, images, torch.tensor(limits, dtype=torch.int64), out)
        return dict(zip(names, out.tolist(), strict=True))

    def pixel_histogram(self, maps: torch.Tensor, masks: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        maps, masks, bins = maps.contiguous(), masks.contiguous(), len(edges) - 1
        counts = torch.zeros(2, bins, dtype=torch.int64)
        self.call(f"pixel_histogram_{_suffix(maps)}", maps, masks, maps.numel(), edges, bins, counts)
        return counts

    def score_map_boxes(self, maps: torch.Tensor, thresholds: torch.Tensor, size, rule, limits=H200) -> torch.Tensor:
        boxes = torch.full((len(maps), len(thresholds), 4), -7, dtype=torch.int64)
        self.call("score_map_boxes", *_box_arguments(maps, thresholds, size, rule, limits), boxes)
        return boxes

    def score_map_boxes_all(self, maps: torch.Tensor, thresholds: torch.Tensor, size, rule, limits=H200):
        offsets = torch.full((len(maps) * len(thresholds) + 1,), -7, dtype=torch.int64)
        self.call("score_map_boxes_all", *_box_arguments(maps, thresholds, size, rule, limits), offsets)
        boxes = torch.empty((int(offsets[-1]), 4), dtype=torch.int64)
        self.call("listed_boxes", boxes)
        return boxes, offsets

    def box_sweep_hits(self, maps, thresholds, gt_boxes, gt_offsets, iou_thresholds, size, rule, limits=H200):
        hits = torch.full((len(maps), len(thresholds), len(iou_thresholds)), 7, dtype=torch.uint8).view(torch.bool)
        truths = (gt_boxes.contiguous(), gt_offsets.contiguous(), len(gt_boxes), iou_thresholds, len(iou_thresholds))
        self.call("box_sweep_hits", *_box_arguments(maps, thresholds, size, rule, limits), *truths, hits)
        return hits

    def plan(self, height: int, width: int, images: int, cuts: int, limits: tuple) -> dict[str, int]:
        """Return how the box kernels would spread quantised maps over a device."""
        names = ("warps", "chunks", "planes_in_shared", "run_capacity", "item_capacity", "shared_bytes", "slots")
        out = torch.zeros(len(names), dtype=torch.int64)
        self.call("plan_boxes", height, width, images, cuts, torch.tensor(limits, dtype=torch.int64), out)
        return dict(zip(names, out.tolist(), strict=True))


def _box_arguments(maps: torch.Tensor, thresholds: torch.Tensor, size: list, rule: list, limits: tuple) -> tuple:
    dtype = (torch.uint8, torch.float32, torch.float64).index(maps.dtype)
    maps = maps.contiguous()
    given = torch.tensor(limits, dtype=torch.int64)
    return dtype, maps, *maps.shape, thresholds, len(thresholds), *_list(size, torch.int64), *_list(rule), given


def _list(numbers: Sequence[float], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, int]:
    return torch.tensor(numbers, dtype=dtype), len(numbers)


def _suffix(maps: torch.Tensor) -> str:
    return {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8"}[maps.dtype]


def _as_c(argument):
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_int64(argument)
