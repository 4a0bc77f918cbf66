// What is done to raw maps in front of the boxes: the switches of wsolfast.ops.BoxRule up to `normalize_first`.
#pragma once

#include "boxes/normalize.h"
#include "boxes/resize.h"

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

}  // namespace wsolfast::boxes
