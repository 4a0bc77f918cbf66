#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "boxes/engine.h"
#include "cpu/score_maps.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using wsolfast::boxes::Box;

constexpr const char* kOp = "score_map_boxes";

// [N, h, w], [T] -> [N, T, 4]
Tensor score_map_boxes_cpu(Tensor maps, Tensor thresholds, std::vector<int64_t> size, std::vector<double> packed_rule) {
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  const Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  const int64_t count = cuts.numel();
  Tensor boxes = torch::stable::new_empty(input, {maps.size(0), count, 4}, ScalarType::Long);
  if (boxes.numel() == 0) return boxes;
  auto* out = reinterpret_cast<Box*>(boxes.mutable_data_ptr<int64_t>());
  wsolfast::for_each_normalized_map(input, kOp, map_rule, [&](int64_t n, const auto* map) {
    wsolfast::boxes::thread_engine().choose_boxes(map, map_rule.shape.height, map_rule.shape.width,
                                                  wsolfast::span_of(cuts), rule, out + n * count);
  });
  return boxes;
}

// [N, h, w], [T] -> [M, 4], [N * T + 1]
std::tuple<Tensor, Tensor> score_map_boxes_all_cpu(Tensor maps, Tensor thresholds, std::vector<int64_t> size,
                                                   std::vector<double> packed_rule) {
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  const Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  const int64_t images = maps.size(0), count = cuts.numel();
  Tensor offsets = torch::stable::new_empty(input, {images * count + 1}, ScalarType::Long);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  std::vector<std::vector<Box>> found(images);
  if (count > 0) {
    wsolfast::for_each_normalized_map(input, kOp, map_rule, [&](int64_t n, const auto* map) {
      wsolfast::boxes::thread_engine().list_boxes(map, map_rule.shape.height, map_rule.shape.width,
                                                  wsolfast::span_of(cuts), rule, found[n], offset + 1 + n * count);
    });
  }
  for (int64_t i = 0; i < images * count; ++i) offset[i + 1] += offset[i];
  Tensor boxes = torch::stable::new_empty(input, {offset[images * count], 4}, ScalarType::Long);
  auto* out = reinterpret_cast<Box*>(boxes.mutable_data_ptr<int64_t>());
  for (const std::vector<Box>& of_map : found) out = std::copy(of_map.begin(), of_map.end(), out);
  return {boxes, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) {
  m.impl("score_map_boxes", TORCH_BOX(&score_map_boxes_cpu));
  m.impl("_score_map_boxes_all", TORCH_BOX(&score_map_boxes_all_cpu));
}
