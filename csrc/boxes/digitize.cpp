#include "boxes/digitize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "boxes/normalize.h"
#include "boxes/percentile.h"
#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

// uint8(value * 255) by truncation; `outside` becomes true when a value is not in [0, 1].
WSOLFAST_INLINE void quantize_row_body(const double* row, int width, uint8_t* out, bool* outside) {
  int64_t bad = 0;
  for (int x = 0; x < width; ++x) {
    const double value = row[x];
    bad |= static_cast<int64_t>(!(value >= 0.0)) | static_cast<int64_t>(!(value <= 1.0));
    out[x] = static_cast<uint8_t>(static_cast<int32_t>(value * 255.0));
  }
  *outside |= bad != 0;
}
WSOLFAST_DISPATCH(quantize_row, (const double* row, int width, uint8_t* out, bool* outside), (row, width, out, outside))

WSOLFAST_INLINE void max_row_body(const uint8_t* row, int width, uint8_t* high) {
  uint8_t top = *high;
  for (int x = 0; x < width; ++x) top = row[x] > top ? row[x] : top;
  *high = top;
}
WSOLFAST_DISPATCH(max_row, (const uint8_t* row, int width, uint8_t* high), (row, width, high))

// Counters of one level: neighbours often share a level, and a single one would make every step wait for the one
// before.
constexpr int kCounters = 4;

double percentile_of(const Plane<uint8_t>& plane, double percentile) {
  const Grid& grid = plane.grid;
  int32_t counts[kCounters][256] = {};
  for (int y = 0; y < grid.height; ++y) {
    const uint8_t* row = plane.row(y);
    int x = 0;
    for (; x + kCounters <= grid.width; x += kCounters) {
      for (int i = 0; i < kCounters; ++i) ++counts[i][row[x + i]];
    }
    for (; x < grid.width; ++x) ++counts[0][row[x]];
  }
  const PercentileRank rank = percentile_rank(percentile, static_cast<int64_t>(grid.height) * grid.width);
  const auto sorted_value = [&](int64_t place) {
    int level = -1;
    for (int64_t reached = 0; reached <= place;) {
      ++level;
      for (const auto& of_counter : counts) reached += of_counter[level];
    }
    return level;
  };
  return interpolate(sorted_value(rank.below), sorted_value(rank.above), rank.weight);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The smallest value that is foreground at `cut`: with it every comparison is value >= edge.
double reached_edge(const double* map, int64_t size, double cut, const Rule& rule) {
  if (cut != cut) return kInfinity;
  const bool strict = rule.comparison == Comparison::kGreater;
  const double edge = strict ? std::nextafter(cut, kInfinity) : cut;
  if (!rule.mean_cut) return edge;
  // Summed one after the other: a plateau at the mean must fall on the same side as in the reference.
  double total = 0.0;
  for (int64_t i = 0; i < size; ++i) total += map[i] >= edge ? map[i] : 0.0;
  return std::max(edge, std::nextafter(total / static_cast<double>(size), kInfinity));
}

}  // namespace

void Digitizer::reset(std::span<const double> edges) {
  edges_.assign(edges.begin(), edges.end());
  edges_.push_back(std::numeric_limits<double>::quiet_NaN());
  low_ = edges.front();
  const double range = edges.back() - low_;
  scale_ = range > 0 && std::isfinite(range) ? (kBuckets - 1) / range : 0.0;
  start_.assign(kBuckets + 1, 0);
  for (double edge : edges) ++start_[bucket(edge) + 1];
  fullest_ = *std::max_element(start_.begin(), start_.end());
  for (int b = 0; b < kBuckets; ++b) start_[b + 1] += start_[b];
}

int Digitizer::count_from(double value, int bucket) const {
  int passed = start_[bucket];
  const int end = start_[bucket + 1];
  while (passed < end && value >= edges_[passed]) ++passed;
  return passed;
}

void Levels::build(const double* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule) {
  if (!rule.quantize) return cut_values(map, grid, thresholds, rule);
  bytes_.reset(grid);
  bool outside = false;
  for (int y = 0; y < grid.height; ++y) {
    quantize_row(map + static_cast<size_t>(y) * grid.width, grid.width, bytes_.row(y), &outside);
  }
  if (outside) {
    throw std::invalid_argument("score map has values outside [0, 1] or NaN: normalise it before it is quantised");
  }
  cut_bytes(thresholds, rule);
}

void Levels::build(const uint8_t* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule) {
  bytes_.reset(grid);
  for (int y = 0; y < grid.height; ++y) {
    std::copy_n(map + static_cast<size_t>(y) * grid.width, grid.width, bytes_.row(y));
  }
  cut_bytes(thresholds, rule);
}

void Levels::cut_bytes(std::span<const double> thresholds, const Rule& rule) {
  const Grid& grid = bytes_.grid;
  uint8_t high = 0;
  for (int y = 0; y < grid.height; ++y) max_row(bytes_.row(y), grid.width, &high);
  const double top = rule.percentile < kMaximumPercentile ? percentile_of(bytes_, rule.percentile)
                     : rule.relative                      ? high
                                                          : 255.0;
  // A cut is the largest level that fails: -1 when everything passes, 255 when nothing does.
  const int offset = rule.comparison == Comparison::kGreater ? 0 : 1;
  const auto cut_of = [&](double threshold) {
    return static_cast<int>(std::trunc(std::clamp(threshold * top, -2.0, 300.0))) - offset;
  };
  int32_t index[257];
  std::fill(std::begin(index), std::end(index), -1);
  cuts_.of_threshold.resize(thresholds.size());
  for (size_t t = 0; t < thresholds.size(); ++t) {
    const int cut = std::clamp(cut_of(thresholds[t]), -1, 255);
    index[cut + 1] = 0;
    cuts_.of_threshold[t] = cut + 1;
  }
  cuts_.level.clear();
  for (int cut = -1; cut <= 255; ++cut) {
    if (index[cut + 1] < 0) continue;
    index[cut + 1] = cuts_.count();
    cuts_.level.push_back(cut);
  }
  for (int32_t& cut : cuts_.of_threshold) cut = index[cut];
  cuts_.highest = high;
  narrow_ = true;
}

void Levels::cut_values(const double* map, const Grid& grid, std::span<const double> thresholds, const Rule& rule) {
  const int64_t size = static_cast<int64_t>(grid.height) * grid.width;
  const double top = rule.relative ? map_range(map, size).high : 1.0;
  values_.resize(thresholds.size());
  for (size_t t = 0; t < thresholds.size(); ++t) values_[t] = reached_edge(map, size, thresholds[t] * top, rule);
  edges_.assign(values_.begin(), values_.end());
  if (!std::is_sorted(edges_.begin(), edges_.end())) std::sort(edges_.begin(), edges_.end());
  edges_.erase(std::unique(edges_.begin(), edges_.end()), edges_.end());
  if (edges_.size() > std::numeric_limits<uint16_t>::max()) {
    throw std::invalid_argument("at most 65535 distinct thresholds: pass them in several calls");
  }
  cuts_.level.resize(edges_.size());
  std::iota(cuts_.level.begin(), cuts_.level.end(), 0);
  cuts_.highest = cuts_.count();
  cuts_.of_threshold.resize(thresholds.size());
  for (size_t t = 0; t < thresholds.size(); ++t) {
    const auto edge = std::lower_bound(edges_.begin(), edges_.end(), values_[t]);
    cuts_.of_threshold[t] = static_cast<int32_t>(edge - edges_.begin());
  }
  narrow_ = cuts_.count() <= 255;
  if (narrow_) {
    bytes_.reset(grid);
  } else {
    words_.reset(grid);
  }
  if (thresholds.empty()) return;
  digitizer_.reset(edges_);
  for (int y = 0; y < grid.height; ++y) {
    const double* row = map + static_cast<size_t>(y) * grid.width;
    if (narrow_) {
      uint8_t* out = bytes_.row(y);
      for (int x = 0; x < grid.width; ++x) out[x] = static_cast<uint8_t>(digitizer_.count(row[x]));
    } else {
      uint16_t* out = words_.row(y);
      for (int x = 0; x < grid.width; ++x) out[x] = static_cast<uint16_t>(digitizer_.count(row[x]));
    }
  }
}

}  // namespace wsolfast::boxes
