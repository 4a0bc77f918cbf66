// Connected components under construction: union-find by rank with path splitting (Tarjan and van Leeuwen, Journal of
// the ACM 31(2), 1984), whose roots carry what the box rules ask for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "boxes/plane.h"
#include "boxes/rule.h"

namespace wsolfast::boxes {

// Four lanes that grow under max(): minus (smallest column + 1), largest column, minus (first position + 1), last
// position, columns counted with the frame. ~v = -v - 1 turns a minimum into a maximum, and the first and last position
// in raster order hold the top and bottom row too.
typedef int32_t Bounds __attribute__((vector_size(16)));

// Lanes of a component's sums.
constexpr int kDoubledArea = 0, kEuler = 1, kPixels = 2, kRank = 3;

struct Component {
  Bounds bounds;
  Bounds sums;

  int32_t first() const { return ~bounds[2]; }
  // Over the bit quads, holes left out: exact where there is no hole.
  int32_t doubled_area() const { return sums[kDoubledArea]; }
  // 1 - holes.
  int32_t euler() const { return sums[kEuler]; }
  int32_t pixels() const { return sums[kPixels]; }
  // Depth of the union-find tree at most.
  int32_t rank() const { return sums[kRank]; }
  Extent extent(const Grid& grid) const {
    return {~bounds[0] - 1, grid.row(~bounds[2]), bounds[1] - 1, grid.row(bounds[3])};
  }
};

struct ComponentSet {
  std::vector<Component> items;
  std::vector<int32_t> parent;
  int32_t count = 0;

  void reset(size_t capacity) {
    count = 0;
    if (items.size() >= capacity) return;
    items.resize(capacity);
    parent.resize(capacity);
  }
  bool is_root(int32_t id) const { return parent[id] == id; }
  int32_t find(int32_t id) {
    int32_t above = parent[id];
    while (above != id) {
      const int32_t next = parent[above];
      parent[id] = next;
      id = above;
      above = next;
    }
    return id;
  }
  // Moves what `loser` carries to `winner`; both are roots.
  void absorb(int32_t winner, int32_t loser) {
    Component& to = items[winner];
    const Component& from = items[loser];
    to.bounds = to.bounds > from.bounds ? to.bounds : from.bounds;
    const int32_t rank = to.rank() + (to.rank() == from.rank());
    to.sums += from.sums;
    to.sums[kRank] = rank;
    parent[loser] = winner;
  }
};

}  // namespace wsolfast::boxes
