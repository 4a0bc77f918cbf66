#include "cuda/launch.h"
#include "cuda/min_max_normalize.cuh"

namespace wsolfast::cuda {

template <typename T>
void min_max_normalize(const Target& target, const T* maps, int64_t count, int64_t size, T eps, T* out) {
  min_max_normalize(Launcher(target), maps, count, size, eps, out);
}

template void min_max_normalize(const Target&, const float*, int64_t, int64_t, float, float*);
template void min_max_normalize(const Target&, const double*, int64_t, int64_t, double, double*);

}  // namespace wsolfast::cuda
