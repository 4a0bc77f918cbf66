// Finds the winning component of a cut without measuring more contours than the bounds leave open.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/component.h"

namespace wsolfast::boxes {

struct SizeRange {
  int64_t lower, upper;
};

// While the cut falls components only grow, and what a component absorbs never shrinks it, so the best lower bound only
// rises: a component whose upper bound is below it is out until it grows again.
class Selector {
 public:
  void reset(Selection selection, const Grid& grid) {
    selection_ = selection;
    grid_ = grid;
    best_ = 0;
    known_ = 0;
    candidates_.clear();
  }

  // The winner among the roots of `set`, or -1 without any. `touched` lists the components that changed since the last
  // call. Of a component, areas.first(id) is its first pixel; twice its contour area lies in areas.bounds(id), more
  // closely in areas.estimate(id), and is areas.measure(id).
  template <typename AreaBounds>
  int32_t winner(const ComponentSet& set, std::span<const int32_t> touched, const AreaBounds& areas) {
    for (int32_t id : touched) {
      if (!set.is_root(id)) continue;
      while (known_ <= id) forget(known_++);
      State& state = state_[id];
      narrow(state, selection_ == Selection::kContourArea ? areas.bounds(id) : size_of(set.items[id]));
      if (!state.listed) {
        state.listed = true;
        candidates_.push_back(id);
      }
    }
    keep_possible(set);
    if (candidates_.size() > 1 && selection_ == Selection::kContourArea) {
      // The largest first: it puts the others out of the question more often than not.
      const auto less = [&](int32_t a, int32_t b) { return state_[a].upper < state_[b].upper; };
      std::swap(candidates_.front(), *std::max_element(candidates_.begin(), candidates_.end(), less));
      for (int32_t id : candidates_) {
        if (is_open(state_[id])) narrow(state_[id], areas.estimate(id));
      }
      keep_possible(set);
    }
    if (candidates_.size() > 1 && selection_ == Selection::kContourArea) {
      for (int32_t id : candidates_) {
        if (!is_open(state_[id])) continue;
        const int64_t area = areas.measure(id);
        narrow(state_[id], {area, area});
      }
      keep_possible(set);
    }
    if (candidates_.size() == 1) return candidates_.front();
    int32_t chosen = -1;
    for (int32_t id : candidates_) {
      if (chosen < 0 || precedes(areas.first(id), areas.first(chosen))) chosen = id;
    }
    return chosen;
  }

 private:
  struct State {
    int64_t lower, upper;  // of the size that the selection compares
    bool listed;
  };

  void forget(int32_t id) {
    if (state_.size() <= static_cast<size_t>(id)) state_.resize(id + 1 + id / 2);
    state_[id] = State{0, 0, false};
  }

  SizeRange size_of(const Component& item) const {
    const Extent extent = item.extent(grid_);
    const int64_t box = int64_t{extent.x1 - extent.x0 + 1} * (extent.y1 - extent.y0 + 1);
    const int64_t size = selection_ == Selection::kBoxArea ? box : item.pixels();
    return {size, size};
  }

  // A size known before the component grew still bounds it from below.
  void narrow(State& state, const SizeRange& range) {
    state.lower = std::max(state.lower, range.lower);
    state.upper = range.upper;
    best_ = std::max(best_, state.lower);
  }

  bool is_open(const State& state) const { return state.lower != state.upper && state.upper >= best_; }

  void keep_possible(const ComponentSet& set) {
    std::erase_if(candidates_, [&](int32_t id) {
      const bool out = !set.is_root(id) || state_[id].upper < best_;
      if (out) state_[id].listed = false;
      return out;
    });
  }

  // OpenCV lists contours from the last first pixel to the first, labellers the other way round; the first listed wins.
  bool precedes(int32_t a, int32_t b) const { return selection_ == Selection::kContourArea ? a > b : a < b; }

  Selection selection_ = Selection::kContourArea;
  Grid grid_;
  int64_t best_ = 0;
  int32_t known_ = 0;
  std::vector<State> state_;
  std::vector<int32_t> candidates_;
};

}  // namespace wsolfast::boxes
