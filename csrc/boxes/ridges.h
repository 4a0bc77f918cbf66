// The component tree of a map that varies smoothly, from the extrema of its rows and columns alone, as a join tree
// needs no more than the critical points of a function (Carr, Snoeyink and Axen, Computational Geometry 24(2), 2003).
//
// Cut a row of levels at any height: what is above falls into runs, and each run holds a peak of the row. Two runs are
// one when the lowest point between their peaks, a saddle, is above the cut too. Where two runs of neighbouring rows
// touch, the profile of their contacts (the smaller of the two levels) has a peak as well, and where a component
// reaches farthest to the left or right, its column has one. So the peaks and saddles of these profiles, found 64
// pixels at a time, say all about components and their boxes at all cuts. A smooth map has a few of them per row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "boxes/component_tree.h"
#include "boxes/plane.h"
#include "boxes/selector.h"

namespace wsolfast::boxes {

// A change of the tree when the cut passes the level of `position`, a pixel of the component of `node`.
struct RidgeEvent {
  int32_t position;
  int32_t node;
  int32_t other;   // `node` itself where it is born, the node it unites with, or -1
  int32_t chords;  // growth of the number of row runs plus column runs
};

// Events by the step at which they happen, 0 to 255, equal steps in the order in which they were added.
class RidgeEvents {
 public:
  void clear() {
    steps_.clear();
    unsorted_.clear();
  }
  void add(int step, const RidgeEvent& event) {
    steps_.push_back(static_cast<uint8_t>(step));
    unsorted_.push_back(event);
  }
  void sort();
  const RidgeEvent* before(int step) const { return sorted_.data() + begin_[step]; }

 private:
  std::vector<uint8_t> steps_;
  std::vector<RidgeEvent> unsorted_, sorted_;
  int32_t begin_[257] = {};
};

// Nodes are the peaks of rows in raster order; a node's segment of its row reaches from saddle to saddle. Nodes of the
// background are the saddles, from 1 on, and 0 is what lies outside of a row's first and last peak.
class Ridges {
 public:
  // Events of the foreground, 4- or 8-connected; the step of level l is 255 - l.
  void find_foreground(const Plane<uint8_t>& plane, int connectivity);

  // Events of the 4-connected background of the same plane; the step of level l is l.
  void find_background();

  // Peaks per row, from a sample of the rows.
  static double peaks_per_row(const Plane<uint8_t>& plane);

 private:
  friend class RidgeSweep;

  struct Segment {
    int32_t first, last;  // positions
  };

  int32_t foreground_node(int y, int x) const;
  int32_t background_node(int y, int x) const;
  void find_row(int y);
  void link_foreground(int y, int connectivity);
  void link_background(int y);
  template <typename Visit>
  void visit_columns(Visit&& visit);

  const Plane<uint8_t>* plane_ = nullptr;
  RidgeEvents foreground_, background_;
  int32_t euler_[256] = {};                 // growth of components minus holes over the foreground, by step
  std::vector<int32_t> row_begin_;          // [height + 1], nodes of each row
  std::vector<int32_t> peak_x_, saddle_x_;  // row y has one saddle less than peaks: its saddles begin at row_begin - y
  std::vector<Segment> segments_;
  std::vector<uint8_t> contacts_;
  std::vector<uint64_t> up_, down_, rising_;
};

class RidgeSweep : public ComponentTree {
 public:
  // Both want the events found before. The foreground grows from the highest cut down, the background from a low cut
  // up, as in Sweep.
  void start_foreground(const Ridges& ridges);
  void start_background(const Ridges& ridges);

  // Goes on to a cut whose highest background level is `level`.
  void activate(int level, int cut);

  // Components whose pixels may have changed at the last cut: any, for flanks grow without an event.
  const std::vector<int32_t>& grown() const { return live_; }

  // The component's first pixel in raster order at the last cut.
  int32_t first(int32_t id) const;

  // The root of an active pixel as it was after `cut`.
  int32_t component_at(int position, int cut) const;

  // Between which twice the area of a component's outer contour lies at the last cut, if it has no holes.
  SizeRange area_range(int32_t id) const;

 private:
  // Lane of a component's sums: row runs plus column runs.
  static constexpr int kChords = 0;

  void start(const Ridges& ridges, bool background, int nodes);

  const Ridges* ridges_ = nullptr;
  const RidgeEvent* next_event_ = nullptr;
  int step_ = 0, level_ = 0;
  std::vector<int32_t> next_node_, last_node_;  // the nodes of a root, chained; the last is valid for roots
};

}  // namespace wsolfast::boxes
