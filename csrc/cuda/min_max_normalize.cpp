#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/dispatch.h"
#include "cuda/kernels.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "min_max_normalize";

Tensor min_max_normalize_cuda(Tensor maps, double eps) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
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

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("min_max_normalize", TORCH_BOX(&min_max_normalize_cuda)); }
