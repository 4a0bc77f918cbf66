// How the box ops and the contours of gaussian_prior_labels are spread over a device.
#include <algorithm>
#include <iterator>

#include "cuda/box_cuts.cuh"
#include "cuda/contour_gaussians.cuh"
#include "entry.h"

namespace {

using namespace wsolfast::cuda;

// Processors, bytes of shared memory, bytes for what does not fit.
DeviceLimits limits_from(const int64_t* numbers) { return {static_cast<int>(numbers[0]), numbers[1], numbers[2]}; }

}  // namespace

// Writes warps, chunks, planes in shared memory, runs, items, bytes of shared memory, slots.
WSOLFAST_ENTRY const char* plan_boxes(int64_t height, int64_t width, int64_t images, int64_t cuts,
                                      const int64_t* limits, int64_t* out) {
  return cuda_emulator::reported([&] {
    const PlaneShape shape(static_cast<int>(height), static_cast<int>(width), 8);
    const CutPlan plan = plan_cuts(limits_from(limits), shape, images, static_cast<int>(cuts));
    const int64_t values[] = {plan.warps,        plan.chunks,        plan.planes_in_shared,
                              plan.run_capacity, plan.item_capacity, static_cast<int64_t>(plan.shared_bytes),
                              plan.slots};
    std::copy(std::begin(values), std::end(values), out);
  });
}

// Writes runs, items, bytes of shared memory, CTAs, slots.
WSOLFAST_ENTRY const char* plan_contours(int64_t height, int64_t width, int64_t count, const int64_t* limits,
                                         int64_t* out) {
  return cuda_emulator::reported([&] {
    const ContourPlan plan = wsolfast::cuda::plan_contours(limits_from(limits), count, height, width);
    const int64_t values[] = {plan.run_capacity, plan.item_capacity, static_cast<int64_t>(plan.shared_bytes), plan.ctas,
                              plan.slots};
    std::copy(std::begin(values), std::end(values), out);
  });
}
