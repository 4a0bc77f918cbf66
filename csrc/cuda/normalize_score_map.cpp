#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "boxes/packed_rule.h"
#include "cuda/kernels.h"
#include "cuda/score_maps.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace wsolfast::cuda;

constexpr const char* kOp = "normalize_score_map";

// [N, h, w] -> float64 [N, height, width]
Tensor normalize_score_map_cuda(Tensor maps, std::vector<int64_t> size, std::vector<double> packed_rule) {
  torch::stable::accelerator::DeviceGuard guard(maps.get_device());
  const Tensor input = torch::stable::contiguous(maps);
  const int64_t count = maps.size(0);
  const auto rule =
      wsolfast::boxes::map_rule(wsolfast::boxes::unpack_rule(packed_rule), maps.size(1), maps.size(2), size);
  WSOLFAST_CHECK(rule.given, kOp, "expected a size [height, width]");
  Tensor output = torch::stable::new_empty(input, {count, rule.shape.height, rule.shape.width}, ScalarType::Double);
  if (output.numel() == 0) return output;
  const int64_t kept = rule.shape.same() ? 0 : count;
  Tensor sources = torch::stable::new_empty(input, {kept, maps.size(1), maps.size(2)}, ScalarType::Double);
  with_pixels(input, kOp, [&](const auto* pixels) {
    normalize_score_map({kOp, input.get_device()}, pixels, count, rule, sources.mutable_data_ptr<double>(),
                        output.mutable_data_ptr<double>());
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m) { m.impl("normalize_score_map", TORCH_BOX(&normalize_score_map_cuda)); }
