#include "boxes/component_tree.h"

namespace wsolfast::boxes {

void ComponentTree::reset(bool background, size_t capacity) {
  background_ = background;
  euler_ = 0;
  components_.reset(capacity);
  if (stamp_.size() < capacity) {
    stamp_.resize(capacity);
    absorbed_by_.resize(capacity);
    absorbed_at_.resize(capacity);
    live_index_.resize(capacity);
  }
  touched_.clear();
  absorbed_.clear();
  live_.clear();
  if (!background) return;
  create(components_.count++);
  live_.clear();
}

void ComponentTree::create(int32_t id) {
  components_.items[id] = Component{Bounds{} + INT32_MIN, Bounds{}};
  components_.parent[id] = id;
  stamp_[id] = kNever;
  absorbed_at_[id] = kNever;
  live_index_[id] = static_cast<int32_t>(live_.size());
  live_.push_back(id);
}

int32_t ComponentTree::unite(int32_t a, int32_t b) {
  if (a == b) return a;
  // Component 0 of the background stays a root; otherwise the deeper tree does.
  const bool a_wins =
      (background_ && (a == 0 || b == 0)) ? a == 0 : components_.items[a].rank() >= components_.items[b].rank();
  const int32_t winner = a_wins ? a : b, loser = a_wins ? b : a;
  components_.absorb(winner, loser);
  absorbed_by_[loser] = winner;
  absorbed_at_[loser] = cut_;
  absorbed_.push_back(loser);
  live_[live_index_[loser]] = live_.back();
  live_index_[live_.back()] = live_index_[loser];
  live_.pop_back();
  return winner;
}

int32_t ComponentTree::root_after(int32_t id, int cut) const {
  while (absorbed_at_[id] != kNever && (background_ ? absorbed_at_[id] <= cut : absorbed_at_[id] >= cut)) {
    id = absorbed_by_[id];
  }
  return id;
}

}  // namespace wsolfast::boxes
