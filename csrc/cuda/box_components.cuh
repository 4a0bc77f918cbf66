// Run-length connected components and holes of one foreground, found by a group of threads: horizontal runs are united
// as by He, Chao and Suzuki (IEEE Transactions on Image Processing 17(5), 2008).
//
// Runs are numbered in raster order, and so is everything derived from them: a component is found by its first run, a
// hole by its first gap, and gap r is the background between run r and the next in the same row. Background outside the
// first and last run of a row reaches the border, so gaps are all that holes are made of.
#pragma once

#include <cstdint>

#include "boxes/rule.h"
#include "cuda/box_planes.cuh"

namespace wsolfast::cuda {

// Properties of an item (a component or a hole), each a row of `RunStore::field`.
enum Field { kX0, kX1, kY0, kY1, kSize, kEuler, kParent, kFields };

// Memory of one group.
struct RunStore {
  int run_capacity, item_capacity;
  int32_t* row_begin;  // [H + 1], first run of each row
  uint32_t* span;      // [runs], first pixel in the low and last pixel in the high half
  int32_t* run;        // [runs], union-find; afterwards ~item at a root, the root elsewhere
  int32_t* gap;        // [runs + 1], the same for gap r at r + 1; 0 is the border
  int32_t* field;      // [kFields][item_capacity]

  static constexpr int64_t words(int height, int64_t runs, int64_t items) {
    return height + 1 + 3 * runs + 1 + kFields * items;
  }
  __device__ RunStore(int32_t* memory, int height, int runs, int items)
      : run_capacity(runs),
        item_capacity(items),
        row_begin(memory),
        span(reinterpret_cast<uint32_t*>(row_begin + height + 1)),
        run(row_begin + height + 1 + runs),
        gap(run + runs),
        field(gap + runs + 1) {}

  __device__ int32_t& at(Field row, int item) const { return field[static_cast<int64_t>(row) * item_capacity + item]; }
  __device__ int x0(int r) const { return static_cast<int>(span[r] & 0xFFFF); }
  __device__ int x1(int r) const { return static_cast<int>(span[r] >> 16); }
};

// May read while others unite: a parent only ever falls, and the old one leads to the same root as the new. It is
// volatile because a relaxed atomic would be read through a generic address. bench/racecheck.py knows these functions.
__device__ __forceinline__ int root_of(const int32_t* parent, int id) {
  const volatile int32_t* live = parent;
  for (int above = live[id]; above != id; above = live[id]) id = above;
  return id;
}

// The smaller number becomes the root. Any number of threads may unite at a time.
__device__ __forceinline__ void unite(int32_t* parent, int a, int b) {
  for (;;) {
    a = root_of(parent, a);
    b = root_of(parent, b);
    if (a == b) return;
    const int large = a < b ? b : a, small = a < b ? a : b;
    const int before = atomicMin(&parent[large], small);
    if (before == large) return;
    a = before;
    b = small;
  }
}

// Once roots hold ~item.
__device__ __forceinline__ int item_of(const int32_t* parent, int id) {
  const int above = parent[id];
  return above < 0 ? ~above : ~parent[above];
}

struct Interval {
  int x0, x1;  // last pixel included
  int id;      // of its first run or gap
};

// The runs of a row one after the other; with `fill` those around a hole are one.
template <bool kFill>
struct RunCursor {
  const RunStore& store;
  int next, end;
  Interval now{};
  bool valid = true;

  __device__ RunCursor(const RunStore& store, int y)
      : store(store), next(store.row_begin[y]), end(store.row_begin[y + 1]) {
    advance();
  }
  __device__ __forceinline__ void advance() {
    valid = next < end;
    if (!valid) return;
    now = {store.x0(next), store.x1(next), next};
    ++next;
    if constexpr (kFill) {
      while (next < end && store.gap[next] != 0) now.x1 = store.x1(next++);
    }
  }
};

// The background of a row from the frame on its left to the frame on its right; ids are indices into `gap`.
struct GapCursor {
  const RunStore& store;
  int width, next, end;
  Interval now{};
  bool valid = true;

  __device__ GapCursor(const RunStore& store, int y, int width)
      : store(store), width(width), next(store.row_begin[y]), end(store.row_begin[y + 1]) {
    now = {-1, next < end ? store.x0(next) - 1 : width, 0};
  }
  __device__ __forceinline__ void advance() {
    valid = next < end;
    if (!valid) return;
    now = {store.x1(next) + 1, next + 1 < end ? store.x0(next + 1) - 1 : width, next + 1};
    ++next;
  }
};

// Calls visit(a, b) for the intervals of two neighbouring rows that come within `reach` of each other.
template <typename Cursor, typename Visit>
__device__ __forceinline__ void visit_touching(Cursor a, Cursor b, int reach, const Visit& visit) {
  while (a.valid && b.valid) {
    if (a.now.x1 + reach < b.now.x0) {
      a.advance();
    } else if (b.now.x1 + reach < a.now.x0) {
      b.advance();
    } else {
      visit(a.now, b.now);
      if (a.now.x1 < b.now.x1) {
        a.advance();
      } else {
        b.advance();
      }
    }
  }
}

// The 2x2 windows that two touching runs share: 2 for each full one, 1 where three are set.
__device__ __forceinline__ int shared_windows(const Interval& a, const Interval& b) {
  const auto inside = [](int x, const Interval& run) { return x >= run.x0 && x < run.x1; };
  const int last = a.x1 < b.x1 ? a.x1 : b.x1, first = a.x0 < b.x0 ? b.x0 : a.x0;
  return (last > first ? 2 * (last - first) : 0) + inside(b.x0 - 1, a) + inside(b.x1, a) + inside(a.x0 - 1, b) +
         inside(a.x1, b);
}

template <typename Group>
class Components {
 public:
  __device__ Components(const Foreground& foreground, const RunStore& store) : foreground_(foreground), store_(store) {}

  __device__ int count() const { return count_; }
  __device__ int holes() const { return holes_; }
  __device__ int runs() const { return runs_; }
  __device__ const RunStore& store() const { return store_; }

  // Finds the components with their bounds; false when they do not fit. Ends with a sync, as everything here does.
  __device__ __forceinline__ bool find(int connectivity) {
    if (!find_runs()) return false;
    const int reach = connectivity == 8 ? 1 : 0;
    int links = 0;
    for_rows([&](int y) {
      if (y == 0) return;
      visit_touching(RunCursor<false>(store_, y - 1), RunCursor<false>(store_, y), reach,
                     [&](const Interval& a, const Interval& b) {
                       unite(store_.run, a.id, b.id);
                       ++links;
                     });
    });
    links = Group::reduce(links, Sum<int>{});
    Group::sync();
    flatten(store_.run, runs_);
    if (!number(store_.run, 0, runs_, 0, &count_)) return false;
    // Holes are components minus Euler's number; that is runs minus links where all contacts are counted.
    holes_ = connectivity == 8 ? count_ - (runs_ - links) : 0;
    clear(0, count_);
    for_runs([&](int y, int r) { include(item_of(store_.run, r), store_.x0(r), store_.x1(r), y, store_.run[r] < 0); });
    Group::sync();
    return true;
  }

  // Numbers the holes after the components, with their bounds; false when they do not fit.
  __device__ __forceinline__ bool find_holes() {
    label_gaps();
    int found;
    if (!number(store_.gap, 1, runs_ + 1, count_, &found)) return false;
    clear(count_, count_ + found);
    for_runs([&](int y, int r) {
      if (store_.gap[r + 1] == 0) return;
      include(item_of(store_.gap, r + 1), store_.x1(r) + 1, store_.x0(r + 1) - 1, y, store_.gap[r + 1] < 0);
    });
    Group::sync();
    return true;
  }

  __device__ __forceinline__ void measure_pixels() {
    for_runs(
        [&](int, int r) { atomicAdd(&store_.at(kSize, item_of(store_.run, r)), store_.x1(r) - store_.x0(r) + 1); });
    Group::sync();
  }

  // Pixels of each hole, what lies in it left out.
  __device__ __forceinline__ void measure_holes() {
    for_runs([&](int, int r) {
      if (store_.gap[r + 1] == 0) return;
      atomicAdd(&store_.at(kSize, item_of(store_.gap, r + 1)), store_.x0(r + 1) - store_.x1(r) - 1);
    });
    Group::sync();
  }

  // Twice the polygon area, holes left out, and 1 - holes of each component (8-connected).
  __device__ __forceinline__ void measure_windows() {
    for_runs([&](int, int r) { atomicAdd(&store_.at(kEuler, item_of(store_.run, r)), 1); });
    add_windows<false>([&](int item) { atomicAdd(&store_.at(kEuler, item), -1); });
  }

  // Twice the area of the polygon around each component that lies in no hole; 0 for the others.
  __device__ __forceinline__ void measure_filled() {
    label_gaps();
    for (int item = Group::rank(); item < count_; item += Group::kSize) store_.at(kSize, item) = 0;
    Group::sync();
    add_windows<true>([](int) {});
  }

  template <typename Function>
  __device__ __forceinline__ void for_rows(const Function& function) const {
    for (int y = Group::rank(); y < foreground_.shape.height; y += Group::kSize) function(y);
  }

 private:
  template <typename Function>
  __device__ __forceinline__ void for_runs(const Function& function) const {
    for_rows([&](int y) {
      for (int r = store_.row_begin[y]; r < store_.row_begin[y + 1]; ++r) function(y, r);
    });
  }

  __device__ __forceinline__ bool find_runs() {
    const PlaneShape& shape = foreground_.shape;
    runs_ = 0;
    for (int first = 0; first < shape.height; first += Group::kSize) {
      const int y = first + Group::rank();
      int starts = 0;
      uint32_t carry = 0;
      for (int word = 0; y < shape.height && word < shape.words; ++word) {
        const uint32_t bits = foreground_.bits(y, word);
        starts += __popc(bits & ~(bits << 1 | carry));
        carry = bits >> 31;
      }
      int in_chunk;
      const int before = runs_ + Group::sum_before(starts, &in_chunk);
      if (y < shape.height) store_.row_begin[y] = before;
      runs_ += in_chunk;
    }
    if (Group::rank() == 0) store_.row_begin[shape.height] = runs_;
    Group::sync();
    if (runs_ > store_.run_capacity) return false;
    for_rows([&](int y) {
      int r = store_.row_begin[y], x0 = -1;
      const auto end_run = [&](int x1) {
        store_.span[r] = static_cast<uint32_t>(x0) | static_cast<uint32_t>(x1) << 16;
        store_.run[r] = r;
        ++r;
        x0 = -1;
      };
      uint32_t carry = 0;
      for (int word = 0; word < shape.words; ++word) {
        const uint32_t bits = foreground_.bits(y, word);
        // Every change between neighbouring pixels starts a run or ends one.
        for (uint32_t changes = bits ^ (bits << 1 | carry); changes != 0; changes &= changes - 1) {
          const int x = word * 32 + __ffs(static_cast<int>(changes)) - 1;
          if (x0 < 0) {
            x0 = x;
          } else {
            end_run(x - 1);
          }
        }
        carry = bits >> 31;
      }
      if (x0 >= 0) end_run(shape.width - 1);
    });
    Group::sync();
    return true;
  }

  // Background is 4-connected where the foreground is 8-connected. What reaches the border becomes 0.
  __device__ __forceinline__ void label_gaps() {
    const int height = foreground_.shape.height, width = foreground_.shape.width;
    if (Group::rank() == 0) store_.gap[0] = 0;
    for_runs([&](int y, int r) {
      const bool outside = y == 0 || y == height - 1 || r + 1 == store_.row_begin[y + 1];
      store_.gap[r + 1] = outside ? 0 : r + 1;
    });
    Group::sync();
    for_rows([&](int y) {
      if (y == 0) return;
      visit_touching(GapCursor(store_, y - 1, width), GapCursor(store_, y, width), 0,
                     [&](const Interval& a, const Interval& b) { unite(store_.gap, a.id, b.id); });
    });
    Group::sync();
    flatten(store_.gap, runs_ + 1);
  }

  __device__ __forceinline__ void flatten(int32_t* parent, int size) const {
    for (int id = Group::rank(); id < size; id += Group::kSize) {
      const int root = root_of(parent, id);
      *const_cast<volatile int32_t*>(&parent[id]) = root;
    }
    Group::sync();
  }

  // Gives the roots among [first, size) the items from `item` on; false when there are too many.
  __device__ __forceinline__ bool number(int32_t* parent, int first, int size, int item, int* found) const {
    int total = 0;
    for (int begin = first; begin < size; begin += Group::kSize) {
      const int id = begin + Group::rank();
      const bool is_root = id < size && parent[id] == id;
      int in_chunk;
      const int before = Group::sum_before(is_root ? 1 : 0, &in_chunk);
      if (is_root) parent[id] = ~(item + total + before);
      total += in_chunk;
    }
    *found = total;
    Group::sync();
    return item + total <= store_.item_capacity;
  }

  __device__ __forceinline__ void clear(int begin, int end) const {
    for (int item = begin + Group::rank(); item < end; item += Group::kSize) {
      store_.at(kX0, item) = INT32_MAX;
      store_.at(kX1, item) = store_.at(kY1, item) = -1;
      store_.at(kSize, item) = store_.at(kEuler, item) = 0;
    }
    Group::sync();
  }

  // Rows come to an item in no order, but its first run or gap is in its first row.
  __device__ __forceinline__ void include(int item, int x0, int x1, int y, bool first) const {
    atomicMin(&store_.at(kX0, item), x0);
    atomicMax(&store_.at(kX1, item), x1);
    atomicMax(&store_.at(kY1, item), y);
    if (first) store_.at(kY0, item) = y;
  }

  template <bool kFill, typename Visit>
  __device__ __forceinline__ void add_windows(const Visit& visit) const {
    for_rows([&](int y) {
      if (y == 0) return;
      visit_touching(RunCursor<kFill>(store_, y - 1), RunCursor<kFill>(store_, y), 1,
                     [&](const Interval& a, const Interval& b) {
                       const int item = item_of(store_.run, b.id);
                       atomicAdd(&store_.at(kSize, item), shared_windows(a, b));
                       visit(item);
                     });
    });
    Group::sync();
  }

  Foreground foreground_;
  RunStore store_;
  int runs_ = 0, count_ = 0, holes_ = 0;
};

}  // namespace wsolfast::cuda
