// Boxes of a score map at all thresholds, and how well they overlap the true ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "boxes/contours.h"
#include "boxes/digitize.h"
#include "boxes/order.h"
#include "boxes/overlap.h"
#include "boxes/ridges.h"
#include "boxes/rule.h"
#include "boxes/runs.h"
#include "boxes/selector.h"
#include "boxes/sweep.h"

namespace wsolfast::boxes {

// How components are found; the results are the same. kRuns labels every cut anew (boxes/runs.h), kSweep builds the
// component tree over all pixels (boxes/sweep.h), kRidges over the extrema of rows and columns (boxes/ridges.h). Each
// is the fastest somewhere; milliseconds per map of 224x224 on one thread, largest contour:
//
//   map     thresholds    runs   sweep   ridges
//   smooth          10    0.12    0.56     0.25
//   smooth       1,000    2.44    0.67     0.28
//   noisy        1,000   16.3     2.1      6.8
//
// kAuto takes runs for few distinct cuts, otherwise ridges for smooth maps and the sweep for others. Ridges need at
// most 255 distinct cuts and know no pixel counts; the sweep is for maps of up to about 4000x4000 pixels. Where one
// does not serve, another does.
enum class Algorithm { kAuto, kSweep, kRuns, kRidges };

// Scratch of one thread. Nothing is allocated once the largest map has been seen.
class Engine {
 public:
  void set_algorithm(Algorithm algorithm) { algorithm_ = algorithm; }

  // One box per threshold, for the selections that choose one. Pixel is double (normalised) or uint8_t (quantised).
  template <typename Pixel>
  void choose_boxes(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                    Box* boxes);

  // Every contour at every threshold, appended to `boxes`; `counts` gets one number per threshold.
  template <typename Pixel>
  void list_boxes(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                  std::vector<Box>& boxes, int64_t* counts);

  // The best overlap of each threshold's boxes with the true boxes (x0, y0, x1, y1 each); -1 without true boxes.
  template <typename Pixel>
  void best_overlaps(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
                     std::span<const double> truths, double* best);

  // True where the best overlap reaches a level: [thresholds][levels].
  template <typename Pixel>
  void hits(const Pixel* map, int height, int width, std::span<const double> thresholds, const Rule& rule,
            std::span<const double> truths, std::span<const double> iou_levels, bool* out);

 private:
  // All of these fill one entry per distinct cut.
  void boxes_of_cuts(const Rule& rule);
  void union_of_cuts(const Rule& rule);
  template <typename Sweeper>
  void sweep_winners(const Rule& rule, Sweeper& foreground);
  void runs_winners(const Rule& rule);
  void contours_of_cuts(const Rule& rule);
  template <typename Sweeper>
  void sweep_contours(const Rule& rule, Sweeper& foreground, Sweeper& background);
  void runs_contours(const Rule& rule);
  template <typename Sweeper>
  void sweep_overlaps(const Rule& rule, const Overlap& overlap, Sweeper& foreground, Sweeper& background);
  void runs_overlaps(const Rule& rule, const Overlap& overlap);

  // One of the three that can serve.
  Algorithm chosen(Selection selection) const;
  void start_foreground(Sweep& sweep, int connectivity);
  void start_foreground(RidgeSweep& sweep, int connectivity);
  void start_background(Sweep& sweep) { sweep.start_background(grid_); }
  void start_background(RidgeSweep& sweep);
  // To the next cut: the one below for the foreground, the one above for the background.
  void advance(Sweep& sweep, int cut) { sweep.activate(sweep.is_background() ? leaving(cut) : entering(cut), cut); }
  void advance(RidgeSweep& sweep, int cut) { sweep.activate(levels_.cuts().level[cut], cut); }
  // The pixels that become foreground at a cut when cuts fall, and background when they rise.
  std::span<const uint32_t> entering(int cut) const;
  std::span<const uint32_t> leaving(int cut) const;
  // Twice the contour area of the component of a cut that starts at position `first`.
  int64_t measure(int cut, int first) const;
  Box empty_box(const Rule& rule) const;
  void emit_contours(int cut, const Rule& rule);

  // The range of cuts with holes, from the foreground sweep.
  struct HoleRange {
    int first = INT32_MAX, last = -1;
    void include(int cut) {
      first = std::min(first, cut);
      last = std::max(last, cut);
    }
  };
  // The cuts over which a component keeps its extent, from the first on, and its overlap there.
  struct Interval {
    int since = -1;
    double overlap = 0;
    Extent extent = {};
  };
  struct Seen {
    int32_t id, first;
    Extent extent;
  };

  Algorithm algorithm_ = Algorithm::kAuto;
  Grid grid_;
  Levels levels_;
  PixelOrder order_;
  Sweep foreground_, background_;
  Ridges ridges_;
  RidgeSweep ridge_foreground_, ridge_background_;
  Runs runs_;
  Selector selector_;
  ContourOrder contour_order_;
  IntervalMaximum maximum_;
  std::vector<int32_t> row_highest_, column_highest_;
  std::vector<Contour> contours_;
  std::vector<Seen> components_, holes_;
  std::vector<int32_t> components_begin_, holes_begin_, index_of_, hole_index_of_;
  std::vector<Interval> intervals_;  // by component
  std::vector<Box> cut_boxes_;
  std::vector<int64_t> cut_begin_;
  std::vector<double> cut_best_;
  std::vector<double> threshold_best_;
};

// This thread's engine.
Engine& thread_engine(Algorithm algorithm = Algorithm::kAuto);

}  // namespace wsolfast::boxes
