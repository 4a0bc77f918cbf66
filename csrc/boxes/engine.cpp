#include "boxes/engine.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "boxes/trace.h"

namespace wsolfast::boxes {
namespace {

// The runs cost per cut, the sweep per pixel, the ridges per peak of a row and more with holes; measured at 224x224 and
// 375x500.
constexpr int kSweepFromCuts = 48, kRidgesFromCuts = 8;
constexpr double kCutsPerPeak = 7, kCutsPerPeakWithHoles = 11, kMostPeaksPerPixel = 1.0 / 16;

bool same(const Extent& a, const Extent& b) { return a.x0 == b.x0 && a.y0 == b.y0 && a.x1 == b.x1 && a.y1 == b.y1; }

Extent grown(const Extent& hole) { return {hole.x0 - 1, hole.y0 - 1, hole.x1 + 1, hole.y1 + 1}; }

SizeRange up_to_box(int64_t lower, const Extent& extent) {
  return {lower, 2 * int64_t{extent.x1 - extent.x0} * (extent.y1 - extent.y0)};
}

// Bounds of contour areas from bit quads: exact without holes, from below with holes.
template <typename Measure>
struct WindowAreaBounds {
  const ComponentSet& components;
  const Grid& grid;
  Measure trace;

  SizeRange bounds(int32_t id) const {
    const Component& item = components.items[id];
    if (item.euler() == 1) return {item.doubled_area(), item.doubled_area()};
    return up_to_box(item.doubled_area(), item.extent(grid));
  }
  SizeRange estimate(int32_t id) const { return bounds(id); }
  int64_t measure(int32_t id) const { return trace(first(id)); }
  int32_t first(int32_t id) const { return components.items[id].first(); }
};

// Bounds of contour areas from the number of pixels and chords of a component.
template <typename Measure>
struct RidgeAreaBounds {
  const RidgeSweep& sweep;
  const Grid& grid;
  Measure trace;

  SizeRange bounds(int32_t id) const { return up_to_box(0, sweep.components().items[id].extent(grid)); }
  SizeRange estimate(int32_t id) const {
    const bool no_holes = static_cast<int>(sweep.live().size()) == sweep.euler();
    return no_holes ? sweep.area_range(id) : bounds(id);
  }
  int64_t measure(int32_t id) const { return trace(first(id)); }
  int32_t first(int32_t id) const { return sweep.first(id); }
};

template <typename Measure>
auto area_bounds_of(const Sweep& sweep, const Grid& grid, Measure trace) {
  return WindowAreaBounds<Measure>{sweep.components(), grid, trace};
}

template <typename Measure>
auto area_bounds_of(const RidgeSweep& sweep, const Grid& grid, Measure trace) {
  return RidgeAreaBounds<Measure>{sweep, grid, trace};
}

}  // namespace

Engine& thread_engine(Algorithm algorithm) {
  static thread_local Engine engine;
  engine.set_algorithm(algorithm);
  return engine;
}

Algorithm Engine::chosen(Selection selection) const {
  const bool fits = grid_.size() <= kMaxOrderedPositions;
  if (!levels_.narrow()) {
    if (fits) return Algorithm::kSweep;
    throw std::invalid_argument("a map of " + std::to_string(grid_.height) + "x" + std::to_string(grid_.width) +
                                " is too large for more than 255 distinct cuts: pass the thresholds in several calls");
  }
  const bool ridges_serve = selection != Selection::kPixelArea;
  switch (algorithm_) {
    case Algorithm::kRuns:
      return Algorithm::kRuns;
    case Algorithm::kRidges:
      if (ridges_serve) return Algorithm::kRidges;
      [[fallthrough]];
    case Algorithm::kSweep:
      return fits ? Algorithm::kSweep : Algorithm::kRuns;
    case Algorithm::kAuto:
      break;
  }
  const int cuts = levels_.cuts().count();
  if (ridges_serve && cuts >= kRidgesFromCuts) {
    const double peaks = Ridges::peaks_per_row(levels_.bytes());
    const double per_peak = selection == Selection::kAll ? kCutsPerPeakWithHoles : kCutsPerPeak;
    if (peaks < kMostPeaksPerPixel * grid_.width && cuts >= per_peak * peaks) return Algorithm::kRidges;
  }
  return fits && cuts >= kSweepFromCuts ? Algorithm::kSweep : Algorithm::kRuns;
}

void Engine::start_foreground(Sweep& sweep, int connectivity) {
  if (levels_.narrow()) {
    order_.build(levels_.bytes(), levels_.cuts().highest);
  } else {
    order_.build(levels_.words(), levels_.cuts().highest);
  }
  sweep.start_foreground(grid_, connectivity);
}

void Engine::start_foreground(RidgeSweep& sweep, int connectivity) {
  ridges_.find_foreground(levels_.bytes(), connectivity);
  sweep.start_foreground(ridges_);
}

void Engine::start_background(RidgeSweep& sweep) {
  ridges_.find_background();
  sweep.start_background(ridges_);
}

std::span<const uint32_t> Engine::entering(int cut) const {
  const std::vector<int32_t>& level = levels_.cuts().level;
  return order_.between(level[cut], cut + 1 < levels_.cuts().count() ? level[cut + 1] : levels_.cuts().highest);
}

std::span<const uint32_t> Engine::leaving(int cut) const {
  const std::vector<int32_t>& level = levels_.cuts().level;
  return order_.between(cut > 0 ? level[cut - 1] : -1, level[cut]);
}

int64_t Engine::measure(int cut, int first) const {
  const int32_t level = levels_.cuts().level[cut];
  return levels_.narrow() ? doubled_contour_area(levels_.bytes(), level, first)
                          : doubled_contour_area(levels_.words(), level, first);
}

Box Engine::empty_box(const Rule& rule) const {
  if (rule.empty_box) return *rule.empty_box;
  return to_box({0, 0, grid_.width - 1, grid_.height - 1}, rule.box_end, grid_.height, grid_.width);
}

void Engine::boxes_of_cuts(const Rule& rule) {
  cut_boxes_.assign(levels_.cuts().count(), empty_box(rule));
  if (rule.selection == Selection::kUnion) return union_of_cuts(rule);
  const Algorithm algorithm = chosen(rule.selection);
  if (algorithm == Algorithm::kRidges) return sweep_winners(rule, ridge_foreground_);
  if (algorithm == Algorithm::kSweep) return sweep_winners(rule, foreground_);
  runs_winners(rule);
}

void Engine::union_of_cuts(const Rule& rule) {
  const int height = grid_.height, width = grid_.width;
  // The highest level of each row and column; a cut's box runs from the first that exceeds it to the last.
  row_highest_.assign(height, 0);
  column_highest_.assign(width, 0);
  const auto scan = [&](const auto& plane) {
    for (int y = 0; y < height; ++y) {
      const auto* row = plane.row(y);
      int32_t high = 0;
      for (int x = 0; x < width; ++x) {
        const int32_t level = row[x];
        high = std::max(high, level);
        column_highest_[x] = std::max(column_highest_[x], level);
      }
      row_highest_[y] = high;
    }
  };
  if (levels_.narrow()) {
    scan(levels_.bytes());
  } else {
    scan(levels_.words());
  }
  Extent extent = {0, 0, width - 1, height - 1};
  const int32_t top = *std::max_element(row_highest_.begin(), row_highest_.end());
  for (int cut = 0; cut < levels_.cuts().count() && levels_.cuts().level[cut] < top; ++cut) {
    const int32_t level = levels_.cuts().level[cut];
    while (column_highest_[extent.x0] <= level) ++extent.x0;
    while (column_highest_[extent.x1] <= level) --extent.x1;
    while (row_highest_[extent.y0] <= level) ++extent.y0;
    while (row_highest_[extent.y1] <= level) --extent.y1;
    cut_boxes_[cut] = to_box(extent, rule.box_end, height, width);
  }
}

template <typename Sweeper>
void Engine::sweep_winners(const Rule& rule, Sweeper& foreground) {
  start_foreground(foreground, rule.connectivity);
  selector_.reset(rule.selection, grid_);
  const ComponentSet& components = foreground.components();
  for (int cut = levels_.cuts().count() - 1; cut >= 0; --cut) {
    advance(foreground, cut);
    const auto areas = area_bounds_of(foreground, grid_, [&](int first) { return measure(cut, first); });
    const int32_t winner = selector_.winner(components, foreground.grown(), areas);
    if (winner < 0) continue;
    cut_boxes_[cut] = to_box(components.items[winner].extent(grid_), rule.box_end, grid_.height, grid_.width);
  }
}

void Engine::runs_winners(const Rule& rule) {
  for (int cut = 0; cut < levels_.cuts().count(); ++cut) {
    runs_.label_foreground(levels_.bytes(), levels_.cuts().level[cut], rule.connectivity);
    selector_.reset(rule.selection, grid_);
    const RunLabels& found = runs_.foreground();
    const WindowAreaBounds areas{found.components, grid_, [&](int first) { return measure(cut, first); }};
    const int32_t winner = selector_.winner(found.components, found.roots, areas);
    if (winner < 0) continue;
    cut_boxes_[cut] = to_box(found.components.items[winner].extent(grid_), rule.box_end, grid_.height, grid_.width);
  }
}

void Engine::contours_of_cuts(const Rule& rule) {
  cut_boxes_.clear();
  cut_begin_.assign(1, 0);
  const Algorithm algorithm = chosen(rule.selection);
  if (algorithm == Algorithm::kRidges) return sweep_contours(rule, ridge_foreground_, ridge_background_);
  if (algorithm == Algorithm::kSweep) return sweep_contours(rule, foreground_, background_);
  runs_contours(rule);
}

void Engine::emit_contours(int cut, const Rule& rule) {
  if (contours_.empty()) {
    cut_boxes_.push_back(empty_box(rule));
  } else {
    contour_order_.visit(contours_, [&](const Contour& contour) {
      cut_boxes_.push_back(to_box(contour.extent, rule.box_end, grid_.height, grid_.width));
    });
  }
  cut_begin_.push_back(static_cast<int64_t>(cut_boxes_.size()));
}

template <typename Sweeper>
void Engine::sweep_contours(const Rule& rule, Sweeper& foreground, Sweeper& background) {
  const int cuts = levels_.cuts().count();
  start_foreground(foreground, 8);
  components_.clear();
  components_begin_.assign(cuts + 1, 0);
  HoleRange with_holes;
  for (int cut = cuts - 1; cut >= 0; --cut) {
    advance(foreground, cut);
    // Cut c has [components_begin_[c + 1], components_begin_[c]).
    components_begin_[cut + 1] = static_cast<int32_t>(components_.size());
    for (int32_t id : foreground.live()) {
      const Component& item = foreground.components().items[id];
      components_.push_back({id, foreground.first(id), item.extent(grid_)});
    }
    if (static_cast<int>(foreground.live().size()) != foreground.euler()) with_holes.include(cut);
  }
  components_begin_[0] = static_cast<int32_t>(components_.size());

  holes_.clear();
  holes_begin_.assign(cuts + 1, 0);
  if (with_holes.last >= 0) start_background(background);
  for (int cut = 0; cut < cuts; ++cut) {
    if (cut >= with_holes.first && cut <= with_holes.last) {
      advance(background, cut);
      for (int32_t id : background.live()) {
        const Component& item = background.components().items[id];
        holes_.push_back({id, background.first(id), grown(item.extent(grid_))});
      }
    }
    holes_begin_[cut + 1] = static_cast<int32_t>(holes_.size());
  }

  index_of_.resize(foreground.components().count);
  if (with_holes.last >= 0) hole_index_of_.resize(background.components().count);
  for (int cut = 0; cut < cuts; ++cut) {
    contours_.clear();
    const int32_t begin = components_begin_[cut + 1], end = components_begin_[cut];
    const int32_t hole_begin = holes_begin_[cut], hole_end = holes_begin_[cut + 1];
    for (int32_t i = begin; i < end; ++i) {
      index_of_[components_[i].id] = i - begin;
      contours_.push_back({components_[i].first, -1, components_[i].extent});
    }
    if (hole_begin < hole_end) {
      for (int32_t i = hole_begin; i < hole_end; ++i) {
        const int32_t before = holes_[i].first - 1;
        hole_index_of_[holes_[i].id] = static_cast<int32_t>(contours_.size());
        contours_.push_back({before, index_of_[foreground.component_at(before, cut)], holes_[i].extent});
      }
      for (int32_t i = begin; i < end; ++i) {
        const int32_t hole = background.component_at(components_[i].first - 1, cut);
        if (hole != 0) contours_[i - begin].parent = hole_index_of_[hole];
      }
    }
    emit_contours(cut, rule);
  }
}

void Engine::runs_contours(const Rule& rule) {
  for (int cut = 0; cut < levels_.cuts().count(); ++cut) {
    runs_.label_foreground(levels_.bytes(), levels_.cuts().level[cut], 8);
    RunLabels& found = runs_.foreground();
    contours_.clear();
    index_of_.resize(found.components.count);
    for (int32_t id : found.roots) {
      const Component& item = found.components.items[id];
      index_of_[id] = static_cast<int32_t>(contours_.size());
      contours_.push_back({item.first(), -1, item.extent(grid_)});
    }
    if (static_cast<int>(found.roots.size()) != runs_.euler()) {
      runs_.label_background();
      RunLabels& holes = runs_.background();
      hole_index_of_.resize(holes.components.count);
      for (int32_t id : holes.roots) {
        const Component& item = holes.components.items[id];
        const int32_t before = item.first() - 1;
        hole_index_of_[id] = static_cast<int32_t>(contours_.size());
        contours_.push_back({before, index_of_[found.component_at(grid_, before)], grown(item.extent(grid_))});
      }
      for (size_t i = 0; i < found.roots.size(); ++i) {
        const int32_t first = contours_[i].discovery;
        if (grid_.column(first) == 0) continue;
        const int32_t hole = holes.component_at(grid_, first - 1);
        if (hole != 0) contours_[i].parent = hole_index_of_[hole];
      }
    }
    emit_contours(cut, rule);
  }
}

template <typename Sweeper>
void Engine::sweep_overlaps(const Rule& rule, const Overlap& overlap, Sweeper& foreground, Sweeper& background) {
  const int cuts = levels_.cuts().count();
  maximum_.reset(cuts);
  const auto overlap_of = [&](const Extent& extent) {
    return overlap.best(to_box(extent, rule.box_end, grid_.height, grid_.width));
  };
  cut_best_.assign(cuts, 0.0);
  const double empty_overlap = overlap.best(empty_box(rule));

  start_foreground(foreground, 8);
  intervals_.clear();
  HoleRange with_holes;
  const ComponentSet& components = foreground.components();
  for (int cut = cuts - 1; cut >= 0; --cut) {
    advance(foreground, cut);
    intervals_.resize(components.count);
    for (int32_t id : foreground.absorbed()) {
      if (intervals_[id].since >= 0) maximum_.add(cut + 1, intervals_[id].since, intervals_[id].overlap);
    }
    for (int32_t id : foreground.touched()) {
      if (!components.is_root(id)) continue;
      const Extent extent = components.items[id].extent(grid_);
      Interval& interval = intervals_[id];
      if (interval.since >= 0) {
        if (same(extent, interval.extent)) continue;
        maximum_.add(cut + 1, interval.since, interval.overlap);
      }
      interval = {cut, overlap_of(extent), extent};
    }
    if (foreground.live().empty()) cut_best_[cut] = empty_overlap;
    if (static_cast<int>(foreground.live().size()) != foreground.euler()) with_holes.include(cut);
  }
  for (int32_t id : foreground.live()) maximum_.add(0, intervals_[id].since, intervals_[id].overlap);

  if (with_holes.last >= 0) {
    start_background(background);
    intervals_.clear();
    const ComponentSet& holes = background.components();
    for (int cut = with_holes.first; cut <= with_holes.last; ++cut) {
      advance(background, cut);
      intervals_.resize(holes.count);
      for (int32_t id : background.absorbed()) {
        if (intervals_[id].since >= 0) maximum_.add(intervals_[id].since, cut - 1, intervals_[id].overlap);
      }
      for (int32_t id : background.touched()) {
        if (!holes.is_root(id)) continue;
        const Extent extent = grown(holes.items[id].extent(grid_));
        Interval& interval = intervals_[id];
        if (interval.since >= 0) {
          if (same(extent, interval.extent)) continue;
          maximum_.add(interval.since, cut - 1, interval.overlap);
        }
        interval = {cut, overlap_of(extent), extent};
      }
    }
    for (int32_t id : background.live()) maximum_.add(intervals_[id].since, with_holes.last, intervals_[id].overlap);
  }
  const std::span<const double> best = maximum_.finish();
  for (int cut = 0; cut < cuts; ++cut) cut_best_[cut] = std::max(cut_best_[cut], best[cut]);
}

void Engine::runs_overlaps(const Rule& rule, const Overlap& overlap) {
  const int cuts = levels_.cuts().count();
  cut_best_.resize(cuts);
  const auto overlap_of = [&](const Extent& extent) {
    return overlap.best(to_box(extent, rule.box_end, grid_.height, grid_.width));
  };
  for (int cut = 0; cut < cuts; ++cut) {
    runs_.label_foreground(levels_.bytes(), levels_.cuts().level[cut], 8);
    const RunLabels& found = runs_.foreground();
    double best = found.roots.empty() ? overlap.best(empty_box(rule)) : 0.0;
    for (int32_t id : found.roots) best = std::max(best, overlap_of(found.components.items[id].extent(grid_)));
    if (static_cast<int>(found.roots.size()) != runs_.euler()) {
      runs_.label_background();
      const RunLabels& holes = runs_.background();
      for (int32_t id : holes.roots) {
        best = std::max(best, overlap_of(grown(holes.components.items[id].extent(grid_))));
      }
    }
    cut_best_[cut] = best;
  }
}

template <typename Pixel>
void Engine::choose_boxes(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                          Box* boxes) {
  grid_ = Grid(height, width);
  levels_.build(map, grid_, thresholds, rule);
  boxes_of_cuts(rule);
  for (size_t t = 0; t < thresholds.size(); ++t) boxes[t] = cut_boxes_[levels_.cuts().of_threshold[t]];
}

template <typename Pixel>
void Engine::list_boxes(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                        std::vector<Box>& boxes, int64_t* counts) {
  grid_ = Grid(height, width);
  levels_.build(map, grid_, thresholds, rule);
  contours_of_cuts(rule);
  for (size_t t = 0; t < thresholds.size(); ++t) {
    const int32_t cut = levels_.cuts().of_threshold[t];
    boxes.insert(boxes.end(), cut_boxes_.begin() + cut_begin_[cut], cut_boxes_.begin() + cut_begin_[cut + 1]);
    counts[t] = cut_begin_[cut + 1] - cut_begin_[cut];
  }
}

template <typename Pixel>
void Engine::best_overlaps(const Pixel* map, int height, int width, std::span<const double> thresholds,
                           const Rule& rule, std::span<const double> truths, double* best) {
  if (truths.empty()) {
    std::fill_n(best, thresholds.size(), -1.0);
    return;
  }
  grid_ = Grid(height, width);
  levels_.build(map, grid_, thresholds, rule);
  const Overlap overlap(truths, rule);
  if (rule.selection != Selection::kAll) {
    boxes_of_cuts(rule);
    cut_best_.resize(cut_boxes_.size());
    for (size_t cut = 0; cut < cut_boxes_.size(); ++cut) cut_best_[cut] = overlap.best(cut_boxes_[cut]);
  } else {
    const Algorithm algorithm = chosen(rule.selection);
    if (algorithm == Algorithm::kRidges) {
      sweep_overlaps(rule, overlap, ridge_foreground_, ridge_background_);
    } else if (algorithm == Algorithm::kSweep) {
      sweep_overlaps(rule, overlap, foreground_, background_);
    } else {
      runs_overlaps(rule, overlap);
    }
  }
  for (size_t t = 0; t < thresholds.size(); ++t) best[t] = cut_best_[levels_.cuts().of_threshold[t]];
}

template <typename Pixel>
void Engine::hits(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                  std::span<const double> truths, std::span<const double> iou_levels, bool* out) {
  threshold_best_.resize(thresholds.size());
  best_overlaps(map, height, width, thresholds, rule, truths, threshold_best_.data());
  for (double best : threshold_best_) {
    for (double level : iou_levels) {
      *out++ = !truths.empty() && (rule.hit_strict ? best > level : best >= level);
    }
  }
}

#define WSOLFAST_INSTANTIATE(Pixel)                                                                                 \
  template void Engine::choose_boxes(const Pixel*, int, int, std::span<const double>, const Rule&, Box*);           \
  template void Engine::list_boxes(const Pixel*, int, int, std::span<const double>, const Rule&, std::vector<Box>&, \
                                   int64_t*);                                                                       \
  template void Engine::best_overlaps(const Pixel*, int, int, std::span<const double>, const Rule&,                 \
                                      std::span<const double>, double*);                                            \
  template void Engine::hits(const Pixel*, int, int, std::span<const double>, const Rule&, std::span<const double>, \
                             std::span<const double>, bool*);
WSOLFAST_INSTANTIATE(double)
WSOLFAST_INSTANTIATE(uint8_t)
#undef WSOLFAST_INSTANTIATE

}  // namespace wsolfast::boxes
