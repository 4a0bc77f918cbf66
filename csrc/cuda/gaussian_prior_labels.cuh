// Pseudo labels from class maps with one Gaussian per map: operation for operation what csrc/cpu does, so the labels
// are the same bytes. Needs --fmad=false.
#pragma once

#include <cstdint>

#include "common/gaussian_prior.h"
#include "cuda/normalize_score_map.cuh"

namespace wsolfast::cuda {

using gaussian_prior::Ellipse;
using gaussian_prior::Gaussian;
using gaussian_prior::Moments;
using gaussian_prior::Span;

constexpr int kLabelThreads = 256;
using LabelCta = Cta<kLabelThreads>;

struct LabelRule {
  gaussian_prior::Rule rule;
  double object_reach, background_reach;  // of the Gaussian

  explicit LabelRule(const gaussian_prior::Rule& rule)
      : rule(rule),
        object_reach(gaussian_prior::reach_of(rule.object_gaussian)),
        background_reach(gaussian_prior::reach_of(rule.background_gaussian)) {}
};

// Sums of 1, p and p^2 over the pixels of an axis, p counted from its middle, each weighted as it enters source pixel
// i: sums[3 * i] and the next two. Each thread gathers for its pixel, in the order in which the CPU scatters.
__device__ __forceinline__ void gather_axis_moments(int i, int source, int target, double* sums) {
  // The pixels whose coordinate comes within one of i, and some more; the taps decide.
  const double pixels = static_cast<double>(target) / source;
  const auto clamped = [&](double p) { return p < 0.0 ? 0 : p > target ? target : static_cast<int>(p); };
  const int begin = i == 0 ? 0 : clamped((i - 0.5) * pixels - 3), end = clamped((i + 1.5) * pixels + 3);
  double sum = 0, p_sum = 0, pp_sum = 0;
  for (int at = begin; at < (i + 2 < source ? end : target); ++at) {
    const double p = at - (target - 1) / 2.0;
    const Taps taps = linear_taps(at, source, target, false);
    for (int tap = 0; tap < 2; ++tap) {
      if (taps.index[tap] != i) continue;
      const double weight = taps.weight[tap];
      sum += weight;
      p_sum += weight * p;
      pp_sum += weight * p * p;
    }
  }
  sums[3 * i] = sum;
  sums[3 * i + 1] = p_sum;
  sums[3 * i + 2] = pp_sum;
}

// The columns' sums, then the rows': [w + h, 3].
__global__ void __launch_bounds__(kLabelThreads) axis_moments_kernel(ResizeShape shape, double* sums) {
  const int i = static_cast<int>(blockIdx.x) * kLabelThreads + static_cast<int>(threadIdx.x);
  if (i < shape.w) {
    gather_axis_moments(i, shape.w, shape.width, sums);
  } else if (i < shape.w + shape.h) {
    gather_axis_moments(i - shape.w, shape.h, shape.height, sums + 3 * static_cast<int64_t>(shape.w));
  }
}

// One map as a CTA works on it.
class Labels {
 public:
  __device__ Labels(const double* coarse, const ResizeShape& shape, const LabelRule& rule)
      : coarse_(coarse), shape_(shape), rule_(rule) {}

  // Known to all threads; false where the map gives no Gaussian.
  __device__ __forceinline__ bool fit(const double* axis_sums, Gaussian* gaussian) const {
    const Moments whole = rule_.rule.weighs_everything() ? of_source(axis_sums) : of_band();
    if (!(whole.weight > gaussian_prior::kLeastWeight)) return false;
    *gaussian = gaussian_prior::fit(whole, rule_.rule.covariance_scale, shape_.height, shape_.width);
    if (!rule_.rule.grid_max) return true;
    const Ellipse around = gaussian_prior::around_mean(*gaussian, shape_.height, shape_.width);
    double least = gaussian->form_at(std::round(gaussian->x), std::round(gaussian->y));
    for (int y = around.begin() + LabelCta::rank(); y < around.end(); y += kLabelThreads) {
      const Span span = around.row(y);
      for (int x = span.x0; x <= span.x1; ++x) least = smaller(least, gaussian->form_at(x, y));
    }
    gaussian->least = LabelCta::reduce(least, [](double a, double b) { return smaller(a, b); });
    return true;
  }

  __device__ __forceinline__ void write(bool has_gaussian, const Gaussian& gaussian, uint8_t* labels) const {
    constexpr int kRows = 64;
    __shared__ Taps row_taps[kRows];
    __shared__ Span object[kRows], unsure[kRows];
    for (int first = 0; first < shape_.height; first += kRows) {
      const int rows = shape_.height - first < kRows ? shape_.height - first : kRows;
      // Both ellipses of a row at a time, by different warps.
      const int row = LabelCta::rank() % kRows, part = LabelCta::rank() / kRows;
      if (row < rows && part == 0) row_taps[row] = linear_taps(first + row, shape_.h, shape_.height, false);
      if (row < rows && part == 1)
        object[row] = span_of(has_gaussian, gaussian, rule_.object_reach, false, first + row);
      if (row < rows && part == 2) {
        unsure[row] = span_of(has_gaussian, gaussian, rule_.background_reach, true, first + row);
      }
      __syncthreads();
      for (int x = LabelCta::rank(); x < shape_.width; x += kLabelThreads) {
        const Column column(*this, x);
        for (int y = 0; y < rows; ++y) {
          const double value = column.at(row_taps[y]);
          const bool is_object = value > rule_.rule.object_cam || (object[y].x0 <= x && x <= object[y].x1);
          const bool is_unsure = !(value < rule_.rule.background_cam) || (unsure[y].x0 <= x && x <= unsure[y].x1);
          labels[static_cast<int64_t>(first + y) * shape_.width + x] = is_object   ? gaussian_prior::kObject
                                                                       : is_unsure ? gaussian_prior::kIgnore
                                                                                   : gaussian_prior::kBackground;
        }
      }
      __syncthreads();
    }
  }

 private:
  // A column of the resized map.
  struct Column {
    const Labels& labels;
    Taps taps;

    __device__ Column(const Labels& labels, int x)
        : labels(labels), taps(linear_taps(x, labels.shape_.w, labels.shape_.width, false)) {}
    __device__ __forceinline__ double at(const Taps& rows) const {
      return combine<2>(rows, [&](int tap) {
        const double* line = labels.coarse_ + static_cast<int64_t>(rows.index[tap]) * labels.shape_.w;
        return combine<2>(taps, [&](int i) { return line[taps.index[i]]; });
      });
    }
  };

  __device__ static double smaller(double a, double b) { return b < a ? b : a; }

  __device__ __forceinline__ Span span_of(bool has_gaussian, const Gaussian& gaussian, double reach, bool border,
                                          int y) const {
    if (!has_gaussian) return {0, -1};
    return Ellipse(gaussian, reach, border, shape_.height, shape_.width).row(y);
  }

  // Adds moments(row) over the rows one after the other, as the last bit depends on it. fill(row, sums) is run by
  // `threads` threads of a warp for each row; what the first of them leaves in sums counts.
  template <int kThreadsOfRow, typename Fill, typename OfRow>
  __device__ __forceinline__ Moments add_rows(int rows, const Fill& fill, const OfRow& of_row) const {
    constexpr int kRows = kLabelThreads / kThreadsOfRow;
    __shared__ double row_sums[kRows][3];
    Moments whole;
    for (int first = 0; first < rows; first += kRows) {
      const int row = LabelCta::rank() / kThreadsOfRow, part = LabelCta::rank() % kThreadsOfRow;
      double sums[3] = {};
      fill(first + row, part, sums);
      if (part == 0) {
        for (int power = 0; power < 3; ++power) row_sums[row][power] = sums[power];
      }
      __syncthreads();
      for (int k = 0; k < kRows && first + k < rows; ++k) whole += of_row(row_sums[k], first + k);
      __syncthreads();
    }
    return whole;
  }

  // Where the band leaves nothing out the moments are linear in the map before the resize.
  __device__ __forceinline__ Moments of_source(const double* axis_sums) const {
    const double *along_x = axis_sums, *along_y = axis_sums + 3 * static_cast<int64_t>(shape_.w);
    const auto fill = [&](int y, int, double sums[3]) {
      if (y >= shape_.h) return;
      const double* line = coarse_ + static_cast<int64_t>(y) * shape_.w;
      for (int x = 0; x < shape_.w; ++x) {
        for (int power = 0; power < 3; ++power) sums[power] += line[x] * along_x[3 * x + power];
      }
    };
    return add_rows<1>(shape_.h, fill, [&](const double sums[3], int y) {
      return gaussian_prior::of_source_row(sums, along_y + 3 * static_cast<int64_t>(y));
    });
  }

  // A row's sums are those of the CPU's lanes, each of which takes every eighth pixel.
  __device__ __forceinline__ Moments of_band() const {
    constexpr int kLanes = 8;
    const double origin = -(shape_.width - 1) / 2.0;
    const auto fill = [&](int y, int lane, double sums[3]) {
      double own[3] = {};
      if (y < shape_.height) {
        const Taps rows = linear_taps(y, shape_.h, shape_.height, false);
        for (int i = lane; i < shape_.width; i += kLanes) {
          const double value = Column(*this, i).at(rows), x = origin + i;
          const double inside = value >= rule_.rule.weight_low && value <= rule_.rule.weight_high ? value : 0.0;
          own[0] += inside;
          own[1] += inside * x;
          own[2] += inside * x * x;
        }
      }
      for (int i = 0; i < kLanes; ++i) {
        for (int power = 0; power < 3; ++power) {
          sums[power] += __shfl_sync(kAllLanes, own[power], Warp::rank() / kLanes * kLanes + i);
        }
      }
    };
    return add_rows<kLanes>(shape_.height, fill, [&](const double sums[3], int y) {
      return gaussian_prior::of_row(sums, y, shape_.height);
    });
  }

  const double* coarse_;
  const ResizeShape& shape_;
  const LabelRule& rule_;
};

// One CTA per map. `scaled` [N, h, w] takes the maps divided by their maxima. A map that is not finite is ignored.
template <typename Pixel>
__global__ void __launch_bounds__(kLabelThreads, 2)
    gaussian_prior_labels_kernel(const Pixel* cams, ResizeShape shape, LabelRule rule, const double* axis_sums,
                                 double* scaled, uint8_t* out) {
  const int64_t source_size = static_cast<int64_t>(shape.h) * shape.w;
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  const Pixel* cam = cams + blockIdx.x * source_size;
  double* coarse = scaled + blockIdx.x * source_size;
  uint8_t* labels = out + blockIdx.x * size;
  double top = 0;
  bool finite = true;
  for (int64_t i = LabelCta::rank(); i < source_size; i += kLabelThreads) {
    const auto value = static_cast<double>(cam[i]);
    finite &= value - value == 0.0;
    top = value > top ? value : top;
  }
  finite = __syncthreads_and(finite);
  top = LabelCta::reduce(top, Largest<double>{});
  if (!finite || top == 0) {
    const bool background = finite && rule.rule.empty_background;
    for (int64_t i = LabelCta::rank(); i < size; i += kLabelThreads) {
      labels[i] = background ? gaussian_prior::kBackground : gaussian_prior::kIgnore;
    }
    return;
  }
  for (int64_t i = LabelCta::rank(); i < source_size; i += kLabelThreads) {
    const auto value = static_cast<double>(cam[i]);
    coarse[i] = (value > 0.0 ? value : 0.0) / (top + gaussian_prior::kMaximumEps);
  }
  __syncthreads();
  const Labels map(coarse, shape, rule);
  Gaussian gaussian{};
  const bool has_gaussian = rule.rule.uses_gaussians() && map.fit(axis_sums, &gaussian);
  map.write(has_gaussian, gaussian, labels);
}

// `axis_sums` [h + w, 3] and `scaled` [N, h, w] are scratch.
template <typename Pixel, typename Launch>
void gaussian_prior_labels(const Launch& launch, const Pixel* cams, int64_t count, const ResizeShape& shape,
                           const gaussian_prior::Rule& rule, double* axis_sums, double* scaled, uint8_t* labels) {
  if (rule.uses_gaussians() && rule.weighs_everything()) {
    const int64_t sides = static_cast<int64_t>(shape.h) + shape.w;
    launch(axis_moments_kernel, (sides + kLabelThreads - 1) / kLabelThreads, kLabelThreads, 0, shape, axis_sums);
  }
  launch(gaussian_prior_labels_kernel<Pixel>, count, kLabelThreads, 0, cams, shape, LabelRule(rule), axis_sums, scaled,
         labels);
}

}  // namespace wsolfast::cuda
