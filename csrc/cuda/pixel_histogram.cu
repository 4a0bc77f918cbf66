// Histograms of background and object scores, added up in integers.
#include <algorithm>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/shared.cuh"

namespace wsolfast::cuda {

constexpr int kHistogramThreads = 256;

// How many of the ascending edges a value reaches; NaN reaches none.
__device__ inline int64_t edges_reached(const double* edges, int64_t count, double value) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (value >= edges[middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Adds to counts [2][bins]. With kShared the edges and a histogram per CTA stand in shared memory.
template <typename Pixel, bool kShared>
__global__ void __launch_bounds__(kHistogramThreads)
    pixel_histogram_kernel(const Pixel* scores, const uint8_t* masks, int64_t pixels, const double* edges, int64_t bins,
                           unsigned long long* counts) {
  auto* own_edges = reinterpret_cast<double*>(dynamic_shared());
  auto* own_counts = reinterpret_cast<unsigned*>(own_edges + bins + 1);
  if constexpr (kShared) {
    for (int64_t i = threadIdx.x; i <= bins; i += kHistogramThreads) own_edges[i] = edges[i];
    for (int64_t i = threadIdx.x; i < 2 * bins; i += kHistogramThreads) own_counts[i] = 0;
    __syncthreads();
    edges = own_edges;
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * kHistogramThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kHistogramThreads + threadIdx.x; i < pixels; i += step) {
    const int64_t kind = masks[i];
    if (kind > 1) continue;
    const auto score = static_cast<double>(scores[i]);
    int64_t bin = edges_reached(edges, bins + 1, score) - 1;
    if (bin == bins) {
      if (score > edges[bins]) continue;
      --bin;
    }
    if (bin < 0) continue;
    if constexpr (kShared) {
      atomicAdd(&own_counts[kind * bins + bin], 1u);
    } else {
      atomicAdd(&counts[kind * bins + bin], 1ull);
    }
  }
  if constexpr (kShared) {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < 2 * bins; i += kHistogramThreads) {
      if (own_counts[i] > 0) atomicAdd(&counts[i], static_cast<unsigned long long>(own_counts[i]));
    }
  }
}

// Adds to counts [2, bins], which starts at zero; edges [bins + 1].
template <typename Pixel>
void pixel_histogram(const Target& target, const Pixel* scores, const uint8_t* masks, int64_t pixels,
                     const double* edges, int64_t bins, int64_t* counts) {
  const Launcher launch(target);
  constexpr int64_t kPixelsPerThread = 16, kMostCtas = 2048;
  constexpr int64_t kSharedBytes = 48 * 1024;  // what a launch gets without asking
  // No CTA counts more than 2^32 pixels in its own histogram.
  const int64_t ctas =
      std::max(std::clamp(pixels / (kHistogramThreads * kPixelsPerThread), int64_t{1}, kMostCtas), pixels >> 31);
  const int64_t bytes =
      (bins + 1) * static_cast<int64_t>(sizeof(double)) + 2 * bins * static_cast<int64_t>(sizeof(unsigned));
  auto* out = reinterpret_cast<unsigned long long*>(counts);
  if (bytes <= kSharedBytes) {
    launch(pixel_histogram_kernel<Pixel, true>, ctas, kHistogramThreads, static_cast<size_t>(bytes), scores, masks,
           pixels, edges, bins, out);
  } else {
    launch(pixel_histogram_kernel<Pixel, false>, ctas, kHistogramThreads, 0, scores, masks, pixels, edges, bins, out);
  }
}

template void pixel_histogram(const Target&, const uint8_t*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);
template void pixel_histogram(const Target&, const float*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);
template void pixel_histogram(const Target&, const double*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);

}  // namespace wsolfast::cuda
