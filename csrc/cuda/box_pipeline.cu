// The kernels of the box ops one after the other, with the memory they need in between. Only the list of all boxes
// waits for the device, once.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "boxes/plane.h"
#include "cuda/box_cuts.cuh"
#include "cuda/box_pipeline.h"
#include "cuda/launch.h"

namespace wsolfast::cuda {

constexpr int kExpandThreads = 256;

// A map that cannot be quantised has boxes of -1.
constexpr int64_t kNoBox = -1;

template <int kThreads>
__global__ void __launch_bounds__(kThreads) expand_boxes_kernel(CutProblem problem, int64_t images, Box* boxes) {
  const int64_t count = images * problem.cuts.thresholds, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const int cut = problem.cuts.of_threshold[i];
    const int64_t n = i / problem.cuts.thresholds;
    boxes[i] = cut < 0 ? Box{kNoBox, kNoBox, kNoBox, kNoBox} : problem.boxes[n * problem.cuts.cuts + cut];
  }
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    expand_hits_kernel(CutProblem problem, int64_t images, const double* levels, int64_t level_count, bool* hits) {
  const int64_t count = images * problem.cuts.thresholds * level_count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t at = i / level_count, n = at / problem.cuts.thresholds;
    const int cut = problem.cuts.of_threshold[at];
    bool hit = false;
    if (cut >= 0 && !truths_of(problem, n).empty()) {
      const double best = problem.best[n * problem.cuts.cuts + cut], level = levels[i % level_count];
      hit = problem.rule.hit_strict ? best > level : best >= level;
    }
    hits[i] = hit;
  }
}

constexpr int kOffsetThreads = 512;

// Running sums by one CTA: of the contours of each cut into begin [N * cuts + 1], of those of each threshold into
// offsets [N * thresholds + 1].
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    contour_offsets_kernel(CutProblem problem, int64_t images, int64_t* begin, int64_t* offsets) {
  using Group = Cta<kThreads>;
  const auto add_up = [](int64_t count, int64_t* sums, const auto& value) {
    int64_t total = 0;
    for (int64_t first = 0; first < count; first += kThreads) {
      const int64_t i = first + Group::rank();
      int64_t in_chunk;
      const int64_t before = Group::sum_before(i < count ? value(i) : int64_t{0}, &in_chunk);
      if (i < count) sums[i] = total + before;
      total += in_chunk;
    }
    if (Group::rank() == 0) sums[count] = total;
  };
  const int64_t cuts = problem.cuts.cuts, thresholds = problem.cuts.thresholds;
  add_up(images * cuts, begin,
         [&](int64_t i) { return i % cuts < problem.cuts.distinct[i / cuts] ? problem.contours[i] : int64_t{0}; });
  add_up(images * thresholds, offsets, [&](int64_t i) {
    const int cut = problem.cuts.of_threshold[i];
    return cut < 0 ? int64_t{1} : problem.contours[i / thresholds * cuts + cut];
  });
  if (Group::rank() == 0) *problem.cuts.overflows = 0;
}

// A warp copies the boxes of a threshold from those of its cut.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    expand_contours_kernel(CutProblem problem, int64_t images, const int64_t* offsets, Box* boxes) {
  const int64_t count = images * problem.cuts.thresholds;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / Warp::kSize);
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / Warp::kSize; i < count; i += step) {
    const int cut = problem.cuts.of_threshold[i];
    const int64_t n = i / problem.cuts.thresholds;
    for (int64_t to = offsets[i] + Warp::rank(); to < offsets[i + 1]; to += Warp::kSize) {
      boxes[to] = cut < 0 ? Box{kNoBox, kNoBox, kNoBox, kNoBox}
                          : problem.listed[problem.begin[n * problem.cuts.cuts + cut] + to - offsets[i]];
    }
  }
}

class BoxPipeline {
 public:
  // Nothing of it may be empty. Throws std::invalid_argument when the map or the thresholds are too many.
  BoxPipeline(const Launcher& launch, const Allocate& allocate, int64_t images, const MapRule& map_rule,
              int64_t thresholds, const boxes::Rule& rule, bool bytes)
      : launch_(launch),
        allocate_(allocate),
        images_(images),
        map_rule_(map_rule),
        problem_(problem_of(map_rule.shape.height, map_rule.shape.width, thresholds, rule, bytes && !map_rule.given)) {
    Cuts& cuts = problem_.cuts;
    cuts.planes = allocate_array<uint32_t>(images * problem_.shape.words_of_image());
    cuts.level = allocate_array<int32_t>(images * cuts.cuts);
    cuts.distinct = allocate_array<int32_t>(images);
    cuts.of_threshold = allocate_array<int32_t>(images * thresholds);
    if (!problem_.rule.quantize) cuts.edges = allocate_array<double>(images * 2 * thresholds);
    cuts.overflows = allocate_array<int32_t>(1);
    problem_.overflow_items = allocate_array<int64_t>(images * cuts.cuts);
    plan_ = plan_cuts(launch.limits(), problem_.shape, images, cuts.cuts);
    overflow_ = allocate_array<int32_t>(plan_.slots * plan_.words_of_slot);
  }

  template <typename Pixel>
  void digitize(const Pixel* maps, const double* thresholds) {
    const ResizeShape& shape = map_rule_.shape;
    const int64_t source = static_cast<int64_t>(shape.h) * shape.w;
    const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
    auto* sources = shape.same() ? nullptr : allocate_array<double>(images_ * source);
    auto* values = map_rule_.given && !problem_.rule.quantize ? allocate_array<double>(images_ * size) : nullptr;
    launch_(box_levels_kernel<Pixel>, images_, kLevelThreads, 0, maps, map_rule_, sources, values, problem_.shape,
            thresholds, problem_.rule, problem_.cuts);
  }

  // [N, T]
  void choose_boxes(Box* boxes) {
    problem_.boxes = allocate_array<Box>(images_ * problem_.cuts.cuts);
    solve<Task::kChoose>();
    launch_(expand_boxes_kernel<kExpandThreads>, ctas_for(images_ * problem_.cuts.thresholds), kExpandThreads, 0,
            problem_, images_, boxes);
  }

  // [N, T, I]
  void find_hits(const Truths& truths, bool* hits) {
    problem_.best = allocate_array<double>(images_ * problem_.cuts.cuts);
    problem_.truths = truths.boxes;
    problem_.truth_begin = truths.begin;
    problem_.truth_count = truths.count;
    solve<Task::kOverlap>();
    launch_(expand_hits_kernel<kExpandThreads>, ctas_for(images_ * problem_.cuts.thresholds * truths.level_count),
            kExpandThreads, 0, problem_, images_, truths.levels, truths.level_count, hits);
  }

  // Fills offsets [N * T + 1] and returns where the number of contours to list stands, followed by nothing.
  const int64_t* count_contours(int64_t* offsets) {
    problem_.contours = allocate_array<int64_t>(images_ * problem_.cuts.cuts);
    auto* begin = allocate_array<int64_t>(images_ * problem_.cuts.cuts + 1);
    problem_.begin = begin;
    solve<Task::kCount>();
    launch_(contour_offsets_kernel<kOffsetThreads>, 1, kOffsetThreads, 0, problem_, images_, begin, offsets);
    return begin + images_ * problem_.cuts.cuts;
  }

  // After count_contours; `contours` is the number it points to. Boxes are [offsets[N * T]].
  void list_contours(int64_t contours, const int64_t* offsets, Box* boxes) {
    problem_.listed = allocate_array<Box>(contours);
    solve<Task::kList>();
    launch_(expand_contours_kernel<kExpandThreads>, ctas_for(images_ * problem_.cuts.thresholds * Warp::kSize),
            kExpandThreads, 0, problem_, images_, offsets, boxes);
  }

 private:
  static CutProblem problem_of(int h, int w, int64_t thresholds, boxes::Rule rule, bool levels) {
    rule.quantize |= levels;
    if (h > boxes::kMaxSide || w > boxes::kMaxSide) {
      throw std::invalid_argument("map of " + std::to_string(h) + "x" + std::to_string(w) + ": expected at most " +
                                  std::to_string(boxes::kMaxSide) + " pixels a side");
    }
    if (thresholds > kMostThresholds) {
      throw std::invalid_argument("at most " + std::to_string(kMostThresholds) +
                                  " thresholds on CUDA: pass them in several calls");
    }
    const auto count = static_cast<int>(thresholds);
    CutProblem problem{PlaneShape(h, w, rule.quantize ? 8 : std::bit_width(static_cast<unsigned>(count)))};
    problem.rule = rule;
    problem.empty_box = rule.empty_box ? *rule.empty_box : boxes::to_box({0, 0, w - 1, h - 1}, rule.box_end, h, w);
    problem.cuts.thresholds = count;
    problem.cuts.cuts = rule.quantize ? std::min(count, kByteCuts) : count;
    return problem;
  }

  template <typename T>
  T* allocate_array(int64_t count) {
    return static_cast<T*>(allocate_(count * static_cast<int64_t>(sizeof(T))));
  }

  static int64_t ctas_for(int64_t threads) {
    constexpr int64_t kMostCtas = 4096;
    return std::clamp<int64_t>((threads + kExpandThreads - 1) / kExpandThreads, 1, kMostCtas);
  }

  template <Task kTask>
  void solve() {
    launch_(box_cuts_kernel<kTask>, images_ * plan_.chunks, plan_.warps * Warp::kSize, plan_.shared_bytes, problem_,
            plan_);
    // A group that fits the largest foreground leaves nothing over.
    if (plan_.run_capacity >= plan_.most_runs && plan_.item_capacity >= plan_.most_runs) return;
    launch_(box_overflow_kernel<kTask>, plan_.slots, kOverflowThreads, 0, problem_, plan_, overflow_);
  }

  const Launcher& launch_;
  const Allocate& allocate_;
  int64_t images_;
  MapRule map_rule_;
  CutProblem problem_;
  CutPlan plan_{};
  int32_t* overflow_ = nullptr;
};

// Digitises the maps and hands the pipeline to `function`.
template <typename Pixel, typename Function>
void with_boxes(const Launcher& launch, const Allocate& allocate, const BoxMaps<Pixel>& maps,
                const Function& function) {
  BoxPipeline pipeline(launch, allocate, maps.images, maps.map_rule, maps.threshold_count, maps.rule,
                       std::is_same_v<Pixel, uint8_t>);
  pipeline.digitize(maps.maps, maps.thresholds);
  function(pipeline);
}

template <typename Pixel>
void choose_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, Box* boxes) {
  const Launcher launch(target);
  with_boxes(launch, allocate, maps, [&](BoxPipeline& pipeline) { pipeline.choose_boxes(boxes); });
}

template <typename Pixel>
void find_hits(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, const Truths& truths,
               bool* hits) {
  const Launcher launch(target);
  with_boxes(launch, allocate, maps, [&](BoxPipeline& pipeline) { pipeline.find_hits(truths, hits); });
}

template <typename Pixel>
void list_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, int64_t* offsets,
                const std::function<Box*(int64_t)>& room_for) {
  const Launcher launch(target);
  with_boxes(launch, allocate, maps, [&](BoxPipeline& pipeline) {
    const int64_t* last_offset = offsets + maps.images * maps.threshold_count;
    const auto [contours, boxes] = launch.wait_for({pipeline.count_contours(offsets), last_offset});
    pipeline.list_contours(contours, offsets, room_for(boxes));
  });
}

#define WSOLFAST_BOXES_OF(Pixel)                                                                        \
  template void choose_boxes(const Target&, const Allocate&, const BoxMaps<Pixel>&, Box*);              \
  template void find_hits(const Target&, const Allocate&, const BoxMaps<Pixel>&, const Truths&, bool*); \
  template void list_boxes(const Target&, const Allocate&, const BoxMaps<Pixel>&, int64_t*,             \
                           const std::function<Box*(int64_t)>&);
WSOLFAST_BOXES_OF(uint8_t)
WSOLFAST_BOXES_OF(float)
WSOLFAST_BOXES_OF(double)

}  // namespace wsolfast::cuda
