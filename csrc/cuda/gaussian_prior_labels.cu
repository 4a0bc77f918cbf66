// Pseudo labels from class maps: operation for operation what csrc/cpu does, so the labels are the same bytes. Needs
// --fmad=false.
#include <cstdint>

#include "cuda/contour_gaussians.cuh"
#include "cuda/launch.h"
#include "cuda/prior_map.cuh"

namespace wsolfast::cuda {

// Sums of 1, p and p^2 over the pixels of an axis, p counted from its middle, each weighted as it enters source pixel
// i: sums[3 * i] and the next two. Each thread gathers for its pixel, in the order in which the CPU scatters.
__device__ __forceinline__ void gather_axis_moments(int i, int source, int target, double* sums) {
  // The pixels whose coordinate comes within one of i, and some more; the taps decide.
  const double pixels = static_cast<double>(target) / source;
  const auto clamped = [&](double p) { return p < 0.0 ? 0 : p > target ? target : static_cast<int>(p); };
  const int begin = i == 0 ? 0 : clamped((i - 0.5) * pixels - 3), end = clamped((i + 1.5) * pixels + 3);
  double sum = 0, p_sum = 0, pp_sum = 0;
  for (int at = begin; at < (i + 2 < source ? end : target); ++at) {
    const double p = at - (target - 1) / 2.0;
    const Taps taps = linear_taps(at, source, target, false);
    for (int tap = 0; tap < 2; ++tap) {
      if (taps.index[tap] != i) continue;
      const double weight = taps.weight[tap];
      sum += weight;
      p_sum += weight * p;
      pp_sum += weight * p * p;
    }
  }
  sums[3 * i] = sum;
  sums[3 * i + 1] = p_sum;
  sums[3 * i + 2] = pp_sum;
}

// The columns' sums, then the rows': [w + h, 3].
__global__ void __launch_bounds__(kLabelThreads) axis_moments_kernel(ResizeShape shape, double* sums) {
  const int i = static_cast<int>(blockIdx.x) * kLabelThreads + static_cast<int>(threadIdx.x);
  if (i < shape.w) {
    gather_axis_moments(i, shape.w, shape.width, sums);
  } else if (i < shape.w + shape.h) {
    gather_axis_moments(i - shape.w, shape.h, shape.height, sums + 3 * static_cast<int64_t>(shape.w));
  }
}

// The Gaussian of a whole map, as a CTA fits it.
class MapGaussian {
 public:
  __device__ MapGaussian(const LabelMap& map, const LabelRule& rule) : map_(map), shape_(map.shape), rule_(rule) {}

  // Known to all threads; false where the map gives no Gaussian.
  __device__ __forceinline__ bool fit(const double* axis_sums, Gaussian* gaussian) const {
    const Moments whole = rule_.rule.weighs_everything() ? of_source(axis_sums) : of_band();
    if (!(whole.weight > gaussian_prior::kLeastWeight)) return false;
    *gaussian = gaussian_prior::fit(whole, rule_.rule.covariance_scale, shape_.height, shape_.width);
    if (!rule_.rule.grid_max) return true;
    const double least =
        gaussian_prior::least_form(*gaussian, shape_.height, shape_.width, LabelCta::rank(), kLabelThreads);
    gaussian->least = LabelCta::reduce(least, [](double a, double b) { return b < a ? b : a; });
    return true;
  }

 private:
  // Adds moments(row) over the rows one after the other, as the last bit depends on it. fill(row, sums) is run by
  // `threads` threads of a warp for each row; what the first of them leaves in sums counts.
  template <int kThreadsOfRow, typename Fill, typename OfRow>
  __device__ __forceinline__ Moments add_rows(int rows, const Fill& fill, const OfRow& of_row) const {
    constexpr int kRows = kLabelThreads / kThreadsOfRow;
    __shared__ double row_sums[kRows][3];
    Moments whole;
    for (int first = 0; first < rows; first += kRows) {
      const int row = LabelCta::rank() / kThreadsOfRow, part = LabelCta::rank() % kThreadsOfRow;
      double sums[3] = {};
      fill(first + row, part, sums);
      if (part == 0) {
        for (int power = 0; power < 3; ++power) row_sums[row][power] = sums[power];
      }
      __syncthreads();
      for (int k = 0; k < kRows && first + k < rows; ++k) whole += of_row(row_sums[k], first + k);
      __syncthreads();
    }
    return whole;
  }

  // Where the band leaves nothing out the moments are linear in the map before the resize.
  __device__ __forceinline__ Moments of_source(const double* axis_sums) const {
    const double *along_x = axis_sums, *along_y = axis_sums + 3 * static_cast<int64_t>(shape_.w);
    const auto fill = [&](int y, int, double sums[3]) {
      if (y >= shape_.h) return;
      const double* line = map_.source + static_cast<int64_t>(y) * shape_.w;
      for (int x = 0; x < shape_.w; ++x) {
        for (int power = 0; power < 3; ++power) sums[power] += line[x] * along_x[3 * x + power];
      }
    };
    return add_rows<1>(shape_.h, fill, [&](const double sums[3], int y) {
      return gaussian_prior::of_source_row(sums, along_y + 3 * static_cast<int64_t>(y));
    });
  }

  // A row's sums are those of the CPU's lanes, each of which takes every eighth pixel.
  __device__ __forceinline__ Moments of_band() const {
    constexpr int kLanes = 8;
    const double origin = -(shape_.width - 1) / 2.0;
    const auto fill = [&](int y, int lane, double sums[3]) {
      double own[3] = {};
      if (y < shape_.height) {
        const Taps row = map_.row(y);
        for (int i = lane; i < shape_.width; i += kLanes) {
          const double value = map_.at(row, map_.column(i)), x = origin + i;
          const double inside = value >= rule_.rule.weight_low && value <= rule_.rule.weight_high ? value : 0.0;
          own[0] += inside;
          own[1] += inside * x;
          own[2] += inside * x * x;
        }
      }
      for (int i = 0; i < kLanes; ++i) {
        for (int power = 0; power < 3; ++power) {
          sums[power] += __shfl_sync(kAllLanes, own[power], Warp::rank() / kLanes * kLanes + i);
        }
      }
    };
    return add_rows<kLanes>(shape_.height, fill, [&](const double sums[3], int y) {
      return gaussian_prior::of_row(sums, y, shape_.height);
    });
  }

  const LabelMap& map_;
  const ResizeShape& shape_;
  const LabelRule& rule_;
};

// A pixel's label.
__device__ __forceinline__ uint8_t label_of(const gaussian_prior::Rule& rule, double value, bool in_object,
                                            bool above_background) {
  if (value > rule.object_cam || in_object) return gaussian_prior::kObject;
  return !(value < rule.background_cam) || above_background ? gaussian_prior::kIgnore : gaussian_prior::kBackground;
}

// The labels of a map with at most one Gaussian.
__device__ __forceinline__ void write_labels(const LabelMap& map, const LabelRule& rule, bool has_gaussian,
                                             const Gaussian& gaussian, uint8_t* labels) {
  constexpr int kRows = 64;
  __shared__ Span object[kRows], unsure[kRows];
  const ResizeShape& shape = map.shape;
  const auto span_of = [&](double reach, bool border, int y) {
    return has_gaussian ? Ellipse(gaussian, reach, border, shape.height, shape.width).row(y) : Span{0, -1};
  };
  // Both ellipses of a row at a time, by other warps than those of its taps.
  const auto prepare = [&](int first, int rows) {
    const int row = LabelCta::rank() % kRows, part = LabelCta::rank() / kRows;
    if (row < rows && part == 1) object[row] = span_of(rule.object_reach, false, first + row);
    if (row < rows && part == 2) unsure[row] = span_of(rule.background_reach, true, first + row);
  };
  map.for_pixels<kRows>(prepare, [&](int y, int x, double value) {
    if (x >= shape.width) return;
    const auto within = [&](const Span& span) { return span.x0 <= x && x <= span.x1; };
    labels[static_cast<int64_t>(y) * shape.width + x] =
        label_of(rule.rule, value, within(object[y % kRows]), within(unsure[y % kRows]));
  });
}

// The labels of a map by the planes of what its Gaussians reach.
__device__ __forceinline__ void write_labels(const LabelMap& map, const LabelRule& rule, const PlaneShape& planes,
                                             const uint32_t* object, const uint32_t* background, uint8_t* labels) {
  map.for_pixels([&](int y, int x, double value) {
    if (x >= map.shape.width) return;
    const int64_t word = static_cast<int64_t>(y) * planes.stride + x / 32;
    labels[static_cast<int64_t>(y) * map.shape.width + x] =
        label_of(rule.rule, value, object[word] >> x % 32 & 1, background[word] >> x % 32 & 1);
  });
}

// One CTA per map. `scaled` [N, h, w] takes the maps divided by their maxima. A map that is not finite is ignored.
// With `planes` they say what the Gaussians reach, otherwise one is fitted to each map.
template <typename Pixel, bool kPlanes>
__global__ void __launch_bounds__(kLabelThreads, 2)
    gaussian_prior_labels_kernel(const Pixel* cams, ResizeShape shape, LabelRule rule, const double* axis_sums,
                                 ReachPlanes planes, double* scaled, uint8_t* out) {
  const int64_t n = blockIdx.x, size = static_cast<int64_t>(shape.height) * shape.width;
  const int64_t source_size = static_cast<int64_t>(shape.h) * shape.w;
  uint8_t* labels = out + n * size;
  const MapKind kind = scale_map(cams + n * source_size, source_size, scaled + n * source_size);
  if (kind != MapKind::kUsual) {
    const bool background = kind == MapKind::kEmpty && rule.rule.empty_background;
    for (int64_t i = LabelCta::rank(); i < size; i += kLabelThreads) {
      labels[i] = background ? gaussian_prior::kBackground : gaussian_prior::kIgnore;
    }
    return;
  }
  const LabelMap map = label_map(scaled + n * source_size, shape);
  if constexpr (kPlanes) {
    write_labels(map, rule, planes.shape, planes.object(n), planes.background(n), labels);
  } else {
    Gaussian gaussian{};
    const bool has_gaussian = rule.rule.uses_gaussians() && MapGaussian(map, rule).fit(axis_sums, &gaussian);
    write_labels(map, rule, has_gaussian, gaussian, labels);
  }
}

namespace {

double* scaled_maps(const Allocate& allocate, int64_t count, const ResizeShape& shape) {
  return static_cast<double*>(allocate(count * shape.h * shape.w * static_cast<int64_t>(sizeof(double))));
}

}  // namespace

// One Gaussian per map.
template <typename Pixel>
void label_by_maps(const Target& target, const Allocate& allocate, const Pixel* cams, int64_t count,
                   const ResizeShape& shape, const gaussian_prior::Rule& rule, uint8_t* labels) {
  const Launcher launch(target);
  const int64_t sides = static_cast<int64_t>(shape.h) + shape.w;
  auto* axis_sums = static_cast<double*>(allocate(3 * sides * static_cast<int64_t>(sizeof(double))));
  if (rule.uses_gaussians() && rule.weighs_everything()) {
    launch(axis_moments_kernel, (sides + kLabelThreads - 1) / kLabelThreads, kLabelThreads, 0, shape, axis_sums);
  }
  const ReachPlanes none{PlaneShape(0, 0, 0), nullptr};
  launch(gaussian_prior_labels_kernel<Pixel, false>, count, kLabelThreads, 0, cams, shape, LabelRule(rule), axis_sums,
         none, scaled_maps(allocate, count, shape), labels);
}

// One Gaussian per contour; `overflows` is one zero.
template <typename Pixel>
void label_by_contours(const Target& target, const Allocate& allocate, const Pixel* cams, int64_t count,
                       const ResizeShape& shape, const gaussian_prior::Rule& rule, int32_t* overflows,
                       uint8_t* labels) {
  const Launcher launch(target);
  const ContourPlan plan = plan_contours(launch.limits(), count, shape.height, shape.width);
  const PlaneShape planes(shape.height, shape.width, 2);
  const int64_t plane_bytes = count * planes.words_of_image() * static_cast<int64_t>(sizeof(uint32_t));
  const ReachPlanes reach{planes, static_cast<uint32_t*>(allocate(plane_bytes))};
  auto* scaled = scaled_maps(allocate, count, shape);
  auto* memory = static_cast<unsigned char*>(allocate(plan.bytes()));
  auto* overflow_maps = static_cast<int32_t*>(allocate(count * static_cast<int64_t>(sizeof(int32_t))));
  const ContourProblem problem{shape, LabelRule(rule), count, scaled, reach, memory, overflows, overflow_maps};
  launch(contour_gaussians_kernel<Pixel>, plan.ctas, kLabelThreads, plan.shared_bytes, cams, problem, plan);
  if (plan.slots > 0) launch(contour_overflow_kernel, plan.slots, kLabelThreads, 0, problem, plan);
  launch(gaussian_prior_labels_kernel<Pixel, true>, count, kLabelThreads, 0, cams, shape, LabelRule(rule), nullptr,
         reach, scaled, labels);
}

#define WSOLFAST_LABELS_OF(T)                                                                            \
  template void label_by_maps(const Target&, const Allocate&, const T*, int64_t, const ResizeShape&,     \
                              const gaussian_prior::Rule&, uint8_t*);                                    \
  template void label_by_contours(const Target&, const Allocate&, const T*, int64_t, const ResizeShape&, \
                                  const gaussian_prior::Rule&, int32_t*, uint8_t*);
WSOLFAST_LABELS_OF(float)
WSOLFAST_LABELS_OF(double)

}  // namespace wsolfast::cuda
