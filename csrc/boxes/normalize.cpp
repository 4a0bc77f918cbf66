#include "boxes/normalize.h"

#include <algorithm>

#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

constexpr int kLanes = 16;

// x - x is zero for finite x only; NaN and infinity make the lane NaN for good.
WSOLFAST_INLINE void find_range_body(const double* map, int64_t size, MapRange* range) {
  double low[kLanes], high[kLanes], zero[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) low[lane] = high[lane] = map[0];
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = map[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
      zero[lane] += value - value;
    }
  }
  for (; i < size; ++i) {
    low[0] = map[i] < low[0] ? map[i] : low[0];
    high[0] = map[i] > high[0] ? map[i] : high[0];
    zero[0] += map[i] - map[i];
  }
  range->low = *std::min_element(low, low + kLanes);
  range->high = *std::max_element(high, high + kLanes);
  range->finite = std::all_of(zero, zero + kLanes, [](double sum) { return sum == 0.0; });
}
WSOLFAST_DISPATCH(find_range, (const double* map, int64_t size, MapRange* range), (map, size, range))

WSOLFAST_INLINE void shift_and_divide_body(double* map, int64_t size, double shift, double divisor) {
  for (int64_t i = 0; i < size; ++i) map[i] = (map[i] - shift) / divisor;
}
WSOLFAST_DISPATCH(shift_and_divide, (double* map, int64_t size, double shift, double divisor),
                  (map, size, shift, divisor))

WSOLFAST_INLINE void rectify_and_divide_body(double* map, int64_t size, double divisor) {
  for (int64_t i = 0; i < size; ++i) map[i] = (map[i] > 0.0 ? map[i] : 0.0) / divisor;
}
WSOLFAST_DISPATCH(rectify_and_divide, (double* map, int64_t size, double divisor), (map, size, divisor))

}  // namespace

MapRange map_range(const double* map, int64_t size) {
  MapRange range{};
  find_range(map, size, &range);
  return range;
}

void normalize_map(double* map, int64_t size, Normalization normalization, double eps) {
  if (normalization == Normalization::kNone || size == 0) return;
  const MapRange range = map_range(map, size);
  const double high = normalization == Normalization::kMax ? range.high : range.high - range.low;
  if (!range.finite || !(high > 0)) {
    std::fill(map, map + size, 0.0);
    return;
  }
  switch (normalization) {
    case Normalization::kMinMax:
      return shift_and_divide(map, size, range.low, high);
    case Normalization::kMinMaxEps:
      return shift_and_divide(map, size, range.low, high + eps);
    case Normalization::kMax:
      return rectify_and_divide(map, size, high);
    case Normalization::kMin:
      return shift_and_divide(map, size, range.low, 1.0);
    case Normalization::kNone:
      return;
  }
}

}  // namespace wsolfast::boxes
