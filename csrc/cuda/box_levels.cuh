// From score maps, raw or normalised, and thresholds to bit planes of levels and distinct cuts: csrc/boxes/digitize.cpp
// on the device. What a map is quantised from is computed on the way and kept nowhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "boxes/percentile.h"
#include "cuda/box_planes.cuh"
#include "cuda/resized_maps.cuh"

namespace wsolfast::cuda {

constexpr int kLevelThreads = kResizeThreads;
using LevelCta = Cta<kLevelThreads>;

// Levels of a quantised map, and its cuts: -1 to 255.
constexpr int kByteLevels = 256, kByteCuts = kByteLevels + 1;
// So many distinct cuts fit the 16 bits of a level.
constexpr int kMostThresholds = 65535;

// Of every image; `cuts` is the most distinct cuts that an image can have.
struct Cuts {
  int thresholds, cuts;
  uint32_t* planes;       // [N, planes, H, stride]
  int32_t* level;         // [N, cuts] ascending, the foreground of cut k is above level[k]
  int32_t* distinct;      // [N]
  int32_t* of_threshold;  // [N, thresholds], -1 where a map that is to be quantised has a value outside [0, 1] or NaN
  double* edges;          // [N, 2, thresholds] unless quantised: smallest foreground value, by threshold and distinct
  int32_t* overflows;     // [1], set to zero
};

__device__ inline double nextafter_up(double value) {
  return nextafter(value, std::numeric_limits<double>::infinity());
}

// Writes the planes of level_of(value).
template <typename Map, typename LevelOf>
__device__ __forceinline__ void write_planes(const Map& map, const PlaneShape& shape, uint32_t* planes,
                                             const LevelOf& level_of) {
  const int lane = Warp::rank();
  map.for_pixels([&](int y, int x, double value) {
    const int level = x < shape.width ? level_of(value) : 0;
    uint32_t own = 0;
    for (int p = 0; p < shape.count; ++p) {
      const uint32_t plane = __ballot_sync(kAllLanes, level >> p & 1);
      if (lane == p) own = plane;
    }
    if (lane < shape.count) {
      planes[lane * shape.words_of_plane() + static_cast<int64_t>(y) * shape.stride + x / 32] = own;
    }
  });
}

// The largest level that fails the threshold: -1 when everything passes, 255 when nothing does.
__device__ inline int byte_cut(double threshold, double top, boxes::Comparison comparison) {
  const double wanted = threshold * top;
  const double kept = wanted < -2.0 ? -2.0 : 300.0 < wanted ? 300.0 : wanted;
  const int cut = static_cast<int>(trunc(kept)) - (comparison == boxes::Comparison::kGreater ? 0 : 1);
  return cut < -1 ? -1 : cut > 255 ? 255 : cut;
}

// The distinct cuts of a map of bytes; thresholds are parts of `top`.
__device__ inline void find_cuts(double top, const double* thresholds, boxes::Comparison comparison, const Cuts& cuts,
                                 int64_t n) {
  __shared__ int32_t index[kByteCuts];
  int32_t* of_threshold = cuts.of_threshold + n * cuts.thresholds;
  for (int i = LevelCta::rank(); i < kByteCuts; i += kLevelThreads) index[i] = 0;
  __syncthreads();
  for (int t = LevelCta::rank(); t < cuts.thresholds; t += kLevelThreads) {
    const int cut = byte_cut(thresholds[t], top, comparison);
    of_threshold[t] = cut + 1;
    atomicExch(&index[cut + 1], 1);
  }
  __syncthreads();
  int found = 0;
  for (int first = 0; first < kByteCuts; first += kLevelThreads) {
    const int i = first + LevelCta::rank();
    const int used = i < kByteCuts ? index[i] : 0;
    int in_chunk;
    const int before = found + LevelCta::sum_before(used, &in_chunk);
    if (used) {
      index[i] = before;
      cuts.level[n * cuts.cuts + before] = i - 1;
    }
    found += in_chunk;
  }
  if (LevelCta::rank() == 0) cuts.distinct[n] = found;
  __syncthreads();
  for (int t = LevelCta::rank(); t < cuts.thresholds; t += kLevelThreads) of_threshold[t] = index[of_threshold[t]];
}

// One block of shared memory, however many kinds of maps a kernel has.
__device__ inline int32_t* level_counts() {
  __shared__ int32_t counts[kByteLevels];
  return counts;
}

// The percentile of a map of `size` bytes of which `counts` tells how many there are of each level.
__device__ inline double percentile_of(const int32_t* counts, double percentile, int64_t size) {
  static_assert(kLevelThreads == kByteLevels);
  const boxes::PercentileRank rank = boxes::percentile_rank(percentile, size);
  const int32_t count = counts[LevelCta::rank()];
  int32_t all;
  // The value at a place of the sorted bytes is the number of levels that end before it.
  const int64_t end = LevelCta::sum_before(count, &all) + count;
  const int low = LevelCta::reduce(static_cast<int>(end <= rank.below), Sum<int>{});
  const int high = LevelCta::reduce(static_cast<int>(end <= rank.above), Sum<int>{});
  return boxes::interpolate(low, high, rank.weight);
}

// `most` is what level 255 is made of: 1, or 255 where the map holds levels. Pixels are computed twice, for their range
// and for their levels, rather than kept.
template <typename Map>
__device__ __forceinline__ void cut_bytes(const Map& map, Normalization normalization, double eps, double most,
                                          const PlaneShape& shape, const double* thresholds, const boxes::Rule& rule,
                                          const Cuts& cuts, int64_t n) {
  const MapRange range = range_of(map, [](int64_t, double) {});
  const Scale scale(range, normalization, eps);
  // Normalising keeps the order of values, so all pixels are good where the extremes are.
  const bool good =
      (range.finite || normalization != Normalization::kNone) && scale(range.low) >= 0.0 && scale(range.high) <= most;
  if (!good) {
    for (int t = LevelCta::rank(); t < cuts.thresholds; t += kLevelThreads) {
      cuts.of_threshold[n * cuts.thresholds + t] = -1;
    }
    if (LevelCta::rank() == 0) cuts.distinct[n] = 0;
    return;
  }
  const double steps = 255.0 / most;
  const auto level_of = [&](double value) { return static_cast<int>(scale(value) * steps); };
  uint32_t* planes = cuts.planes + n * shape.words_of_image();
  double top = rule.relative ? level_of(range.high) : 255.0;
  if (rule.percentile < boxes::kMaximumPercentile) {
    int32_t* counts = level_counts();
    counts[LevelCta::rank()] = 0;
    __syncthreads();
    write_planes(map, shape, planes, [&](double value) {
      const int level = level_of(value);
      atomicAdd(&counts[level], 1);
      return level;
    });
    __syncthreads();
    top = percentile_of(counts, rule.percentile, static_cast<int64_t>(shape.height) * shape.width);
  } else {
    write_planes(map, shape, planes, level_of);
  }
  find_cuts(top, thresholds, rule.comparison, cuts, n);
}

// The smallest value that is foreground at `cut`: with it every comparison is value >= edge.
template <typename Pixel>
__device__ double reached_edge(const Pixel* map, int64_t size, double cut, const boxes::Rule& rule) {
  if (cut != cut) return std::numeric_limits<double>::infinity();
  const double edge = rule.comparison == boxes::Comparison::kGreater ? nextafter_up(cut) : cut;
  if (!rule.mean_cut) return edge;
  // Summed one after the other, as the CPU engine does: a plateau at the mean must fall on the same side.
  double total = 0.0;
#pragma unroll 8
  for (int64_t i = 0; i < size; ++i) {
    const auto value = static_cast<double>(map[i]);
    total += value >= edge ? value : 0.0;
  }
  const double mean_edge = nextafter_up(total / static_cast<double>(size));
  return edge < mean_edge ? mean_edge : edge;
}

template <typename Pixel>
__device__ void cut_values(const Pixel* map, const PlaneShape& shape, const double* thresholds, const boxes::Rule& rule,
                           const Cuts& cuts, int64_t n) {
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  const int count = cuts.thresholds, rank = LevelCta::rank();
  double* edge_of = cuts.edges + n * 2 * count;
  double* distinct = edge_of + count;
  int32_t* level = cuts.level + n * cuts.cuts;
  int32_t* of_threshold = cuts.of_threshold + n * count;
  double top = 1.0;
  if (rule.relative) {
    // Started from the first pixel: where that is NaN, so is the maximum.
    top = static_cast<double>(map[0]);
    for (int64_t i = rank; i < size; i += kLevelThreads) {
      const auto value = static_cast<double>(map[i]);
      top = value > top ? value : top;
    }
    top = LevelCta::reduce(top, [](double a, double b) { return b > a ? b : a; });
  }
  for (int t = rank; t < count; t += kLevelThreads) edge_of[t] = reached_edge(map, size, thresholds[t] * top, rule);
  __syncthreads();
  // `level` tells for now which thresholds are the first with their edge; a first one's rank is its cut.
  int firsts = 0;
  for (int t = rank; t < count; t += kLevelThreads) {
    bool first = true;
    for (int u = 0; u < t; ++u) first &= edge_of[u] != edge_of[t];
    level[t] = first;
    firsts += first;
  }
  firsts = LevelCta::reduce(firsts, Sum<int>{});
  for (int t = rank; t < count; t += kLevelThreads) {
    int below = 0;
    for (int u = 0; u < count; ++u) below += level[u] && edge_of[u] < edge_of[t];
    of_threshold[t] = below;
    if (level[t]) distinct[below] = edge_of[t];
  }
  __syncthreads();
  for (int k = rank; k < firsts; k += kLevelThreads) level[k] = k;
  if (rank == 0) cuts.distinct[n] = firsts;
  const ResizeShape same{shape.height, shape.width, shape.height, shape.width};
  write_planes(PlainMap<Pixel>{map, same}, shape, cuts.planes + n * shape.words_of_image(), [&](double value) {
    int low = 0, high = firsts;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (value >= distinct[middle]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  });
}

// One CTA per map. `sources` [N, h, w] is needed where maps are resized, `values` [N, height, width] where raw maps
// are not quantised.
template <typename Pixel>
__global__ void __launch_bounds__(kLevelThreads, 2)
    box_levels_kernel(const Pixel* maps, MapRule map_rule, double* sources, double* values, PlaneShape shape,
                      const double* thresholds, boxes::Rule rule, Cuts cuts) {
  const int64_t n = blockIdx.x;
  if (n == 0 && LevelCta::rank() == 0) *cuts.overflows = 0;
  if (rule.quantize) {
    const double most = std::is_same_v<Pixel, uint8_t> && !map_rule.given ? 255.0 : 1.0;
    with_resized(maps, map_rule, sources, n, [&](const auto& map, Normalization normalization) {
      cut_bytes(map, normalization, map_rule.eps, most, shape, thresholds, rule, cuts, n);
    });
  } else if (map_rule.given) {
    // Every threshold may sum over the whole map in raster order, by one thread, which cannot compute each pixel anew.
    const double* map = normalize_map(maps, map_rule, sources, n, values);
    __syncthreads();
    cut_values(map, shape, thresholds, rule, cuts, n);
  } else {
    cut_values(maps + n * shape.height * shape.width, shape, thresholds, rule, cuts, n);
  }
}

}  // namespace wsolfast::cuda
