// Score histograms of background and object pixels.
#pragma once

#include <cstdint>
#include <span>

#include "boxes/digitize.h"

namespace wsolfast::boxes {

// Adds to counts [2][edges - 1]: row 0 where the mask is 0, row 1 where it is 1, other pixels are left out. A score on
// an edge belongs to the bin that starts there, the last bin holds its upper edge, scores outside count nowhere.
class PixelHistogram {
 public:
  // `edges` ascending, at least two; they must outlive this object.
  explicit PixelHistogram(std::span<const double> edges) : edges_(edges) { digitizer_.reset(edges); }

  template <typename Pixel>
  void add(const Pixel* scores, const uint8_t* mask, int64_t size, int64_t* counts) const {
    const auto bins = static_cast<int64_t>(edges_.size()) - 1;
    for (int64_t i = 0; i < size; ++i) {
      if (mask[i] > 1) continue;
      const auto score = static_cast<double>(scores[i]);
      int64_t bin = digitizer_.count(score) - 1;
      if (bin == bins) {
        if (score > edges_.back()) continue;
        --bin;
      }
      if (bin >= 0) ++counts[mask[i] * bins + bin];
    }
  }

 private:
  std::span<const double> edges_;
  Digitizer digitizer_;
};

}  // namespace wsolfast::boxes
