"""Kernels with known properties, for the test of the compile gate."""

import torch
import triton
import triton.language as tl

from wsolfast.testing.kernel_builds import KernelBuild


@triton.jit
def _product_kernel(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tile = index[:, None] * SIZE + index[None, :]
    tl.store(out_ptr + tile, tl.dot(tl.load(x_ptr + tile), tl.load(y_ptr + tile)))


@triton.jit
def _sum_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    tl.store(out_ptr + tl.program_id(0), tl.sum(tl.load(x_ptr + tl.arange(0, SIZE))))


@triton.jit
def _running_sum_kernel(x_ptr, out_ptr, rows, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for row in tl.range(rows, num_stages=3):
        total += tl.load(x_ptr + row * SIZE + index)
    tl.store(out_ptr + index, total)


def _meta(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def product(size, warps):
    x, y = _meta(size, size), _meta(size, size)
    _product_kernel[(1,)](x, y, _meta(size, size, dtype=torch.float32), SIZE=size, num_warps=warps)


PRODUCT = KernelBuild("product", lambda: product(64, warps=4), tensor_cores=("_product_kernel",))
# 128x128 fp32 sums over 32 threads are 512 values each: they cannot stay in 255 registers.
TOO_LARGE = KernelBuild("too large", lambda: product(128, warps=1), tensor_cores=("_product_kernel",))
SUM = KernelBuild("sum", lambda: _sum_kernel[(1,)](_meta(128), _meta(1), SIZE=128))
RUNNING_SUM = KernelBuild(
    "running sum", lambda: _running_sum_kernel[(1,)](_meta(128, dtype=torch.float32), _meta(128), 9, SIZE=128)
)
NOT_LAUNCHED = KernelBuild("sum", lambda: _sum_kernel[(1,)](_meta(128), _meta(1), SIZE=128), tensor_cores=("other",))
NOTHING = KernelBuild("nothing", lambda: None)
