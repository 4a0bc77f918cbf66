#include "cuda/gaussian_prior_labels.cuh"

#include <algorithm>
#include <iterator>

#include "entry.h"

namespace {

using namespace wsolfast::cuda;

// `codes` are GaussianPrior's in the order of the op's schema; `limits` processors, bytes of shared memory, bytes for
// maps whose contours do not fit.
template <typename Pixel>
const char* label(const Pixel* cams, int64_t count, int64_t h, int64_t w, int64_t height, int64_t width,
                  const double* codes, const int64_t* limits, uint8_t* labels) {
  return cuda_emulator::reported([&] {
    const ResizeShape shape{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height),
                            static_cast<int>(width)};
    const wsolfast::gaussian_prior::Rule rule{codes[0], codes[1], codes[2] != 0, codes[3], codes[4],      codes[5] != 0,
                                              codes[6], codes[7], codes[8],      codes[9], codes[10] != 0};
    const cuda_emulator::Heap heap;
    const cuda_emulator::Launcher launch;
    auto* scaled = static_cast<double*>(heap(count * h * w * static_cast<int64_t>(sizeof(double))));
    if (rule.per_contour && rule.uses_gaussians()) {
      int32_t overflows = 0;
      label_by_contours(launch, heap, {static_cast<int>(limits[0]), limits[1], limits[2]}, cams, count, shape, rule,
                        &overflows, scaled, labels);
    } else {
      auto* axis_sums = static_cast<double*>(heap(3 * (h + w) * static_cast<int64_t>(sizeof(double))));
      label_by_maps(launch, cams, count, shape, rule, axis_sums, scaled, labels);
    }
    heap.check();
  });
}

}  // namespace

WSOLFAST_ENTRY const char* gaussian_prior_labels_f32(const float* cams, int64_t count, int64_t h, int64_t w,
                                                     int64_t height, int64_t width, const double* codes,
                                                     const int64_t* limits, uint8_t* labels) {
  return label(cams, count, h, w, height, width, codes, limits, labels);
}

WSOLFAST_ENTRY const char* gaussian_prior_labels_f64(const double* cams, int64_t count, int64_t h, int64_t w,
                                                     int64_t height, int64_t width, const double* codes,
                                                     const int64_t* limits, uint8_t* labels) {
  return label(cams, count, h, w, height, width, codes, limits, labels);
}

// Writes runs, items, bytes of shared memory, CTAs, slots.
WSOLFAST_ENTRY const char* plan_contours(int64_t height, int64_t width, int64_t count, const int64_t* limits,
                                         int64_t* out) {
  return cuda_emulator::reported([&] {
    const ContourPlan plan =
        wsolfast::cuda::plan_contours({static_cast<int>(limits[0]), limits[1], limits[2]}, count, height, width);
    const int64_t values[] = {plan.run_capacity, plan.item_capacity, static_cast<int64_t>(plan.shared_bytes), plan.ctas,
                              plan.slots};
    std::copy(std::begin(values), std::end(values), out);
  });
}
