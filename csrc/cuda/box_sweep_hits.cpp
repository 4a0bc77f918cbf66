#include <torch/csrc/stable/library.h>

#include "cuda/box_ops.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "box_sweep_hits";

// [N, h, w], [T], [G, 4], [N + 1], [I] -> [N, T, I]
Tensor box_sweep_hits_cuda(Tensor maps, Tensor thresholds, Tensor gt_boxes, Tensor gt_offsets, Tensor iou_thresholds,
                           std::vector<int64_t> size, int64_t interpolation, int64_t normalization, double eps,
                           bool normalize_first, bool quantize, bool relative, int64_t comparison, bool mean_cut,
                           int64_t connectivity, int64_t selection, int64_t box_end, std::vector<int64_t> empty_box,
                           bool iou_plus_one, int64_t hit, int64_t gt) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
  const auto map_rule = wsolfast::make_map_rule(kOp, maps.size(1), maps.size(2), size, interpolation, normalization,
                                                eps, normalize_first);
  auto rule =
      wsolfast::make_rule(quantize, relative, comparison, mean_cut, connectivity, selection, box_end, empty_box);
  rule.iou_plus_one = iou_plus_one;
  rule.hit_strict = hit == 1;
  rule.gt_first_only = gt == 1;
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

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("box_sweep_hits", TORCH_BOX(&box_sweep_hits_cuda)); }
