#include "common/dispatch.h"
#include "cuda/binding.h"

namespace wsolfast::cuda {

// In min_max_normalize.cu; T: float, double.
template <typename T>
void min_max_normalize(const Target& target, const T* maps, int64_t count, int64_t size, T eps, T* out);

}  // namespace wsolfast::cuda

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "min_max_normalize";

Tensor min_max_normalize_cuda(Tensor maps, double eps) {
  wsolfast::cuda::DeviceGuard guard(maps.get_device());
  const Tensor input = torch::stable::contiguous(maps);
  Tensor output = torch::stable::empty_like(input);
  if (input.numel() == 0) return output;
  const int64_t size = input.size(-1) * input.size(-2);
  wsolfast::dispatch_float_double(input.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    wsolfast::cuda::min_max_normalize({kOp, input.get_device()}, input.const_data_ptr<T>(), input.numel() / size, size,
                                      static_cast<T>(eps), output.mutable_data_ptr<T>());
  });
  return output;
}

}  // namespace

WSOLFAST_CUDA_KERNELS(m) { m.impl("min_max_normalize", TORCH_BOX(&min_max_normalize_cuda)); }
