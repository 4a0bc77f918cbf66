#include "cuda/min_max_normalize.cuh"

#include "entry.h"

WSOLFAST_ENTRY const char* min_max_normalize_f32(const float* maps, int64_t count, int64_t size, double eps,
                                                 float* out) {
  return cuda_emulator::reported([&] {
    wsolfast::cuda::min_max_normalize(cuda_emulator::Launcher{}, maps, count, size, static_cast<float>(eps), out);
  });
}

WSOLFAST_ENTRY const char* min_max_normalize_f64(const double* maps, int64_t count, int64_t size, double eps,
                                                 double* out) {
  return cuda_emulator::reported(
      [&] { wsolfast::cuda::min_max_normalize(cuda_emulator::Launcher{}, maps, count, size, eps, out); });
}
