#include <memory>

#include "boxes/packed_rule.h"
#include "cuda/box_pipeline.cuh"
#include "entry.h"

namespace {

using namespace wsolfast::cuda;
using cuda_emulator::Heap;

struct Arguments {
  const void* maps;
  int64_t images, h, w;
  const double* thresholds;
  int64_t count;
  cuda_emulator::List<int64_t> size;
  cuda_emulator::List<double> packed_rule;
  const int64_t* limits;  // processors, bytes of shared memory, bytes for what does not fit
};

template <typename Pixel, typename Run>
void with_pipeline(const Arguments& arguments, const Run& run) {
  const Heap heap;
  const cuda_emulator::Launcher launch;
  const DeviceLimits limits{static_cast<int>(arguments.limits[0]), arguments.limits[1], arguments.limits[2]};
  const auto rule = wsolfast::boxes::unpack_rule(arguments.packed_rule.span());
  const auto map_rule = wsolfast::boxes::map_rule(rule, arguments.h, arguments.w, arguments.size.span());
  BoxPipeline pipeline(launch, heap, limits, arguments.images, map_rule, arguments.count, rule,
                       std::is_same_v<Pixel, uint8_t>);
  pipeline.digitize(static_cast<const Pixel*>(arguments.maps), arguments.thresholds);
  run(pipeline);
  heap.check();
}

template <typename Run>
const char* run_boxes(int64_t dtype, const Arguments& arguments, const Run& run) {
  return cuda_emulator::reported([&] {
    if (dtype == 0) with_pipeline<uint8_t>(arguments, run);
    if (dtype == 1) with_pipeline<float>(arguments, run);
    if (dtype == 2) with_pipeline<double>(arguments, run);
  });
}

std::vector<Box> listed;

}  // namespace

WSOLFAST_ENTRY const char* score_map_boxes(int64_t dtype, const void* maps, int64_t images, int64_t h, int64_t w,
                                           const double* thresholds, int64_t count, const int64_t* size,
                                           int64_t size_count, const double* rule, int64_t rule_count,
                                           const int64_t* limits, Box* boxes) {
  return run_boxes(dtype, {maps, images, h, w, thresholds, count, {size, size_count}, {rule, rule_count}, limits},
                   [&](auto& pipeline) { pipeline.choose_boxes(boxes); });
}

WSOLFAST_ENTRY const char* box_sweep_hits(int64_t dtype, const void* maps, int64_t images, int64_t h, int64_t w,
                                          const double* thresholds, int64_t count, const int64_t* size,
                                          int64_t size_count, const double* rule, int64_t rule_count,
                                          const int64_t* limits, const double* truths, const int64_t* truth_begin,
                                          int64_t truth_count, const double* levels, int64_t level_count, bool* hits) {
  return run_boxes(
      dtype, {maps, images, h, w, thresholds, count, {size, size_count}, {rule, rule_count}, limits},
      [&](auto& pipeline) { pipeline.find_hits(truths, truth_begin, truth_count, levels, level_count, hits); });
}

// The boxes are fetched with listed_boxes, offsets[N * T] of them.
WSOLFAST_ENTRY const char* score_map_boxes_all(int64_t dtype, const void* maps, int64_t images, int64_t h, int64_t w,
                                               const double* thresholds, int64_t count, const int64_t* size,
                                               int64_t size_count, const double* rule, int64_t rule_count,
                                               const int64_t* limits, int64_t* offsets) {
  return run_boxes(dtype, {maps, images, h, w, thresholds, count, {size, size_count}, {rule, rule_count}, limits},
                   [&](auto& pipeline) {
                     const int64_t contours = *pipeline.count_contours(offsets);
                     listed.assign(static_cast<size_t>(offsets[images * count]), Box{-7, -7, -7, -7});
                     pipeline.list_contours(contours, offsets, listed.data());
                   });
}

WSOLFAST_ENTRY const char* listed_boxes(Box* boxes) {
  std::copy(listed.begin(), listed.end(), boxes);
  return nullptr;
}

// Writes warps, chunks, planes in shared memory, runs, items, bytes of shared memory, slots.
WSOLFAST_ENTRY const char* plan_boxes(int64_t height, int64_t width, int64_t images, int64_t cuts,
                                      const int64_t* limits, int64_t* out) {
  return cuda_emulator::reported([&] {
    const PlaneShape shape(static_cast<int>(height), static_cast<int>(width), 8);
    const CutPlan plan =
        plan_cuts({static_cast<int>(limits[0]), limits[1], limits[2]}, shape, images, static_cast<int>(cuts));
    const int64_t values[] = {plan.warps,        plan.chunks,        plan.planes_in_shared,
                              plan.run_capacity, plan.item_capacity, static_cast<int64_t>(plan.shared_bytes),
                              plan.slots};
    std::copy(std::begin(values), std::end(values), out);
  });
}
