// Components of every foreground (or background) at once: pixels are activated cut by cut.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/component.h"
#include "boxes/neighborhood.h"

namespace wsolfast::boxes {

class Sweep {
 public:
  // The foreground grows from the highest cut down; every component is kept.
  void start_foreground(const Grid& grid, int connectivity);

  // The background grows from a low cut up, 4-connected (the foreground is 8-connected). Component 0 is what reaches
  // the image's border; it carries nothing. Pixels that are never activated belong to it.
  void start_background(const Grid& grid);

  // Activates the pixels that a cut adds, in PixelOrder; the background takes them from the end. Foreground cuts
  // descend, background cuts ascend.
  void activate(std::span<const uint32_t> pixels, int cut);

  const ComponentSet& components() const { return components_; }
  ComponentSet& components() { return components_; }

  // Of the last cut: roots that grew (they may have been absorbed since), and components that were absorbed.
  const std::vector<int32_t>& touched() const { return touched_; }
  const std::vector<int32_t>& absorbed() const { return absorbed_; }

  // Roots, without component 0 of the background, in no order.
  const std::vector<int32_t>& live() const { return live_; }

  // Components minus holes over the whole foreground.
  int euler() const { return euler_; }

  // The root of an active pixel as it was after `cut`.
  int32_t component_at(int position, int cut) const;

 private:
  friend struct SweepKernel;

  void start(const Grid& grid, size_t capacity);
  int32_t create();
  int32_t unite(int32_t a, int32_t b);
  void touch(int32_t root) {
    if (stamp_[root] == cut_) return;
    stamp_[root] = cut_;
    touched_.push_back(root);
  }

  Grid grid_;
  bool background_ = false;
  int cut_ = 0, euler_ = 0;
  const ActivationTable* table_ = &kActivation8;
  int32_t offset_[8] = {};
  int32_t join_offset_[256] = {};  // to the neighbour to join, by mask; 0 where a pixel starts or unites components
  ComponentSet components_;
  std::vector<int32_t> label_;        // component that each pixel joined when it was activated
  std::vector<int32_t> stamp_;        // cut at which a root was touched last
  std::vector<int32_t> heir_;         // who absorbed a component; paths are not compressed
  std::vector<int32_t> absorbed_at_;  // the cut of that; heir_ is valid from there on
  std::vector<int32_t> place_;        // of a root in live_
  std::vector<int32_t> touched_, absorbed_, live_;
};

}  // namespace wsolfast::boxes
