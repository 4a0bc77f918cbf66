#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>

#include "common/dispatch.h"

namespace {

using torch::stable::Tensor;

template <typename T>
void normalize_map(const T* map, int64_t size, T eps, T* out) {
  T low = map[0], high = map[0];
  bool has_nan = false;
  for (int64_t i = 0; i < size; ++i) {
    low = std::min(low, map[i]);
    high = std::max(high, map[i]);
    has_nan |= map[i] != map[i];
  }
  if (has_nan) {
    std::fill(out, out + size, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const T range = high - low + eps;
  for (int64_t i = 0; i < size; ++i) out[i] = range > 0 ? (map[i] - low) / range : T(0);
}

Tensor min_max_normalize_cpu(Tensor maps, double eps) {
  Tensor input = torch::stable::contiguous(maps);
  Tensor output = torch::stable::empty_like(input);
  const int64_t size = input.size(-1) * input.size(-2);
  if (input.numel() == 0) return output;
  wsolfast::dispatch_float_double(input.scalar_type(), "min_max_normalize", [&](auto zero) {
    using T = decltype(zero);
    const T* in = input.const_data_ptr<T>();
    T* out = output.mutable_data_ptr<T>();
    const int64_t grain = std::max<int64_t>(1, 32768 / size);
    torch::stable::parallel_for(0, input.numel() / size, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) normalize_map<T>(in + n * size, size, static_cast<T>(eps), out + n * size);
    });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("min_max_normalize", TORCH_BOX(&min_max_normalize_cpu)); }
