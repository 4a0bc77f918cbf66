// From a float64 map and thresholds to a plane of levels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/plane.h"
#include "boxes/rule.h"

namespace wsolfast::boxes {

// Counts the sorted edges that a value reaches (value >= edge). A monotone bucket function narrows the
// comparisons to the edges that share the value's bucket, so the answer is exact. Every value takes as many comparisons
// as the fullest bucket has edges, one or two of evenly spread ones: no branch depends on the value.
class Digitizer {
 public:
  // `edges` ascending, not empty, without NaN.
  void reset(std::span<const double> edges);
  // NaN reaches nothing.
  int count(double value) const {
    const int b = bucket(value);
    int passed = start_[b];
    if (fullest_ > kFewEdges) return count_from(value, b);
    for (int i = 0; i < fullest_; ++i) passed += value >= edges_[passed];
    return passed;
  }

 private:
  static constexpr int kBuckets = 2048, kFewEdges = 4;

  int bucket(double value) const {
    const double scaled = (value - low_) * scale_;
    const double above = scaled > 0 ? scaled : 0.0;  // NaN too
    return static_cast<int>(above < kBuckets - 1 ? above : kBuckets - 1);
  }
  int count_from(double value, int bucket) const;

  std::vector<double> edges_;  // and one that nothing reaches
  double low_ = 0, scale_ = 0;
  int fullest_ = 0;             // edges in the bucket that has most
  std::vector<int32_t> start_;  // edges in lower buckets
};

// The distinct cuts of one map, ascending. The foreground of cut k is level > level[k], at most the highest level; -1
// makes everything foreground.
struct Cuts {
  std::vector<int32_t> level;
  std::vector<int32_t> of_threshold;  // [T], the cut that serves each threshold
  int32_t highest = 0;

  int count() const { return static_cast<int>(level.size()); }
};

// Turns maps into levels: a quantised map's bytes as they are, otherwise the number of cuts that a value passes.
// Exactly one of the planes is in use afterwards: bytes where they suffice.
class Levels {
 public:
  // Throws std::invalid_argument when the rule quantises and a value is outside [0, 1] or NaN.
  void build(const double* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule);

  // The same from a map that is quantised already.
  void build(const uint8_t* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule);

  bool narrow() const { return narrow_; }
  const Plane<uint8_t>& bytes() const { return bytes_; }
  const Plane<uint16_t>& words() const { return words_; }
  const Cuts& cuts() const { return cuts_; }

 private:
  void cut_bytes(std::span<const double> thresholds, const Rule& rule);
  void cut_values(const double* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule);

  bool narrow_ = true;
  Plane<uint8_t> bytes_;
  Plane<uint16_t> words_;
  Cuts cuts_;
  Digitizer digitizer_;
  std::vector<double> values_, edges_;
};

}  // namespace wsolfast::boxes
