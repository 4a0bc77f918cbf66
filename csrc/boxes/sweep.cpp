#include "boxes/sweep.h"

#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

constexpr int32_t kNever = INT32_MIN;

}  // namespace

void Sweep::start(const Grid& grid, size_t capacity) {
  grid_ = grid;
  euler_ = 0;
  neighbor_offsets(grid.stride(), offset_);
  components_.reset(capacity);
  if (stamp_.size() < capacity) {
    stamp_.resize(capacity);
    heir_.resize(capacity);
    absorbed_at_.resize(capacity);
    place_.resize(capacity);
  }
  if (label_.size() < static_cast<size_t>(grid.size())) label_.resize(grid.size());
  touched_.clear();
  absorbed_.clear();
  live_.clear();
}

void Sweep::start_foreground(const Grid& grid, int connectivity) {
  background_ = false;
  table_ = connectivity == 8 ? &kActivation8 : &kActivation4;
  // Two pixels that start components are never neighbours.
  const size_t size = static_cast<size_t>(grid.height) * grid.width;
  const size_t capacity =
      connectivity == 8 ? static_cast<size_t>((grid.height + 1) / 2) * ((grid.width + 1) / 2) : (size + 1) / 2;
  start(grid, capacity + 1);
}

void Sweep::start_background(const Grid& grid) {
  background_ = true;
  table_ = &kActivation4;
  start(grid, (static_cast<size_t>(grid.height) * grid.width + 1) / 2 + 2);
  std::fill_n(label_.begin(), grid.size(), 0);
  create();
  live_.clear();
}

int32_t Sweep::create() {
  const int32_t id = components_.count++;
  components_.items[id] = Component{Bounds{} + INT32_MIN, 0, 0, 0, 0};
  components_.parent[id] = id;
  stamp_[id] = kNever;
  absorbed_at_[id] = kNever;
  place_[id] = static_cast<int32_t>(live_.size());
  live_.push_back(id);
  return id;
}

int32_t Sweep::unite(int32_t a, int32_t b) {
  if (a == b) return a;
  // Component 0 of the background stays a root; otherwise the deeper tree does.
  const bool a_wins =
      (background_ && (a == 0 || b == 0)) ? a == 0 : components_.items[a].rank >= components_.items[b].rank;
  const int32_t winner = a_wins ? a : b, loser = a_wins ? b : a;
  components_.absorb(winner, loser);
  heir_[loser] = winner;
  absorbed_at_[loser] = level_;
  absorbed_.push_back(loser);
  live_[place_[loser]] = live_.back();
  place_[live_.back()] = place_[loser];
  live_.pop_back();
  return winner;
}

int32_t Sweep::component_at(int position, int level) const {
  int32_t id = label_[position];
  while (absorbed_at_[id] != kNever && (background_ ? absorbed_at_[id] <= level : absorbed_at_[id] >= level)) {
    id = heir_[id];
  }
  return id;
}

struct SweepKernel {
  template <bool kBackground>
  WSOLFAST_INLINE static void activate(Sweep& sweep, const uint32_t* begin, const uint32_t* end) {
    const ActivationTable& table = *sweep.table_;
    ComponentSet& components = sweep.components_;
    int32_t* label = sweep.label_.data();
    const int32_t column_mask = sweep.grid_.stride() - 1;
    const Bounds sign = {-1, 0, -1, 0};
    // What the pixels of one component add is gathered here while they follow one another.
    int32_t current = -1;
    Bounds bounds = {};
    int32_t doubled_area = 0, euler = 0, pixels = 0;
    int32_t total_euler = 0;
    const auto flush = [&] {
      if (current < 0 || (kBackground && current == 0)) return;
      Component& item = components.items[current];
      item.bounds = item.bounds > bounds ? item.bounds : bounds;
      item.doubled_area += doubled_area;
      item.euler += euler;
      item.pixels += pixels;
      sweep.touch(current);
    };
    const auto root_of = [&](int position) {
      const int32_t id = label[position];
      return id == current ? id : components.find(id);
    };
    for (int64_t i = 0; i < end - begin; ++i) {
      const uint32_t packed = kBackground ? end[-1 - i] : begin[i];
      const int32_t position = static_cast<int32_t>(packed & 0xFFFFFF);
      const Activation& step = table[kBackground ? (packed >> 24) ^ 0xFF : packed >> 24];
      int32_t root;
      if (step.arcs == 1) [[likely]] {
        root = root_of(position + sweep.offset_[step.representative[0]]);
      } else {
        flush();
        current = -1;
        if (step.arcs == 0) {
          root = sweep.create();
        } else {
          root = components.find(label[position + sweep.offset_[step.representative[0]]]);
          for (int arc = 1; arc < step.arcs; ++arc) {
            root = sweep.unite(root, components.find(label[position + sweep.offset_[step.representative[arc]]]));
          }
        }
      }
      label[position] = root;
      if (root != current) {
        flush();
        current = root;
        bounds = Bounds{} + INT32_MIN;
        doubled_area = euler = pixels = 0;
      }
      if (kBackground && root == 0) continue;
      const int32_t column = position & column_mask;
      const Bounds here = Bounds{column, column, position, position} ^ sign;
      bounds = here > bounds ? here : bounds;
      doubled_area += step.doubled_area;
      euler += step.euler;
      total_euler += step.euler;
      ++pixels;
    }
    flush();
    sweep.euler_ += total_euler;
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

void Sweep::activate(const PixelOrder& order, int level) {
  level_ = level;
  touched_.clear();
  absorbed_.clear();
  (background_ ? grow_background : grow_foreground)(*this, order.begin(level), order.end(level));
}

}  // namespace wsolfast::boxes
