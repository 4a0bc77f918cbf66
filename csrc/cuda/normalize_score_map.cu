#include "cuda/launch.h"
#include "cuda/normalize_score_map.cuh"

namespace wsolfast::cuda {

template <typename Pixel>
void normalize_score_map(const Target& target, const Pixel* maps, int64_t count, const MapRule& rule, double* sources,
                         double* out) {
  normalize_score_map(Launcher(target), maps, count, rule, sources, out);
}

template void normalize_score_map(const Target&, const uint8_t*, int64_t, const MapRule&, double*, double*);
template void normalize_score_map(const Target&, const float*, int64_t, const MapRule&, double*, double*);
template void normalize_score_map(const Target&, const double*, int64_t, const MapRule&, double*, double*);

}  // namespace wsolfast::cuda
