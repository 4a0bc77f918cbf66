// Resizes and normalises score maps in float64: operation for operation what csrc/boxes/{resize,normalize}.cpp do, so
// the results are the same bits. Needs --fmad=false.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "boxes/map_rule.h"
#include "boxes/normalize.h"
#include "cuda/group.cuh"

namespace wsolfast::cuda {

using boxes::Interpolation;
using boxes::MapRange;
using boxes::MapRule;
using boxes::Normalization;
using boxes::ResizeShape;

constexpr int kResizeThreads = 256;
using ResizeCta = Cta<kResizeThreads>;

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

// A map as it is, of the shape's last two sides.
template <typename Pixel>
struct PlainMap {
  const Pixel* pixels;
  const ResizeShape& shape;

  // Calls visit(y, x, value) for all pixels, by whole warps: lanes beyond the end of a row come with its last value.
  template <typename Visit>
  __device__ __forceinline__ void for_pixels(const Visit& visit) const {
    const int words = (shape.width + Warp::kSize - 1) / Warp::kSize;
    for (int64_t i = ResizeCta::rank() / Warp::kSize; i < static_cast<int64_t>(shape.height) * words;
         i += kResizeThreads / Warp::kSize) {
      const auto y = static_cast<int>(i / words);
      const int x = static_cast<int>(i % words) * Warp::kSize + Warp::rank();
      const int inside = x < shape.width ? x : shape.width - 1;
      visit(y, x, static_cast<double>(pixels[static_cast<int64_t>(y) * shape.width + inside]));
    }
  }
};

// One block of shared memory, however many visitors a kernel has.
template <int kRows>
__device__ inline Taps* taps_of_rows() {
  __shared__ Taps taps[kRows];
  return taps;
}

// A map at another size, pixel by pixel.
template <int kTaps>
struct ResizedMap {
  const double* source;
  const ResizeShape& shape;
  Interpolation interpolation;

  __device__ __forceinline__ Taps row(int y) const { return taps_of<kTaps>(y, shape.h, shape.height, interpolation); }
  __device__ __forceinline__ Taps column(int x) const { return taps_of<kTaps>(x, shape.w, shape.width, interpolation); }
  __device__ __forceinline__ double at(const Taps& row, const Taps& column) const {
    return combine<kTaps>(row, [&](int tap) {
      const double* line = source + static_cast<int64_t>(row.index[tap]) * shape.w;
      return combine<kTaps>(column, [&](int i) { return line[column.index[i]]; });
    });
  }

  // As PlainMap's. prepare(first, rows) is run by all threads in front of every so many rows.
  template <int kRows, typename Prepare, typename Visit>
  __device__ __forceinline__ void for_pixels(const Prepare& prepare, const Visit& visit) const {
    Taps* row_taps = taps_of_rows<kRows>();
    for (int first = 0; first < shape.height; first += kRows) {
      const int rows = shape.height - first < kRows ? shape.height - first : kRows;
      if (ResizeCta::rank() < rows) row_taps[ResizeCta::rank()] = row(first + ResizeCta::rank());
      prepare(first, rows);
      __syncthreads();
      for (int x = ResizeCta::rank(); x - Warp::rank() < shape.width; x += kResizeThreads) {
        const Taps taps = column(x < shape.width ? x : shape.width - 1);
        for (int y = 0; y < rows; ++y) visit(first + y, x, at(row_taps[y], taps));
      }
      __syncthreads();
    }
  }
  template <typename Visit>
  __device__ __forceinline__ void for_pixels(const Visit& visit) const {
    for_pixels<64>([](int, int) {}, visit);
  }
};

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

struct Lower {
  __device__ Extreme operator()(const Extreme& a, const Extreme& b) const {
    return b.value < a.value || (b.value == a.value && b.place < a.place) ? b : a;
  }
};

struct Higher {
  __device__ Extreme operator()(const Extreme& a, const Extreme& b) const {
    return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a;
  }
};

// Known to all threads. visit(i, value) is called for every pixel on the way; low and high are meaningless where the
// map is not finite.
template <typename Map, typename Visit>
__device__ __forceinline__ MapRange range_of(const Map& map, const Visit& visit) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
  const ResizeShape& shape = map.shape;
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  Extreme low{kInfinity, kLast}, high{-kInfinity, kLast};
  bool finite = true;
  map.for_pixels([&](int y, int x, double value) {
    if (x >= shape.width) return;
    const int64_t i = static_cast<int64_t>(y) * shape.width + x;
    const Extreme here{value, place_on_cpu(i, size)};
    low = Lower{}(low, here);
    high = Higher{}(high, here);
    finite &= value - value == 0.0;
    visit(i, value);
  });
  finite = __syncthreads_and(finite);
  return {ResizeCta::reduce(low, Lower{}).value, ResizeCta::reduce(high, Higher{}).value, finite};
}

// The normalisation of the values of a map whose range is known.
class Scale {
 public:
  __device__ __forceinline__ Scale(const MapRange& range, Normalization normalization, double eps)
      : normalization_(normalization), low_(range.low) {
    const double spread = normalization == Normalization::kMax ? range.high : range.high - range.low;
    usable_ = range.finite && spread > 0;
    divisor_ = normalization == Normalization::kMinMaxEps ? spread + eps
               : normalization == Normalization::kMin     ? 1.0
                                                          : spread;
  }

  __device__ __forceinline__ double operator()(double value) const {
    if (normalization_ == Normalization::kNone) return value;
    const double shifted = normalization_ != Normalization::kMax ? value - low_ : value > 0.0 ? value : 0.0;
    return usable_ ? shifted / divisor_ : 0.0;
  }

 private:
  Normalization normalization_;
  double low_, divisor_;
  bool usable_;
};

// Followed by a barrier before another thread's pixels are read.
template <typename Map>
__device__ __forceinline__ void write_normalized(const Map& map, Normalization normalization, double eps,
                                                 double* target) {
  const int64_t size = static_cast<int64_t>(map.shape.height) * map.shape.width;
  const Scale scale(range_of(map, [&](int64_t i, double value) { target[i] = value; }), normalization, eps);
  if (normalization == Normalization::kNone) return;
  for (int64_t i = ResizeCta::rank(); i < size; i += kResizeThreads) target[i] = scale(target[i]);
}

// Calls function(map, normalization) with map n at its last size and what remains to be done to its values. `sources`
// [N, h, w] is needed where maps are resized: they are converted once, and normalised by rules that do so first.
template <typename Pixel, typename Function>
__device__ __forceinline__ void with_resized(const Pixel* maps, const MapRule& rule, double* sources, int64_t n,
                                             const Function& function) {
  const ResizeShape& shape = rule.shape;
  const int64_t source_size = static_cast<int64_t>(shape.h) * shape.w;
  const Pixel* pixels = maps + n * source_size;
  if (shape.same()) return function(PlainMap<Pixel>{pixels, shape}, rule.normalization);
  const ResizeShape own{shape.h, shape.w, shape.h, shape.w};
  const Normalization before = rule.normalize_first ? rule.normalization : Normalization::kNone;
  const Normalization after = rule.normalize_first ? Normalization::kNone : rule.normalization;
  double* source = sources + n * source_size;
  write_normalized(PlainMap<Pixel>{pixels, own}, before, rule.eps, source);
  __syncthreads();
  if (rule.interpolation == Interpolation::kCubic) {
    function(ResizedMap<4>{source, shape, rule.interpolation}, after);
  } else {
    function(ResizedMap<2>{source, shape, rule.interpolation}, after);
  }
}

// Writes map n of `out` [N, height, width] by one CTA and returns it.
template <typename Pixel>
__device__ __forceinline__ double* normalize_map(const Pixel* maps, const MapRule& rule, double* sources, int64_t n,
                                                 double* out) {
  double* target = out + n * rule.shape.height * rule.shape.width;
  with_resized(maps, rule, sources, n, [&](const auto& map, Normalization normalization) {
    write_normalized(map, normalization, rule.eps, target);
  });
  return target;
}

}  // namespace wsolfast::cuda
