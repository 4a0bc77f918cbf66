#include "cuda/box_ops.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "box_sweep_hits";

// [N, h, w], [T], [G, 4], [N + 1], [I] -> [N, T, I]
Tensor box_sweep_hits_cuda(Tensor maps, Tensor thresholds, Tensor gt_boxes, Tensor gt_offsets, Tensor iou_thresholds,
                           std::vector<int64_t> size, std::vector<double> packed_rule) {
  wsolfast::cuda::DeviceGuard guard(maps.get_device());
  const auto rule = wsolfast::boxes::unpack_rule(packed_rule);
  const auto map_rule = wsolfast::boxes::map_rule(rule, maps.size(1), maps.size(2), size);
  const Tensor truths = torch::stable::contiguous(gt_boxes), begins = torch::stable::contiguous(gt_offsets);
  const Tensor levels = torch::stable::contiguous(iou_thresholds);
  for (const Tensor& tensor : {truths, begins, levels, thresholds}) {
    WSOLFAST_CHECK(tensor.get_device() == maps.get_device(), kOp, "expected all tensors on the device of the maps");
  }
  WSOLFAST_CHECK(begins.numel() == maps.size(0) + 1, kOp, "gt_offsets do not fit the maps");
  Tensor hits = torch::stable::new_empty(maps, {maps.size(0), thresholds.numel(), levels.numel()},
                                         torch::headeronly::ScalarType::Bool);
  if (hits.numel() == 0) return hits;
  const wsolfast::cuda::Truths wanted{truths.const_data_ptr<double>(), begins.const_data_ptr<int64_t>(), truths.size(0),
                                      levels.const_data_ptr<double>(), levels.numel()};
  wsolfast::cuda::with_box_maps(kOp, maps, thresholds, map_rule, rule, [&](const auto&... problem) {
    wsolfast::cuda::find_hits(problem..., wanted, hits.mutable_data_ptr<bool>());
  });
  return hits;
}

}  // namespace

WSOLFAST_CUDA_KERNELS(m) { m.impl("box_sweep_hits", TORCH_BOX(&box_sweep_hits_cuda)); }
