// Intersection over union, and its maximum over intervals of cuts.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "boxes/rule.h"

namespace wsolfast::boxes {

// The best overlap of a box with the true boxes of an image.
class Overlap {
 public:
  // `truths` holds x0, y0, x1, y1 of each box. Integers up to 2^26 give what int64 arithmetic would, then one division.
  constexpr Overlap(std::span<const double> truths, const Rule& rule)
      : truths_(rule.gt_first_only ? truths.first(std::min<size_t>(4, truths.size())) : truths),
        extra_(rule.iou_plus_one ? 1.0 : 0.0) {}

  constexpr double best(const Box& box) const {
    double best = 0.0;
    const double x0 = box[0], y0 = box[1], x1 = box[2], y1 = box[3];
    const double area = (x1 - x0 + extra_) * (y1 - y0 + extra_);
    for (size_t i = 0; i + 4 <= truths_.size(); i += 4) {
      const double* truth = &truths_[i];
      const double width = std::max(0.0, std::min(x1, truth[2]) - std::max(x0, truth[0]) + extra_);
      const double height = std::max(0.0, std::min(y1, truth[3]) - std::max(y0, truth[1]) + extra_);
      const double overlap = width * height;
      const double united = area + (truth[2] - truth[0] + extra_) * (truth[3] - truth[1] + extra_) - overlap;
      if (united > 0) best = std::max(best, overlap / united);
    }
    return best;
  }

 private:
  std::span<const double> truths_;
  double extra_;
};

// Maxima over intervals, recorded in constant time each. A sparse table (Bender and Farach-Colton, LATIN 2000) filled
// the other way round: an interval is covered by two overlapping powers of two, which are handed down to single places
// at the end.
class IntervalMaximum {
 public:
  void reset(int size) {
    size_ = size;
    table_.assign(static_cast<size_t>(size) * std::bit_width(static_cast<unsigned>(size)), 0.0);
  }
  // Both ends included.
  void add(int first, int last, double value) {
    const int exponent = std::bit_width(static_cast<unsigned>(last - first + 1)) - 1;
    double* row = &table_[static_cast<size_t>(exponent) * size_];
    row[first] = std::max(row[first], value);
    double& other = row[last + 1 - (1 << exponent)];
    other = std::max(other, value);
  }
  // The maximum at each place, at least 0.
  std::span<const double> finish() {
    for (int exponent = std::bit_width(static_cast<unsigned>(size_)) - 1; exponent > 0; --exponent) {
      const double* row = &table_[static_cast<size_t>(exponent) * size_];
      double* below = &table_[static_cast<size_t>(exponent - 1) * size_];
      const int half = 1 << (exponent - 1);
      for (int i = 0; i + 2 * half <= size_; ++i) {
        below[i] = std::max(below[i], row[i]);
        below[i + half] = std::max(below[i + half], row[i]);
      }
    }
    return {table_.data(), static_cast<size_t>(size_)};
  }

 private:
  int size_ = 0;
  std::vector<double> table_;
};

}  // namespace wsolfast::boxes
