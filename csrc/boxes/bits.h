// Comparisons of rows of bytes, one bit per pixel. All of them may read whole vectors past a row's end, as planes
// allow.
#pragma once

#include <cstdint>

namespace wsolfast::boxes {

inline int words_of(int pixels) { return (pixels + 63) / 64; }

// Bits of level >= least, 0 to 255.
void reached_bits(const uint8_t* row, int words, int least, uint64_t* bits);

// Bits of next > row and of next < row.
void step_bits(const uint8_t* row, const uint8_t* next, int words, uint64_t* up, uint64_t* down);

// How many of `size` levels are >= least.
int count_reached(const uint8_t* levels, int size, int least);

}  // namespace wsolfast::boxes
