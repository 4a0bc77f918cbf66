#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/exp.h"
#include "common/simd.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "restricted_activation_loss";
// Positions whose classes are read together: their column of a 1000-class map stays in the second-level cache.
constexpr int64_t kStrip = 64;
// Classes summed in the map's own precision before they go to double.
constexpr int64_t kClassRun = 32;
constexpr double kRangeEps = 1e-15;

// Sum of squared softmax probabilities of `width` neighbouring positions; class_stride apart lie the classes.
template <typename T>
WSOLFAST_SIMD void squared_probabilities(const T* logits, int64_t classes, int64_t class_stride, int64_t width,
                                         double* squares) {
  T highest[kStrip];
  double sum[kStrip], sum_of_squares[kStrip];
  for (int64_t p = 0; p < width; ++p) {
    highest[p] = logits[p];
    sum[p] = sum_of_squares[p] = 0;
  }
  for (int64_t c = 1; c < classes; ++c) {
    const T* row = logits + c * class_stride;
    for (int64_t p = 0; p < width; ++p) highest[p] = highest[p] < row[p] ? row[p] : highest[p];
  }
  for (int64_t first = 0; first < classes; first += kClassRun) {
    T run[kStrip] = {}, run_of_squares[kStrip] = {};
    for (int64_t c = first; c < std::min(classes, first + kClassRun); ++c) {
      const T* row = logits + c * class_stride;
      for (int64_t p = 0; p < width; ++p) {
        const T e = wsolfast::exp_of_nonpositive(row[p] - highest[p]);
        run[p] += e;
        run_of_squares[p] += e * e;
      }
    }
    for (int64_t p = 0; p < width; ++p) {
      sum[p] += run[p];
      sum_of_squares[p] += run_of_squares[p];
    }
  }
  for (int64_t p = 0; p < width; ++p) squares[p] = sum_of_squares[p] / (sum[p] * sum[p]);
}

const int64_t* checked_targets(const Tensor& labels, int64_t images, int64_t classes) {
  WSOLFAST_CHECK(labels.dim() == 1 && labels.size(0) == images, kOp, "expected one label per image");
  WSOLFAST_CHECK(labels.scalar_type() == torch::headeronly::ScalarType::Long, kOp, "expected int64 labels");
  const int64_t* targets = labels.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < images; ++n) {
    WSOLFAST_CHECK(targets[n] >= 0 && targets[n] < classes, kOp, "label ", targets[n], " of image ", n,
                   " is outside the ", classes, " classes");
  }
  return targets;
}

struct Rule {
  double tau, sigma;
  bool root, scaled;
};

// One image: from the squared probabilities [positions] (overwritten) to its loss and slopes.
template <typename T>
double restrict_image(double* squares, const T* score_logits, int64_t positions, int64_t classes, double weight,
                      const Rule& rule, T* slope) {
  double low = squares[0], high = squares[0];
  bool finite = true;
  for (int64_t p = 0; p < positions; ++p) {
    low = std::min(low, squares[p]);
    high = std::max(high, squares[p]);
    finite &= squares[p] == squares[p];
  }
  if (!finite) {
    std::fill(slope, slope + positions, std::numeric_limits<T>::quiet_NaN());
    return std::numeric_limits<double>::quiet_NaN();
  }
  const bool constant = classes == 1 || (rule.scaled && high - low <= 8 * std::numeric_limits<T>::epsilon() * high);
  const auto spread = [&](double square) {
    if (constant) return 0.0;
    const double variance = std::max(0.0, (square - 1.0 / classes) / (classes - 1));
    return rule.root ? std::sqrt(variance) : variance;
  };
  const double floor = rule.scaled ? spread(low) : 0.0;
  const double range = rule.scaled ? spread(high) - floor + kRangeEps : 1.0;
  double loss = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const T u = static_cast<T>((spread(squares[p]) - floor) / range);
    const bool background = u < static_cast<T>(rule.tau);
    const bool object = u > static_cast<T>(rule.tau + rule.sigma);
    const double tail = std::exp(-std::abs(static_cast<double>(score_logits[p])));
    const double score = score_logits[p] < 0 ? tail / (1 + tail) : 1 / (1 + tail);
    loss += (background ? score : 0.0) + (object ? 1 - score : 0.0);
    slope[p] = static_cast<T>(score * (1 - score) * (int(background) - int(object)) * weight);
  }
  return loss * weight;
}

std::tuple<Tensor, Tensor> restricted_activation_loss_cpu(Tensor class_maps, Tensor label, double tau, double sigma,
                                                          std::string statistic, std::string normalization) {
  WSOLFAST_CHECK(class_maps.dim() == 4, kOp, "expected class_maps of shape [N, K, h, w], got ", class_maps.dim(), "D");
  const Tensor maps = torch::stable::contiguous(class_maps);
  const Tensor labels = torch::stable::contiguous(label);
  const int64_t images = maps.size(0), classes = maps.size(1), positions = maps.size(2) * maps.size(3);
  Tensor loss = torch::stable::new_zeros(maps, {});
  Tensor slope = torch::stable::new_zeros(maps, {images, maps.size(2), maps.size(3)});
  if (maps.numel() == 0) return {loss, slope};
  const int64_t* target = checked_targets(labels, images, classes);
  const Rule rule{tau, sigma, statistic == "std", normalization == "minmax"};
  const int64_t strips = (positions + kStrip - 1) / kStrip;
  std::vector<double> squares(images * positions), image_loss(images);
  wsolfast::dispatch_float_double(maps.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const T* logits = maps.const_data_ptr<T>();
    T* slopes = slope.mutable_data_ptr<T>();
    const int64_t grain = std::max<int64_t>(1, 8192 / (classes * kStrip));
    torch::stable::parallel_for(0, images * strips, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / strips, first = i % strips * kStrip;
        squared_probabilities<T>(logits + n * classes * positions + first, classes, positions,
                                 std::min(kStrip, positions - first), squares.data() + n * positions + first);
      }
    });
    const double weight = 1.0 / static_cast<double>(images * positions);
    torch::stable::parallel_for(0, images, std::max<int64_t>(1, 2048 / positions), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        image_loss[n] =
            restrict_image<T>(squares.data() + n * positions, logits + (n * classes + target[n]) * positions, positions,
                              classes, weight, rule, slopes + n * positions);
      }
    });
    double total = 0;
    for (double part : image_loss) total += part;
    *loss.mutable_data_ptr<T>() = static_cast<T>(total);
  });
  return {loss, slope};
}

Tensor restricted_activation_loss_backward_cpu(Tensor grad, Tensor slope, Tensor label, int64_t classes) {
  const Tensor slopes = torch::stable::contiguous(slope);
  const Tensor labels = torch::stable::contiguous(label);
  const int64_t images = slopes.size(0), positions = slopes.size(1) * slopes.size(2);
  Tensor gradient = torch::stable::new_zeros(slopes, {images, classes, slopes.size(1), slopes.size(2)});
  if (gradient.numel() == 0) return gradient;
  const int64_t* target = checked_targets(labels, images, classes);
  wsolfast::dispatch_float_double(slopes.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const T scale = *grad.const_data_ptr<T>();
    for (int64_t n = 0; n < images; ++n) {
      const T* in = slopes.const_data_ptr<T>() + n * positions;
      T* out = gradient.mutable_data_ptr<T>() + (n * classes + target[n]) * positions;
      for (int64_t p = 0; p < positions; ++p) out[p] = scale * in[p];
    }
  });
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) {
  m.impl("restricted_activation_loss", TORCH_BOX(&restricted_activation_loss_cpu));
  m.impl("_restricted_activation_loss_backward", TORCH_BOX(&restricted_activation_loss_backward_cpu));
}
