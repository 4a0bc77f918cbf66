#include <torch/csrc/stable/library.h>

#include "boxes/normalize.h"
#include "boxes/resize.h"
#include "cpu/score_maps.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "normalize_score_map";

// [N, h, w] -> float64 [N, height, width]
Tensor normalize_score_map_cpu(Tensor maps, int64_t height, int64_t width, int64_t interpolation, int64_t normalization,
                               double eps, bool normalize_first) {
  using namespace wsolfast::boxes;
  const Tensor input = torch::stable::contiguous(maps);
  const int64_t h = maps.size(1), w = maps.size(2);
  const auto kind = static_cast<Interpolation>(interpolation);
  const auto scaling = static_cast<Normalization>(normalization);
  WSOLFAST_CHECK(kind != Interpolation::kNone || (h == height && w == width), kOp,
                 "another size needs an interpolation");
  Tensor output = torch::stable::new_empty(input, {maps.size(0), height, width}, torch::headeronly::ScalarType::Double);
  if (output.numel() == 0) return output;
  double* out = output.mutable_data_ptr<double>();
  wsolfast::for_each_score_map(input, kOp, [&](int64_t n, const auto* map) {
    static thread_local Resizer resizer;
    static thread_local std::vector<double> source;
    source.assign(map, map + h * w);
    if (normalize_first) normalize_map(source.data(), h * w, scaling, eps);
    double* target = out + n * height * width;
    resizer.resize(source.data(), static_cast<int>(h), static_cast<int>(w), kind, target, static_cast<int>(height),
                   static_cast<int>(width));
    if (!normalize_first) normalize_map(target, height * width, scaling, eps);
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("normalize_score_map", TORCH_BOX(&normalize_score_map_cpu)); }
