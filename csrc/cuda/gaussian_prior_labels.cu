#include "cuda/gaussian_prior_labels.cuh"
#include "cuda/launch.h"

namespace wsolfast::cuda {

template <typename T>
void label_by_maps(const Target& target, const T* cams, int64_t count, const ResizeShape& shape,
                   const gaussian_prior::Rule& rule, double* axis_sums, double* scaled, uint8_t* labels) {
  label_by_maps(Launcher(target), cams, count, shape, rule, axis_sums, scaled, labels);
}

template <typename T>
void label_by_contours(const Target& target, const Allocate& allocate, const T* cams, int64_t count,
                       const ResizeShape& shape, const gaussian_prior::Rule& rule, int32_t* overflows, double* scaled,
                       uint8_t* labels) {
  const ContourLimits limits{attribute_of(target.device, cudaDevAttrMultiProcessorCount)};
  label_by_contours(Launcher(target), allocate, limits, cams, count, shape, rule, overflows, scaled, labels);
}

#define WSOLFAST_LABELS_OF(T)                                                                                    \
  template void label_by_maps(const Target&, const T*, int64_t, const ResizeShape&, const gaussian_prior::Rule&, \
                              double*, double*, uint8_t*);                                                       \
  template void label_by_contours(const Target&, const Allocate&, const T*, int64_t, const ResizeShape&,         \
                                  const gaussian_prior::Rule&, int32_t*, double*, uint8_t*);
WSOLFAST_LABELS_OF(float)
WSOLFAST_LABELS_OF(double)

}  // namespace wsolfast::cuda
