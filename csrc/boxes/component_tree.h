// The component tree of a map, also called its max-tree (Salembier, Oliveras and Garrido, IEEE Transactions on Image
// Processing 7(4), 1998), built with union-find as by Najman and Couprie (IEEE Transactions on Image Processing 15(11),
// 2006). It is visited level by level: what a component is at a cut is asked for before the next cut changes it, and of
// the tree itself only who absorbed whom at which cut is kept.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/component.h"

namespace wsolfast::boxes {

class ComponentTree {
 public:
  const ComponentSet& components() const { return components_; }

  // Of the last cut: roots that grew (they may have been absorbed since), and components that were absorbed.
  const std::vector<int32_t>& touched() const { return touched_; }
  const std::vector<int32_t>& absorbed() const { return absorbed_; }

  // True for a tree of the background, whose cuts ascend.
  bool is_background() const { return background_; }

  // Roots, without component 0 of a background, in no order.
  const std::vector<int32_t>& live() const { return live_; }

  // Components minus holes over the whole foreground: its Euler number.
  int euler() const { return euler_; }

 protected:
  static constexpr int32_t kNever = INT32_MIN;

  // Component 0 of a background, which takes whatever it unites with, is created here; it carries nothing.
  void reset(bool background, size_t capacity);
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
  std::vector<int32_t> absorbed_by_;  // parent in the tree; paths are not compressed
  std::vector<int32_t> absorbed_at_;  // the cut of that; absorbed_by_ is valid from there on
  std::vector<int32_t> live_index_;   // of a root in live_
  std::vector<int32_t> touched_, absorbed_, live_;
};

}  // namespace wsolfast::boxes
