// A class map as the kernels of gaussian_prior_labels work on it: divided by its maximum, then resized pixel by pixel.
#pragma once

#include <cstdint>

#include "common/gaussian_prior.h"
#include "cuda/resized_maps.cuh"

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
using LabelMap = ResizedMap<2>;

__device__ __forceinline__ LabelMap label_map(const double* scaled, const ResizeShape& shape) {
  return {scaled, shape, Interpolation::kLinear};
}

}  // namespace wsolfast::cuda
