// How a pixel that becomes active changes components, area and Euler number, looked up by which of its eight neighbours
// are active already. Area and Euler number are sums over windows of 2x2 pixels, the bit quads of Gray (IEEE
// Transactions on Computers C-20(5), 1971).
#pragma once

#include <array>
#include <cstdint>

namespace wsolfast::boxes {

// Bits of a neighbour mask, in raster order.
enum Neighbor { kNorthWest, kNorth, kNorthEast, kWest, kEast, kSouthWest, kSouth, kSouthEast };

inline void neighbor_offsets(int stride, int32_t offset[8]) {
  const int32_t table[8] = {-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1};
  for (int i = 0; i < 8; ++i) offset[i] = table[i];
}

struct Activation {
  uint8_t arcs;               // locally distinct components that the pixel touches
  uint8_t representative[4];  // one neighbour of each
  // Growth of twice the area, the sum over 2x2 windows of 2 where all are set and 1 where three are: every window with
  // two other pixels set gains one.
  int8_t doubled_area;
  int8_t euler;  // growth of components minus holes (8-connected foreground)
};

using ActivationTable = std::array<Activation, 256>;

namespace internal {

constexpr bool has(int mask, int neighbor) { return (mask >> neighbor) & 1; }

constexpr Activation activation(int mask, bool diagonal_contact) {
  // The ring around the pixel, clockwise; edge neighbours have odd places.
  constexpr int kRing[8] = {kNorthWest, kNorth, kNorthEast, kEast, kSouthEast, kSouth, kSouthWest, kWest};
  Activation result{};
  // With 8-connectivity two edge neighbours meet at the corner between them, whether it is set or not, so an unset
  // corner between two set edges does not part them. With 4-connectivity a corner links only when it is set, and
  // counts only with an edge beside it.
  bool member[8] = {};
  for (int i = 0; i < 8; ++i) {
    const bool set = has(mask, kRing[i]);
    if (i % 2 == 1) {
      member[i] = set;
    } else {
      const bool before = has(mask, kRing[(i + 7) % 8]), after = has(mask, kRing[(i + 1) % 8]);
      member[i] = diagonal_contact ? set || (before && after) : set && (before || after);
    }
  }
  const auto represent = [&](int place) { result.representative[result.arcs++] = static_cast<uint8_t>(kRing[place]); };
  bool closed = true;
  for (int i = 0; i < 8; ++i) closed &= member[i];
  if (closed) {
    represent(1);
  } else {
    for (int i = 0; i < 8; ++i) {
      if (!member[i] || member[(i + 7) % 8]) continue;
      // A 4-connected arc may start with a corner; the edge neighbour after it is the one that touches.
      represent(!diagonal_contact && i % 2 == 0 ? i + 1 : i);
    }
  }
  for (int corner = 0; corner < 8; corner += 2) {
    const int set = has(mask, kRing[corner]) + has(mask, kRing[(corner + 7) % 8]) + has(mask, kRing[(corner + 1) % 8]);
    result.doubled_area = static_cast<int8_t>(result.doubled_area + (set >= 2));
  }
  result.euler = static_cast<int8_t>(closed ? 1 : 1 - result.arcs);
  return result;
}

constexpr ActivationTable activation_table(bool diagonal_contact) {
  ActivationTable table{};
  for (int mask = 0; mask < 256; ++mask) table[mask] = activation(mask, diagonal_contact);
  return table;
}

}  // namespace internal

inline constexpr ActivationTable kActivation8 = internal::activation_table(true);
inline constexpr ActivationTable kActivation4 = internal::activation_table(false);

}  // namespace wsolfast::boxes
