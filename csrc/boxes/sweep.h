// The component tree over all pixels, of the foreground or of the background: pixels are activated in the order of
// their levels, each joined to the components of its active neighbours.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/component_tree.h"
#include "boxes/neighborhood.h"

namespace wsolfast::boxes {

class Sweep : public ComponentTree {
 public:
  // The foreground grows from the highest cut down; every component is kept.
  void start_foreground(const Grid& grid, int connectivity);

  // The background grows from a low cut up, 4-connected (the foreground is 8-connected). Component 0 is what reaches
  // the image's border; it carries nothing. Pixels that are never activated belong to it.
  void start_background(const Grid& grid);

  // Activates the pixels that a cut adds, in PixelOrder; the background takes them from the end. Foreground cuts
  // descend, background cuts ascend.
  void activate(std::span<const uint32_t> pixels, int cut);

  // Components whose pixels changed at the last cut.
  const std::vector<int32_t>& grown() const { return touched_; }

  // The component's first pixel in raster order.
  int32_t first(int32_t id) const { return components_.items[id].first(); }

  // The root of an active pixel as it was after `cut`.
  int32_t component_at(int position, int cut) const { return root_after(label_[position], cut); }

 private:
  friend struct SweepKernel;

  void start(const Grid& grid, bool background, size_t capacity);

  Grid grid_;
  const ActivationTable* table_ = &kActivation8;
  int32_t offset_[8] = {};
  int32_t join_offset_[256] = {};  // to the neighbour to join, by mask; 0 where a pixel starts or unites components
  std::vector<int32_t> label_;     // component that each pixel joined when it was activated
};

}  // namespace wsolfast::boxes
