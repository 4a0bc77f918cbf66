#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "boxes/resize.h"
#include "boxes/runs.h"
#include "boxes/simd.h"
#include "boxes/trace.h"
#include "common/gaussian_prior.h"
#include "cpu/score_maps.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using wsolfast::boxes::active_simd;
using wsolfast::boxes::BlendedRow;
using wsolfast::boxes::Component;
using wsolfast::boxes::ContourKind;
using wsolfast::boxes::Grid;
using wsolfast::boxes::Plane;
using wsolfast::boxes::ResizeTable;
using wsolfast::boxes::Run;
using wsolfast::boxes::RunLabels;
using wsolfast::boxes::Simd;
using namespace wsolfast::gaussian_prior;

constexpr const char* kOp = "gaussian_prior_labels";

// Sums of w, w x and w x^2 over the pixels [begin, end) of a row whose value lies in the band; x counts from `origin`.
WSOLFAST_INLINE void row_sums_body(const BlendedRow& row, int begin, int end, double origin, double low, double high,
                                   double sums[3]) {
  constexpr int kLanes = 8;
  const double *a = row.a, *b = row.b;
  const double a_weight = row.a_weight, b_weight = row.b_weight;
  double weight[kLanes] = {}, wx[kLanes] = {}, wxx[kLanes] = {};
  int first = begin;
  for (; first + kLanes <= end; first += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const double value = a[first + i] * a_weight + b[first + i] * b_weight, x = origin + (first + i);
      const double inside = value >= low && value <= high ? value : 0.0;
      weight[i] += inside;
      wx[i] += inside * x;
      wxx[i] += inside * x * x;
    }
  }
  for (int i = 0; first + i < end; ++i) {
    const double value = row.at(first + i), x = origin + (first + i);
    const double inside = value >= low && value <= high ? value : 0.0;
    weight[i] += inside;
    wx[i] += inside * x;
    wxx[i] += inside * x * x;
  }
  sums[0] = sums[1] = sums[2] = 0;
  for (int i = 0; i < kLanes; ++i) {
    sums[0] += weight[i];
    sums[1] += wx[i];
    sums[2] += wxx[i];
  }
}
WSOLFAST_DISPATCH(row_sums,
                  (const BlendedRow& row, int begin, int end, double origin, double low, double high, double sums[3]),
                  (row, begin, end, origin, low, high, sums))

// The comparisons of float64 become masks of 64 bits, which narrow to bytes without a branch.
WSOLFAST_INLINE void label_row_body(const BlendedRow& row, int width, double object, double background,
                                    uint8_t* __restrict labels) {
  static_assert(kBackground == 0 && kObject == 1 && kIgnore == 255);
  const double* __restrict a = row.a, * __restrict b = row.b;
  const double a_weight = row.a_weight, b_weight = row.b_weight;
  for (int x = 0; x < width; ++x) {
    const double value = a[x] * a_weight + b[x] * b_weight;
    const int64_t above = value > object ? -1 : 0, below = value < background ? -1 : 0;
    labels[x] = static_cast<uint8_t>((above & kObject) | (~above & ~below));
  }
}
WSOLFAST_DISPATCH(label_row, (const BlendedRow& row, int width, double object, double background, uint8_t* labels),
                  (row, width, object, background, labels))

WSOLFAST_INLINE void mark_band_body(const BlendedRow& row, int width, double low, double high,
                                    uint8_t* __restrict level) {
  const double* __restrict a = row.a, * __restrict b = row.b;
  const double a_weight = row.a_weight, b_weight = row.b_weight;
  for (int x = 0; x < width; ++x) {
    const double value = a[x] * a_weight + b[x] * b_weight;
    const int64_t positive = value > 0 ? 1 : 0, reached = value >= low ? 1 : 0, within = value <= high ? 1 : 0;
    level[x] = static_cast<uint8_t>(positive & reached & within);
  }
}
WSOLFAST_DISPATCH(mark_band, (const BlendedRow& row, int width, double low, double high, uint8_t* level),
                  (row, width, low, high, level))

// Sums of 1, p and p^2 over the pixels of an axis, p counted from its middle, each weighted as it enters source pixel
// i: sums[3 * i] and the next two.
void axis_moments(const ResizeTable& table, std::vector<double>& sums) {
  sums.assign(3 * static_cast<size_t>(table.source), 0.0);
  for (int i = 0; i < table.target; ++i) {
    const double p = i - (table.target - 1) / 2.0;
    for (int tap = 0; tap < table.taps; ++tap) {
      const double weight = table.weight[i * table.taps + tap];
      double* at = &sums[3 * static_cast<size_t>(table.index[i * table.taps + tap])];
      at[0] += weight;
      at[1] += weight * p;
      at[2] += weight * p * p;
    }
  }
}

// Calls function(y, x0, x1) for the pixels of each row, x1 included.
template <typename Function>
void visit(const Ellipse& ellipse, const Function& function) {
  for (int y = ellipse.begin(); y < ellipse.end(); ++y) {
    const auto [x0, x1] = ellipse.row(y);
    if (x0 <= x1) function(y, x0, x1);
  }
}

// Scratch of one thread.
class Labeller {
 public:
  void label(const double* cam, int h, int w, int height, int width, const Rule& rule, uint8_t* labels) {
    double top = 0;
    for (int i = 0; i < h * w; ++i) {
      WSOLFAST_CHECK(std::isfinite(cam[i]), kOp, "expected finite maps, got ", cam[i]);
      top = std::max(top, cam[i]);
    }
    if (top == 0) {
      std::fill_n(labels, static_cast<int64_t>(height) * width, rule.empty_background ? kBackground : kIgnore);
      return;
    }
    coarse_.resize(h * w);
    for (int i = 0; i < h * w; ++i) coarse_[i] = std::max(0.0, cam[i]) / (top + kMaximumEps);
    resizer_.widen(coarse_.data(), h, w, wsolfast::boxes::Interpolation::kLinear, height, width);
    grid_ = Grid(height, width);

    gaussians_.clear();
    if (rule.uses_gaussians() && rule.per_contour) {
      contour_gaussians(rule);
    } else if (rule.uses_gaussians()) {
      keep(of_map(rule), rule);
    }
    const auto row_of = [&](int y) { return labels + static_cast<int64_t>(y) * width; };
    for (int y = 0; y < height; ++y) {
      label_row(resizer_.blended_row(y), width, rule.object_cam, rule.background_cam, row_of(y));
    }
    for (const Gaussian& g : gaussians_) {
      visit({g, reach_of(rule.background_gaussian), true, height, width},
            [&](int y, int x0, int x1) { std::replace(row_of(y) + x0, row_of(y) + x1 + 1, kBackground, kIgnore); });
    }
    for (const Gaussian& g : gaussians_) {
      visit({g, reach_of(rule.object_gaussian), false, height, width},
            [&](int y, int x0, int x1) { std::fill(row_of(y) + x0, row_of(y) + x1 + 1, kObject); });
    }
  }

 private:
  Moments of_run(int y, const Run& run, const Rule& rule) const {
    double sums[3];
    row_sums(resizer_.blended_row(y), run.x0, run.x1 + 1, -(grid_.width - 1) / 2.0, rule.weight_low, rule.weight_high,
             sums);
    return of_row(sums, y, grid_.height);
  }

  // Where the band leaves nothing out the moments are linear in the map before the resize.
  Moments of_map(const Rule& rule) {
    Moments whole;
    if (!rule.weighs_everything()) {
      for (int y = 0; y < grid_.height; ++y) whole += of_run(y, {0, grid_.width - 1, 0}, rule);
      return whole;
    }
    axis_moments(resizer_.columns(), along_x_);
    axis_moments(resizer_.rows(), along_y_);
    const int h = resizer_.rows().source, w = resizer_.columns().source;
    for (int y = 0; y < h; ++y) {
      double sums[3] = {};
      for (int x = 0; x < w; ++x) {
        const double value = coarse_[y * w + x], *weights = &along_x_[3 * x];
        for (int power = 0; power < 3; ++power) sums[power] += value * weights[power];
      }
      whole += of_source_row(sums, &along_y_[3 * y]);
    }
    return whole;
  }

  void keep(const Moments& moments, const Rule& rule) {
    if (!(moments.weight > kLeastWeight)) return;
    Gaussian g = fit(moments, rule.covariance_scale, grid_.height, grid_.width);
    if (rule.grid_max) g.least = least_form(g, grid_.height, grid_.width, 0, 1);
    gaussians_.push_back(g);
  }

  // One Gaussian per contour of the band, outer ones and those of holes. A contour's region is what it encloses, the
  // pixels on it included; a hole's contour runs on the pixels around the hole.
  void contour_gaussians(const Rule& rule) {
    plane_.reset(grid_);
    for (int y = 0; y < grid_.height; ++y) {
      mark_band(resizer_.blended_row(y), grid_.width, rule.weight_low, rule.weight_high, plane_.row(y));
    }
    runs_.label_foreground(plane_, 0, 8);
    RunLabels& found = runs_.foreground();
    enclosed_.assign(found.components.count, {});
    for (int y = 0; y < grid_.height; ++y) {
      for (int32_t i = found.row_begin[y]; i < found.row_begin[y + 1]; ++i) {
        enclosed_[found.components.find(found.runs[i].label)] += of_run(y, found.runs[i], rule);
      }
    }
    RunLabels& holes = runs_.background();
    const bool has_holes = static_cast<int>(found.roots.size()) != runs_.euler();
    contours_.clear();
    for (int32_t id : found.roots) contours_.push_back({found.components.items[id].first(), id, ContourKind::kOuter});
    if (has_holes) {
      runs_.label_background();
      in_hole_.assign(holes.components.count, {});
      around_hole_.assign(holes.components.count, {});
      parent_of_hole_.assign(holes.components.count, -1);
      for (int32_t id : holes.roots) {
        const int32_t first = holes.components.items[id].first();
        contours_.push_back({first, id, ContourKind::kHole});
        parent_of_hole_[id] = found.component_at(grid_, first - 1);
      }
      add_hole_borders();
    }
    // What is enclosed starts later in raster order, so the last first is from the inside out.
    std::sort(contours_.begin(), contours_.end(), [](const auto& l, const auto& r) { return l.first > r.first; });
    for (const auto& contour : contours_) {
      // A pixel at the left border has the frame before it, which is no hole.
      const int before = contour.first - 1;
      if (contour.kind == ContourKind::kOuter) {
        const Moments& inside = enclosed_[contour.id];
        if (is_large(found.components.items[contour.id], rule)) keep(inside, rule);
        if (!has_holes || grid_.column(contour.first) == 0) continue;
        const int32_t hole = holes.component_at(grid_, before);
        if (hole != 0) in_hole_[hole] += inside;
      } else {
        enclosed_[parent_of_hole_[contour.id]] += in_hole_[contour.id];
        if (!is_large(before, contour.kind, rule)) continue;
        Moments inside = in_hole_[contour.id];
        inside += around_hole_[contour.id];
        keep(inside, rule);
      }
    }
  }

  bool is_large(int first, ContourKind kind, const Rule& rule) const {
    return static_cast<double>(wsolfast::boxes::doubled_contour_area(plane_, 0, first, kind)) >= 2 * rule.min_area;
  }

  // Without its holes a component's area is known already.
  bool is_large(const Component& component, const Rule& rule) const {
    if (component.doubled_area() >= 2 * rule.min_area) return true;
    return component.euler() < 1 && is_large(component.first(), ContourKind::kOuter, rule);
  }

  // Sums over the pixels that share an edge with each hole and lie around it, not in it.
  void add_hole_borders() {
    RunLabels& holes = runs_.background();
    hole_at_.assign(grid_.size(), 0);
    for (int y = 0; y < grid_.height; ++y) {
      for (int32_t i = holes.row_begin[y]; i < holes.row_begin[y + 1]; ++i) {
        const Run& run = holes.runs[i];
        const int32_t hole = holes.components.find(run.label);
        std::fill(&hole_at_[grid_.position(y, run.x0)], &hole_at_[grid_.position(y, run.x1)] + 1, hole);
      }
    }
    RunLabels& found = runs_.foreground();
    const int stride = grid_.stride();
    for (int y = 0; y < grid_.height; ++y) {
      for (int32_t i = found.row_begin[y]; i < found.row_begin[y + 1]; ++i) {
        const int32_t component = found.components.find(found.runs[i].label);
        for (int x = found.runs[i].x0; x <= found.runs[i].x1; ++x) {
          const int32_t* here = &hole_at_[grid_.position(y, x)];
          const int32_t beside[4] = {here[-stride], here[-1], here[1], here[stride]};
          if ((beside[0] | beside[1] | beside[2] | beside[3]) == 0) continue;
          for (int k = 0; k < 4; ++k) {
            const bool is_around = beside[k] != 0 && parent_of_hole_[beside[k]] == component;
            if (!is_around || std::find(beside, beside + k, beside[k]) != beside + k) continue;
            around_hole_[beside[k]] += of_pixel(resizer_.blended_row(y).at(x), y, x, grid_.height, grid_.width);
          }
        }
      }
    }
  }

  struct Contour {
    int32_t first, id;
    ContourKind kind;
  };

  Grid grid_;
  wsolfast::boxes::Resizer resizer_;
  wsolfast::boxes::Runs runs_;
  Plane<uint8_t> plane_;
  std::vector<double> coarse_, along_x_, along_y_;
  std::vector<Gaussian> gaussians_;
  std::vector<Moments> enclosed_, in_hole_, around_hole_;
  std::vector<Contour> contours_;
  std::vector<int32_t> hole_at_, parent_of_hole_;
};

// [N, h, w] -> uint8 [N, height, width]
Tensor gaussian_prior_labels_cpu(Tensor cam, int64_t height, int64_t width, double weight_low, double weight_high,
                                 bool per_contour, double min_area, double covariance_scale, bool grid_max,
                                 double object_cam, double object_gaussian, double background_cam,
                                 double background_gaussian, bool empty_background) {
  WSOLFAST_CHECK(cam.dim() == 3 && cam.size(1) > 0 && cam.size(2) > 0 && height > 0 && width > 0, kOp,
                 "expected maps [N, h, w] and a size that are not empty");
  const Rule rule{weight_low,      weight_high, per_contour,     min_area,       covariance_scale,
                  grid_max,        object_cam,  object_gaussian, background_cam, background_gaussian,
                  empty_background};
  const Tensor maps = torch::stable::contiguous(cam);
  Tensor labels = torch::stable::new_empty(maps, {maps.size(0), height, width}, ScalarType::Byte);
  uint8_t* out = labels.mutable_data_ptr<uint8_t>();
  wsolfast::for_each_score_map(maps, kOp, [&](int64_t n, const auto* map) {
    static thread_local Labeller labeller;
    static thread_local std::vector<double> wide;
    const auto h = static_cast<int>(maps.size(1)), w = static_cast<int>(maps.size(2));
    wide.assign(map, map + h * w);
    labeller.label(wide.data(), h, w, static_cast<int>(height), static_cast<int>(width), rule,
                   out + n * height * width);
  });
  return labels;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("gaussian_prior_labels", TORCH_BOX(&gaussian_prior_labels_cpu)); }
