// The part of a rule that brings raw maps to the size of the boxes.
#pragma once

#include <limits>
#include <span>
#include <stdexcept>
#include <string>

#include "boxes/rule.h"

namespace wsolfast::boxes {

// From [h, w] to [height, width].
struct ResizeShape {
  int h, w, height, width;

  constexpr bool same() const { return h == height && w == width; }
};

struct MapRule {
  ResizeShape shape;
  bool given = false;  // otherwise maps are what boxes are cut from
  Interpolation interpolation = Interpolation::kNone;
  Normalization normalization = Normalization::kNone;
  double eps = 0;
  bool normalize_first = false;
};

// For maps [h, w] and a size [height, width], or [] where maps stay as they are. Throws std::invalid_argument.
inline MapRule map_rule(const Rule& rule, int64_t h, int64_t w, std::span<const int64_t> size) {
  if (!size.empty() && size.size() != 2) {
    throw std::invalid_argument("expected size [] or [height, width], got " + std::to_string(size.size()) + " numbers");
  }
  const int64_t height = size.empty() ? h : size[0], width = size.empty() ? w : size[1];
  for (int64_t side : {h, w, height, width}) {
    if (side <= 0 || side > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument("a side of " + std::to_string(side) + " pixels");
    }
  }
  MapRule result{{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height), static_cast<int>(width)}};
  if (size.empty()) return result;
  result.given = true;
  result.interpolation = rule.interpolation;
  result.normalization = rule.normalization;
  result.eps = rule.eps;
  result.normalize_first = rule.normalize_first;
  if (rule.interpolation == Interpolation::kNone && !result.shape.same()) {
    throw std::invalid_argument("another size needs an interpolation");
  }
  return result;
}

}  // namespace wsolfast::boxes
