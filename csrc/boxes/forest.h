// Components that are followed from cut to cut while they are born, grow and unite.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/component.h"

namespace wsolfast::boxes {

class Forest {
 public:
  const ComponentSet& components() const { return components_; }

  // Of the last cut: roots that grew (they may have been absorbed since), and components that were absorbed.
  const std::vector<int32_t>& touched() const { return touched_; }
  const std::vector<int32_t>& absorbed() const { return absorbed_; }

  // Roots, without component 0 of a background, in no order.
  const std::vector<int32_t>& live() const { return live_; }

  // Components minus holes over the whole foreground.
  int euler() const { return euler_; }

 protected:
  static constexpr int32_t kNever = INT32_MIN;

  // Component 0 of a background, which takes whatever it unites with, is created here; it carries nothing.
  void plant(bool background, size_t capacity);
  void start_cut(int cut) {
    cut_ = cut;
    touched_.clear();
    absorbed_.clear();
  }
  void create(int32_t id);
  int32_t unite(int32_t a, int32_t b);
  void touch(int32_t root) {
    if (stamp_[root] == cut_) return;
    stamp_[root] = cut_;
    touched_.push_back(root);
  }
  // The root of a component as it was after `cut`.
  int32_t root_after(int32_t id, int cut) const;

  bool background_ = false;
  int cut_ = 0, euler_ = 0;
  ComponentSet components_;
  std::vector<int32_t> stamp_;        // cut at which a root was touched last
  std::vector<int32_t> heir_;         // who absorbed a component; paths are not compressed
  std::vector<int32_t> absorbed_at_;  // the cut of that; heir_ is valid from there on
  std::vector<int32_t> place_;        // of a root in live_
  std::vector<int32_t> touched_, absorbed_, live_;
};

}  // namespace wsolfast::boxes
