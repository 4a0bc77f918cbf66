#include "cuda/binding.h"
#include "cuda/score_maps.h"

namespace wsolfast::cuda {

// In pixel_histogram.cu; Pixel: uint8_t, float, double.
template <typename Pixel>
void pixel_histogram(const Target& target, const Pixel* scores, const uint8_t* masks, int64_t pixels,
                     const double* edges, int64_t bins, int64_t* counts);

}  // namespace wsolfast::cuda

namespace {

using torch::stable::Tensor;
using namespace wsolfast::cuda;

constexpr const char* kOp = "pixel_histogram";

// [N, H, W], [N, H, W], [B + 1] -> [2, B]
Tensor pixel_histogram_cuda(Tensor maps, Tensor masks, Tensor edges) {
  DeviceGuard guard(maps.get_device());
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

WSOLFAST_CUDA_KERNELS(m) { m.impl("pixel_histogram", TORCH_BOX(&pixel_histogram_cuda)); }
