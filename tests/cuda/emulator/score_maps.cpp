#include "boxes/packed_rule.h"
#include "cuda/normalize_score_map.cuh"
#include "cuda/pixel_histogram.cuh"
#include "entry.h"

namespace {

using namespace wsolfast::cuda;
using cuda_emulator::List;

template <typename Pixel>
const char* normalize(const Pixel* maps, int64_t count, int64_t h, int64_t w, const List<int64_t>& size,
                      const List<double>& packed_rule, double* out) {
  return cuda_emulator::reported([&] {
    const MapRule rule = wsolfast::boxes::map_rule(wsolfast::boxes::unpack_rule(packed_rule.span()), h, w, size.span());
    std::vector<double> sources(rule.shape.same() ? 0 : static_cast<size_t>(count * h * w), std::nan(""));
    normalize_score_map(cuda_emulator::Launcher{}, maps, count, rule, sources.data(), out);
  });
}

template <typename Pixel>
const char* histogram(const Pixel* scores, const uint8_t* masks, int64_t pixels, const double* edges, int64_t bins,
                      int64_t* counts) {
  return cuda_emulator::reported(
      [&] { pixel_histogram(cuda_emulator::Launcher{}, scores, masks, pixels, edges, bins, counts); });
}

}  // namespace

#define WSOLFAST_FOR_PIXELS(Pixel, suffix)                                                                             \
  WSOLFAST_ENTRY const char* normalize_score_map_##suffix(const Pixel* maps, int64_t count, int64_t h, int64_t w,      \
                                                          const int64_t* size, int64_t size_count, const double* rule, \
                                                          int64_t rule_count, double* out) {                           \
    return normalize(maps, count, h, w, {size, size_count}, {rule, rule_count}, out);                                  \
  }                                                                                                                    \
  WSOLFAST_ENTRY const char* pixel_histogram_##suffix(const Pixel* scores, const uint8_t* masks, int64_t pixels,       \
                                                      const double* edges, int64_t bins, int64_t* counts) {            \
    return histogram(scores, masks, pixels, edges, bins, counts);                                                      \
  }
WSOLFAST_FOR_PIXELS(uint8_t, u8)
WSOLFAST_FOR_PIXELS(float, f32)
WSOLFAST_FOR_PIXELS(double, f64)
