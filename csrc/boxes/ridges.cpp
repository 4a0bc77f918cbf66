#include "boxes/ridges.h"

#include <bit>

#include "boxes/bits.h"
#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

// Given where a profile rises and falls after each place, and whether it rose last before the first (`rising`), finds
// peaks (the last place before a fall that follows a rise) and saddles (the other way round).
struct Turns {
  uint64_t peaks, saddles;
};
inline Turns turns(uint64_t up, uint64_t down, bool& rising) {
  const uint64_t level = ~(up | down);
  // A rise is carried on over level places by adding; it arrives at the first place that is not level.
  const uint64_t risen = up << 1 | static_cast<uint64_t>(rising);
  uint64_t carried;
  const bool beyond = __builtin_add_overflow(level, risen & level, &carried);
  const uint64_t after_rise = (risen | carried) & ~level;
  rising = up >> 63 || beyond;
  return {down & after_rise, up & ~after_rise};
}

// Calls visit(place, is_peak) for the turns of a profile whose steps are known, which is lower than all levels outside.
template <typename Visit>
inline void visit_turns(uint64_t* up, uint64_t* down, int size, Visit&& visit) {
  const int words = words_of(size), tail = (size - 1) % 64;
  // The last place falls off; what lies beyond is level.
  const uint64_t inside = (uint64_t{1} << tail) - 1;
  up[words - 1] &= inside;
  down[words - 1] = (down[words - 1] & inside) | uint64_t{1} << tail;
  bool rising = true;
  for (int word = 0; word < words; ++word) {
    const Turns found = turns(up[word], down[word], rising);
    for (uint64_t places = found.peaks | found.saddles; places != 0; places &= places - 1) {
      const int bit = std::countr_zero(places);
      visit(64 * word + bit, (found.peaks >> bit & 1) != 0);
    }
  }
}

// Contacts of two rows, from left to right: (x, x), the better diagonal between x and x + 1, (x + 1, x + 1), ...
WSOLFAST_INLINE void contacts8_body(const uint8_t* __restrict a, const uint8_t* __restrict b, int width,
                                    uint8_t* __restrict out) {
  for (int x = 0; x < width; ++x) {
    const uint8_t falling = std::min(a[x], b[x + 1]), rising = std::min(a[x + 1], b[x]);
    out[2 * x] = std::min(a[x], b[x]);
    out[2 * x + 1] = std::max(falling, rising);
  }
}
WSOLFAST_DISPATCH(contacts8, (const uint8_t* a, const uint8_t* b, int width, uint8_t* out), (a, b, width, out))

WSOLFAST_INLINE void contacts4_body(const uint8_t* __restrict a, const uint8_t* __restrict b, int width,
                                    uint8_t* __restrict out) {
  for (int x = 0; x < width; ++x) out[x] = std::min(a[x], b[x]);
}
WSOLFAST_DISPATCH(contacts4, (const uint8_t* a, const uint8_t* b, int width, uint8_t* out), (a, b, width, out))

WSOLFAST_INLINE void background_contacts_body(const uint8_t* __restrict a, const uint8_t* __restrict b, int width,
                                              uint8_t* __restrict out) {
  for (int x = 0; x < width; ++x) out[x] = std::max(a[x], b[x]);
}
WSOLFAST_DISPATCH(background_contacts, (const uint8_t* a, const uint8_t* b, int width, uint8_t* out),
                  (a, b, width, out))

// Counts the sorted places before x, for x that does not fall from call to call.
struct Places {
  const int32_t *at, *end;
  int32_t count = 0;
  int32_t before(int x) {
    while (at != end && *at < x) ++at, ++count;
    return count;
  }
};

}  // namespace

void RidgeEvents::sort() {
  sorted_.resize(unsorted_.size());
  std::fill(std::begin(begin_), std::end(begin_), 0);
  for (uint8_t step : steps_) ++begin_[step + 1];
  int32_t cursor[256];
  for (int step = 0; step < 256; ++step) {
    begin_[step + 1] += begin_[step];
    cursor[step] = begin_[step];
  }
  for (size_t i = 0; i < steps_.size(); ++i) sorted_[cursor[steps_[i]]++] = unsorted_[i];
}

int32_t Ridges::foreground_node(int y, int x) const {
  const auto begin = saddle_x_.begin() + row_begin_[y] - y, end = saddle_x_.begin() + row_begin_[y + 1] - y - 1;
  return row_begin_[y] + static_cast<int32_t>(std::lower_bound(begin, end, x) - begin);
}

int32_t Ridges::background_node(int y, int x) const {
  const auto begin = peak_x_.begin() + row_begin_[y], end = peak_x_.begin() + row_begin_[y + 1];
  const auto peak = std::lower_bound(begin, end, x);
  return peak == begin || peak == end ? 0 : row_begin_[y] - y + static_cast<int32_t>(peak - begin);
}

void Ridges::find_row(int y) {
  const Grid& grid = plane_->grid;
  const uint8_t* row = plane_->row(y);
  step_bits(row, row + 1, words_of(grid.width), up_.data(), down_.data());
  auto node = static_cast<int32_t>(peak_x_.size());
  int32_t begin = grid.position(y, 0);
  visit_turns(up_.data(), down_.data(), grid.width, [&](int x, bool is_peak) {
    const int step = 255 - row[x];
    const int32_t position = grid.position(y, x);
    if (is_peak) {
      foreground_.add(step, {position, node, node, 1});
      ++euler_[step];
      peak_x_.push_back(x);
    } else {
      foreground_.add(step, {position, node, node + 1, -1});
      --euler_[step];
      saddle_x_.push_back(x);
      segments_.push_back({begin, position});
      begin = position + 1;
      ++node;
    }
  });
  segments_.push_back({begin, grid.position(y, grid.width - 1)});
  row_begin_[y + 1] = node + 1;
}

void Ridges::link_foreground(int y, int connectivity) {
  const Grid& grid = plane_->grid;
  const uint8_t *row = plane_->row(y), *above = plane_->row(y - 1);
  const int size = connectivity == 8 ? 2 * grid.width - 1 : grid.width;
  (connectivity == 8 ? contacts8 : contacts4)(row, above, grid.width, contacts_.data());
  step_bits(contacts_.data(), contacts_.data() + 1, words_of(size), up_.data(), down_.data());
  const int32_t* saddles = saddle_x_.data();
  Places here{saddles + row_begin_[y] - y, saddles + row_begin_[y + 1] - y - 1};
  Places there{saddles + row_begin_[y - 1] - y + 1, saddles + row_begin_[y] - y};
  visit_turns(up_.data(), down_.data(), size, [&](int place, bool is_peak) {
    const int step = 255 - contacts_[place];
    euler_[step] += is_peak ? -1 : 1;
    if (!is_peak) return;
    int x = place, above_x = place;
    if (connectivity == 8) {
      x = above_x = place / 2;
      if (place % 2 == 1) ++(std::min(row[x], above[x + 1]) == contacts_[place] ? above_x : x);
    }
    const int32_t node = row_begin_[y] + here.before(x), other = row_begin_[y - 1] + there.before(above_x);
    foreground_.add(step, {grid.position(y, x), node, other, 0});
  });
}

// Calls visit(y, words, peaks, saddles) with the bits of the columns that turn in each row.
template <typename Visit>
void Ridges::visit_columns(Visit&& visit) {
  const Grid& grid = plane_->grid;
  const int words = words_of(grid.width);
  const uint64_t inside = ~uint64_t{0} >> (64 * words - grid.width);
  rising_.assign(words, ~uint64_t{0});
  for (int y = 0; y < grid.height; ++y) {
    const bool is_last = y == grid.height - 1;
    step_bits(plane_->row(y), plane_->row(y + 1), words, up_.data(), down_.data());
    for (int word = 0; word < words; ++word) {
      const uint64_t mask = word == words - 1 ? inside : ~uint64_t{0};
      const uint64_t up = is_last ? 0 : up_[word] & mask, down = (is_last ? ~uint64_t{0} : down_[word]) & mask;
      const uint64_t rising = rising_[word];
      rising_[word] = (rising & ~down) | up;
      visit(y, 64 * word, down & rising, up & ~rising);
    }
  }
}

void Ridges::find_foreground(const Plane<uint8_t>& plane, int connectivity) {
  const Grid& grid = plane.grid;
  plane_ = &plane;
  foreground_.clear();
  peak_x_.clear();
  saddle_x_.clear();
  segments_.clear();
  std::fill(std::begin(euler_), std::end(euler_), 0);
  row_begin_.resize(grid.height + 1);
  row_begin_[0] = 0;
  const size_t words = words_of(2 * grid.width);
  up_.resize(words);
  down_.resize(words);
  contacts_.resize(64 * words + 64);
  for (int y = 0; y < grid.height; ++y) {
    find_row(y);
    if (y > 0) link_foreground(y, connectivity);
  }
  int y_now = -1;
  Places places{};
  visit_columns([&](int y, int x, uint64_t peaks, uint64_t saddles) {
    if (y != y_now) {
      y_now = y;
      places = {saddle_x_.data() + row_begin_[y] - y, saddle_x_.data() + row_begin_[y + 1] - y - 1};
    }
    for (uint64_t both = peaks | saddles; both != 0; both &= both - 1) {
      const int bit = std::countr_zero(both);
      foreground_.add(255 - plane_->row(y)[x + bit], {grid.position(y, x + bit), row_begin_[y] + places.before(x + bit),
                                                      -1, peaks >> bit & 1 ? 1 : -1});
    }
  });
  foreground_.sort();
}

void Ridges::link_background(int y) {
  const Grid& grid = plane_->grid;
  // A row with one peak has no nodes of its own, but it can lead a neighbour's outside.
  background_contacts(plane_->row(y), plane_->row(y - 1), grid.width, contacts_.data());
  step_bits(contacts_.data(), contacts_.data() + 1, words_of(grid.width), up_.data(), down_.data());
  visit_turns(up_.data(), down_.data(), grid.width, [&](int x, bool is_peak) {
    if (is_peak) return;
    const int32_t node = background_node(y, x), other = background_node(y - 1, x);
    if (node != other) background_.add(contacts_[x], {grid.position(y, x), node, other, 0});
  });
}

void Ridges::find_background() {
  const Grid& grid = plane_->grid;
  background_.clear();
  for (int y = 0; y < grid.height; ++y) {
    const uint8_t* row = plane_->row(y);
    const int32_t begin = row_begin_[y] - y, end = row_begin_[y + 1] - y - 1;
    const bool at_border = y == 0 || y == grid.height - 1;
    for (int32_t saddle = begin; saddle < end; ++saddle) {
      const int x = saddle_x_[saddle], position = grid.position(y, x);
      background_.add(row[x], {position, saddle + 1, saddle + 1, 0});
      if (at_border) background_.add(row[x], {position, saddle + 1, 0, 0});
    }
    // A peak separates the saddles on its sides, or one of them from the outside.
    for (int32_t peak = begin; peak <= end && begin < end; ++peak) {
      const int x = peak_x_[peak + y];
      const int32_t left = peak == begin ? 0 : peak, right = peak == end ? 0 : peak + 1;
      background_.add(row[x], {grid.position(y, x), left, right, 0});
    }
    if (y > 0 && row_begin_[y + 1] - row_begin_[y - 1] > 2) link_background(y);
  }
  visit_columns([&](int y, int x, uint64_t, uint64_t saddles) {
    for (; saddles != 0; saddles &= saddles - 1) {
      const int column = x + std::countr_zero(saddles);
      const int32_t node = background_node(y, column);
      if (node != 0) background_.add(plane_->row(y)[column], {grid.position(y, column), node, -1, 0});
    }
  });
  background_.sort();
}

double Ridges::peaks_per_row(const Plane<uint8_t>& plane) {
  constexpr int kRowStep = 16;
  const Grid& grid = plane.grid;
  int64_t peaks = 0, rows = 0;
  for (int y = grid.height / 2 % kRowStep; y < grid.height; y += kRowStep, ++rows) {
    const uint8_t* row = plane.row(y);
    bool rising = true;
    for (int x = 0; x < grid.width; x += 64) {
      uint64_t up, down;
      step_bits(row + x, row + x + 1, 1, &up, &down);
      peaks += std::popcount(turns(up, down, rising).peaks);
    }
  }
  return static_cast<double>(peaks) / static_cast<double>(rows);
}

void RidgeSweep::start(const Ridges& ridges, bool background, int nodes) {
  ridges_ = &ridges;
  step_ = 0;
  reset(background, nodes);
  components_.count = nodes;
  if (next_node_.size() < static_cast<size_t>(nodes)) {
    next_node_.resize(nodes);
    last_node_.resize(nodes);
  }
}

void RidgeSweep::start_foreground(const Ridges& ridges) {
  start(ridges, false, static_cast<int>(ridges.peak_x_.size()));
  next_event_ = ridges.foreground_.before(0);
}

void RidgeSweep::start_background(const Ridges& ridges) {
  start(ridges, true, static_cast<int>(ridges.saddle_x_.size()) + 1);
  next_event_ = ridges.background_.before(0);
}

void RidgeSweep::activate(int level, int cut) {
  start_cut(cut);
  level_ = level;
  const int steps = background_ ? level + 1 : 255 - level;
  const RidgeEvent* end = (background_ ? ridges_->background_ : ridges_->foreground_).before(steps);
  const int32_t column_mask = ridges_->plane_->grid.stride() - 1;
  if (!background_) {
    for (; step_ < steps; ++step_) euler_ += ridges_->euler_[step_];
  }
  for (; next_event_ != end; ++next_event_) {
    const RidgeEvent event = *next_event_;
    int32_t root = event.node;
    if (event.other == event.node) {
      create(root);
      next_node_[root] = -1;
      last_node_[root] = root;
    } else {
      root = components_.find(root);
      if (event.other >= 0) {
        const int32_t other = components_.find(event.other);
        if (other != root) {
          const int32_t winner = unite(root, other), loser = winner == root ? other : root;
          if (!background_) {
            next_node_[last_node_[winner]] = loser;
            last_node_[winner] = last_node_[loser];
          }
          root = winner;
        }
      }
    }
    if (background_ && root == 0) continue;
    touch(root);
    const int32_t column = event.position & column_mask;
    const Bounds here = Bounds{~column, column, ~event.position, event.position};
    Component& item = components_.items[root];
    item.bounds = here > item.bounds ? here : item.bounds;
    item.sums[kChords] += event.chords;
  }
}

int32_t RidgeSweep::first(int32_t id) const {
  const Plane<uint8_t>& plane = *ridges_->plane_;
  // The known pixel of the first row lies in its first run.
  int32_t position = components_.items[id].first();
  for (int x = plane.grid.column(position); x > 0; --x, --position) {
    if ((plane.data()[position - 1] > level_) == background_) break;
  }
  return position;
}

int32_t RidgeSweep::component_at(int position, int cut) const {
  const Grid& grid = ridges_->plane_->grid;
  const int y = grid.row(position), x = grid.column(position);
  if (!background_) return root_after(ridges_->foreground_node(y, x), cut);
  // The frame is outside.
  return x < 0 ? 0 : root_after(ridges_->background_node(y, x), cut);
}

// The border of P pixels with C row and column runs has 2 C edges. Counting edges, pixels and the Euler number by 2x2
// windows shows, where there is no hole: the full windows less the diagonal ones are P - C + 1, and no more than C - 2
// windows have three pixels. The area is the full windows and half of those with three.
SizeRange RidgeSweep::area_range(int32_t id) const {
  int64_t pixels = 0;
  for (int32_t node = id; node >= 0; node = next_node_[node]) {
    const auto [first, last] = ridges_->segments_[node];
    pixels += count_reached(ridges_->plane_->data() + first, last - first + 1, level_ + 1);
  }
  const int64_t chords = components_.items[id].sums[kChords];
  return {2 * (pixels - chords + 1), 2 * pixels - chords};
}

}  // namespace wsolfast::boxes
