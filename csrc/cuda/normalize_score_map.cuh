// Resizes and normalises score maps in float64: operation for operation what csrc/boxes/{resize,normalize}.cpp do, so
// the results are the same bits. Needs --fmad=false.
#pragma once

#include <cmath>
#include <cstdint>

#include "boxes/normalize.h"
#include "boxes/resize.h"
#include "cuda/group.cuh"

namespace wsolfast::cuda {

using boxes::Interpolation;
using boxes::Normalization;

constexpr int kResizeThreads = 256;
using ResizeCta = Cta<kResizeThreads>;

struct ResizeShape {
  int h, w, height, width;
  bool same() const { return h == height && w == width; }
};

struct Taps {
  int index[4];
  double weight[4];
};

__device__ __forceinline__ int clamp_index(int index, int size) {
  return index < 0 ? 0 : index < size ? index : size - 1;
}

__device__ __forceinline__ Taps cubic_taps(int i, int source, int target) {
  const double scale = 1.0 / (static_cast<double>(target) / source);
  constexpr float kA = -0.75f;
  const float coordinate = static_cast<float>((i + 0.5) * scale - 0.5);
  const int start = static_cast<int>(floorf(coordinate));
  const float f = coordinate - static_cast<float>(start);
  const float g = 1.0f - f;
  float weight[4];
  weight[0] = ((kA * (f + 1.0f) - 5.0f * kA) * (f + 1.0f) + 8.0f * kA) * (f + 1.0f) - 4.0f * kA;
  weight[1] = ((kA + 2.0f) * f - (kA + 3.0f)) * f * f + 1.0f;
  weight[2] = ((kA + 2.0f) * g - (kA + 3.0f)) * g * g + 1.0f;
  weight[3] = 1.0f - weight[0] - weight[1] - weight[2];
  Taps taps;
  for (int tap = 0; tap < 4; ++tap) {
    taps.index[tap] = clamp_index(start - 1 + tap, source);
    taps.weight[tap] = static_cast<double>(weight[tap]);
  }
  return taps;
}

__device__ __forceinline__ Taps linear_taps(int i, int source, int target, bool align_corners) {
  const double scale = static_cast<double>(source) / target;
  const double corner_scale = target > 1 ? static_cast<double>(source - 1) / (target - 1) : 0.0;
  const double wanted = align_corners ? i * corner_scale : (i + 0.5) * scale - 0.5;
  const double last = source - 1.0;
  const double coordinate = wanted < 0.0 ? 0.0 : last < wanted ? last : wanted;
  const int start = static_cast<int>(coordinate);
  const double f = coordinate - start;
  Taps taps{};
  taps.index[0] = start;
  taps.index[1] = start + 1 < source ? start + 1 : source - 1;
  taps.weight[0] = 1.0 - f;
  taps.weight[1] = f;
  return taps;
}

template <int kTaps>
__device__ __forceinline__ Taps taps_of(int i, int source, int target, Interpolation interpolation) {
  if constexpr (kTaps == 4) return cubic_taps(i, source, target);
  return linear_taps(i, source, target, interpolation == Interpolation::kLinearCorners);
}

// Left to right: the last bit depends on it.
template <int kTaps, typename Value>
__device__ __forceinline__ double combine(const Taps& taps, const Value& value) {
  double sum = value(0) * taps.weight[0] + value(1) * taps.weight[1];
  if constexpr (kTaps == 4) {
    sum = sum + value(2) * taps.weight[2];
    sum = sum + value(3) * taps.weight[3];
  }
  return sum;
}

template <int kTaps, typename Pixel>
__device__ __forceinline__ void resize(const Pixel* source, const ResizeShape& shape, Interpolation interpolation,
                                       double* target) {
  constexpr int kRows = 32;
  __shared__ Taps row_taps[kRows];
  for (int first = 0; first < shape.height; first += kRows) {
    const int rows = shape.height - first < kRows ? shape.height - first : kRows;
    if (ResizeCta::rank() < rows) {
      row_taps[ResizeCta::rank()] = taps_of<kTaps>(first + ResizeCta::rank(), shape.h, shape.height, interpolation);
    }
    __syncthreads();
    for (int x = ResizeCta::rank(); x < shape.width; x += kResizeThreads) {
      const Taps columns = taps_of<kTaps>(x, shape.w, shape.width, interpolation);
      for (int row = 0; row < rows; ++row) {
        target[static_cast<int64_t>(first + row) * shape.width + x] = combine<kTaps>(row_taps[row], [&](int tap) {
          const Pixel* line = source + static_cast<int64_t>(row_taps[row].index[tap]) * shape.w;
          return combine<kTaps>(columns, [&](int i) { return static_cast<double>(line[columns.index[i]]); });
        });
      }
    }
    __syncthreads();
  }
}

// A minimum or maximum. Among equal values (0 and -0) the CPU keeps the first pixel's, then the one in the lowest of
// its 16 lanes.
struct Extreme {
  double value;
  int64_t place;
};

__device__ __forceinline__ int64_t place_on_cpu(int64_t i, int64_t size) {
  constexpr int64_t kLanes = 16;
  const int64_t lane = i < size / kLanes * kLanes ? i % kLanes : 0;
  return lane << 48 | i;
}

__device__ __forceinline__ Extreme lower(const Extreme& a, const Extreme& b) {
  return b.value < a.value || (b.value == a.value && b.place < a.place) ? b : a;
}

__device__ __forceinline__ Extreme higher(const Extreme& a, const Extreme& b) {
  return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a;
}

__device__ __forceinline__ void normalize_in_place(double* map, int64_t size, Normalization normalization, double eps) {
  if (normalization == Normalization::kNone) return;
  __syncthreads();
  Extreme low{map[0], 0}, high{map[0], 0};
  bool finite = true;
  for (int64_t i = ResizeCta::rank(); i < size; i += kResizeThreads) {
    const Extreme here{map[i], place_on_cpu(i, size)};
    low = lower(low, here);
    high = higher(high, here);
    finite &= here.value - here.value == 0.0;
  }
  finite = __syncthreads_and(finite);
  low = ResizeCta::reduce(low, [](const Extreme& a, const Extreme& b) { return lower(a, b); });
  high = ResizeCta::reduce(high, [](const Extreme& a, const Extreme& b) { return higher(a, b); });
  const double range = normalization == Normalization::kMax ? high.value : high.value - low.value;
  const bool usable = finite && range > 0;
  const double divisor = normalization == Normalization::kMinMaxEps ? range + eps
                         : normalization == Normalization::kMin     ? 1.0
                                                                    : range;
  for (int64_t i = ResizeCta::rank(); i < size; i += kResizeThreads) {
    const double value = map[i];
    const double shifted = normalization != Normalization::kMax ? value - low.value : value > 0.0 ? value : 0.0;
    map[i] = usable ? shifted / divisor : 0.0;
  }
}

// One CTA per map. `sources` [N, h, w] holds the normalised maps of a rule that normalises first and resizes second.
template <typename Pixel>
__global__ void __launch_bounds__(kResizeThreads, 3)
    normalize_score_map_kernel(const Pixel* maps, ResizeShape shape, Interpolation interpolation,
                               Normalization normalization, double eps, double* sources, double* out) {
  const int64_t source_size = static_cast<int64_t>(shape.h) * shape.w;
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  const Pixel* map = maps + blockIdx.x * source_size;
  double* target = out + blockIdx.x * size;
  const auto copy = [&](double* to) {
    for (int64_t i = ResizeCta::rank(); i < source_size; i += kResizeThreads) to[i] = static_cast<double>(map[i]);
  };
  const auto resize_from = [&](const auto* source) {
    if (interpolation == Interpolation::kCubic) {
      resize<4>(source, shape, interpolation, target);
    } else {
      resize<2>(source, shape, interpolation, target);
    }
  };
  if (sources != nullptr) {
    double* source = sources + blockIdx.x * source_size;
    copy(source);
    normalize_in_place(source, source_size, normalization, eps);
    __syncthreads();
    resize_from(source);
    return;
  }
  if (source_size == size && shape.h == shape.height) {
    copy(target);
  } else {
    resize_from(map);
  }
  normalize_in_place(target, size, normalization, eps);
}

// Whether the kernel needs `sources`.
inline bool normalizes_apart(const ResizeShape& shape, Normalization normalization, bool normalize_first) {
  return normalize_first && !shape.same() && normalization != Normalization::kNone;
}

template <typename Pixel, typename Launch>
void normalize_score_map(const Launch& launch, const Pixel* maps, int64_t count, const ResizeShape& shape,
                         Interpolation interpolation, Normalization normalization, double eps, double* sources,
                         double* out) {
  launch(normalize_score_map_kernel<Pixel>, count, kResizeThreads, 0, maps, shape, interpolation, normalization, eps,
         sources, out);
}

}  // namespace wsolfast::cuda
