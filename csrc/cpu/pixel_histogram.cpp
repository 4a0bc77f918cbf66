#include <torch/csrc/stable/library.h>

#include "boxes/histogram.h"
#include "cpu/score_maps.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "pixel_histogram";

// [N, H, W], [N, H, W], [B + 1] -> [2, B]
Tensor pixel_histogram_cpu(Tensor maps, Tensor masks, Tensor edges) {
  const Tensor input = torch::stable::contiguous(maps), kinds = torch::stable::contiguous(masks);
  const Tensor bounds = torch::stable::contiguous(edges);
  WSOLFAST_CHECK(kinds.numel() == input.numel() && bounds.numel() >= 2, kOp, "masks or edges do not fit the maps");
  const int64_t images = maps.size(0), size = maps.size(1) * maps.size(2), bins = bounds.numel() - 1;
  Tensor counts = torch::stable::new_zeros(input, {2, bins}, torch::headeronly::ScalarType::Long);
  if (input.numel() == 0) return counts;
  const wsolfast::boxes::PixelHistogram histogram(wsolfast::span_of(bounds));
  const uint8_t* mask = kinds.const_data_ptr<uint8_t>();
  std::vector<std::vector<int64_t>> of_map(images);
  wsolfast::for_each_score_map(input, kOp, [&](int64_t n, const auto* map) {
    of_map[n].assign(2 * bins, 0);
    histogram.add(map, mask + n * size, size, of_map[n].data());
  });
  int64_t* out = counts.mutable_data_ptr<int64_t>();
  for (const std::vector<int64_t>& part : of_map) {
    for (int64_t i = 0; i < 2 * bins; ++i) out[i] += part[i];
  }
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("pixel_histogram", TORCH_BOX(&pixel_histogram_cpu)); }
