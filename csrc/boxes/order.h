// Pixels in the order in which they become foreground when the cut falls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "boxes/plane.h"

namespace wsolfast::boxes {

// Positions that a packed pixel has room for; larger maps are left to the runs.
constexpr int kMaxOrderedPositions = 1 << 24;

// Level descending, raster order inside a level. The reverse is the order in which the background grows, and the mask
// of neighbours that come later is the complement of the mask of those that come earlier (the frame comes last).
class PixelOrder {
 public:
  // `highest` is the highest level in the plane.
  void build(const Plane<uint8_t>& plane, int highest) { build_from(plane, highest); }
  void build(const Plane<uint16_t>& plane, int highest) { build_from(plane, highest); }

  // The pixels with low < level <= high: position in the low 24 bits, mask of the neighbours (Neighbor bits) that come
  // earlier in the high 8.
  std::span<const uint32_t> between(int low, int high) const {
    return {pixels_.data() + begin_[highest_ - std::min(high, highest_)],
            pixels_.data() + begin_[highest_ - std::min(low, highest_)]};
  }

 private:
  template <typename Level>
  void build_from(const Plane<Level>& plane, int highest);

  int highest_ = 0;
  std::vector<uint32_t> pixels_;
  std::vector<int32_t> begin_;  // [highest + 2]: where level highest, highest - 1, ... 0 begin, and the end
  std::vector<int32_t> cursor_;
  std::vector<uint8_t> masks_;
};

}  // namespace wsolfast::boxes
