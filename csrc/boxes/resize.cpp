#include "boxes/resize.h"

#include <algorithm>
#include <cmath>

#include "boxes/simd.h"

namespace wsolfast::boxes {
namespace {

void start_table(int source, int target, int taps, ResizeTable& table) {
  table.source = source;
  table.target = target;
  table.taps = taps;
  table.index.resize(static_cast<size_t>(target) * taps);
  table.weight.resize(static_cast<size_t>(target) * taps);
}

// The additions run left to right, ((t0 w0 + t1 w1) + t2 w2) + t3 w3: OpenCV's order, which the last bit depends on.
WSOLFAST_INLINE void combine4_body(const double* const* rows, const double* weight, double* out, int width) {
  const double *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const double wa = weight[0], wb = weight[1], wc = weight[2], wd = weight[3];
  for (int x = 0; x < width; ++x) out[x] = ((a[x] * wa + b[x] * wb) + c[x] * wc) + d[x] * wd;
}
WSOLFAST_DISPATCH(combine4, (const double* const* rows, const double* weight, double* out, int width),
                  (rows, weight, out, width))

WSOLFAST_INLINE void combine2_body(const double* const* rows, const double* weight, double* out, int width) {
  const double *a = rows[0], *b = rows[1];
  const double wa = weight[0], wb = weight[1];
  for (int x = 0; x < width; ++x) out[x] = a[x] * wa + b[x] * wb;
}
WSOLFAST_DISPATCH(combine2, (const double* const* rows, const double* weight, double* out, int width),
                  (rows, weight, out, width))

void resize_line(const double* line, const ResizeTable& table, double* out) {
  const int32_t* index = table.index.data();
  const double* weight = table.weight.data();
  if (table.taps == 2) {
    for (int x = 0; x < table.target; ++x, index += 2, weight += 2) {
      out[x] = line[index[0]] * weight[0] + line[index[1]] * weight[1];
    }
    return;
  }
  for (int x = 0; x < table.target; ++x, index += 4, weight += 4) {
    out[x] = ((line[index[0]] * weight[0] + line[index[1]] * weight[1]) + line[index[2]] * weight[2]) +
             line[index[3]] * weight[3];
  }
}

}  // namespace

void make_cubic_table(int source, int target, ResizeTable& table) {
  start_table(source, target, 4, table);
  const double scale = 1.0 / (static_cast<double>(target) / source);
  constexpr float kA = -0.75f;
  for (int i = 0; i < target; ++i) {
    const float coordinate = static_cast<float>((i + 0.5) * scale - 0.5);
    const int start = static_cast<int>(std::floor(coordinate));
    const float f = coordinate - static_cast<float>(start);
    const float g = 1.0f - f;
    float weight[4];
    weight[0] = ((kA * (f + 1.0f) - 5.0f * kA) * (f + 1.0f) + 8.0f * kA) * (f + 1.0f) - 4.0f * kA;
    weight[1] = ((kA + 2.0f) * f - (kA + 3.0f)) * f * f + 1.0f;
    weight[2] = ((kA + 2.0f) * g - (kA + 3.0f)) * g * g + 1.0f;
    weight[3] = 1.0f - weight[0] - weight[1] - weight[2];
    for (int tap = 0; tap < 4; ++tap) {
      table.index[i * 4 + tap] = std::clamp(start - 1 + tap, 0, source - 1);
      table.weight[i * 4 + tap] = static_cast<double>(weight[tap]);
    }
  }
}

void make_linear_table(int source, int target, bool align_corners, ResizeTable& table) {
  start_table(source, target, 2, table);
  const double scale = static_cast<double>(source) / target;
  const double corner_scale = target > 1 ? static_cast<double>(source - 1) / (target - 1) : 0.0;
  for (int i = 0; i < target; ++i) {
    const double wanted = align_corners ? i * corner_scale : (i + 0.5) * scale - 0.5;
    const double coordinate = std::clamp(wanted, 0.0, source - 1.0);
    const int start = static_cast<int>(coordinate);
    const double f = coordinate - start;
    table.index[i * 2] = start;
    table.index[i * 2 + 1] = std::min(start + 1, source - 1);
    table.weight[i * 2] = 1.0 - f;
    table.weight[i * 2 + 1] = f;
  }
}

void Resizer::widen(const double* source, int h, int w, Interpolation interpolation, int height, int width) {
  const auto make_table = [&](int from, int to, ResizeTable& table) {
    if (interpolation == interpolation_ && table.source == from && table.target == to) return;
    if (interpolation == Interpolation::kCubic) {
      make_cubic_table(from, to, table);
    } else {
      make_linear_table(from, to, interpolation == Interpolation::kLinearCorners, table);
    }
  };
  make_table(h, height, rows_);
  make_table(w, width, columns_);
  interpolation_ = interpolation;
  lines_.resize(static_cast<size_t>(h) * width);
  for (int y = 0; y < h; ++y) resize_line(source + static_cast<size_t>(y) * w, columns_, &lines_[size_t(y) * width]);
}

void Resizer::resize(const double* source, int h, int w, Interpolation interpolation, double* target, int height,
                     int width) {
  if (h == height && w == width) {
    std::copy(source, source + static_cast<size_t>(h) * w, target);
    return;
  }
  widen(source, h, w, interpolation, height, width);
  const int taps = rows_.taps;
  for (int y = 0; y < height; ++y) {
    const double* rows[4];
    for (int tap = 0; tap < taps; ++tap) rows[tap] = line(rows_.index[y * taps + tap]);
    double* out = target + static_cast<size_t>(y) * width;
    (taps == 4 ? combine4 : combine2)(rows, &rows_.weight[y * taps], out, width);
  }
}

}  // namespace wsolfast::boxes
