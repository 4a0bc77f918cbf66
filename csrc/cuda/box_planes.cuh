// Bit planes of levels, and how a cut reads its foreground from them.
#pragma once

#include <cstdint>

#include "boxes/rule.h"
#include "cuda/group.cuh"

namespace wsolfast::cuda {

// Plane p of an image holds bit p of every level, rows in words of 32 pixels.
struct PlaneShape {
  int height, width;
  int words;   // of a row
  int stride;  // words from row to row: odd, so that lanes on neighbouring rows hit different banks
  int count;   // of planes

  PlaneShape(int height, int width, int count)
      : height(height), width(width), words((width + 31) / 32), stride(words | 1), count(count) {}
  __host__ __device__ int64_t words_of_plane() const { return static_cast<int64_t>(height) * stride; }
  __host__ __device__ int64_t words_of_image() const { return words_of_plane() * count; }
};

// The foreground of one cut of one image: level > cut.
struct Foreground {
  const uint32_t* planes;
  PlaneShape shape;
  int cut;  // -1 takes every pixel

  // Bit i is pixel 32 * word + i; none beyond the row's end.
  __device__ __forceinline__ uint32_t bits(int y, int word) const {
    const uint32_t inside = word + 1 < shape.words ? ~0u : ~0u >> (shape.words * 32 - shape.width);
    if (cut < 0) return inside;
    const uint32_t* at = planes + static_cast<int64_t>(y) * shape.stride + word;
    uint32_t greater = 0, equal = ~0u;
    for (int p = shape.count - 1; p >= 0; --p) {
      const uint32_t plane = at[p * shape.words_of_plane()];
      if (cut >> p & 1) {
        equal &= plane;
      } else {
        greater |= equal & plane;
        equal &= ~plane;
      }
    }
    return greater & inside;
  }
};

}  // namespace wsolfast::cuda
