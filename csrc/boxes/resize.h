// Resizing of float64 maps.
#pragma once

#include <cstdint>
#include <vector>

namespace wsolfast::boxes {

enum class Interpolation { kNone, kCubic, kLinear, kLinearCorners };

// Rows or columns of a separable resize: `taps` source indices and weights per destination index, replicated borders.
struct ResizeTable {
  int source = 0, target = 0, taps = 0;
  std::vector<int32_t> index;  // [target * taps]
  std::vector<double> weight;  // [target * taps]
};

// Bicubic weights (a = -0.75, half-pixel centres) in the arithmetic of OpenCV's INTER_CUBIC: source coordinate and
// weights are rounded to float32, the sums are float64.
void make_cubic_table(int source, int target, ResizeTable& table);

// Bilinear weights, all in float64, with half-pixel centres or with the corner pixels aligned.
void make_linear_table(int source, int target, bool align_corners, ResizeTable& table);

// Keeps tables and the intermediate rows between calls.
class Resizer {
 public:
  // source [h, w] to target [height, width], both row-major; kNone wants equal sizes. kCubic is bit-equal to OpenCV's
  // INTER_CUBIC on float64.
  void resize(const double* source, int h, int w, Interpolation interpolation, double* target, int height, int width);

 private:
  Interpolation interpolation_ = Interpolation::kNone;
  ResizeTable rows_, columns_;
  std::vector<double> lines_;  // [h, width], after the horizontal pass
};

}  // namespace wsolfast::boxes
