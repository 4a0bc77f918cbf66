"""Others that do what an op does: the same PyTorch by hand, compiled, and the libraries that can be imported."""

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from wsolfast import ops
from wsolfast.bench.cases import BOX_FRAME, BenchCase
from wsolfast.methods._non_local import NonLocalBlock
from wsolfast.ops import BoxRule
from wsolfast.reference.non_local_attention import non_local_attention

BOXES = ("score_map_boxes", "box_sweep_hits")
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Peer:
    """A function of the op's arguments.

    ``dtype`` is what it is fed, the case's own if None. ``work`` is the share of the op's work that one call does; its
    time is divided by it. ``partial`` says that even all calls do less than the op.
    """

    name: str
    call: Callable
    dtype: torch.dtype | None = None
    tf32: bool = True
    work: float = 1.0
    partial: bool = False


class NotHere(Exception):
    """A library that cannot be imported or does not take these arguments; the message says why."""


def ours(case: BenchCase) -> Peer:
    """The op as the dispatcher serves it, with float32 products where the case asks for them; attention and the class
    head as their functions are called, which choose among ops, and the block around attention as its module."""
    if case.op == "non_local_block":
        return Peer("ours", _block, tf32=False)
    if case.op == "non_local_attention":
        return Peer("ours", lambda *maps: ops.non_local_attention(*maps[:3], kind=maps[3]), tf32=False)
    if case.op == "class_head_pool":
        return Peer("ours", lambda *inputs: ops.class_head_pool(*inputs[:3], relu=inputs[3]), tf32=False)
    return Peer("ours", getattr(torch.ops.wsolfast, case.op).default, tf32=False)


def reference(case: BenchCase) -> Callable:
    if case.op == "non_local_block":
        return _plain_block
    return getattr(importlib.import_module(f"wsolfast.reference.{case.op}"), case.op)


def peers_of(case: BenchCase, device: str) -> list[Peer]:
    """Contenders beside ours, cheapest to measure first."""
    if case.op in BOXES:
        return _label_peers(case) if device == "cuda" else []
    plain = reference(case)
    eager = [Peer("eager fp32", plain, torch.float32, tf32=False)]
    if case.op == "gaussian_prior_labels":
        # A loop over images and contours, which no compiler makes one kernel of. Many images would take minutes.
        def first_image(cam: Tensor, *rest) -> Tensor:
            return plain(cam[:1], *rest)

        return [Peer("eager fp32", first_image, torch.float32, tf32=False, work=1 / case.images)]
    if device == "cuda" and case.flops:
        eager += [Peer("eager tf32", plain, torch.float32), Peer("eager bf16", _autocast(plain, torch.bfloat16))]
    elif case.dtype == torch.bfloat16:
        eager += [Peer("eager bf16", plain)]
    if device == "cuda" and case.kind == "embedded_gaussian":
        eager += _attention_peers()
    return [*eager, *_compiled(case, plain)]


@cache
def _block_module(channels: int, device: torch.device, dtype: torch.dtype) -> tuple[NonLocalBlock, list[str]]:
    block = NonLocalBlock(channels).to(device, dtype).eval()
    return block, [name for name, _ in block.named_parameters()]


def _block(x: Tensor, *parameters: Tensor) -> Tensor:
    block, names = _block_module(x.shape[1], x.device, x.dtype)
    return functional_call(block, dict(zip(names, parameters, strict=True)), (x,))


def _plain_block(x: Tensor, *parameters: Tensor) -> Tensor:
    """As NL-CCAM writes it: four convolutions, every weight in memory."""
    *pairs, gain, offset = parameters
    query, key, value = (functional.conv2d(x, *pairs[i : i + 2]) for i in (0, 2, 4))
    mixed = functional.conv2d(non_local_attention(query, key, value, "embedded_gaussian"), *pairs[6:])
    return x + functional.batch_norm(mixed, torch.zeros_like(offset), torch.ones_like(gain), gain, offset)


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    convolutions = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def _autocast(function: Callable, dtype: torch.dtype) -> Callable:
    def call(*arguments):
        with torch.autocast("cuda", dtype):
            return function(*arguments)

    return call


def _compiled(case: BenchCase, plain: Callable) -> list[Peer]:
    function = _autocast(plain, case.dtype) if case.dtype in HALVES else plain
    # Without CUDA graphs, as every other contender here; replays are timed apart.
    modes = {"compile": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}

    def lazily(mode):
        compiled = torch.compile(function, mode=mode, dynamic=False)

        def call(*arguments):
            return compiled(*arguments)

        return call

    return [Peer(name, lazily(mode)) for name, mode in modes.items()]


def _attention_peers() -> list[Peer]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def by(backend):
        def call(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
            # Rows of channels, which all backends but "math" insist on: the copy is part of the call, as it is of ours.
            rows = [maps.flatten(2).mT[:, None].contiguous() for maps in (query, key, value)]
            try:
                with sdpa_kernel(backend), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = scaled_dot_product_attention(*rows, scale=1.0)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise NotHere(str(error).splitlines()[0]) from error
            return found[:, 0].mT.unflatten(2, query.shape[2:])

        return call

    backends = {
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    return [Peer(f"sdpa {name}", by(backend)) for name, backend in backends.items()]


def _label_peers(case: BenchCase) -> list[Peer]:
    """Connected components of one cut of every map, a lower bound of what a box of the largest one takes by them."""

    @cache
    def masks(device: str) -> Tensor:
        maps = case.make_inputs(device, case.dtype)[0]
        return ops.normalize_score_map(maps, BOX_FRAME, BoxRule()) > 0.5

    def of_one_cut(label: Callable) -> Callable:
        return lambda maps, *rest: label(masks(maps.device.type))

    found = (("cupy", _cupy_labels), ("kornia", _kornia_labels), ("cc_torch", _cc_torch_labels))
    return [Peer(f"labels {name}", of_one_cut(label), work=1 / case.cuts, partial=True) for name, label in found]


def _module(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotHere(f"{name} is not installed") from error


def _cupy_labels(masks: Tensor):
    cupy, ndimage = _module("cupy"), _module("cupyx.scipy.ndimage")
    # Eight neighbours within an image, none in the next. Both libraries launch on the default stream.
    structure = cupy.zeros((3, 3, 3), dtype=bool)
    structure[1] = True
    return ndimage.label(cupy.from_dlpack(masks.view(torch.uint8)), structure)


def _kornia_labels(masks: Tensor) -> Tensor:
    # Diameter of the largest blob; fewer iterations leave labels unfinished.
    return _module("kornia.contrib").connected_components(masks[:, None].float(), num_iterations=224)


def _cc_torch_labels(masks: Tensor) -> list[Tensor]:
    label = _module("cc_torch").connected_components_labeling
    return [label(mask) for mask in masks.view(torch.uint8)]
