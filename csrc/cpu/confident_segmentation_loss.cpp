#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/simd.h"

namespace {

using torch::stable::Tensor;

constexpr int kLanes = 8;

// Fills the mask of one map. Everything counts from the first value and is multiplied by the number of positions
// instead of divided by it: these sums of float32 values hardly round, so equal deviations are equal.
template <typename T>
WSOLFAST_SIMD void mark_confident(const T* map, int64_t positions, T* mask) {
  const double first = map[0], count = static_cast<double>(positions);
  double total = 0, spread = 0, lanes[kLanes] = {};
  const int64_t whole = positions / kLanes * kLanes;
  for (int64_t p = 0; p < whole; p += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += map[p + i] - first;
  }
  for (double lane : lanes) total += lane;
  for (int64_t p = whole; p < positions; ++p) total += map[p] - first;
  std::fill(lanes, lanes + kLanes, 0.0);
  for (int64_t p = 0; p < whole; p += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += std::abs(count * (map[p + i] - first) - total);
  }
  for (double lane : lanes) spread += lane;
  for (int64_t p = whole; p < positions; ++p) spread += std::abs(count * (map[p] - first) - total);
  for (int64_t p = 0; p < positions; ++p) {
    mask[p] = count * std::abs(count * (map[p] - first) - total) > spread ? T{1} : T{0};
  }
}

// Loss of one image, and the sign of its derivative by the early map; NaN where a distance is not finite.
template <typename T>
WSOLFAST_SIMD double compare(const T* late, const T* early, const T* mask, int64_t positions, T* sign) {
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  double lanes[kLanes] = {};
  const auto at = [&](int64_t p, double& loss) {
    const T gap = early[p] - late[p], side = static_cast<T>(gap > 0) - static_cast<T>(gap < 0);
    const bool finite = gap - gap == 0;
    loss += finite ? std::abs(gap) * mask[p] : kNaN;
    sign[p] = finite ? side * mask[p] : kNaN;
  };
  const int64_t whole = positions / kLanes * kLanes;
  for (int64_t p = 0; p < whole; p += kLanes) {
    for (int i = 0; i < kLanes; ++i) at(p + i, lanes[i]);
  }
  double loss = 0;
  for (double lane : lanes) loss += lane;
  for (int64_t p = whole; p < positions; ++p) at(p, loss);
  return loss;
}

int64_t grain_of(int64_t positions) { return std::max<int64_t>(1, 16384 / positions); }

Tensor confidence_mask_cpu(Tensor maps) {
  constexpr const char* kOp = "confidence_mask";
  WSOLFAST_CHECK(maps.dim() >= 2, kOp, "expected maps of shape [..., h, w], got ", maps.dim(), "D");
  const Tensor dense = torch::stable::contiguous(maps);
  Tensor mask = torch::stable::empty_like(dense);
  if (dense.numel() == 0) return mask;
  const int64_t positions = dense.size(-1) * dense.size(-2);
  wsolfast::dispatch_float_double(dense.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const T* in = dense.const_data_ptr<T>();
    T* out = mask.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, dense.numel() / positions, grain_of(positions), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) mark_confident<T>(in + n * positions, positions, out + n * positions);
    });
  });
  return mask;
}

std::tuple<Tensor, Tensor, Tensor> confident_segmentation_loss_cpu(Tensor late, Tensor early, double weight) {
  constexpr const char* kOp = "confident_segmentation_loss";
  WSOLFAST_CHECK(late.dim() == 3 && early.dim() == 3, kOp, "expected maps of shape [N, h, w]");
  WSOLFAST_CHECK(late.size(0) == early.size(0) && late.size(1) == early.size(1) && late.size(2) == early.size(2), kOp,
                 "late and early maps differ in shape");
  WSOLFAST_CHECK(late.scalar_type() == early.scalar_type(), kOp, "late and early maps differ in dtype");
  const Tensor teachers = torch::stable::contiguous(late), pupils = torch::stable::contiguous(early);
  const int64_t images = late.size(0), positions = late.size(1) * late.size(2);
  Tensor loss = torch::stable::new_zeros(teachers, {});
  Tensor mask = torch::stable::empty_like(teachers), sign = torch::stable::empty_like(teachers);
  if (teachers.numel() == 0) return {loss, mask, sign};
  std::vector<double> image_loss(images);
  wsolfast::dispatch_float_double(teachers.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const T *teacher = teachers.const_data_ptr<T>(), *pupil = pupils.const_data_ptr<T>();
    T *masks = mask.mutable_data_ptr<T>(), *signs = sign.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, images, grain_of(positions), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t at = n * positions;
        mark_confident<T>(teacher + at, positions, masks + at);
        image_loss[n] = compare<T>(teacher + at, pupil + at, masks + at, positions, signs + at);
      }
    });
    double total = 0;
    for (double part : image_loss) total += part;
    *loss.mutable_data_ptr<T>() = static_cast<T>(weight * total);
  });
  return {loss, mask, sign};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) {
  m.impl("confidence_mask", TORCH_BOX(&confidence_mask_cpu));
  m.impl("confident_segmentation_loss", TORCH_BOX(&confident_segmentation_loss_cpu));
}
