#include "cuda/launch.h"
#include "cuda/pixel_histogram.cuh"

namespace wsolfast::cuda {

template <typename Pixel>
void pixel_histogram(const Target& target, const Pixel* scores, const uint8_t* masks, int64_t pixels,
                     const double* edges, int64_t bins, int64_t* counts) {
  pixel_histogram(Launcher(target), scores, masks, pixels, edges, bins, counts);
}

template void pixel_histogram(const Target&, const uint8_t*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);
template void pixel_histogram(const Target&, const float*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);
template void pixel_histogram(const Target&, const double*, const uint8_t*, int64_t, const double*, int64_t, int64_t*);

}  // namespace wsolfast::cuda
