#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <limits>

#include "cuda/launch.h"
#include "cuda/normalize_score_map.cuh"
#include "cuda/score_maps.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace wsolfast::cuda;

constexpr const char* kOp = "normalize_score_map";

// [N, h, w] -> float64 [N, height, width]
Tensor normalize_score_map_cuda(Tensor maps, int64_t height, int64_t width, int64_t interpolation,
                                int64_t normalization, double eps, bool normalize_first) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
  const Tensor input = torch::stable::contiguous(maps);
  const int64_t count = maps.size(0), h = maps.size(1), w = maps.size(2);
  const auto kind = static_cast<Interpolation>(interpolation);
  const auto scaling = static_cast<Normalization>(normalization);
  WSOLFAST_CHECK(kind != Interpolation::kNone || (h == height && w == width), kOp,
                 "another size needs an interpolation");
  for (int64_t side : {h, w, height, width}) {
    WSOLFAST_CHECK(side > 0 && side <= std::numeric_limits<int32_t>::max(), kOp, "a side of ", side, " pixels");
  }
  Tensor output = torch::stable::new_empty(input, {count, height, width}, ScalarType::Double);
  if (output.numel() == 0) return output;
  const ResizeShape shape{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height), static_cast<int>(width)};
  const bool apart = normalizes_apart(shape, scaling, normalize_first);
  Tensor sources = torch::stable::new_empty(input, {apart ? count : 0, h, w}, ScalarType::Double);
  const Launcher launch(kOp, input.get_device());
  with_pixels(input, kOp, [&](const auto* pixels) {
    normalize_score_map(launch, pixels, count, shape, kind, scaling, eps,
                        apart ? sources.mutable_data_ptr<double>() : nullptr, output.mutable_data_ptr<double>());
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("normalize_score_map", TORCH_BOX(&normalize_score_map_cuda)); }
