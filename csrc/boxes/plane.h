// A map of levels with a frame of zeros around it.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace wsolfast::boxes {

constexpr int kMaxSide = 16382;

// Positions are y' * stride + x' with the frame counted (y' = y + 1). The stride is a power of two, so a position
// splits into row and column by shift and mask.
struct Grid {
  int height = 0, width = 0, shift = 0;

  Grid() = default;
  Grid(int h, int w) : height(h), width(w), shift(std::bit_width(static_cast<unsigned>(w) + 1)) {
    if (h < 1 || w < 1 || h > kMaxSide || w > kMaxSide) {
      throw std::invalid_argument("map of " + std::to_string(h) + "x" + std::to_string(w) + ": expected 1x1 to " +
                                  std::to_string(kMaxSide) + "x" + std::to_string(kMaxSide));
    }
  }
  int stride() const { return 1 << shift; }
  int size() const { return (height + 2) << shift; }
  int position(int y, int x) const { return ((y + 1) << shift) + x + 1; }
  int row(int position) const { return (position >> shift) - 1; }
  int column(int position) const { return (position & (stride() - 1)) - 1; }
};

template <typename Level>
struct Plane {
  // Loops over a row read whole vectors past its end.
  static constexpr int kSlack = 128;

  Grid grid;
  std::vector<Level> storage;

  void reset(const Grid& new_grid) {
    grid = new_grid;
    if (storage.size() < static_cast<size_t>(grid.size() + kSlack)) storage.resize(grid.size() + kSlack);
    const int stride = grid.stride();
    Level* levels = storage.data();
    std::memset(levels, 0, stride * sizeof(Level));
    std::memset(levels + (static_cast<size_t>(grid.height + 1) << grid.shift), 0, (stride + kSlack) * sizeof(Level));
    for (int y = 1; y <= grid.height; ++y) {
      Level* line = levels + (static_cast<size_t>(y) << grid.shift);
      line[0] = 0;
      std::memset(line + grid.width + 1, 0, (stride - grid.width - 1) * sizeof(Level));
    }
  }
  Level* row(int y) { return storage.data() + grid.position(y, 0); }
  const Level* row(int y) const { return storage.data() + grid.position(y, 0); }
  const Level* data() const { return storage.data(); }
};

}  // namespace wsolfast::boxes
