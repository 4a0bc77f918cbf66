// The switches of a box protocol, as wsolfast.ops.BoxRule has them. boxes/packed_rule.h says how they cross from
// Python.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace wsolfast::boxes {

enum class Interpolation { kNone, kCubic, kLinear, kLinearCorners };
enum class Normalization { kNone, kMinMax, kMinMaxEps, kMax, kMin };
enum class Comparison { kGreater, kGreaterEqual };
enum class Selection { kContourArea, kBoxArea, kPixelArea, kUnion, kAll };
// x1 and y1 are one past the last pixel but at most size - 1, one past the last pixel, or the last pixel.
enum class BoxEnd { kClipped, kExclusive, kInclusive };

using Box = std::array<int64_t, 4>;  // x0, y0, x1, y1

struct Rule {
  // In front of the boxes; boxes/map_rule.h applies them.
  Interpolation interpolation = Interpolation::kCubic;
  Normalization normalization = Normalization::kMinMax;
  double eps = 0;
  bool normalize_first = false;

  bool quantize = true;     // cut the map truncated to uint8, not the float64 values
  bool relative = true;     // thresholds are relative to the map's maximum
  double percentile = 100;  // or to this percentile of the quantised map; boxes/percentile.h
  Comparison comparison = Comparison::kGreater;
  bool mean_cut = false;  // foreground must also exceed the mean of the map with all below the cut set to zero
  int connectivity = 8;
  Selection selection = Selection::kContourArea;
  BoxEnd box_end = BoxEnd::kClipped;
  std::optional<Box> empty_box = Box{0, 0, 0, 0};  // without one: the whole map
  bool iou_plus_one = true;
  bool hit_strict = false;     // best IoU > level instead of >=
  bool gt_first_only = false;  // score against the first true box only
};

// Inclusive pixel extent of a component or hole.
struct Extent {
  int32_t x0, y0, x1, y1;
};

constexpr Box to_box(const Extent& extent, BoxEnd end, int height, int width) {
  Box box = {extent.x0, extent.y0, extent.x1, extent.y1};
  if (end == BoxEnd::kInclusive) return box;
  ++box[2];
  ++box[3];
  if (end == BoxEnd::kClipped) {
    if (box[2] > width - 1) box[2] = width - 1;
    if (box[3] > height - 1) box[3] = height - 1;
  }
  return box;
}

}  // namespace wsolfast::boxes
