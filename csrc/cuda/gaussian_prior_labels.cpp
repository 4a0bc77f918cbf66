#include <functional>
#include <limits>

#include "boxes/map_rule.h"
#include "common/dispatch.h"
#include "common/gaussian_prior.h"
#include "cuda/binding.h"

namespace wsolfast::cuda {

// In gaussian_prior_labels.cu; T: float, double. `overflows` is one zero.
template <typename T>
void label_by_maps(const Target& target, const Allocate& allocate, const T* cams, int64_t count,
                   const boxes::ResizeShape& shape, const gaussian_prior::Rule& rule, uint8_t* labels);
template <typename T>
void label_by_contours(const Target& target, const Allocate& allocate, const T* cams, int64_t count,
                       const boxes::ResizeShape& shape, const gaussian_prior::Rule& rule, int32_t* overflows,
                       uint8_t* labels);

}  // namespace wsolfast::cuda

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kOp = "gaussian_prior_labels";

// [N, h, w] -> uint8 [N, height, width]
Tensor gaussian_prior_labels_cuda(Tensor cam, int64_t height, int64_t width, double weight_low, double weight_high,
                                  bool per_contour, double min_area, double covariance_scale, bool grid_max,
                                  double object_cam, double object_gaussian, double background_cam,
                                  double background_gaussian, bool empty_background) {
  wsolfast::cuda::DeviceGuard guard(cam.get_device());
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
  const wsolfast::boxes::ResizeShape shape{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height),
                                           static_cast<int>(width)};
  const wsolfast::cuda::Target target{kOp, maps.get_device()};
  wsolfast::cuda::Scratch scratch(maps);
  wsolfast::dispatch_float_double(maps.scalar_type(), kOp, [&](auto zero) {
    const auto* cams = maps.const_data_ptr<decltype(zero)>();
    auto* out = labels.mutable_data_ptr<uint8_t>();
    if (rule.per_contour && rule.uses_gaussians()) {
      const Tensor overflows = torch::stable::new_zeros(maps, {1}, ScalarType::Int);
      wsolfast::cuda::label_by_contours(target, std::ref(scratch), cams, count, shape, rule,
                                        overflows.mutable_data_ptr<int32_t>(), out);
    } else {
      wsolfast::cuda::label_by_maps(target, std::ref(scratch), cams, count, shape, rule, out);
    }
  });
  return labels;
}

}  // namespace

WSOLFAST_CUDA_KERNELS(m) { m.impl("gaussian_prior_labels", TORCH_BOX(&gaussian_prior_labels_cuda)); }
