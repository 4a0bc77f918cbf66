// A plane (n, c) at a time, all of it in the cache: the rows of a branch are stretched once, then every output row
// blends two of them. The backward pass runs the same steps transposed.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "boxes/resize.h"
#include "common/dispatch.h"
#include "common/simd.h"

namespace {

using torch::stable::Tensor;

constexpr const char* kOp = "multiplicative_fusion";
constexpr int kMostBranches = 4;

// One axis of a bilinear resize; every target has two sources.
template <typename T>
struct Axis {
  std::vector<int32_t> left, right;
  std::vector<T> left_weight, right_weight;  // [target]
  // By source: the targets [begin, end) that see it, and how much, one source after another.
  std::vector<int32_t> begin, end;
  std::vector<T> seen;

  Axis(int64_t source, int64_t target, bool align_corners) {
    wsolfast::boxes::ResizeTable table;
    wsolfast::boxes::make_linear_table(static_cast<int>(source), static_cast<int>(target), align_corners, table);
    for (int64_t i = 0; i < target; ++i) {
      left.push_back(table.index[2 * i]);
      right.push_back(table.index[2 * i + 1]);
      left_weight.push_back(static_cast<T>(table.weight[2 * i]));
      right_weight.push_back(static_cast<T>(table.weight[2 * i + 1]));
    }
    for (int32_t s = 0; s < source; ++s) {
      const auto sees = [&](int64_t i) { return left[i] == s || right[i] == s; };
      int64_t first = 0;
      while (first < target && !sees(first)) ++first;
      int64_t last = first;
      for (; last < target && sees(last); ++last) {
        seen.push_back((left[last] == s ? left_weight[last] : T(0)) + (right[last] == s ? right_weight[last] : T(0)));
      }
      begin.push_back(static_cast<int32_t>(first));
      end.push_back(static_cast<int32_t>(last));
    }
  }
};

template <typename T>
struct Branch {
  const T* data;
  T* gradient = nullptr;
  int64_t height, width;
  bool resized;
  Axis<T> rows, columns;
};

// The horizontal pass: rows of the branch to rows of the output's width.
template <typename T>
WSOLFAST_SIMD void stretch_rows(const T* source, int64_t rows, int64_t source_width, const Axis<T>& axis, int64_t width,
                                T* out) {
  const int32_t *left = axis.left.data(), *right = axis.right.data();
  const T *left_weight = axis.left_weight.data(), *right_weight = axis.right_weight.data();
  for (int64_t y = 0; y < rows; ++y, source += source_width, out += width) {
    for (int64_t x = 0; x < width; ++x) out[x] = left_weight[x] * source[left[x]] + right_weight[x] * source[right[x]];
  }
}

// The vertical pass: each output row from two stretched ones.
template <typename T>
WSOLFAST_SIMD void blend_rows(const T* stretched, const Axis<T>& axis, int64_t height, int64_t width, T* out) {
  for (int64_t y = 0; y < height; ++y, out += width) {
    const T *above = stretched + axis.left[y] * width, *below = stretched + axis.right[y] * width;
    const T above_weight = axis.left_weight[y], below_weight = axis.right_weight[y];
    for (int64_t x = 0; x < width; ++x) out[x] = above_weight * above[x] + below_weight * below[x];
  }
}

// The transpose of blend_rows.
template <typename T>
WSOLFAST_SIMD void collect_rows(const T* gradient, const Axis<T>& axis, int64_t source_height, int64_t width, T* out) {
  std::fill(out, out + source_height * width, T(0));
  const int64_t height = static_cast<int64_t>(axis.left.size());
  for (int64_t y = 0; y < height; ++y, gradient += width) {
    T *above = out + axis.left[y] * width, *below = out + axis.right[y] * width;
    const T above_weight = axis.left_weight[y], below_weight = axis.right_weight[y];
    for (int64_t x = 0; x < width; ++x) above[x] += above_weight * gradient[x];
    for (int64_t x = 0; x < width; ++x) below[x] += below_weight * gradient[x];
  }
}

// The transpose of stretch_rows, gathered: each source sums its targets from left to right.
template <typename T>
void shrink_rows(const T* gradient, int64_t rows, int64_t source_width, const Axis<T>& axis, int64_t width, T* out) {
  for (int64_t y = 0; y < rows; ++y, gradient += width, out += source_width) {
    const T* weight = axis.seen.data();
    for (int64_t s = 0; s < source_width; ++s) {
      T sum = 0;
      for (int32_t x = axis.begin[s]; x < axis.end[s]; ++x) sum += *weight++ * gradient[x];
      out[s] = sum;
    }
  }
}

template <typename T>
WSOLFAST_SIMD void multiply_by(const T* factor, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] *= factor[i];
}

template <typename T>
WSOLFAST_SIMD void add(const T* summand, int64_t count, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] += summand[i];
}

// Scratch of one thread.
template <typename T>
class Fusion {
 public:
  Fusion(const std::vector<Branch<T>>& branches, bool multiplies)
      : branches_(branches),
        multiplies_(multiplies),
        height_(branches[0].height),
        width_(branches[0].width),
        size_(height_ * width_),
        plane_(size_),
        columns_(width_) {
    for (const Branch<T>& branch : branches_) {
      resized_.emplace_back(branch.resized ? size_ : 0);
      if (branch.resized) stretched_.resize(std::max(stretched_.size(), static_cast<size_t>(branch.height * width_)));
    }
  }

  void fuse_to_map(int64_t plane, T* map) { fuse(plane, map + plane * size_); }

  void fuse_to_mean(int64_t plane, T* mean) {
    fuse(plane, plane_.data());
    std::fill(columns_.begin(), columns_.end(), T(0));
    for (int64_t y = 0; y < height_; ++y) add(plane_.data() + y * width_, width_, columns_.data());
    double total = 0;
    for (T column : columns_) total += column;
    mean[plane] = static_cast<T>(total / static_cast<double>(size_));
  }

  // `grad` is the map [h, w] of each plane, or, reduced, one number.
  void differentiate(int64_t plane, const T* grad, bool reduced) {
    const T* factors[kMostBranches] = {};
    for (size_t b = 0; multiplies_ && b < branches_.size(); ++b) factors[b] = resize(b, plane);
    for (size_t b = 0; b < branches_.size(); ++b) {
      const Branch<T>& branch = branches_[b];
      T* out = branch.resized ? plane_.data() : branch.gradient + plane * size_;
      if (reduced) {
        std::fill(out, out + size_, grad[plane] / static_cast<T>(size_));
      } else {
        std::copy_n(grad + plane * size_, size_, out);
      }
      for (size_t other = 0; multiplies_ && other < branches_.size(); ++other) {
        if (other != b) multiply_by(factors[other], size_, out);
      }
      if (!branch.resized) continue;
      collect_rows(out, branch.rows, branch.height, width_, stretched_.data());
      shrink_rows(stretched_.data(), branch.height, branch.width, branch.columns, width_,
                  branch.gradient + plane * branch.height * branch.width);
    }
  }

 private:
  const T* resize(size_t b, int64_t plane) {
    const Branch<T>& branch = branches_[b];
    const T* source = branch.data + plane * branch.height * branch.width;
    if (!branch.resized) return source;
    stretch_rows(source, branch.height, branch.width, branch.columns, width_, stretched_.data());
    blend_rows(stretched_.data(), branch.rows, height_, width_, resized_[b].data());
    return resized_[b].data();
  }

  void fuse(int64_t plane, T* out) {
    std::copy_n(branches_[0].data + plane * size_, size_, out);
    for (size_t b = 1; b < branches_.size(); ++b) (multiplies_ ? multiply_by<T> : add<T>)(resize(b, plane), size_, out);
  }

  const std::vector<Branch<T>>& branches_;
  const bool multiplies_;
  const int64_t height_, width_, size_;
  std::vector<std::vector<T>> resized_;  // [branch][h, w]
  std::vector<T> stretched_;             // [h_i, w]
  std::vector<T> plane_;                 // [h, w]
  std::vector<T> columns_;               // [w]
};

std::vector<Tensor> checked_branches(const Tensor& first, const Tensor& second, const std::optional<Tensor>& third,
                                     const std::optional<Tensor>& fourth) {
  std::vector<Tensor> branches{torch::stable::contiguous(first), torch::stable::contiguous(second)};
  for (const std::optional<Tensor>& branch : {third, fourth}) {
    if (branch) branches.push_back(torch::stable::contiguous(*branch));
  }
  for (const Tensor& branch : branches) {
    WSOLFAST_CHECK(branch.dim() == 4 && branch.size(2) > 0 && branch.size(3) > 0, kOp,
                   "expected branches [N, C, h, w] with h, w > 0");
    WSOLFAST_CHECK(branch.size(0) == first.size(0) && branch.size(1) == first.size(1) &&
                       branch.scalar_type() == first.scalar_type(),
                   kOp, "expected branches that agree in N, C and dtype");
  }
  return branches;
}

template <typename T>
std::vector<Branch<T>> described(const std::vector<Tensor>& tensors, bool align_corners) {
  const int64_t height = tensors[0].size(2), width = tensors[0].size(3);
  std::vector<Branch<T>> branches;
  for (const Tensor& tensor : tensors) {
    const int64_t h = tensor.size(2), w = tensor.size(3);
    branches.push_back({tensor.const_data_ptr<T>(), nullptr, h, w, h != height || w != width,
                        Axis<T>(h, height, align_corners), Axis<T>(w, width, align_corners)});
  }
  return branches;
}

// Runs function(fusion, plane) for every plane.
template <typename T, typename Function>
void for_each_plane(const std::vector<Branch<T>>& branches, const std::string& mode, int64_t planes,
                    const Function& function) {
  WSOLFAST_CHECK(mode == "multiply" || mode == "add", kOp, "unknown mode ", mode);
  const int64_t grain = std::max<int64_t>(1, 16384 / (branches[0].height * branches[0].width));
  torch::stable::parallel_for(0, planes, grain, [&](int64_t begin, int64_t end) {
    Fusion<T> fusion(branches, mode == "multiply");
    for (int64_t plane = begin; plane < end; ++plane) function(fusion, plane);
  });
}

bool parse_reduce(const std::string& reduce) {
  WSOLFAST_CHECK(reduce == "map" || reduce == "mean", kOp, "unknown reduce ", reduce);
  return reduce == "mean";
}

Tensor multiplicative_fusion_cpu(Tensor first, Tensor second, std::optional<Tensor> third, std::optional<Tensor> fourth,
                                 bool align_corners, std::string reduce, std::string mode) {
  const std::vector<Tensor> tensors = checked_branches(first, second, third, fourth);
  const bool reduced = parse_reduce(reduce);
  const Tensor& finest = tensors[0];
  const int64_t images = finest.size(0), channels = finest.size(1);
  Tensor output = reduced ? torch::stable::new_empty(finest, {images, channels})
                          : torch::stable::new_empty(finest, {images, channels, finest.size(2), finest.size(3)});
  if (output.numel() == 0) return output;
  wsolfast::dispatch_float_double(finest.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<Branch<T>> branches = described<T>(tensors, align_corners);
    T* out = output.mutable_data_ptr<T>();
    for_each_plane(branches, mode, images * channels, [&](Fusion<T>& fusion, int64_t plane) {
      if (reduced) {
        fusion.fuse_to_mean(plane, out);
      } else {
        fusion.fuse_to_map(plane, out);
      }
    });
  });
  return output;
}

std::vector<Tensor> multiplicative_fusion_backward_cpu(Tensor grad, Tensor first, Tensor second,
                                                       std::optional<Tensor> third, std::optional<Tensor> fourth,
                                                       bool align_corners, std::string reduce, std::string mode) {
  const std::vector<Tensor> tensors = checked_branches(first, second, third, fourth);
  const bool reduced = parse_reduce(reduce);
  const Tensor gradient = torch::stable::contiguous(grad);
  std::vector<Tensor> outputs;
  for (const Tensor& branch : tensors) outputs.push_back(torch::stable::empty_like(branch));
  if (tensors[0].numel() == 0) return outputs;
  const int64_t planes = first.size(0) * first.size(1);
  WSOLFAST_CHECK(
      gradient.numel() == (reduced ? planes : tensors[0].numel()) && gradient.scalar_type() == first.scalar_type(), kOp,
      "expected a gradient of the output's size and dtype");
  wsolfast::dispatch_float_double(first.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    std::vector<Branch<T>> branches = described<T>(tensors, align_corners);
    for (size_t b = 0; b < branches.size(); ++b) branches[b].gradient = outputs[b].mutable_data_ptr<T>();
    const T* incoming = gradient.const_data_ptr<T>();
    for_each_plane(branches, mode, planes,
                   [&](Fusion<T>& fusion, int64_t plane) { fusion.differentiate(plane, incoming, reduced); });
  });
  return outputs;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) {
  m.impl("multiplicative_fusion", TORCH_BOX(&multiplicative_fusion_cpu));
  m.impl("_multiplicative_fusion_backward", TORCH_BOX(&multiplicative_fusion_backward_cpu));
}
