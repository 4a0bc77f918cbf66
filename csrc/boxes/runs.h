// Run-length connected components of one foreground (He, Chao and Suzuki, IEEE Transactions on Image Processing 17(5),
// 2008): runs of a row are joined to those of the row above that they touch. The faster way for few cuts.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/component.h"
#include "boxes/plane.h"

namespace wsolfast::boxes {

struct Run {
  int32_t x0, x1;  // last pixel included
  int32_t label;
};

// Runs row by row and the components they form.
struct RunLabels {
  std::vector<Run> runs;
  std::vector<int32_t> row_begin;  // [height + 1]
  ComponentSet components;
  std::vector<int32_t> roots;  // without component 0 of the background

  int32_t component_at(const Grid& grid, int position);
};

class Runs {
 public:
  // Components of `level > cut`; -1 takes every pixel.
  void label_foreground(const Plane<uint8_t>& plane, int cut, int connectivity);

  // Holes of the last foreground, 4-connected. Component 0 is the background that reaches the border.
  void label_background();

  RunLabels& foreground() { return foreground_; }
  RunLabels& background() { return background_; }

  // Components minus holes over the whole foreground: its Euler number.
  int euler() const { return euler_; }

 private:
  Grid grid_;
  int euler_ = 0;
  RunLabels foreground_, background_;
  std::vector<uint64_t> bits_;
};

}  // namespace wsolfast::boxes
