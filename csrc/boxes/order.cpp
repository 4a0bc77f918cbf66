#include "boxes/order.h"

#include <algorithm>

#include "boxes/neighborhood.h"
#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

template <typename Level>
WSOLFAST_INLINE void earlier_neighbors(const Level* __restrict row, int stride, int width, uint8_t* __restrict mask) {
  const Level *above = row - stride, *below = row + stride;
  for (int x = 0; x < width; ++x) {
    const Level level = row[x];
    mask[x] =
        static_cast<uint8_t>((above[x - 1] >= level ? 1 << kNorthWest : 0) | (above[x] >= level ? 1 << kNorth : 0) |
                             (above[x + 1] >= level ? 1 << kNorthEast : 0) | (row[x - 1] >= level ? 1 << kWest : 0) |
                             (row[x + 1] > level ? 1 << kEast : 0) | (below[x - 1] > level ? 1 << kSouthWest : 0) |
                             (below[x] > level ? 1 << kSouth : 0) | (below[x + 1] > level ? 1 << kSouthEast : 0));
  }
}

WSOLFAST_INLINE void earlier_in_bytes_body(const uint8_t* row, int stride, int width, uint8_t* mask) {
  earlier_neighbors(row, stride, width, mask);
}
WSOLFAST_DISPATCH(earlier_in_bytes, (const uint8_t* row, int stride, int width, uint8_t* mask),
                  (row, stride, width, mask))

WSOLFAST_INLINE void earlier_in_words_body(const uint16_t* row, int stride, int width, uint8_t* mask) {
  earlier_neighbors(row, stride, width, mask);
}
WSOLFAST_DISPATCH(earlier_in_words, (const uint16_t* row, int stride, int width, uint8_t* mask),
                  (row, stride, width, mask))

void earlier(const uint8_t* row, int stride, int width, uint8_t* mask) { earlier_in_bytes(row, stride, width, mask); }
void earlier(const uint16_t* row, int stride, int width, uint8_t* mask) { earlier_in_words(row, stride, width, mask); }

// The frame comes after every pixel, also after those that share its level 0.
void put_frame_last(int y, int width, uint8_t* mask) {
  if (y == 0) {
    constexpr uint8_t kAbove = 1 << kNorthWest | 1 << kNorth | 1 << kNorthEast;
    for (int x = 0; x < width; ++x) mask[x] &= static_cast<uint8_t>(~kAbove);
  }
  mask[0] &= static_cast<uint8_t>(~(1 << kNorthWest | 1 << kWest));
  mask[width - 1] &= static_cast<uint8_t>(~(1 << kNorthEast));
}

// The map is cut into this many bands of rows with a cursor each: neighbours in one row often share a level, and a
// single cursor would make every step wait for the one before.
constexpr int kBands = 4;

}  // namespace

template <typename Level>
void PixelOrder::build_from(const Plane<Level>& plane, int levels) {
  const Grid& grid = plane.grid;
  const int height = grid.height, width = grid.width;
  count = height * width;
  if (pixels.size() < static_cast<size_t>(count)) pixels.resize(count);
  const int bins = levels + 1;
  cursor_.assign(static_cast<size_t>(kBands) * bins, 0);
  if (begin_of_level.size() < static_cast<size_t>(bins)) begin_of_level.resize(bins);
  masks_.resize(static_cast<size_t>(kBands) * width);

  const int band_rows = (height + kBands - 1) / kBands;
  for (int step = 0; step < band_rows; ++step) {
    for (int band = 0; band < kBands; ++band) {
      const int y = band * band_rows + step;
      if (y >= height) break;
      const Level* row = plane.row(y);
      int32_t* histogram = &cursor_[static_cast<size_t>(band) * bins];
      for (int x = 0; x < width; ++x) ++histogram[row[x]];
    }
  }
  int32_t next = 0;
  for (int level = levels; level >= 0; --level) {
    begin_of_level[level] = next;
    for (int band = 0; band < kBands; ++band) {
      int32_t& cursor = cursor_[static_cast<size_t>(band) * bins + level];
      const int32_t size = cursor;
      cursor = next;
      next += size;
    }
  }
  for (int step = 0; step < band_rows; ++step) {
    const Level* rows[kBands];
    int bands = 0;
    for (int band = 0; band < kBands && band * band_rows + step < height; ++band, ++bands) {
      rows[band] = plane.row(band * band_rows + step);
      uint8_t* mask = &masks_[static_cast<size_t>(band) * width];
      earlier(rows[band], grid.stride(), width, mask);
      put_frame_last(band * band_rows + step, width, mask);
    }
    for (int x = 0; x < width; ++x) {
      for (int band = 0; band < bands; ++band) {
        int32_t& cursor = cursor_[static_cast<size_t>(band) * bins + rows[band][x]];
        const uint32_t position = static_cast<uint32_t>(grid.position(band * band_rows + step, x));
        pixels[cursor++] = position | static_cast<uint32_t>(masks_[static_cast<size_t>(band) * width + x]) << 24;
      }
    }
  }
}

void PixelOrder::build(const Plane<uint8_t>& plane, int levels) { build_from(plane, levels); }
void PixelOrder::build(const Plane<uint16_t>& plane, int levels) { build_from(plane, levels); }

}  // namespace wsolfast::boxes
