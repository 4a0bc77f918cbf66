// Maps at another size and in [0, 1]; what is done to a pixel stands in resized_maps.cuh.
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/resized_maps.cuh"

namespace wsolfast::cuda {

template <typename Pixel>
__global__ void __launch_bounds__(kResizeThreads, 3)
    normalize_score_map_kernel(const Pixel* maps, MapRule rule, double* sources, double* out) {
  normalize_map(maps, rule, sources, blockIdx.x, out);
}

// Writes `out` [N, height, width].
template <typename Pixel>
void normalize_score_map(const Target& target, const Allocate& allocate, const Pixel* maps, int64_t count,
                         const MapRule& rule, double* out) {
  const ResizeShape& shape = rule.shape;
  const int64_t bytes = count * shape.h * shape.w * static_cast<int64_t>(sizeof(double));
  auto* sources = shape.same() ? nullptr : static_cast<double*>(allocate(bytes));
  Launcher{target}(normalize_score_map_kernel<Pixel>, count, kResizeThreads, 0, maps, rule, sources, out);
}

template void normalize_score_map(const Target&, const Allocate&, const uint8_t*, int64_t, const MapRule&, double*);
template void normalize_score_map(const Target&, const Allocate&, const float*, int64_t, const MapRule&, double*);
template void normalize_score_map(const Target&, const Allocate&, const double*, int64_t, const MapRule&, double*);

}  // namespace wsolfast::cuda
