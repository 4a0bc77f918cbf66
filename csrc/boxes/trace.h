// Twice the area of the polygon through the pixel centres of a contour.
#pragma once

#include <cstdint>

#include "boxes/plane.h"

namespace wsolfast::boxes {

enum class ContourKind { kOuter, kHole };

// `set(position)` says whether a pixel is foreground, 8-connected; rows lie `stride` apart, and around the map nothing
// is set. `first` is a foreground position: of an outer contour the first in raster order of the component, of a hole's
// the one west of the first of the hole.
template <typename Set>
constexpr int64_t trace_doubled_area(const Set& set, int stride, int first, ContourKind kind) {
  // Counter-clockwise from east; rows count downwards.
  constexpr int kDx[8] = {1, 1, 0, -1, -1, -1, 0, 1};
  constexpr int kDy[8] = {0, -1, -1, -1, 0, 1, 1, 1};
  int step[8] = {};
  for (int d = 0; d < 8; ++d) step[d] = kDy[d] * stride + kDx[d];

  // Clockwise from the background beside the first pixel, west of it or, for a hole, east: the contour's last pixel.
  const int background = kind == ContourKind::kOuter ? 4 : 0;
  int back = background;
  do {
    back = (back + 7) % 8;
    if (back == background) return 0;
  } while (!set(first + step[back]));
  const int last = first + step[back];

  int64_t doubled = 0;
  int position = first, x = 0, y = 0;
  for (;;) {
    int direction = (back + 1) % 8;
    while (!set(position + step[direction])) direction = (direction + 1) % 8;
    const int next = position + step[direction];
    doubled += static_cast<int64_t>(x) * kDy[direction] - static_cast<int64_t>(y) * kDx[direction];
    if (next == first && position == last) break;
    position = next;
    x += kDx[direction];
    y += kDy[direction];
    back = (direction + 4) % 8;
  }
  return doubled < 0 ? -doubled : doubled;
}

// The same of `level > cut`.
template <typename Level>
int64_t doubled_contour_area(const Plane<Level>& plane, int cut, int first, ContourKind kind = ContourKind::kOuter) {
  const Level* levels = plane.data();
  return trace_doubled_area([=](int position) { return levels[position] > cut; }, plane.grid.stride(), first, kind);
}

}  // namespace wsolfast::boxes
