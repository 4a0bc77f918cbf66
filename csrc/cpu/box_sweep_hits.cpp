#include <torch/csrc/stable/library.h>

#include "boxes/engine.h"
#include "cpu/score_maps.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "box_sweep_hits";

// [N, h, w], [T], [G, 4], [N + 1], [I] -> [N, T, I]
Tensor box_sweep_hits_cpu(Tensor maps, Tensor thresholds, Tensor gt_boxes, Tensor gt_offsets, Tensor iou_thresholds,
                          std::vector<int64_t> size, std::vector<double> packed_rule) {
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  const Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  const Tensor truths = torch::stable::contiguous(gt_boxes), begins = torch::stable::contiguous(gt_offsets);
  const Tensor levels = torch::stable::contiguous(iou_thresholds);
  const int64_t images = maps.size(0), count = cuts.numel() * levels.numel();
  Tensor hits =
      torch::stable::new_empty(input, {images, cuts.numel(), levels.numel()}, torch::headeronly::ScalarType::Bool);
  if (hits.numel() == 0) return hits;
  const int64_t* begin = begins.const_data_ptr<int64_t>();
  WSOLFAST_CHECK(begins.numel() == images + 1 && begin[0] == 0 && begin[images] == truths.size(0), kOp,
                 "gt_offsets do not fit the maps and gt_boxes");
  for (int64_t n = 0; n < images; ++n) WSOLFAST_CHECK(begin[n] <= begin[n + 1], kOp, "gt_offsets decrease");
  bool* out = hits.mutable_data_ptr<bool>();
  wsolfast::for_each_normalized_map(input, kOp, map_rule, [&](int64_t n, const auto* map) {
    const auto own = wsolfast::span_of(truths).subspan(4 * begin[n], 4 * (begin[n + 1] - begin[n]));
    wsolfast::boxes::thread_engine().hits(map, map_rule.shape.height, map_rule.shape.width, wsolfast::span_of(cuts),
                                          rule, own, wsolfast::span_of(levels), out + n * count);
  });
  return hits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("box_sweep_hits", TORCH_BOX(&box_sweep_hits_cpu)); }
