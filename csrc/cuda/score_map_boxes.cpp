#include <tuple>

#include "cuda/box_ops.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using wsolfast::boxes::Box;

constexpr const char* kOp = "score_map_boxes";

// [N, h, w], [T] -> [N, T, 4]
Tensor score_map_boxes_cuda(Tensor maps, Tensor thresholds, std::vector<int64_t> size,
                            std::vector<double> packed_rule) {
  wsolfast::cuda::DeviceGuard guard(maps.get_device());
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  Tensor boxes = torch::stable::new_empty(maps, {maps.size(0), thresholds.numel(), 4}, ScalarType::Long);
  if (boxes.numel() == 0) return boxes;
  auto* out = reinterpret_cast<Box*>(boxes.mutable_data_ptr<int64_t>());
  wsolfast::cuda::with_box_maps(kOp, maps, thresholds, map_rule, rule,
                                [&](const auto&... problem) { wsolfast::cuda::choose_boxes(problem..., out); });
  return boxes;
}

// [N, h, w], [T] -> [M, 4], [N * T + 1]. M is known on the device only, so this waits for it once.
std::tuple<Tensor, Tensor> score_map_boxes_all_cuda(Tensor maps, Tensor thresholds, std::vector<int64_t> size,
                                                    std::vector<double> packed_rule) {
  wsolfast::cuda::DeviceGuard guard(maps.get_device());
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  const int64_t count = maps.size(0) * thresholds.numel();
  if (count == 0) {
    return {torch::stable::new_empty(maps, {0, 4}, ScalarType::Long),
            torch::stable::new_zeros(maps, {1}, ScalarType::Long)};
  }
  Tensor offsets = torch::stable::new_empty(maps, {count + 1}, ScalarType::Long), boxes;
  const auto room_for = [&](int64_t total) {
    boxes = torch::stable::new_empty(maps, {total, 4}, ScalarType::Long);
    return reinterpret_cast<Box*>(boxes.mutable_data_ptr<int64_t>());
  };
  wsolfast::cuda::with_box_maps(kOp, maps, thresholds, map_rule, rule, [&](const auto&... problem) {
    wsolfast::cuda::list_boxes(problem..., offsets.mutable_data_ptr<int64_t>(), room_for);
  });
  return {boxes, offsets};
}

}  // namespace

WSOLFAST_CUDA_KERNELS(m) {
  m.impl("score_map_boxes", TORCH_BOX(&score_map_boxes_cuda));
  m.impl("_score_map_boxes_all", TORCH_BOX(&score_map_boxes_all_cuda));
}
