#include "boxes/runs.h"

#include <algorithm>
#include <bit>

#include "boxes/bits.h"

namespace wsolfast::boxes {
namespace {

// The 2x2 windows that two touching runs of neighbouring rows share: 2 for each full one, 1 where three are set.
int32_t shared_windows(const Run& a, const Run& b) {
  const auto inside = [](int x, const Run& run) { return x >= run.x0 && x < run.x1; };
  const int32_t full = std::max(0, std::min(a.x1, b.x1) - std::max(a.x0, b.x0));
  return 2 * full + inside(b.x0 - 1, a) + inside(b.x1, a) + inside(a.x0 - 1, b) + inside(a.x1, b);
}

Bounds bounds_of(const Grid& grid, int y, const Run& run) {
  const int first = grid.position(y, run.x0), last = grid.position(y, run.x1);
  return Bounds{~(run.x0 + 1), run.x1 + 1, ~first, last};
}

int32_t create(ComponentSet& components, const Bounds& bounds, int32_t pixels) {
  const int32_t id = components.count++;
  components.items[id] = Component{bounds, Bounds{0, 1, pixels, 0}};
  components.parent[id] = id;
  return id;
}

void collect_roots(RunLabels& labels, int32_t from) {
  labels.roots.clear();
  for (int32_t id = from; id < labels.components.count; ++id) {
    if (labels.components.is_root(id)) labels.roots.push_back(id);
  }
}

}  // namespace

int32_t RunLabels::component_at(const Grid& grid, int position) {
  const int y = grid.row(position), x = grid.column(position);
  const auto begin = runs.begin() + row_begin[y], end = runs.begin() + row_begin[y + 1];
  const auto run = std::partition_point(begin, end, [x](const Run& other) { return other.x1 < x; });
  return components.find(run->label);
}

void Runs::label_foreground(const Plane<uint8_t>& plane, int cut, int connectivity) {
  grid_ = plane.grid;
  euler_ = 0;
  const int height = grid_.height, width = grid_.width, words = words_of(width);
  const int reach = connectivity == 8 ? 1 : 0;
  const size_t capacity = static_cast<size_t>(height) * ((width + 1) / 2) + 1;
  foreground_.components.reset(capacity);
  if (foreground_.runs.size() < capacity) foreground_.runs.resize(capacity);
  foreground_.row_begin.resize(height + 1);
  bits_.resize(words);
  ComponentSet& components = foreground_.components;
  Run* runs = foreground_.runs.data();
  const uint64_t tail = ~uint64_t{0} >> (words * 64 - width);

  int32_t count = 0, above = 0, above_end = 0;
  for (int y = 0; y < height; ++y) {
    const int32_t row_begin = count;
    foreground_.row_begin[y] = row_begin;
    if (cut < 255) {
      reached_bits(plane.row(y), words, cut + 1, bits_.data());
      bits_[words - 1] &= tail;
    } else {
      std::fill(bits_.begin(), bits_.end(), 0);
    }
    // Every change between neighbouring pixels starts a run or ends one.
    uint64_t carry = 0;
    bool open = false;
    for (int word = 0; word < words; ++word) {
      uint64_t changes = bits_[word] ^ (bits_[word] << 1 | carry);
      carry = bits_[word] >> 63;
      while (changes != 0) {
        const int x = word * 64 + std::countr_zero(changes);
        changes &= changes - 1;
        if (open) {
          runs[count++].x1 = x - 1;
        } else {
          runs[count].x0 = x;
        }
        open = !open;
      }
    }
    if (open) runs[count++].x1 = width - 1;

    for (int32_t i = row_begin; i < count; ++i) {
      Run& run = runs[i];
      const Bounds bounds = bounds_of(grid_, y, run);
      const int32_t pixels = run.x1 - run.x0 + 1;
      while (above < above_end && runs[above].x1 + reach < run.x0) ++above;
      int32_t root = -1;
      for (int32_t j = above; j < above_end && runs[j].x0 <= run.x1 + reach; ++j) {
        int32_t other = components.find(runs[j].label);
        if (root < 0) {
          root = other;
          Component& item = components.items[root];
          item.bounds = item.bounds > bounds ? item.bounds : bounds;
          item.sums += Bounds{0, 1, pixels, 0};
        } else if (other != root) {
          if (other < root) std::swap(other, root);
          components.absorb(root, other);
        }
        Component& item = components.items[root];
        item.sums += Bounds{shared_windows(runs[j], run), -1, 0, 0};
        --euler_;
      }
      run.label = root < 0 ? create(components, bounds, pixels) : root;
      ++euler_;
    }
    above = row_begin;
    above_end = count;
  }
  foreground_.row_begin[height] = count;
  collect_roots(foreground_, 0);
}

void Runs::label_background() {
  const int height = grid_.height, width = grid_.width;
  const size_t capacity = static_cast<size_t>(height) * (width / 2 + 1) + 1;
  background_.components.reset(capacity);
  if (background_.runs.size() < capacity) background_.runs.resize(capacity);
  background_.row_begin.resize(height + 1);
  ComponentSet& components = background_.components;
  Run* runs = background_.runs.data();
  create(components, Bounds{} + INT32_MIN, 0);

  int32_t count = 0, above = 0, above_end = 0;
  for (int y = 0; y < height; ++y) {
    const int32_t row_begin = count;
    background_.row_begin[y] = row_begin;
    int32_t next = 0;
    for (int32_t i = foreground_.row_begin[y]; i < foreground_.row_begin[y + 1]; ++i) {
      const Run& gap = foreground_.runs[i];
      if (gap.x0 > next) runs[count++] = Run{next, gap.x0 - 1, 0};
      next = gap.x1 + 1;
    }
    if (next < width) runs[count++] = Run{next, width - 1, 0};

    for (int32_t i = row_begin; i < count; ++i) {
      Run& run = runs[i];
      const bool at_border = y == 0 || y == height - 1 || run.x0 == 0 || run.x1 == width - 1;
      int32_t root = at_border ? 0 : -1;
      const Bounds bounds = bounds_of(grid_, y, run);
      while (above < above_end && runs[above].x1 < run.x0) ++above;
      for (int32_t j = above; j < above_end && runs[j].x0 <= run.x1; ++j) {
        int32_t other = components.find(runs[j].label);
        if (root < 0) {
          root = other;
        } else if (other != root) {
          // The smaller number wins, so the border's component keeps its 0.
          if (other < root) std::swap(other, root);
          components.absorb(root, other);
        }
      }
      if (root < 0) {
        root = create(components, bounds, 0);
      } else {
        Component& item = components.items[root];
        item.bounds = item.bounds > bounds ? item.bounds : bounds;
      }
      run.label = root;
    }
    above = row_begin;
    above_end = count;
  }
  background_.row_begin[height] = count;
  collect_roots(background_, 1);
}

}  // namespace wsolfast::boxes
