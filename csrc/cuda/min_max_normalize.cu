// Scales every map of a batch to [0, 1] by its own minimum and maximum.
#include <cstdint>
#include <limits>

#include "cuda/launch.h"

namespace wsolfast::cuda {

// One CTA normalises one map; minimum and maximum do not depend on the order of the tree.
template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads) min_max_normalize_kernel(const T* maps, int64_t size, T eps, T* out) {
  __shared__ T lows[kThreads], highs[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const T* map = maps + blockIdx.x * size;
  T low = map[0], high = map[0];
  bool has_nan = false;
  for (int64_t i = thread; i < size; i += kThreads) {
    const T value = map[i];
    low = value < low ? value : low;
    high = value > high ? value : high;
    has_nan |= value != value;
  }
  lows[thread] = low;
  highs[thread] = high;
  has_nan = __syncthreads_or(has_nan);
  for (int stride = kThreads / 2; stride > 0; stride /= 2) {
    if (thread < stride) {
      const T other_low = lows[thread + stride], other_high = highs[thread + stride];
      if (other_low < lows[thread]) lows[thread] = other_low;
      if (other_high > highs[thread]) highs[thread] = other_high;
    }
    __syncthreads();
  }
  low = lows[0];
  const T range = highs[0] - low + eps;
  for (int64_t i = thread; i < size; i += kThreads) {
    const T value = range > 0 ? (map[i] - low) / range : T(0);
    out[blockIdx.x * size + i] = has_nan ? std::numeric_limits<T>::quiet_NaN() : value;
  }
}

// Maps of `size` pixels.
template <typename T>
void min_max_normalize(const Target& target, const T* maps, int64_t count, int64_t size, T eps, T* out) {
  constexpr int kThreads = 256;
  Launcher{target}(min_max_normalize_kernel<T, kThreads>, count, kThreads, 0, maps, size, eps, out);
}

template void min_max_normalize(const Target&, const float*, int64_t, int64_t, float, float*);
template void min_max_normalize(const Target&, const double*, int64_t, int64_t, double, double*);

}  // namespace wsolfast::cuda
