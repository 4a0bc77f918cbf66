#include <torch/csrc/stable/library.h>

#include "cpu/score_maps.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "normalize_score_map";

// [N, h, w] -> float64 [N, height, width]
Tensor normalize_score_map_cpu(Tensor maps, std::vector<int64_t> size, std::vector<double> packed_rule) {
  const Tensor input = torch::stable::contiguous(maps);
  const auto rule =
      wsolfast::boxes::map_rule(wsolfast::boxes::unpack_rule(packed_rule), maps.size(1), maps.size(2), size);
  WSOLFAST_CHECK(rule.given, kOp, "expected a size [height, width]");
  const int64_t height = rule.shape.height, width = rule.shape.width;
  Tensor output = torch::stable::new_empty(input, {maps.size(0), height, width}, torch::headeronly::ScalarType::Double);
  if (output.numel() == 0) return output;
  double* out = output.mutable_data_ptr<double>();
  wsolfast::for_each_score_map(
      input, kOp, [&](int64_t n, const auto* map) { wsolfast::normalize_map(map, rule, out + n * height * width); });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("normalize_score_map", TORCH_BOX(&normalize_score_map_cpu)); }
