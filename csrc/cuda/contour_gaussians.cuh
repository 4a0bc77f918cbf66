// The pixels that the Gaussians of a map's contours reach: what csrc/cpu does, sum for sum. Needs --fmad=false.
//
// A CTA takes a map, finds the runs of its band in shared memory and keeps sums in its slot of global memory. Maps
// whose runs or contours do not fit are noted, and a second kernel takes them with everything in larger slots. Results
// do not depend on which of them took a map.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "boxes/plane.h"
#include "boxes/trace.h"
#include "cuda/box_components.cuh"
#include "cuda/prior_map.cuh"
#include "cuda/shared.cuh"
#include "cuda/target.h"

namespace wsolfast::cuda {

// Two planes of bits for each map: the pixels within a Gaussian's reach of the object, and of the background.
struct ReachPlanes {
  PlaneShape shape;
  uint32_t* bits;

  __device__ uint32_t* object(int64_t n) const { return bits + n * shape.words_of_image(); }
  __device__ uint32_t* background(int64_t n) const { return object(n) + shape.words_of_plane(); }
};

// Memory of a CTA for the contours of one map: at most `runs` runs and `items` components and holes.
struct ContourStore {
  RunStore runs;
  double* run_sums;     // [runs, 3]
  Moments* inside;      // [items], of what a component encloses, or of the components in a hole
  Moments* around;      // [items], of the pixels around a hole
  Gaussian* gaussians;  // [items]
  int32_t* first;       // [items], the first run of a component, or the run before the first gap of a hole
  int32_t* order;       // [items], by first pixel

  // Without the runs' own store.
  static constexpr int64_t bytes(int64_t runs, int64_t items) {
    return runs * 3 * sizeof(double) + items * (2 * sizeof(Moments) + sizeof(Gaussian) + 2 * sizeof(int32_t));
  }
  __device__ ContourStore(const RunStore& store, unsigned char* memory)
      : runs(store),
        run_sums(reinterpret_cast<double*>(memory)),
        inside(reinterpret_cast<Moments*>(run_sums + int64_t{3} * store.run_capacity)),
        around(inside + store.item_capacity),
        gaussians(reinterpret_cast<Gaussian*>(around + store.item_capacity)),
        first(reinterpret_cast<int32_t*>(gaussians + store.item_capacity)),
        order(first + store.item_capacity) {}
};

// Bits of a plane at the positions of a frame around it, whose rows lie a power of two apart.
struct FramedBits {
  const uint32_t* bits;
  int height, width, words, shift;

  constexpr int stride() const { return 1 << shift; }
  constexpr int position(int y, int x) const { return ((y + 1) << shift) + x + 1; }
  constexpr bool operator()(int position) const {
    const int y = (position >> shift) - 1, x = (position & (stride() - 1)) - 1;
    if (y < 0 || y >= height || x < 0 || x >= width) return false;
    return (bits[static_cast<int64_t>(y) * words + x / 32] >> (x % 32) & 1) != 0;
  }
};

// The hole at each pixel of a row, asked from left to right.
class HoleCursor {
 public:
  __device__ HoleCursor(const RunStore& store, int y, int height) : store_(store) {
    const bool inside = y >= 0 && y < height;
    begin_ = next_ = inside ? store.row_begin[y] : 0;
    end_ = inside ? store.row_begin[y + 1] : 0;
  }
  // Its item, or -1.
  __device__ __forceinline__ int at(int x) {
    while (next_ < end_ && store_.x0(next_) <= x) ++next_;
    if (next_ == begin_ || next_ == end_ || x <= store_.x1(next_ - 1) || store_.gap[next_] == 0) return -1;
    return item_of(store_.gap, next_);
  }

 private:
  const RunStore& store_;
  int begin_, next_, end_;  // next_: the first run right of the last pixel asked for
};

class Contours {
 public:
  __device__ Contours(const LabelMap& map, const LabelRule& rule, const ContourStore& store)
      : map_(map), rule_(rule), store_(store), runs_(store.runs) {}

  // Writes both planes of the map; false when its contours do not fit. The band lies in `object` in the meantime.
  __device__ __forceinline__ bool write(const PlaneShape& shape, uint32_t* object, uint32_t* background) {
    mark_band(shape, object);
    PlaneShape band = shape;
    band.count = 1;
    Components<LabelCta> found({object, band, 0}, runs_);
    if (!found.find(8)) return false;
    if (found.holes() > 0 && !found.find_holes()) return false;
    components_ = found.count();
    items_ = components_ + found.holes();
    found.measure_windows();
    if (found.holes() > 0) found.measure_holes();
    list(found.runs());
    sum_runs(found.runs());
    for (int item = LabelCta::rank(); item < items_; item += kLabelThreads) {
      store_.inside[item] = is_hole(item) ? Moments{} : of_component(item);
      if (is_hole(item)) store_.around[item] = of_border(item);
    }
    __syncthreads();
    // From the inside out, as what is enclosed starts later in raster order. One sum at a time: its last bit counts.
    for (int k = items_ - 1; items_ > components_ && LabelCta::rank() == 0 && k >= 0; --k) {
      const int item = store_.order[k], parent = runs_.at(kParent, item);
      if (parent >= 0) store_.inside[parent] += store_.inside[item];
    }
    __syncthreads();
    const int kept = fit_all({object, shape.height, shape.width, shape.stride, 32 - __clz(shape.width + 1)});
    write_reach(kept, shape, object, rule_.object_reach, false);
    write_reach(kept, shape, background, rule_.background_reach, true);
    __syncthreads();
    return true;
  }

 private:
  __device__ bool is_hole(int item) const { return item >= components_; }

  __device__ __forceinline__ void mark_band(const PlaneShape& shape, uint32_t* band) const {
    map_.for_pixels([&](int y, int x, double value) {
      const bool inside =
          x < shape.width && value > 0 && value >= rule_.rule.weight_low && value <= rule_.rule.weight_high;
      const unsigned bits = __ballot_sync(kAllLanes, inside);
      if (Warp::rank() == 0) band[static_cast<int64_t>(y) * shape.stride + x / 32] = bits;
    });
  }

  // First runs and parents: the hole a component lies in, the component around a hole, or -1. And the order.
  __device__ __forceinline__ void list(int runs) const {
    const bool with_holes = items_ > components_;
    int total = 0;
    for (int begin = 0; begin < runs; begin += kLabelThreads) {
      const int r = begin + LabelCta::rank();
      const int component = r < runs && runs_.run[r] < 0 ? ~runs_.run[r] : -1;
      const int hole = with_holes && r < runs && runs_.gap[r + 1] < 0 ? ~runs_.gap[r + 1] : -1;
      int in_chunk;
      int at = total + LabelCta::sum_before((component >= 0) + (hole >= 0), &in_chunk);
      if (component >= 0) {
        store_.order[at++] = component;
        store_.first[component] = r;
        // The gap before the first run of a row is index 0's or belongs to the row above, where it is outside.
        runs_.at(kParent, component) = with_holes && runs_.gap[r] != 0 ? item_of(runs_.gap, r) : -1;
      }
      if (hole >= 0) {
        store_.order[at] = hole;
        store_.first[hole] = r;
        runs_.at(kParent, hole) = item_of(runs_.run, r);
      }
      total += in_chunk;
    }
  }

  __device__ __forceinline__ int row_of(int run) const {
    int y = 0, end = map_.shape.height;
    while (end - y > 1) {
      const int middle = (y + end) / 2;
      if (runs_.row_begin[middle] <= run) {
        y = middle;
      } else {
        end = middle;
      }
    }
    return y;
  }

  // A run's sums are those of the CPU's lanes, each of which takes every eighth pixel.
  __device__ __forceinline__ void sum_runs(int runs) const {
    constexpr int kLanes = 8, kTeams = kLabelThreads / kLanes;
    const double origin = -(map_.shape.width - 1) / 2.0;
    const int team = LabelCta::rank() / kLanes, lane = LabelCta::rank() % kLanes;
    for (int begin = 0; begin < runs; begin += kTeams) {
      const int r = begin + team;
      double own[3] = {}, sums[3] = {};
      if (r < runs) {
        const Taps row = map_.row(row_of(r));
        for (int at = runs_.x0(r) + lane; at <= runs_.x1(r); at += kLanes) {
          const double value = map_.at(row, map_.column(at)), x = origin + at;
          own[0] += value;
          own[1] += value * x;
          own[2] += value * x * x;
        }
      }
      for (int i = 0; i < kLanes; ++i) {
        for (int power = 0; power < 3; ++power) {
          sums[power] += __shfl_sync(kAllLanes, own[power], Warp::rank() / kLanes * kLanes + i);
        }
      }
      if (lane == 0 && r < runs) {
        for (int power = 0; power < 3; ++power) store_.run_sums[int64_t{3} * r + power] = sums[power];
      }
    }
    __syncthreads();
  }

  // One sum after the other, as on the CPU, but the sums of several runs are on their way at the same time.
  __device__ __forceinline__ Moments of_component(int item) const {
    constexpr int kAhead = 4;
    Moments whole;
    int y = runs_.at(kY0, item);
    const int end = runs_.row_begin[runs_.at(kY1, item) + 1];
    for (int begin = runs_.row_begin[y]; begin < end; begin += kAhead) {
      double sums[kAhead][3];
      bool own[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int r = begin + i < end ? begin + i : end - 1;
        own[i] = begin + i < end && item_of(runs_.run, r) == item;
        for (int power = 0; power < 3; ++power) sums[i][power] = store_.run_sums[int64_t{3} * r + power];
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (!own[i]) continue;
        while (begin + i >= runs_.row_begin[y + 1]) ++y;
        whole += gaussian_prior::of_row(sums[i], y, map_.shape.height);
      }
    }
    return whole;
  }

  // The pixels of the component around a hole that share an edge with it.
  __device__ __forceinline__ Moments of_border(int hole) const {
    const int height = map_.shape.height, width = map_.shape.width, component = runs_.at(kParent, hole);
    const int left = runs_.at(kX0, hole) - 1, right = runs_.at(kX1, hole) + 1;
    Moments whole;
    for (int y = runs_.at(kY0, hole) - 1; y <= runs_.at(kY1, hole) + 1; ++y) {
      const Taps row = map_.row(y);
      HoleCursor above(runs_, y - 1, height), here(runs_, y, height), below(runs_, y + 1, height);
      for (int r = runs_.row_begin[y]; r < runs_.row_begin[y + 1]; ++r) {
        if (item_of(runs_.run, r) != component) continue;
        const int x0 = runs_.x0(r), x1 = runs_.x1(r);
        for (int x = x0 < left ? left : x0; x <= x1 && x <= right; ++x) {
          const bool beside = (x == x0 && here.at(x - 1) == hole) || (x == x1 && here.at(x + 1) == hole);
          if (!beside && above.at(x) != hole && below.at(x) != hole) continue;
          whole += gaussian_prior::of_pixel(map_.at(row, map_.column(x)), y, x, height, width);
        }
      }
    }
    return whole;
  }

  // True if the polygon of a contour has the least area. A component's is known where there is no hole in it. Otherwise
  // its windows bound it from below, a hole's pixels do, and the rectangle bounds both from above; where that leaves a
  // choice the contour is traced.
  __device__ __forceinline__ bool is_large(int item, const FramedBits& band) const {
    const double wanted = 2 * rule_.rule.min_area;
    const int grown = is_hole(item) ? 2 : 0;
    if ((is_hole(item) ? int64_t{2} : int64_t{1}) * runs_.at(kSize, item) >= wanted) return true;
    if (!is_hole(item) && runs_.at(kEuler, item) == 1) return false;
    const int64_t wide = runs_.at(kX1, item) - runs_.at(kX0, item) + grown;
    if (2 * wide * (runs_.at(kY1, item) - runs_.at(kY0, item) + grown) < wanted) return false;
    const int r = store_.first[item], y = runs_.at(kY0, item);
    const int first = band.position(y, is_hole(item) ? runs_.x1(r) : runs_.x0(r));
    const auto kind = is_hole(item) ? boxes::ContourKind::kHole : boxes::ContourKind::kOuter;
    return boxes::trace_doubled_area(band, band.stride(), first, kind) >= wanted;
  }

  // Returns how many Gaussians there are, in no order.
  __device__ __forceinline__ int fit_all(const FramedBits& band) const {
    __shared__ int count;
    const int height = map_.shape.height, width = map_.shape.width;
    if (LabelCta::rank() == 0) count = 0;
    __syncthreads();
    for (int item = LabelCta::rank(); item < items_; item += kLabelThreads) {
      if (!is_large(item, band)) continue;
      Moments inside = store_.inside[item];
      if (is_hole(item)) inside += store_.around[item];
      if (!(inside.weight > gaussian_prior::kLeastWeight)) continue;
      Gaussian gaussian = gaussian_prior::fit(inside, rule_.rule.covariance_scale, height, width);
      if (rule_.rule.grid_max) gaussian.least = gaussian_prior::least_form(gaussian, height, width, 0, 1);
      store_.gaussians[atomicAdd(&count, 1)] = gaussian;
    }
    __syncthreads();
    const int kept = count;
    __syncthreads();
    return kept;
  }

  __device__ __forceinline__ void write_reach(int kept, const PlaneShape& shape, uint32_t* plane, double reach,
                                              bool border) const {
    for (int y = LabelCta::rank(); y < shape.height; y += kLabelThreads) {
      uint32_t* row = plane + static_cast<int64_t>(y) * shape.stride;
      for (int word = 0; word < shape.words; ++word) row[word] = 0;
      for (int k = 0; k < kept; ++k) {
        const Span span = Ellipse(store_.gaussians[k], reach, border, shape.height, shape.width).row(y);
        for (int word = span.x0 / 32; word * 32 <= span.x1; ++word) {
          const int begin = span.x0 - word * 32, end = span.x1 - word * 32;
          row[word] |= ~0u << (begin < 0 ? 0 : begin) & ~0u >> (end < 31 ? 31 - end : 0);
        }
      }
    }
  }

  const LabelMap& map_;
  const LabelRule& rule_;
  const ContourStore& store_;
  const RunStore& runs_;
  int components_ = 0, items_ = 0;
};

struct ContourPlan {
  int run_capacity, item_capacity;  // of a CTA of the first kernel
  size_t shared_bytes;              // the runs' store of such a CTA
  int64_t ctas, bytes_of_cta;       // slots of the first kernel
  int64_t most_runs;                // of a map
  int64_t slots, bytes_of_slot;     // of the second; none where all fit the first
  int64_t bytes() const { return std::max(ctas * bytes_of_cta, slots * bytes_of_slot); }
};

inline ContourPlan plan_contours(const DeviceLimits& limits, int64_t count, int64_t height, int64_t width) {
  constexpr int64_t kWordBytes = sizeof(int32_t), kAlignment = 16;
  constexpr int64_t kSharedBytes = 96 * 1024;  // two CTAs of it are at home on every processor
  const auto aligned = [](int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; };
  if (height > boxes::kMaxSide || width > boxes::kMaxSide) {
    throw std::invalid_argument("labels of " + std::to_string(height) + "x" + std::to_string(width) +
                                ": expected at most " + std::to_string(boxes::kMaxSide) + " pixels a side");
  }
  ContourPlan plan{};
  // No two of a map's contours start at the same run.
  plan.most_runs = height * ((width + 1) / 2);
  // Room for eight runs a row, and for one contour in six runs.
  int64_t runs = std::min(plan.most_runs, 8 * height + 64), items = std::min(runs, std::max<int64_t>(64, runs / 6));
  const int64_t available = std::min(limits.shared_bytes, kSharedBytes) / kWordBytes;
  if (RunStore::words(static_cast<int>(height), runs, items) > available) {
    runs = std::max<int64_t>(0, 6 * (available - height - 2) / (18 + kFields));
    items = runs / 6;
  }
  plan.run_capacity = static_cast<int>(runs);
  plan.item_capacity = static_cast<int>(items);
  plan.shared_bytes = static_cast<size_t>(RunStore::words(static_cast<int>(height), runs, items) * kWordBytes);
  const int64_t at_home = 2 * static_cast<int64_t>(limits.processors);
  plan.ctas = std::min(count, at_home);
  plan.bytes_of_cta = aligned(ContourStore::bytes(runs, items));
  if (runs == plan.most_runs && items == plan.most_runs) return plan;
  const int64_t words = RunStore::words(static_cast<int>(height), plan.most_runs, plan.most_runs);
  plan.bytes_of_slot = aligned(ContourStore::bytes(plan.most_runs, plan.most_runs) + words * kWordBytes);
  plan.slots = std::clamp<int64_t>(limits.overflow_bytes / plan.bytes_of_slot, 1, plan.ctas);
  return plan;
}

struct ContourProblem {
  ResizeShape shape;
  LabelRule rule;
  int64_t count;
  double* scaled;          // [N, h, w]
  ReachPlanes planes;      // [N]
  unsigned char* memory;   // ContourPlan::bytes()
  int32_t* overflows;      // how many maps did not fit; 0 before the first kernel
  int32_t* overflow_maps;  // [N]
};

template <typename Pixel>
__global__ void __launch_bounds__(kLabelThreads, 2)
    contour_gaussians_kernel(const Pixel* cams, ContourProblem problem, ContourPlan plan) {
  const int64_t size = static_cast<int64_t>(problem.shape.h) * problem.shape.w;
  const RunStore runs(reinterpret_cast<int32_t*>(dynamic_shared()), problem.shape.height, plan.run_capacity,
                      plan.item_capacity);
  const ContourStore store(runs, problem.memory + blockIdx.x * plan.bytes_of_cta);
  for (int64_t n = blockIdx.x; n < problem.count; n += gridDim.x) {
    double* scaled = problem.scaled + n * size;
    if (scale_map(cams + n * size, size, scaled) == MapKind::kUsual) {
      const LabelMap map = label_map(scaled, problem.shape);
      const bool fits = Contours(map, problem.rule, store)
                            .write(problem.planes.shape, problem.planes.object(n), problem.planes.background(n));
      if (!fits && LabelCta::rank() == 0) {
        problem.overflow_maps[atomicAdd(problem.overflows, 1)] = static_cast<int32_t>(n);
      }
    }
    __syncthreads();
  }
}

// A CTA per slot takes the maps that did not fit, one after the other.
__global__ void __launch_bounds__(kLabelThreads, 2) contour_overflow_kernel(ContourProblem problem, ContourPlan plan) {
  const int64_t size = static_cast<int64_t>(problem.shape.h) * problem.shape.w;
  const auto capacity = static_cast<int>(plan.most_runs);
  unsigned char* memory = problem.memory + blockIdx.x * plan.bytes_of_slot;
  auto* words = reinterpret_cast<int32_t*>(memory + ContourStore::bytes(plan.most_runs, plan.most_runs));
  const ContourStore store(RunStore(words, problem.shape.height, capacity, capacity), memory);
  for (int64_t i = blockIdx.x; i < *problem.overflows; i += gridDim.x) {
    const int64_t n = problem.overflow_maps[i];
    const LabelMap map = label_map(problem.scaled + n * size, problem.shape);
    Contours(map, problem.rule, store)
        .write(problem.planes.shape, problem.planes.object(n), problem.planes.background(n));
    __syncthreads();
  }
}

}  // namespace wsolfast::cuda
