// The kernels that find, for every cut of every image, its box, its best overlap with the true boxes, or all contours.
//
// A warp solves a cut in shared memory. Cuts whose runs or components do not fit are noted, and a second kernel lets a
// CTA solve each of them in global memory. Results do not depend on who solves a cut.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "boxes/overlap.h"
#include "cuda/box_components.cuh"
#include "cuda/box_levels.cuh"
#include "cuda/shared.cuh"
#include "cuda/target.h"

namespace wsolfast::cuda {

using boxes::Box;
using boxes::Extent;
using boxes::Selection;

enum class Task {
  kChoose,   // one box
  kOverlap,  // the best overlap of the one box or of all
  kCount,    // number of all contours
  kList,     // all contours in OpenCV's order
};

struct CutProblem {
  PlaneShape shape;
  boxes::Rule rule{};
  Box empty_box{};
  Cuts cuts{};
  int64_t* overflow_items = nullptr;  // [N * cuts], image * cuts + cut of those that did not fit

  Box* boxes = nullptr;                  // kChoose: [N, cuts]
  double* best = nullptr;                // kOverlap: [N, cuts]
  int64_t* contours = nullptr;           // kCount: [N, cuts]
  const int64_t* begin = nullptr;        // kList: [N * cuts], where the contours of each cut go in `listed`
  Box* listed = nullptr;                 // kList
  const double* truths = nullptr;        // kOverlap: [G, 4]
  const int64_t* truth_begin = nullptr;  // kOverlap: [N + 1]
  int64_t truth_count = 0;
};

// The true boxes of an image; offsets that do not fit give less, never a read outside.
__device__ inline std::span<const double> truths_of(const CutProblem& problem, int64_t n) {
  const auto inside = [&](int64_t at) { return at < 0 ? 0 : at < problem.truth_count ? at : problem.truth_count; };
  const int64_t begin = inside(problem.truth_begin[n]), end = inside(problem.truth_begin[n + 1]);
  return {problem.truths + 4 * begin, end > begin ? static_cast<size_t>(4 * (end - begin)) : 0};
}

template <typename Group>
__device__ __forceinline__ Extent extent_of(const Components<Group>& found, int item) {
  const RunStore& store = found.store();
  // A hole's contour runs on the foreground around it.
  const int grown = item >= found.count();
  return {store.at(kX0, item) - grown, store.at(kY0, item) - grown, store.at(kX1, item) + grown,
          store.at(kY1, item) + grown};
}

// The item with the largest size(item); of equals the last if `last_wins`, else the first.
template <typename Group, typename Size>
__device__ __forceinline__ int largest_component(int count, bool last_wins, const Size& size) {
  int64_t best = -1;
  for (int item = Group::rank(); item < count; item += Group::kSize) {
    const int64_t key = size(item) << 32 | (last_wins ? item : 0x7FFFFFFF - item);
    best = Largest<int64_t>{}(best, key);
  }
  best = Group::reduce(best, Largest<int64_t>{});
  const int low = static_cast<int>(best & 0x7FFFFFFF);
  return last_wins ? low : 0x7FFFFFFF - low;
}

// Holes do not count against the area of a contour. An area without them bounds it from below and the rectangle through
// the outermost pixel centres from above; where that leaves a choice, holes are filled and the areas measured again.
template <typename Group>
__device__ __forceinline__ int largest_contour(Components<Group>& found) {
  const RunStore& store = found.store();
  const auto size = [&](int item) { return static_cast<int64_t>(store.at(kSize, item)); };
  found.measure_windows();
  int winner = largest_component<Group>(found.count(), true, size);
  if (found.holes() == 0) return winner;
  const int64_t least = size(winner);
  int possible = 0, last_possible = -1, hollow = 0;
  for (int item = Group::rank(); item < found.count(); item += Group::kSize) {
    const Extent extent = extent_of(found, item);
    const bool exact = store.at(kEuler, item) == 1;
    const int64_t most = exact ? size(item) : int64_t{2} * (extent.x1 - extent.x0) * (extent.y1 - extent.y0);
    if (most < least) continue;
    ++possible;
    hollow += !exact;
    last_possible = item;
  }
  possible = Group::reduce(possible, Sum<int>{});
  hollow = Group::reduce(hollow, Sum<int>{});
  last_possible = Group::reduce(last_possible, Largest<int>{});
  if (possible == 1) return last_possible;
  if (hollow == 0) return winner;
  Group::sync();
  found.measure_filled();
  return largest_component<Group>(found.count(), true, size);
}

// The one component that the rule selects; there must be one.
template <typename Group>
__device__ __forceinline__ int select(const boxes::Rule& rule, Components<Group>& found) {
  const RunStore& store = found.store();
  if (rule.selection == Selection::kContourArea) return largest_contour(found);
  const bool by_pixels = rule.selection == Selection::kPixelArea;
  if (by_pixels) found.measure_pixels();
  return largest_component<Group>(found.count(), false, [&](int item) {
    if (by_pixels) return static_cast<int64_t>(store.at(kSize, item));
    const Extent extent = extent_of(found, item);
    return static_cast<int64_t>(extent.x1 - extent.x0 + 1) * (extent.y1 - extent.y0 + 1);
  });
}

// One box around all foreground; false without any.
template <typename Group>
__device__ __forceinline__ bool unite_all(const Foreground& foreground, Extent* box) {
  const PlaneShape& shape = foreground.shape;
  // Negated minima, so that every side is a maximum.
  int left = INT32_MIN, top = INT32_MIN, right = -1, bottom = -1;
  for (int y = Group::rank(); y < shape.height; y += Group::kSize) {
    for (int word = 0; word < shape.words; ++word) {
      const uint32_t bits = foreground.bits(y, word);
      if (bits == 0) continue;
      left = Largest<int>{}(left, -(word * 32 + __ffs(static_cast<int>(bits)) - 1));
      right = Largest<int>{}(right, word * 32 + 31 - __clz(static_cast<int>(bits)));
      top = Largest<int>{}(top, -y);
      bottom = y;
    }
  }
  *box = {-Group::reduce(left, Largest<int>{}), -Group::reduce(top, Largest<int>{}),
          Group::reduce(right, Largest<int>{}), Group::reduce(bottom, Largest<int>{})};
  return box->x1 >= 0;
}

// Emits every contour in list order: depth first, siblings from the last discovered to the first. By one thread.
template <typename Group, typename Emit>
__device__ __forceinline__ void visit_contours(const Components<Group>& found, const Emit& emit) {
  const RunStore& store = found.store();
  // Items under construction: kEuler is the first child, kSize the next sibling, kParent the enclosing item.
  int top = -1;
  const auto hang = [&](int item, int parent) {
    int32_t& child = parent < 0 ? top : store.at(kEuler, parent);
    store.at(kParent, item) = parent;
    store.at(kSize, item) = child;
    child = item;
  };
  const bool with_holes = found.holes() > 0;
  for (int item = 0; item < found.count() + found.holes(); ++item) store.at(kEuler, item) = -1;
  // In raster order of the pixels at which a scan meets them: run by run, a component before the hole behind the run.
  for (int r = 0; r < found.runs(); ++r) {
    if (store.run[r] < 0) {
      // The gap before the first run of a row is index 0's or belongs to the row above, where it is outside.
      const bool inside = with_holes && store.gap[r] != 0;
      hang(~store.run[r], inside ? item_of(store.gap, r) : -1);
    }
    if (with_holes && store.gap[r + 1] < 0) hang(~store.gap[r + 1], item_of(store.run, r));
  }
  for (int item = top; item >= 0;) {
    emit(extent_of(found, item));
    if (store.at(kEuler, item) >= 0) {
      item = store.at(kEuler, item);
      continue;
    }
    while (item >= 0 && store.at(kSize, item) < 0) item = store.at(kParent, item);
    if (item >= 0) item = store.at(kSize, item);
  }
}

// Writes the answer for cut k of image n; false when the components do not fit.
template <Task kTask, typename Group>
__device__ __forceinline__ bool solve(const CutProblem& problem, const uint32_t* planes, int64_t n, int k,
                                      const RunStore& store) {
  const PlaneShape& shape = problem.shape;
  const boxes::Rule& rule = problem.rule;
  const int64_t at = n * problem.cuts.cuts + k;
  const Foreground foreground{planes, shape, problem.cuts.level[at]};
  const bool leads = Group::rank() == 0;
  const auto with_end = [&](const Extent& extent) {
    return boxes::to_box(extent, rule.box_end, shape.height, shape.width);
  };
  const auto write_box = [&](const Box& box) {
    if (!leads) return;
    if constexpr (kTask == Task::kChoose) {
      problem.boxes[at] = box;
    } else if constexpr (kTask == Task::kOverlap) {
      problem.best[at] = boxes::Overlap(truths_of(problem, n), rule).best(box);
    }
  };
  const bool one_box = kTask == Task::kChoose || (kTask == Task::kOverlap && rule.selection != Selection::kAll);
  if (one_box && rule.selection == Selection::kUnion) {
    Extent extent{};
    write_box(unite_all<Group>(foreground, &extent) ? with_end(extent) : problem.empty_box);
    return true;
  }
  Components<Group> found(foreground, store);
  if (!found.find(rule.connectivity)) return false;
  if (one_box) {
    write_box(found.count() > 0 ? with_end(extent_of(found, select(rule, found))) : problem.empty_box);
    return true;
  }
  if constexpr (kTask != Task::kChoose) {
    const int items = found.count() + found.holes();
    if constexpr (kTask == Task::kCount) {
      if (leads) problem.contours[at] = items > 0 ? items : 1;
      return true;
    }
    if (found.holes() > 0 && !found.find_holes()) return false;
    if constexpr (kTask == Task::kOverlap) {
      const boxes::Overlap overlap(truths_of(problem, n), rule);
      double best = 0.0;
      for (int item = Group::rank(); item < items; item += Group::kSize) {
        best = Largest<double>{}(best, overlap.best(with_end(extent_of(found, item))));
      }
      best = Group::reduce(best, Largest<double>{});
      if (leads) problem.best[at] = items > 0 ? best : overlap.best(problem.empty_box);
    } else if (leads && kTask == Task::kList) {
      Box* out = problem.listed + problem.begin[at];
      if (items == 0) *out = problem.empty_box;
      visit_contours(found, [&](const Extent& extent) { *out++ = with_end(extent); });
    }
  }
  return true;
}

// How a batch is spread over a device.
struct CutPlan {
  int warps;   // of a CTA
  int chunks;  // CTAs of an image, which share its cuts
  bool planes_in_shared;
  int run_capacity, item_capacity;  // of a warp
  size_t shared_bytes;              // of a CTA
  int64_t most_runs;                // of a foreground
  int64_t slots, words_of_slot;     // CTAs and memory each for what does not fit
};

constexpr int kMostWarps = 16, kCutThreads = kMostWarps * Warp::kSize;

inline CutPlan plan_cuts(const DeviceLimits& limits, const PlaneShape& shape, int64_t images, int cuts) {
  constexpr int64_t kWordBytes = 4, kFewWarps = 4;
  const int64_t height = shape.height;
  CutPlan plan{};
  plan.most_runs = height * ((shape.width + 1) / 2);
  // Room for three runs a row, and for one component in six runs.
  int64_t runs = std::min(plan.most_runs, 3 * height + 64), items = std::min(runs, std::max<int64_t>(64, runs / 6));
  const int64_t budget = limits.shared_bytes / kWordBytes, image = shape.words_of_image();
  const int64_t wanted = std::min(cuts, kMostWarps);
  plan.planes_in_shared = image + std::min(kFewWarps, wanted) * RunStore::words(shape.height, runs, items) <= budget;
  const int64_t available = budget - (plan.planes_in_shared ? image : 0);
  if (RunStore::words(shape.height, runs, items) > available) {
    runs = std::max<int64_t>(0, 6 * (available - height - 2) / (18 + kFields));
    items = runs / 6;
  }
  const int64_t words = RunStore::words(shape.height, runs, items);
  plan.warps = static_cast<int>(std::clamp<int64_t>(available / words, 1, wanted));
  plan.run_capacity = static_cast<int>(runs);
  plan.item_capacity = static_cast<int>(items);
  plan.shared_bytes = static_cast<size_t>((plan.warps * words + (plan.planes_in_shared ? image : 0)) * kWordBytes);
  const int64_t ctas = 2 * static_cast<int64_t>(limits.processors);
  plan.chunks =
      static_cast<int>(std::clamp<int64_t>((ctas + images - 1) / images, 1, (cuts + plan.warps - 1) / plan.warps));
  plan.words_of_slot = RunStore::words(shape.height, plan.most_runs, plan.most_runs);
  plan.slots =
      std::clamp<int64_t>(limits.overflow_bytes / kWordBytes / plan.words_of_slot, 1, std::min(ctas, images * cuts));
  return plan;
}

template <Task kTask>
__global__ void __launch_bounds__(kCutThreads, 1) box_cuts_kernel(CutProblem problem, CutPlan plan) {
  const int64_t n = blockIdx.x / plan.chunks;
  const int warp = static_cast<int>(threadIdx.x) / Warp::kSize;
  auto* shared = reinterpret_cast<int32_t*>(dynamic_shared());
  const uint32_t* planes = problem.cuts.planes + n * problem.shape.words_of_image();
  const int64_t words_of_warp = RunStore::words(problem.shape.height, plan.run_capacity, plan.item_capacity);
  const RunStore store(shared + warp * words_of_warp, problem.shape.height, plan.run_capacity, plan.item_capacity);
  if (plan.planes_in_shared) {
    auto* own = reinterpret_cast<uint32_t*>(shared + plan.warps * words_of_warp);
    for (int64_t i = threadIdx.x; i < problem.shape.words_of_image(); i += blockDim.x) own[i] = planes[i];
    __syncthreads();
    planes = own;
  }
  const int step = plan.chunks * plan.warps;
  for (int k = static_cast<int>(blockIdx.x % plan.chunks) * plan.warps + warp; k < problem.cuts.distinct[n];
       k += step) {
    const bool fits = solve<kTask, Warp>(problem, planes, n, k, store);
    if (!fits && Warp::rank() == 0) {
      problem.overflow_items[atomicAdd(problem.cuts.overflows, 1)] = n * problem.cuts.cuts + k;
    }
    Warp::sync();
  }
}

constexpr int kOverflowThreads = 256;

// A CTA per slot of `memory` takes the cuts that did not fit, one after the other.
template <Task kTask>
__global__ void __launch_bounds__(kOverflowThreads, 2)
    box_overflow_kernel(CutProblem problem, CutPlan plan, int32_t* memory) {
  const auto capacity = static_cast<int>(plan.most_runs);
  const RunStore store(memory + blockIdx.x * plan.words_of_slot, problem.shape.height, capacity, capacity);
  for (int64_t i = blockIdx.x; i < *problem.cuts.overflows; i += gridDim.x) {
    const int64_t n = problem.overflow_items[i] / problem.cuts.cuts;
    const auto k = static_cast<int>(problem.overflow_items[i] % problem.cuts.cuts);
    const uint32_t* planes = problem.cuts.planes + n * problem.shape.words_of_image();
    solve<kTask, Cta<kOverflowThreads>>(problem, planes, n, k, store);
    __syncthreads();
  }
}

}  // namespace wsolfast::cuda
