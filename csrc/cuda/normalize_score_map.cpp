#include <functional>

#include "boxes/map_rule.h"
#include "boxes/packed_rule.h"
#include "cuda/binding.h"
#include "cuda/score_maps.h"

namespace wsolfast::cuda {

// In normalize_score_map.cu; Pixel: uint8_t, float, double.
template <typename Pixel>
void normalize_score_map(const Target& target, const Allocate& allocate, const Pixel* maps, int64_t count,
                         const boxes::MapRule& rule, double* out);

}  // namespace wsolfast::cuda

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace wsolfast::cuda;

constexpr const char* kOp = "normalize_score_map";

// [N, h, w] -> float64 [N, height, width]
Tensor normalize_score_map_cuda(Tensor maps, std::vector<int64_t> size, std::vector<double> packed_rule) {
  DeviceGuard guard(maps.get_device());
  const Tensor input = torch::stable::contiguous(maps);
  const int64_t count = maps.size(0);
  const auto rule =
      wsolfast::boxes::map_rule(wsolfast::boxes::unpack_rule(packed_rule), maps.size(1), maps.size(2), size);
  WSOLFAST_CHECK(rule.given, kOp, "expected a size [height, width]");
  Tensor output = torch::stable::new_empty(input, {count, rule.shape.height, rule.shape.width}, ScalarType::Double);
  if (output.numel() == 0) return output;
  Scratch scratch(input);
  with_pixels(input, kOp, [&](const auto* pixels) {
    normalize_score_map({kOp, input.get_device()}, std::ref(scratch), pixels, count, rule,
                        output.mutable_data_ptr<double>());
  });
  return output;
}

}  // namespace

WSOLFAST_CUDA_KERNELS(m) { m.impl("normalize_score_map", TORCH_BOX(&normalize_score_map_cuda)); }
