// NumPy's linear percentile of a map of levels, bit for bit: its operations in its order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace wsolfast::boxes {

// The percentile that is the maximum.
constexpr double kMaximumPercentile = 100;

// A percentile lies between two of the sorted values, counted from 0, `weight` of the way from the one to the other.
struct PercentileRank {
  int64_t below, above;
  double weight;
};

constexpr PercentileRank percentile_rank(double percentile, int64_t size) {
  const double position = static_cast<double>(size - 1) * (percentile / 100.0);
  const auto below = static_cast<int64_t>(position);
  return {below, std::min(below + 1, size - 1), position - static_cast<double>(below)};
}

// From the nearer of the two values, so that a weight of 1 would give `high` exactly.
constexpr double interpolate(double low, double high, double weight) {
  const double step = high - low;
  return weight >= 0.5 ? high - step * (1.0 - weight) : low + step * weight;
}

}  // namespace wsolfast::boxes
