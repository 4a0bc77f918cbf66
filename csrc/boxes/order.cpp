#include "boxes/order.h"

#include <utility>

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

template <typename Level, int kCount>
void count_rows(const Level* const* rows, int width, int32_t* const* histogram) {
  for (int x = 0; x < width; ++x) {
    for (int band = 0; band < kCount; ++band) ++histogram[band][rows[band][x]];
  }
}

template <typename Level, int kCount>
void place_rows(const Level* const* rows, const uint8_t* const* masks, const uint32_t* first, int width,
                int32_t* const* cursor, uint32_t* pixels) {
  for (int x = 0; x < width; ++x) {
    for (int band = 0; band < kCount; ++band) {
      pixels[cursor[band][rows[band][x]]++] = (first[band] + x) | static_cast<uint32_t>(masks[band][x]) << 24;
    }
  }
}

}  // namespace

template <typename Level>
void PixelOrder::build_from(const Plane<Level>& plane, int highest) {
  const Grid& grid = plane.grid;
  const int height = grid.height, width = grid.width, bins = highest + 1;
  highest_ = highest;
  if (pixels_.size() < static_cast<size_t>(height) * width) pixels_.resize(static_cast<size_t>(height) * width);
  begin_.resize(bins + 1);
  cursor_.assign(static_cast<size_t>(kBands) * bins, 0);
  masks_.resize(static_cast<size_t>(kBands) * width);

  const int band_rows = (height + kBands - 1) / kBands;
  const Level* rows[kBands];
  uint8_t* masks[kBands];
  int32_t* cursors[kBands];
  uint32_t first[kBands];
  for (int band = 0; band < kBands; ++band) {
    masks[band] = &masks_[static_cast<size_t>(band) * width];
    cursors[band] = &cursor_[static_cast<size_t>(band) * bins];
  }
  // Points at the rows of one step; the last bands can be shorter or empty.
  const auto take_rows = [&](int step) {
    int bands = 0;
    for (; bands < kBands && bands * band_rows + step < height; ++bands) {
      rows[bands] = plane.row(bands * band_rows + step);
      first[bands] = static_cast<uint32_t>(grid.position(bands * band_rows + step, 0));
    }
    return bands;
  };

  for (int step = 0; step < band_rows; ++step) {
    const int bands = take_rows(step);
    if (bands == kBands) {
      count_rows<Level, kBands>(rows, width, cursors);
    } else {
      for (int band = 0; band < bands; ++band) count_rows<Level, 1>(rows + band, width, cursors + band);
    }
  }
  int32_t next = 0;
  for (int level = highest; level >= 0; --level) {
    begin_[highest - level] = next;
    for (int32_t* cursor : cursors) next += std::exchange(cursor[level], next);
  }
  begin_[bins] = next;
  for (int step = 0; step < band_rows; ++step) {
    const int bands = take_rows(step);
    for (int band = 0; band < bands; ++band) {
      earlier(rows[band], grid.stride(), width, masks[band]);
      put_frame_last(band * band_rows + step, width, masks[band]);
    }
    if (bands == kBands) {
      place_rows<Level, kBands>(rows, masks, first, width, cursors, pixels_.data());
    } else {
      for (int band = 0; band < bands; ++band) {
        place_rows<Level, 1>(rows + band, masks + band, first + band, width, cursors + band, pixels_.data());
      }
    }
  }
}

template void PixelOrder::build_from(const Plane<uint8_t>&, int);
template void PixelOrder::build_from(const Plane<uint16_t>&, int);

}  // namespace wsolfast::boxes
