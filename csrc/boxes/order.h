// Pixels in the order in which they become foreground when the cut falls.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/plane.h"

namespace wsolfast::boxes {

// Level descending, raster order inside a level. The reverse is the order in which the background grows, and the mask
// of neighbours that come later is the complement of the mask of those that come earlier (the frame comes last).
struct PixelOrder {
  // Position in the low 24 bits, mask of the neighbours (Neighbor bits) that come earlier in the high 8.
  std::vector<uint32_t> pixels;
  // Pixels of level l stand at [begin[l], begin[l - 1]); level 0 ends at begin[-1] = pixel count.
  std::vector<int32_t> begin_of_level;

  const uint32_t* begin(int level) const { return pixels.data() + begin_of_level[level]; }
  const uint32_t* end(int level) const { return pixels.data() + (level == 0 ? count : begin_of_level[level - 1]); }

  void build(const Plane<uint8_t>& plane, int levels);
  void build(const Plane<uint16_t>& plane, int levels);

  int32_t count = 0;

 private:
  template <typename Level>
  void build_from(const Plane<Level>& plane, int levels);

  std::vector<int32_t> cursor_;
  std::vector<uint8_t> masks_;
};

}  // namespace wsolfast::boxes
