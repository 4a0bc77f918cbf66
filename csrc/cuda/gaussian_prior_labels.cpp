#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <functional>
#include <limits>

#include "common/dispatch.h"
#include "cuda/kernels.h"
#include "cuda/scratch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kOp = "gaussian_prior_labels";

// [N, h, w] -> uint8 [N, height, width]
Tensor gaussian_prior_labels_cuda(Tensor cam, int64_t height, int64_t width, double weight_low, double weight_high,
                                  bool per_contour, double min_area, double covariance_scale, bool grid_max,
                                  double object_cam, double object_gaussian, double background_cam,
                                  double background_gaussian, bool empty_background) {
  torch::stable::accelerator::DeviceGuard guard(cam.get_device());
  WSOLFAST_CHECK(cam.dim() == 3, kOp, "expected maps [N, h, w]");
  for (int64_t side : {cam.size(1), cam.size(2), height, width}) {
    WSOLFAST_CHECK(side > 0 && side < std::numeric_limits<int32_t>::max() / 4, kOp, "a side of ", side, " pixels");
  }
  const wsolfast::gaussian_prior::Rule rule{
      weight_low,      weight_high,    per_contour,         min_area,        covariance_scale, grid_max, object_cam,
      object_gaussian, background_cam, background_gaussian, empty_background};
  const Tensor maps = torch::stable::contiguous(cam);
  const int64_t count = maps.size(0), h = maps.size(1), w = maps.size(2);
  Tensor labels = torch::stable::new_empty(maps, {count, height, width}, ScalarType::Byte);
  if (count == 0) return labels;
  Tensor scaled = torch::stable::new_empty(maps, {count, h, w}, ScalarType::Double);
  const wsolfast::boxes::ResizeShape shape{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height),
                                           static_cast<int>(width)};
  const wsolfast::cuda::Target target{kOp, maps.get_device()};
  wsolfast::dispatch_float_double(maps.scalar_type(), kOp, [&](auto zero) {
    const auto* cams = maps.const_data_ptr<decltype(zero)>();
    auto* scratch = scaled.mutable_data_ptr<double>();
    auto* out = labels.mutable_data_ptr<uint8_t>();
    if (rule.per_contour && rule.uses_gaussians()) {
      const Tensor overflows = torch::stable::new_zeros(maps, {1}, ScalarType::Int);
      wsolfast::cuda::Scratch memory(maps);
      wsolfast::cuda::label_by_contours(target, std::ref(memory), cams, count, shape, rule,
                                        overflows.mutable_data_ptr<int32_t>(), scratch, out);
    } else {
      Tensor axis_sums = torch::stable::new_empty(maps, {h + w, 3}, ScalarType::Double);
      wsolfast::cuda::label_by_maps(target, cams, count, shape, rule, axis_sums.mutable_data_ptr<double>(), scratch,
                                    out);
    }
  });
  return labels;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) {
  m.impl("gaussian_prior_labels", TORCH_BOX(&gaussian_prior_labels_cuda));
}
