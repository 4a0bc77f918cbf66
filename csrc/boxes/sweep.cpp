#include "boxes/sweep.h"

#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

// Growth of a component's sums by a pixel, by the mask of its earlier neighbours.
struct GrowthTable {
  Bounds of_mask[256];
  GrowthTable() {
    for (int mask = 0; mask < 256; ++mask)
      of_mask[mask] = Bounds{kActivation8[mask].doubled_area, kActivation8[mask].euler, 1, 0};
  }
  const Bounds& operator[](uint32_t mask) const { return of_mask[mask]; }
};
const GrowthTable kGrowth;

}  // namespace

void Sweep::start(const Grid& grid, bool background, size_t capacity) {
  grid_ = grid;
  neighbor_offsets(grid.stride(), offset_);
  for (int mask = 0; mask < 256; ++mask) {
    const Activation& step = (*table_)[mask];
    join_offset_[mask] = step.arcs == 1 ? offset_[step.representative[0]] : 0;
  }
  reset(background, capacity);
  if (label_.size() < static_cast<size_t>(grid.size())) label_.resize(grid.size());
}

void Sweep::start_foreground(const Grid& grid, int connectivity) {
  table_ = connectivity == 8 ? &kActivation8 : &kActivation4;
  // Two pixels that start components are never neighbours.
  const size_t size = static_cast<size_t>(grid.height) * grid.width;
  const size_t capacity =
      connectivity == 8 ? static_cast<size_t>((grid.height + 1) / 2) * ((grid.width + 1) / 2) : (size + 1) / 2;
  start(grid, false, capacity + 1);
}

void Sweep::start_background(const Grid& grid) {
  table_ = &kActivation4;
  start(grid, true, (static_cast<size_t>(grid.height) * grid.width + 1) / 2 + 2);
  std::fill_n(label_.begin(), grid.size(), 0);
}

struct SweepKernel {
  template <bool kBackground>
  WSOLFAST_INLINE static void activate(Sweep& sweep, const uint32_t* begin, const uint32_t* end) {
    const ActivationTable& table = *sweep.table_;
    ComponentSet& components = sweep.components_;
    const int32_t* join_offset = sweep.join_offset_;
    const int32_t* parent = components.parent.data();
    Component* items = components.items.data();
    int32_t* label = sweep.label_.data();
    int32_t* stamp = sweep.stamp_.data();
    const int32_t cut = sweep.cut_, column_mask = sweep.grid_.stride() - 1;
    const int64_t count = end - begin;
    const auto pixel = [&](int64_t i) { return kBackground ? end[-1 - i] ^ 0xFF000000u : begin[i]; };
    const auto bounds_of = [&](int32_t position) {
      const int32_t column = position & column_mask;
      return Bounds{column, column, position, position} ^ Bounds { -1, 0, -1, 0 };
    };
    Bounds growth = {};
    const auto grow = [&](int32_t root, uint32_t packed, int32_t position) {
      if (stamp[root] != cut) {
        stamp[root] = cut;
        sweep.touched_.push_back(root);
      }
      Component& item = items[root];
      const Bounds here = bounds_of(position);
      item.bounds = here > item.bounds ? here : item.bounds;
      item.sums += kGrowth[packed >> 24];
      growth += kGrowth[packed >> 24];
    };
    for (int64_t i = 0; i < count; ++i) {
      if (sweep.live_.size() == (kBackground ? 0 : 1)) {
        // Whatever touches anything touches the only component there is.
        if constexpr (kBackground) {
          i = skip_border_component(table, pixel, i, count);
        } else {
          i = grow_only_component(sweep, pixel, bounds_of, i, count);
        }
      }
      // Pixels that join one component, up to the next that starts or unites some.
      for (; i < count; ++i) {
        const uint32_t packed = pixel(i);
        const int32_t offset = join_offset[packed >> 24];
        if (offset == 0) break;
        const int32_t position = static_cast<int32_t>(packed & 0xFFFFFF);
        const int32_t id = label[position + offset];
        if (kBackground && id == 0) continue;
        const int32_t root = parent[id] == id ? id : components.find(id);
        label[position] = root;
        if (!kBackground || root != 0) grow(root, packed, position);
      }
      if (i == count) break;
      const uint32_t packed = pixel(i);
      const int32_t position = static_cast<int32_t>(packed & 0xFFFFFF);
      const Activation& step = table[packed >> 24];
      int32_t root = -1;
      if (step.arcs == 0) sweep.create(root = components.count++);
      for (int arc = 0; arc < step.arcs; ++arc) {
        const int32_t other = components.find(label[position + sweep.offset_[step.representative[arc]]]);
        root = arc == 0 ? other : sweep.unite(root, other);
      }
      label[position] = root;
      if (!kBackground || root != 0) grow(root, packed, position);
    }
    sweep.euler_ += growth[kEuler];
  }

  // Both return the index of the first pixel that starts a component, or `count`.
  template <typename Pixel>
  WSOLFAST_INLINE static int64_t skip_border_component(const ActivationTable& table, const Pixel& pixel, int64_t i,
                                                       int64_t count) {
    while (i < count && table[pixel(i) >> 24].arcs != 0) ++i;
    return i;
  }

  template <typename Pixel, typename BoundsOf>
  WSOLFAST_INLINE static int64_t grow_only_component(Sweep& sweep, const Pixel& pixel, const BoundsOf& bounds_of,
                                                     int64_t i, int64_t count) {
    const ActivationTable& table = *sweep.table_;
    int32_t* label = sweep.label_.data();
    const int32_t only = sweep.live_.front();
    Component& item = sweep.components_.items[only];
    Bounds bounds = item.bounds, sums = {};
    const int64_t from = i;
    for (; i < count; ++i) {
      const uint32_t packed = pixel(i);
      if (table[packed >> 24].arcs == 0) break;
      const int32_t position = static_cast<int32_t>(packed & 0xFFFFFF);
      label[position] = only;
      const Bounds here = bounds_of(position);
      bounds = here > bounds ? here : bounds;
      sums += kGrowth[packed >> 24];
    }
    if (i == from) return i;
    sweep.touch(only);
    sweep.euler_ += sums[kEuler];
    item.bounds = bounds;
    item.sums += sums;
    return i;
  }
};

namespace {

WSOLFAST_INLINE void grow_foreground_body(Sweep& sweep, const uint32_t* begin, const uint32_t* end) {
  SweepKernel::activate<false>(sweep, begin, end);
}
WSOLFAST_DISPATCH(grow_foreground, (Sweep & sweep, const uint32_t* begin, const uint32_t* end), (sweep, begin, end))

WSOLFAST_INLINE void grow_background_body(Sweep& sweep, const uint32_t* begin, const uint32_t* end) {
  SweepKernel::activate<true>(sweep, begin, end);
}
WSOLFAST_DISPATCH(grow_background, (Sweep & sweep, const uint32_t* begin, const uint32_t* end), (sweep, begin, end))

}  // namespace

void Sweep::activate(std::span<const uint32_t> pixels, int cut) {
  start_cut(cut);
  (background_ ? grow_background : grow_foreground)(*this, pixels.data(), pixels.data() + pixels.size());
}

}  // namespace wsolfast::boxes
