// The Gaussian that is fitted to a class map, in arithmetic that a CPU and a GPU round alike: sums, products, quotients
// and square roots only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define WSOLFAST_EVERYWHERE __host__ __device__
#else
#define WSOLFAST_EVERYWHERE
#endif

namespace wsolfast::gaussian_prior {

constexpr uint8_t kBackground = 0, kObject = 1, kIgnore = 255;
constexpr double kMaximumEps = 1e-6, kLeastWeight = 1e-12, kPixelVariance = 1.0 / 12;

struct Rule {
  double weight_low, weight_high;
  bool per_contour;
  double min_area, covariance_scale;
  bool grid_max;
  double object_cam, object_gaussian, background_cam, background_gaussian;
  bool empty_background;

  WSOLFAST_EVERYWHERE bool uses_gaussians() const { return object_gaussian < 1 || background_gaussian < 1; }
  // The resized map lies in [0, 1).
  WSOLFAST_EVERYWHERE bool weighs_everything() const { return !(weight_low > 0 || weight_high <= 1); }
};

// Weighted sums over pixels; x and y are relative to the middle of the grid.
struct Moments {
  double weight = 0, x = 0, y = 0, xx = 0, xy = 0, yy = 0;

  WSOLFAST_EVERYWHERE void operator+=(const Moments& other) {
    weight += other.weight;
    x += other.x;
    y += other.y;
    xx += other.xx;
    xy += other.xy;
    yy += other.yy;
  }
};

// The moments of a row of pixels from its sums of w, w x and w x^2.
WSOLFAST_EVERYWHERE inline Moments of_row(const double sums[3], int y, int height) {
  const double dy = y - (height - 1) / 2.0;
  return {sums[0], sums[1], sums[0] * dy, sums[2], sums[1] * dy, sums[0] * dy * dy};
}

// The moments of one pixel.
WSOLFAST_EVERYWHERE inline Moments of_pixel(double weight, int y, int x, int height, int width) {
  const double dx = x - (width - 1) / 2.0, dy = y - (height - 1) / 2.0;
  return {weight, weight * dx, weight * dy, weight * dx * dx, weight * dx * dy, weight * dy * dy};
}

// The moments of a row of the map before the resize, whose sums are weighted along x already.
WSOLFAST_EVERYWHERE inline Moments of_source_row(const double sums[3], const double* weights) {
  return {weights[0] * sums[0], weights[0] * sums[1], weights[1] * sums[0],
          weights[0] * sums[2], weights[1] * sums[1], weights[2] * sums[0]};
}

// exp(-q/2) with q = a dx^2 + 2 b dx dy + c dy^2 - least around (x, y), in pixels.
struct Gaussian {
  double x, y, a, b, c, least;

  WSOLFAST_EVERYWHERE double form_at(double at_x, double at_y) const {
    const double dx = at_x - x, dy = at_y - y;
    return a * dx * dx + 2 * b * dx * dy + c * dy * dy;
  }
};

WSOLFAST_EVERYWHERE inline Gaussian fit(const Moments& m, double scale, int height, int width) {
  const double mean_x = m.x / m.weight, mean_y = m.y / m.weight;
  double xx = m.xx / m.weight - mean_x * mean_x, yy = m.yy / m.weight - mean_y * mean_y;
  double xy = m.xy / m.weight - mean_x * mean_y;
  // Eigenvalues below the variance of one pixel are raised to it. Not by hypot(), whose last bit is the library's.
  const double middle = (xx + yy) / 2, apart = (xx - yy) / 2, half = std::sqrt(apart * apart + xy * xy);
  const double least = kPixelVariance, large = std::max(least, middle + half), small = std::max(least, middle - half);
  if (middle - half < least) {
    const double share = half > 0 ? (large - small) / (2 * half) : 0.0;
    const double rest = small - share * (middle - half);
    xx = rest + share * xx;
    yy = rest + share * yy;
    xy *= share;
  }
  const double determinant = large * small * scale;
  return {mean_x + (width - 1) / 2.0, mean_y + (height - 1) / 2.0,
          yy / determinant,           -xy / determinant,
          xx / determinant,           0};
}

// The largest q at which exp(-q/2) still reaches `value`. For the host: a logarithm is rounded as the library likes.
inline double reach_of(double value) {
  return value > 0 ? -2 * std::log(value) : std::numeric_limits<double>::infinity();
}

// The pixels of a row from x0 to x1, x1 included; none where x0 > x1.
struct Span {
  int x0, x1;
};

// The pixels of a grid at which q <= reach, or q < reach without the border.
class Ellipse {
 public:
  WSOLFAST_EVERYWHERE Ellipse(const Gaussian& gaussian, double reach, bool border, int height, int width)
      : g_(gaussian), reach_(reach), border_(border), width_(width) {
    if (!(reach >= 0)) return;
    // The roots say where to look, with a pixel of slack; q decides.
    determinant_ = g_.a * g_.c - g_.b * g_.b;
    form_ = reach + g_.least;
    const double tall = std::sqrt(form_ * g_.a / determinant_) + 1;
    begin_ = clamped(g_.y - tall, height);
    end_ = clamped(g_.y + tall + 1, height);
  }

  // The rows outside [begin, end) have no pixels.
  WSOLFAST_EVERYWHERE int begin() const { return begin_; }
  WSOLFAST_EVERYWHERE int end() const { return end_; }

  WSOLFAST_EVERYWHERE Span row(int y) const {
    if (y < begin_ || y >= end_) return {0, -1};
    const double dy = y - g_.y, middle = g_.x - g_.b * dy / g_.a;
    const double half = std::sqrt(std::max(0.0, g_.a * form_ - determinant_ * dy * dy)) / g_.a + 1;
    Span span{clamped(middle - half, width_), clamped(middle + half + 1, width_) - 1};
    while (span.x0 <= span.x1 && !contains(span.x0, y)) ++span.x0;
    while (span.x0 <= span.x1 && !contains(span.x1, y)) --span.x1;
    return span;
  }

 private:
  WSOLFAST_EVERYWHERE static int clamped(double value, int limit) {
    return static_cast<int>(std::clamp(value, 0.0, static_cast<double>(limit)));
  }
  WSOLFAST_EVERYWHERE bool contains(int x, int y) const {
    const double q = g_.form_at(x, y) - g_.least;
    return border_ ? q <= reach_ : q < reach_;
  }

  Gaussian g_;
  double reach_, form_ = 0, determinant_ = 0;
  bool border_;
  int width_, begin_ = 0, end_ = 0;
};

// The pixels among which q is least: the mean lies within the grid, so a pixel within half a step of it bounds q.
WSOLFAST_EVERYWHERE inline Ellipse around_mean(const Gaussian& g, int height, int width) {
  return {g, g.form_at(std::round(g.x), std::round(g.y)), true, height, width};
}

// The least q of a pixel, over every `step`th of the rows that come into question.
WSOLFAST_EVERYWHERE inline double least_form(const Gaussian& g, int height, int width, int first, int step) {
  const Ellipse around = around_mean(g, height, width);
  double least = g.form_at(std::round(g.x), std::round(g.y));
  for (int y = around.begin() + first; y < around.end(); y += step) {
    const Span span = around.row(y);
    for (int x = span.x0; x <= span.x1; ++x) least = std::min(least, g.form_at(x, y));
  }
  return least;
}

}  // namespace wsolfast::gaussian_prior
