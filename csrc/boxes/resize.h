// Resizing of float64 maps.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/rule.h"

namespace wsolfast::boxes {

// Rows or columns of a separable resize: `taps` source indices and weights per destination index, replicated borders.
struct ResizeTable {
  int source = 0, target = 0, taps = 0;
  std::vector<int32_t> index;  // [target * taps]
  std::vector<double> weight;  // [target * taps]
};

// Bicubic weights (Keys, IEEE Transactions on Acoustics, Speech, and Signal Processing 29(6), 1981; a = -0.75,
// half-pixel centres) in the arithmetic of OpenCV's INTER_CUBIC: source coordinate and
// weights are rounded to float32, the sums are float64.
void make_cubic_table(int source, int target, ResizeTable& table);

// Bilinear weights, all in float64, with half-pixel centres or with the corner pixels aligned.
void make_linear_table(int source, int target, bool align_corners, ResizeTable& table);

// A row of a bilinear resize before the vertical pass: pixel x is a[x] * a_weight + b[x] * b_weight.
struct BlendedRow {
  const double *a, *b;
  double a_weight, b_weight;

  double at(int x) const { return a[x] * a_weight + b[x] * b_weight; }
};

// Keeps tables and the intermediate rows between calls.
class Resizer {
 public:
  // The horizontal pass; blended_row() gives the rows of a bilinear resize afterwards, bit-equal to those of resize().
  void widen(const double* source, int h, int w, Interpolation interpolation, int height, int width);
  BlendedRow blended_row(int y) const {
    const int32_t* index = &rows_.index[2 * y];
    return {line(index[0]), line(index[1]), rows_.weight[2 * y], rows_.weight[2 * y + 1]};
  }
  // The weights along x and y with which source columns and rows enter the pixels.
  const ResizeTable& columns() const { return columns_; }
  const ResizeTable& rows() const { return rows_; }

  // source [h, w] to target [height, width], both row-major; kNone wants equal sizes. kCubic is bit-equal to OpenCV's
  // INTER_CUBIC on float64.
  void resize(const double* source, int h, int w, Interpolation interpolation, double* target, int height, int width);

 private:
  const double* line(int y) const { return &lines_[static_cast<int64_t>(y) * columns_.target]; }

  Interpolation interpolation_ = Interpolation::kNone;
  ResizeTable rows_, columns_;
  std::vector<double> lines_;  // [h, width], after the horizontal pass
};

}  // namespace wsolfast::boxes
