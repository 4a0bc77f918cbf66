#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>

#include "common/dispatch.h"
#include "common/stream.h"

namespace {

using torch::stable::Tensor;

constexpr int kThreads = 256;

// One CTA normalises one map; minimum and maximum do not depend on the order of the tree.
template <typename T>
__global__ void __launch_bounds__(kThreads) normalize_kernel(const T* maps, int64_t size, T eps, T* out) {
  __shared__ T lows[kThreads], highs[kThreads];
  const T* map = maps + blockIdx.x * size;
  T low = map[0], high = map[0];
  bool has_nan = false;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    const T value = map[i];
    low = value < low ? value : low;
    high = value > high ? value : high;
    has_nan |= value != value;
  }
  lows[threadIdx.x] = low;
  highs[threadIdx.x] = high;
  has_nan = __syncthreads_or(has_nan);
  for (int stride = kThreads / 2; stride > 0; stride /= 2) {
    if (threadIdx.x < stride) {
      const T other_low = lows[threadIdx.x + stride], other_high = highs[threadIdx.x + stride];
      if (other_low < lows[threadIdx.x]) lows[threadIdx.x] = other_low;
      if (other_high > highs[threadIdx.x]) highs[threadIdx.x] = other_high;
    }
    __syncthreads();
  }
  low = lows[0];
  const T range = highs[0] - low + eps;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    const T value = range > 0 ? (map[i] - low) / range : T(0);
    out[blockIdx.x * size + i] = has_nan ? std::numeric_limits<T>::quiet_NaN() : value;
  }
}

Tensor min_max_normalize_cuda(Tensor maps, double eps) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
  Tensor input = torch::stable::contiguous(maps);
  Tensor output = torch::stable::empty_like(input);
  const int64_t size = input.size(-1) * input.size(-2);
  if (input.numel() == 0) return output;
  const int64_t count = input.numel() / size;
  WSOLFAST_CHECK(count <= std::numeric_limits<int32_t>::max(), "min_max_normalize", "too many maps: ", count);
  const cudaStream_t stream = wsolfast::current_stream(input.get_device());
  wsolfast::dispatch_float_double(input.scalar_type(), "min_max_normalize", [&](auto zero) {
    using T = decltype(zero);
    normalize_kernel<T><<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
        input.const_data_ptr<T>(), size, static_cast<T>(eps), output.mutable_data_ptr<T>());
  });
  wsolfast::check_launch("min_max_normalize");
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("min_max_normalize", TORCH_BOX(&min_max_normalize_cuda)); }
