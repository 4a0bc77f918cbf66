// Scaling of float64 maps to [0, 1] in the protocols' arithmetic.
#pragma once

#include <cstdint>

#include "boxes/rule.h"

namespace wsolfast::boxes {

struct MapRange {
  double low, high;
  bool finite;
};

MapRange map_range(const double* map, int64_t size);

// In place, by division. kMinMax: (x - min) / max(x - min). kMinMaxEps: (x - min) / (max(x - min) + eps). kMax:
// max(x, 0) / max(x). kMin: x - min. Unless kNone, a map that is not finite or has nothing to divide by becomes zeros.
void normalize_map(double* map, int64_t size, Normalization normalization, double eps);

}  // namespace wsolfast::boxes
