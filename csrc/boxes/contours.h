// The order in which OpenCV's findContours (RETR_TREE) lists contours: the hierarchy of borders of Suzuki and Abe
// (Computer Vision, Graphics, and Image Processing 30(1), 1985).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "boxes/rule.h"

namespace wsolfast::boxes {

struct Contour {
  // Position of the pixel at which a raster scan meets it: its first pixel, for a hole the one before.
  int32_t discovery;
  int32_t parent;  // index of the contour that encloses it, -1 at the top
  Extent extent;   // of the contour: a hole's own extent grown by one
};

// Depth first, siblings from the last discovered to the first.
class ContourOrder {
 public:
  // Calls emit(contour) for each of `contours` in list order.
  template <typename Emit>
  void visit(const std::vector<Contour>& contours, Emit&& emit) {
    const auto count = static_cast<int32_t>(contours.size());
    by_discovery_.clear();
    for (int32_t i = 0; i < count; ++i) by_discovery_.push_back(static_cast<int64_t>(contours[i].discovery) << 32 | i);
    std::sort(by_discovery_.begin(), by_discovery_.end());
    // Children pushed in front in ascending order leave the last discovered first. Entry 0 is the top.
    child_.assign(count + 1, -1);
    sibling_.resize(count);
    for (int64_t key : by_discovery_) {
      const auto i = static_cast<int32_t>(key & 0xFFFFFFFF);
      sibling_[i] = child_[contours[i].parent + 1];
      child_[contours[i].parent + 1] = i;
    }
    waiting_.clear();
    for (int32_t i = child_[0]; i >= 0 || !waiting_.empty();) {
      if (i < 0) {
        i = waiting_.back();
        waiting_.pop_back();
        continue;
      }
      emit(contours[i]);
      if (sibling_[i] >= 0) waiting_.push_back(sibling_[i]);
      i = child_[i + 1];
    }
  }

 private:
  std::vector<int64_t> by_discovery_;
  std::vector<int32_t> child_, sibling_, waiting_;
};

}  // namespace wsolfast::boxes
