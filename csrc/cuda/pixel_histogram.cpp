#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cuda/kernels.h"
#include "cuda/score_maps.h"

namespace {

using torch::stable::Tensor;
using namespace wsolfast::cuda;

constexpr const char* kOp = "pixel_histogram";

// [N, H, W], [N, H, W], [B + 1] -> [2, B]
Tensor pixel_histogram_cuda(Tensor maps, Tensor masks, Tensor edges) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
  const Tensor input = torch::stable::contiguous(maps), kinds = torch::stable::contiguous(masks);
  const Tensor bounds = torch::stable::contiguous(edges);
  WSOLFAST_CHECK(kinds.numel() == input.numel() && bounds.numel() >= 2, kOp, "masks or edges do not fit the maps");
  const int64_t bins = bounds.numel() - 1;
  Tensor counts = torch::stable::new_zeros(input, {2, bins}, torch::headeronly::ScalarType::Long);
  if (input.numel() == 0) return counts;
  with_pixels(input, kOp, [&](const auto* pixels) {
    pixel_histogram({kOp, input.get_device()}, pixels, kinds.const_data_ptr<uint8_t>(), input.numel(),
                    bounds.const_data_ptr<double>(), bins, counts.mutable_data_ptr<int64_t>());
  });
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("pixel_histogram", TORCH_BOX(&pixel_histogram_cuda)); }
