// A class map as the kernels of gaussian_prior_labels work on it: divided by its maximum, then resized pixel by pixel.
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

// Divides a map by its maximum. A map that is not finite, or has no positive value, has no labels of its own.
enum class MapKind { kUsual, kEmpty, kNotFinite };

template <typename Pixel>
__device__ __forceinline__ MapKind scale_map(const Pixel* cam, int64_t size, double* scaled) {
  double top = 0;
  bool finite = true;
  for (int64_t i = LabelCta::rank(); i < size; i += kLabelThreads) {
    const auto value = static_cast<double>(cam[i]);
    finite &= value - value == 0.0;
    top = value > top ? value : top;
  }
  finite = __syncthreads_and(finite);
  top = LabelCta::reduce(top, Largest<double>{});
  if (!finite) return MapKind::kNotFinite;
  if (top == 0) return MapKind::kEmpty;
  for (int64_t i = LabelCta::rank(); i < size; i += kLabelThreads) {
    const auto value = static_cast<double>(cam[i]);
    scaled[i] = (value > 0.0 ? value : 0.0) / (top + gaussian_prior::kMaximumEps);
  }
  __syncthreads();
  return MapKind::kUsual;
}

// A scaled map at the size of the labels.
struct ResizedMap {
  const double* scaled;
  const ResizeShape& shape;

  __device__ __forceinline__ Taps row(int y) const { return linear_taps(y, shape.h, shape.height, false); }
  __device__ __forceinline__ Taps column(int x) const { return linear_taps(x, shape.w, shape.width, false); }
  __device__ __forceinline__ double at(const Taps& row, const Taps& column) const {
    return combine<2>(row, [&](int tap) {
      const double* line = scaled + static_cast<int64_t>(row.index[tap]) * shape.w;
      return combine<2>(column, [&](int i) { return line[column.index[i]]; });
    });
  }

  // Calls visit(y, x, value) for all pixels, by whole warps: lanes beyond the end of a row come with its last value.
  // prepare(first, rows) is run by all threads in front of every so many rows.
  template <int kRows, typename Prepare, typename Visit>
  __device__ __forceinline__ void for_pixels(const Prepare& prepare, const Visit& visit) const {
    __shared__ Taps row_taps[kRows];
    for (int first = 0; first < shape.height; first += kRows) {
      const int rows = shape.height - first < kRows ? shape.height - first : kRows;
      if (LabelCta::rank() < rows) row_taps[LabelCta::rank()] = row(first + LabelCta::rank());
      prepare(first, rows);
      __syncthreads();
      for (int x = LabelCta::rank(); x - Warp::rank() < shape.width; x += kLabelThreads) {
        const Taps taps = column(x < shape.width ? x : shape.width - 1);
        for (int y = 0; y < rows; ++y) visit(first + y, x, at(row_taps[y], taps));
      }
      __syncthreads();
    }
  }
};

}  // namespace wsolfast::cuda
