// Finds the winning component of a cut without measuring more contours than the bounds leave open.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/component.h"

namespace wsolfast::boxes {

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
  // call; `measure(first)` is twice the contour area of the component that starts at that position.
  template <typename Measure>
  int32_t winner(const ComponentSet& set, std::span<const int32_t> touched, Measure&& measure) {
    for (int32_t id : touched) {
      if (!set.is_root(id)) continue;
      while (known_ <= id) forget(known_++);
      bound(set.items[id], state_[id]);
      if (state_[id].lower > best_) best_ = state_[id].lower;
      if (!state_[id].listed) {
        state_[id].listed = true;
        candidates_.push_back(id);
      }
    }
    keep_possible(set);
    if (candidates_.size() > 1 && selection_ == Selection::kContourArea) {
      for (int32_t id : candidates_) {
        State& state = state_[id];
        if (state.lower == state.upper || state.upper < best_) continue;
        state.lower = state.upper = measure(set.items[id].first());
        if (state.lower > best_) best_ = state.lower;
      }
      keep_possible(set);
    }
    int32_t chosen = -1;
    for (int32_t id : candidates_) {
      if (chosen < 0 || precedes(set.items[id].first(), set.items[chosen].first())) chosen = id;
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

  void bound(const Component& item, State& state) const {
    const Extent extent = item.extent(grid_);
    const int64_t width = extent.x1 - extent.x0, height = extent.y1 - extent.y0;
    if (selection_ == Selection::kBoxArea) {
      state.lower = state.upper = (width + 1) * (height + 1);
    } else if (selection_ == Selection::kPixelArea) {
      state.lower = state.upper = item.pixels();
    } else if (item.euler() == 1) {
      state.lower = state.upper = item.doubled_area();
    } else {
      // An area measured before the component grew still bounds it from below.
      state.lower = std::max<int64_t>(state.lower, item.doubled_area());
      state.upper = 2 * width * height;
    }
  }

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
