// From score maps and thresholds to bit planes of levels and distinct cuts: csrc/boxes/digitize.cpp on the device.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "cuda/box_planes.cuh"

namespace wsolfast::cuda {

constexpr int kLevelThreads = 256;
using LevelCta = Cta<kLevelThreads>;

// Cuts of a quantised map: -1 to 255.
constexpr int kByteCuts = 257;
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

// Writes the planes of level_of(pixel).
template <typename LevelOf>
__device__ void write_planes(const PlaneShape& shape, uint32_t* planes, const LevelOf& level_of) {
  const int lane = Warp::rank();
  for (int64_t i = LevelCta::rank() / Warp::kSize; i < static_cast<int64_t>(shape.height) * shape.words;
       i += kLevelThreads / Warp::kSize) {
    const int64_t y = i / shape.words;
    const int word = static_cast<int>(i % shape.words), x = word * 32 + lane;
    const int level = x < shape.width ? level_of(y * shape.width + x) : 0;
    uint32_t own = 0;
    for (int p = 0; p < shape.count; ++p) {
      const uint32_t plane = __ballot_sync(kAllLanes, level >> p & 1);
      if (lane == p) own = plane;
    }
    if (lane < shape.count) planes[lane * shape.words_of_plane() + y * shape.stride + word] = own;
  }
}

__device__ inline int quantized(uint8_t value) { return value; }
__device__ inline int quantized(float value) { return static_cast<int>(static_cast<double>(value) * 255.0); }
__device__ inline int quantized(double value) { return static_cast<int>(value * 255.0); }

__device__ inline bool in_unit_range(uint8_t) { return true; }
__device__ inline bool in_unit_range(float value) { return value >= 0.0f && value <= 1.0f; }
__device__ inline bool in_unit_range(double value) { return value >= 0.0 && value <= 1.0; }

// The largest level that fails the threshold: -1 when everything passes, 255 when nothing does.
__device__ inline int byte_cut(double threshold, double top, boxes::Comparison comparison) {
  const double wanted = threshold * top;
  const double kept = wanted < -2.0 ? -2.0 : 300.0 < wanted ? 300.0 : wanted;
  const int cut = static_cast<int>(trunc(kept)) - (comparison == boxes::Comparison::kGreater ? 0 : 1);
  return cut < -1 ? -1 : cut > 255 ? 255 : cut;
}

template <typename Pixel>
__device__ void cut_bytes(const Pixel* map, const PlaneShape& shape, const double* thresholds, const boxes::Rule& rule,
                          const Cuts& cuts, int64_t n) {
  __shared__ int32_t index[kByteCuts];
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  int high = 0;
  bool good = true;
  for (int64_t i = LevelCta::rank(); i < size; i += kLevelThreads) {
    good &= in_unit_range(map[i]);
    if (good) high = Largest<int>{}(high, quantized(map[i]));
  }
  high = LevelCta::reduce(high, Largest<int>{});
  int32_t* of_threshold = cuts.of_threshold + n * cuts.thresholds;
  if (!__syncthreads_and(good)) {
    for (int t = LevelCta::rank(); t < cuts.thresholds; t += kLevelThreads) of_threshold[t] = -1;
    if (LevelCta::rank() == 0) cuts.distinct[n] = 0;
    return;
  }
  for (int i = LevelCta::rank(); i < kByteCuts; i += kLevelThreads) index[i] = 0;
  __syncthreads();
  const double top = rule.relative ? high : 255.0;
  for (int t = LevelCta::rank(); t < cuts.thresholds; t += kLevelThreads) {
    const int cut = byte_cut(thresholds[t], top, rule.comparison);
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
  write_planes(shape, cuts.planes + n * shape.words_of_image(), [&](int64_t i) { return quantized(map[i]); });
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
  write_planes(shape, cuts.planes + n * shape.words_of_image(), [&](int64_t i) {
    const auto value = static_cast<double>(map[i]);
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

// One CTA per map.
template <typename Pixel>
__global__ void __launch_bounds__(kLevelThreads)
    box_levels_kernel(const Pixel* maps, PlaneShape shape, const double* thresholds, boxes::Rule rule, Cuts cuts) {
  const int64_t n = blockIdx.x;
  const Pixel* map = maps + n * shape.height * shape.width;
  if (n == 0 && LevelCta::rank() == 0) *cuts.overflows = 0;
  if (rule.quantize) {
    cut_bytes(map, shape, thresholds, rule, cuts, n);
  } else {
    cut_values(map, shape, thresholds, rule, cuts, n);
  }
}

}  // namespace wsolfast::cuda
