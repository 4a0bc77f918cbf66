// A tile at a time, all of it in the cache: one channel of an image, or, channels last, a cache line of them side by
// side. The rows of a branch are stretched once, then every output row blends two of them. The backward pass runs the
// same steps transposed.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <algorithm>
#include <cstdint>
#include <limits>
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

// The activation of a branch before it is resized: values * scale + shift, then a ReLU. Null pointers leave that out.
template <typename T>
struct Activation {
  const T *scale = nullptr, *shift = nullptr;  // [branches, images or 1, channels]
  int64_t scale_images = 1, shift_images = 1;
  bool relu = false;

  bool any() const { return scale || shift || relu; }
};

// kLanes channels of one image; the last tile of an image may have fewer.
struct Tile {
  int64_t image, channel, lanes;
};

// Pixels `stride` apart, which single channels are not, to pixels kLanes apart; lanes without a channel are zero.
template <typename T, int kLanes>
WSOLFAST_SIMD void gather(const T* source, int64_t stride, int64_t lanes, int64_t pixels, T* out) {
  if (kLanes == 1) {
    std::copy_n(source, pixels, out);
  } else if (lanes == kLanes) {
    for (int64_t p = 0; p < pixels; ++p, source += stride, out += kLanes) std::copy_n(source, kLanes, out);
  } else {
    for (int64_t p = 0; p < pixels; ++p, source += stride, out += kLanes) {
      std::fill(std::copy_n(source, lanes, out), out + kLanes, T(0));
    }
  }
}

template <typename T, int kLanes>
WSOLFAST_SIMD void scatter(const T* source, int64_t stride, int64_t lanes, int64_t pixels, T* out) {
  for (int64_t p = 0; p < pixels; ++p, source += kLanes, out += stride) std::copy_n(source, lanes, out);
}

// Pixels `stride` apart to pixels kLanes apart, activated; a NaN is not below the floor and stays.
template <typename T, int kLanes>
WSOLFAST_SIMD void activate(const T* source, int64_t stride, int64_t pixels, const T* scale, const T* shift, T floor,
                            T* out) {
  const auto activated = [floor](T value, T factor, T summand) {
    const T moved = value * factor + summand;
    return moved < floor ? floor : moved;
  };
  if (kLanes == 1) {
    for (int64_t p = 0; p < pixels; ++p) out[p] = activated(source[p], *scale, *shift);
  } else {
    for (int64_t p = 0; p < pixels; ++p, source += stride, out += kLanes) {
      for (int l = 0; l < kLanes; ++l) out[l] = activated(source[l], scale[l], shift[l]);
    }
  }
}

// The horizontal pass: rows of the branch to rows of the output's width.
template <typename T, int kLanes>
WSOLFAST_SIMD void stretch_rows(const T* source, int64_t rows, int64_t source_width, const Axis<T>& axis, int64_t width,
                                T* out) {
  const int32_t *left = axis.left.data(), *right = axis.right.data();
  const T *left_weight = axis.left_weight.data(), *right_weight = axis.right_weight.data();
  for (int64_t y = 0; y < rows; ++y, source += source_width * kLanes, out += width * kLanes) {
    for (int64_t x = 0; x < width; ++x) {
      for (int l = 0; l < kLanes; ++l) {
        out[x * kLanes + l] =
            left_weight[x] * source[left[x] * kLanes + l] + right_weight[x] * source[right[x] * kLanes + l];
      }
    }
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
template <typename T, int kLanes>
WSOLFAST_SIMD void shrink_rows(const T* gradient, int64_t rows, int64_t source_width, const Axis<T>& axis,
                               int64_t width, T* out) {
  for (int64_t y = 0; y < rows; ++y, gradient += width * kLanes) {
    const T* weight = axis.seen.data();
    for (int64_t s = 0; s < source_width; ++s, out += kLanes) {
      T sums[kLanes] = {};
      for (int32_t x = axis.begin[s]; x < axis.end[s]; ++x, ++weight) {
        for (int l = 0; l < kLanes; ++l) sums[l] += *weight * gradient[x * kLanes + l];
      }
      std::copy_n(sums, kLanes, out);
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

// Scratch of one thread. A tile lies in it as [h, w, kLanes].
template <typename T, int kLanes>
class Fusion {
 public:
  Fusion(const std::vector<Branch<T>>& branches, const Activation<T>& activation, bool multiplies, int64_t channels)
      : branches_(branches),
        activation_(activation),
        multiplies_(multiplies),
        channels_(channels),
        height_(branches[0].height),
        row_(branches[0].width * kLanes),
        pixels_(height_ * branches[0].width),
        tile_(pixels_ * kLanes),
        columns_(row_) {
    for (const Branch<T>& branch : branches_) {
      const size_t own = (kLanes > 1 || activation.any()) ? branch.height * branch.width * kLanes : 0;
      source_.resize(std::max(source_.size(), own));
      // A branch of the output's size is multiplied from here too if it was changed on its way.
      resized_.emplace_back(branch.resized || own > 0 ? tile_.size() : 0);
      if (branch.resized) stretched_.resize(std::max(stretched_.size(), static_cast<size_t>(branch.height * row_)));
    }
  }

  void fuse_to_map(const Tile& tile, T* map) {
    map += offset(tile, pixels_);
    T* out = kLanes == 1 ? map : tile_.data();
    fuse(tile, out);
    if (kLanes > 1) scatter<T, kLanes>(out, channels_, tile.lanes, pixels_, map);
  }

  void fuse_to_mean(const Tile& tile, T* mean) {
    fuse(tile, tile_.data());
    std::fill(columns_.begin(), columns_.end(), T(0));
    for (int64_t y = 0; y < height_; ++y) add(tile_.data() + y * row_, row_, columns_.data());
    for (int64_t l = 0; l < tile.lanes; ++l) {
      double total = 0;
      for (int64_t x = l; x < row_; x += kLanes) total += columns_[x];
      mean[tile.image * channels_ + tile.channel + l] = static_cast<T>(total / static_cast<double>(pixels_));
    }
  }

  // `grad` is the map of each channel, or, reduced, one number.
  void differentiate(const Tile& tile, const T* grad, bool reduced) {
    const T* factors[kMostBranches] = {};
    for (size_t b = 0; multiplies_ && b < branches_.size(); ++b) factors[b] = resize(b, tile);
    for (size_t b = 0; b < branches_.size(); ++b) {
      const Branch<T>& branch = branches_[b];
      const int64_t pixels = branch.height * branch.width;
      T* gradient = branch.gradient + offset(tile, pixels);
      T* out = kLanes == 1 && !branch.resized ? gradient : tile_.data();
      spread(tile, grad, reduced, out);
      for (size_t other = 0; multiplies_ && other < branches_.size(); ++other) {
        if (other != b) multiply_by(factors[other], pixels_ * kLanes, out);
      }
      if (branch.resized) {
        collect_rows(out, branch.rows, branch.height, row_, stretched_.data());
        out = kLanes == 1 ? gradient : source_.data();
        shrink_rows<T, kLanes>(stretched_.data(), branch.height, branch.width, branch.columns, row_ / kLanes, out);
      }
      if (kLanes > 1) scatter<T, kLanes>(out, channels_, tile.lanes, pixels, gradient);
    }
  }

 private:
  int64_t offset(const Tile& tile, int64_t pixels) const {
    return tile.image * channels_ * pixels + tile.channel * (kLanes == 1 ? pixels : 1);
  }

  void spread(const Tile& tile, const T* grad, bool reduced, T* out) const {
    if (!reduced) {
      gather<T, kLanes>(grad + offset(tile, pixels_), channels_, tile.lanes, pixels_, out);
      return;
    }
    T share[kLanes] = {};
    for (int64_t l = 0; l < tile.lanes; ++l) {
      share[l] = grad[tile.image * channels_ + tile.channel + l] / static_cast<T>(pixels_);
    }
    for (int64_t p = 0; p < pixels_; ++p, out += kLanes) std::copy_n(share, kLanes, out);
  }

  // The branch at its own size as it is fused, into `out`.
  void take(size_t b, const Tile& tile, T* out) const {
    const Branch<T>& branch = branches_[b];
    const int64_t pixels = branch.height * branch.width;
    const T* source = branch.data + offset(tile, pixels);
    const bool whole = tile.lanes == kLanes;
    if (!activation_.any() || !whole) gather<T, kLanes>(source, channels_, tile.lanes, pixels, out);
    if (!activation_.any()) return;
    T scale[kLanes], shift[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      const bool live = l < tile.lanes;
      const int64_t channel = tile.channel + l;
      const auto at = [&](int64_t images) {
        return (static_cast<int64_t>(b) * images + (images > 1 ? tile.image : 0)) * channels_ + channel;
      };
      scale[l] = live && activation_.scale ? activation_.scale[at(activation_.scale_images)] : T(1);
      shift[l] = live && activation_.shift ? activation_.shift[at(activation_.shift_images)] : T(0);
    }
    const T floor = activation_.relu ? T(0) : -std::numeric_limits<T>::infinity();
    activate<T, kLanes>(whole ? source : out, whole ? channels_ : kLanes, pixels, scale, shift, floor, out);
  }

  // The branch at the output's size.
  const T* resize(size_t b, const Tile& tile) {
    const Branch<T>& branch = branches_[b];
    const T* source = branch.data + offset(tile, branch.height * branch.width);
    if (kLanes > 1 || activation_.any()) {
      T* own = branch.resized ? source_.data() : resized_[b].data();
      take(b, tile, own);
      source = own;
    }
    if (!branch.resized) return source;
    stretch_rows<T, kLanes>(source, branch.height, branch.width, branch.columns, row_ / kLanes, stretched_.data());
    blend_rows(stretched_.data(), branch.rows, height_, row_, resized_[b].data());
    return resized_[b].data();
  }

  void fuse(const Tile& tile, T* out) {
    take(0, tile, out);
    for (size_t b = 1; b < branches_.size(); ++b) {
      (multiplies_ ? multiply_by<T> : add<T>)(resize(b, tile), pixels_ * kLanes, out);
    }
  }

  const std::vector<Branch<T>>& branches_;
  const Activation<T>& activation_;
  const bool multiplies_;
  const int64_t channels_, height_, row_, pixels_;
  std::vector<std::vector<T>> resized_;  // [branch][h, w, kLanes]
  std::vector<T> source_;                // [h_i, w_i, kLanes]
  std::vector<T> stretched_;             // [h_i, w, kLanes]
  std::vector<T> tile_;                  // [h, w, kLanes]
  std::vector<T> columns_;               // [w, kLanes]
};

using torch::headeronly::MemoryFormat;

// That of the first branch is that of all outputs.
MemoryFormat layout_of(const Tensor& maps) {
  return maps.size(1) > 1 && maps.stride(1) == 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, MemoryFormat layout) {
  return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt, layout);
}

std::vector<Tensor> checked_branches(std::vector<Tensor> branches) {
  const Tensor& first = branches[0];
  for (const Tensor& branch : branches) {
    WSOLFAST_CHECK(branch.dim() == 4 && branch.size(2) > 0 && branch.size(3) > 0, kOp,
                   "expected branches [N, C, h, w] with h, w > 0");
    WSOLFAST_CHECK(branch.size(0) == first.size(0) && branch.size(1) == first.size(1) &&
                       branch.scalar_type() == first.scalar_type(),
                   kOp, "expected branches that agree in N, C and dtype");
  }
  const MemoryFormat layout = layout_of(first);
  for (Tensor& branch : branches) branch = torch::stable::contiguous(branch, layout);
  return branches;
}

// Contiguous [branches, C] or [branches, N, C].
std::optional<Tensor> checked_vectors(const std::optional<Tensor>& given, const std::vector<Tensor>& branches) {
  if (!given) return given;
  const Tensor& first = branches[0];
  const int64_t dim = given->dim();
  WSOLFAST_CHECK((dim == 2 || (dim == 3 && given->size(1) == first.size(0))) &&
                     given->size(0) == static_cast<int64_t>(branches.size()) && given->size(dim - 1) == first.size(1) &&
                     given->scalar_type() == first.scalar_type(),
                 kOp, "expected scale and shift [branches, C] or [branches, N, C] in the branches' dtype");
  return torch::stable::contiguous(*given);
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

template <typename T>
Activation<T> described(const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, bool relu) {
  Activation<T> activation;
  activation.relu = relu;
  if (scale) activation.scale = scale->const_data_ptr<T>();
  if (shift) activation.shift = shift->const_data_ptr<T>();
  if (scale && scale->dim() == 3) activation.scale_images = scale->size(1);
  if (shift && shift->dim() == 3) activation.shift_images = shift->size(1);
  return activation;
}

template <typename T, int kLanes, typename Function>
void for_each_tile(const std::vector<Branch<T>>& branches, const Activation<T>& activation, bool multiplies,
                   const Tensor& first, const Function& function) {
  const int64_t channels = first.size(1), groups = (channels + kLanes - 1) / kLanes;
  const int64_t grain = std::max<int64_t>(1, 16384 / (first.size(2) * first.size(3) * kLanes));
  torch::stable::parallel_for(0, first.size(0) * groups, grain, [&](int64_t begin, int64_t end) {
    Fusion<T, kLanes> fusion(branches, activation, multiplies, channels);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % groups * kLanes;
      function(fusion, Tile{i / groups, channel, std::min<int64_t>(kLanes, channels - channel)});
    }
  });
}

// Runs function(fusion, tile) for every tile of the maps' layout.
template <typename T, typename Function>
void for_each_tile(const std::vector<Branch<T>>& branches, const Activation<T>& activation, const std::string& mode,
                   const Tensor& first, const Function& function) {
  WSOLFAST_CHECK(mode == "multiply" || mode == "add", kOp, "unknown mode ", mode);
  constexpr int kLine = 64 / sizeof(T);
  if (layout_of(first) == MemoryFormat::ChannelsLast) {
    for_each_tile<T, kLine>(branches, activation, mode == "multiply", first, function);
  } else {
    for_each_tile<T, 1>(branches, activation, mode == "multiply", first, function);
  }
}

bool parse_reduce(const std::string& reduce) {
  WSOLFAST_CHECK(reduce == "map" || reduce == "mean", kOp, "unknown reduce ", reduce);
  return reduce == "mean";
}

// [branches][N, C, h_i, w_i], [branches, C] or [branches, N, C] twice -> [N, C, h, w] or [N, C]
Tensor multiplicative_fusion_cpu(std::vector<Tensor> features, std::optional<Tensor> scale, std::optional<Tensor> shift,
                                 bool relu, bool align_corners, std::string reduce, std::string mode) {
  const MemoryFormat layout = layout_of(features.at(0));
  const std::vector<Tensor> tensors = checked_branches(std::move(features));
  scale = checked_vectors(scale, tensors);
  shift = checked_vectors(shift, tensors);
  const bool reduced = parse_reduce(reduce);
  const Tensor& finest = tensors[0];
  const int64_t images = finest.size(0), channels = finest.size(1);
  Tensor output = reduced ? torch::stable::new_empty(finest, {images, channels})
                          : empty(finest, {images, channels, finest.size(2), finest.size(3)}, layout);
  if (output.numel() == 0) return output;
  wsolfast::dispatch_float_double(finest.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    T* out = output.mutable_data_ptr<T>();
    for_each_tile(described<T>(tensors, align_corners), described<T>(scale, shift, relu), mode, finest,
                  [&](auto& fusion, const Tile& tile) {
                    if (reduced) {
                      fusion.fuse_to_mean(tile, out);
                    } else {
                      fusion.fuse_to_map(tile, out);
                    }
                  });
  });
  return output;
}

// [N, C, h, w] or [N, C], [branches][N, C, h_i, w_i] -> [branches][N, C, h_i, w_i]
std::vector<Tensor> multiplicative_fusion_backward_cpu(Tensor grad, std::vector<Tensor> features, bool align_corners,
                                                       std::string reduce, std::string mode) {
  const MemoryFormat layout = layout_of(features.at(0));
  const std::vector<Tensor> tensors = checked_branches(std::move(features));
  const Tensor& first = tensors[0];
  const bool reduced = parse_reduce(reduce);
  const Tensor gradient = torch::stable::contiguous(grad, reduced ? MemoryFormat::Contiguous : layout);
  std::vector<Tensor> outputs;
  for (const Tensor& branch : tensors) {
    outputs.push_back(empty(branch, {branch.size(0), branch.size(1), branch.size(2), branch.size(3)}, layout));
  }
  if (tensors[0].numel() == 0) return outputs;
  WSOLFAST_CHECK(gradient.numel() == (reduced ? first.size(0) * first.size(1) : first.numel()) &&
                     gradient.scalar_type() == first.scalar_type(),
                 kOp, "expected a gradient of the output's size and dtype");
  wsolfast::dispatch_float_double(first.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    std::vector<Branch<T>> branches = described<T>(tensors, align_corners);
    for (size_t b = 0; b < branches.size(); ++b) branches[b].gradient = outputs[b].mutable_data_ptr<T>();
    const T* incoming = gradient.const_data_ptr<T>();
    for_each_tile(branches, Activation<T>{}, mode, tensors[0],
                  [&](auto& fusion, const Tile& tile) { fusion.differentiate(tile, incoming, reduced); });
  });
  return outputs;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) {
  m.impl("multiplicative_fusion", TORCH_BOX(&multiplicative_fusion_cpu));
  m.impl("_multiplicative_fusion_backward", TORCH_BOX(&multiplicative_fusion_backward_cpu));
}
