#include <memory>

#include "cuda/box_pipeline.cuh"
#include "entry.h"

namespace {

using namespace wsolfast::cuda;
using cuda_emulator::Heap;
using wsolfast::boxes::Rule;

// The codes of BoxRule from `quantize` on in the order of the ops' schemas, empty_box spread out (-1: none).
Rule rule_of(const int64_t* codes) {
  Rule rule;
  rule.quantize = codes[0] != 0;
  rule.relative = codes[1] != 0;
  rule.comparison = static_cast<wsolfast::boxes::Comparison>(codes[2]);
  rule.mean_cut = codes[3] != 0;
  rule.connectivity = static_cast<int>(codes[4]);
  rule.selection = static_cast<Selection>(codes[5]);
  rule.box_end = static_cast<wsolfast::boxes::BoxEnd>(codes[6]);
  rule.empty_box.reset();
  if (codes[7] >= 0) rule.empty_box = Box{codes[7], codes[8], codes[9], codes[10]};
  rule.iou_plus_one = codes[11] != 0;
  rule.hit_strict = codes[12] != 0;
  rule.gt_first_only = codes[13] != 0;
  return rule;
}

struct Arguments {
  const void* maps;
  int64_t images, h, w;
  const double* thresholds;
  int64_t count;
  const double* map_codes;  // height and width (0: maps stay as they are), the codes up to `normalize_first`
  const int64_t* codes;
  const int64_t* limits;  // processors, bytes of shared memory, bytes for what does not fit
};

MapRule map_rule_of(const Arguments& arguments) {
  const double* codes = arguments.map_codes;
  const auto h = static_cast<int>(arguments.h), w = static_cast<int>(arguments.w);
  if (codes[0] == 0) return {{h, w, h, w}};
  return {{h, w, static_cast<int>(codes[0]), static_cast<int>(codes[1])},
          true,
          static_cast<Interpolation>(codes[2]),
          static_cast<Normalization>(codes[3]),
          codes[4],
          codes[5] != 0};
}

template <typename Pixel, typename Run>
void with_pipeline(const Arguments& arguments, const Run& run) {
  const Heap heap;
  const cuda_emulator::Launcher launch;
  const DeviceLimits limits{static_cast<int>(arguments.limits[0]), arguments.limits[1], arguments.limits[2]};
  BoxPipeline pipeline(launch, heap, limits, arguments.images, map_rule_of(arguments), arguments.count,
                       rule_of(arguments.codes), std::is_same_v<Pixel, uint8_t>);
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
                                           const double* thresholds, int64_t count, const double* map_codes,
                                           const int64_t* codes, const int64_t* limits, Box* boxes) {
  return run_boxes(dtype, {maps, images, h, w, thresholds, count, map_codes, codes, limits},
                   [&](auto& pipeline) { pipeline.choose_boxes(boxes); });
}

WSOLFAST_ENTRY const char* box_sweep_hits(int64_t dtype, const void* maps, int64_t images, int64_t h, int64_t w,
                                          const double* thresholds, int64_t count, const double* map_codes,
                                          const int64_t* codes, const int64_t* limits, const double* truths,
                                          const int64_t* truth_begin, int64_t truth_count, const double* levels,
                                          int64_t level_count, bool* hits) {
  return run_boxes(dtype, {maps, images, h, w, thresholds, count, map_codes, codes, limits}, [&](auto& pipeline) {
    pipeline.find_hits(truths, truth_begin, truth_count, levels, level_count, hits);
  });
}

// The boxes are fetched with listed_boxes, offsets[N * T] of them.
WSOLFAST_ENTRY const char* score_map_boxes_all(int64_t dtype, const void* maps, int64_t images, int64_t h, int64_t w,
                                               const double* thresholds, int64_t count, const double* map_codes,
                                               const int64_t* codes, const int64_t* limits, int64_t* offsets) {
  return run_boxes(dtype, {maps, images, h, w, thresholds, count, map_codes, codes, limits}, [&](auto& pipeline) {
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
