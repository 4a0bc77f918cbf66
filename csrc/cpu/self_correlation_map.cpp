// P positions, C channels, U the positions that some class of the image selects. Only the maps of U are made, as rows
// of P values: a row of a symmetric matrix stands for its column. Hollow means without the diagonal; the product of two
// hollow matrices leaves out k = i and k = j by itself.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "common/blas.h"
#include "common/dispatch.h"
#include "common/simd.h"

namespace {

using torch::stable::parallel_for;
using torch::stable::Tensor;
using wsolfast::Matrix;
using wsolfast::multiply;
using wsolfast::multiply_symmetric;
using wsolfast::row_major;

constexpr const char* kOp = "self_correlation_map";
constexpr double kNormEps = 1e-10, kFirstOrderEps = 1e-5, kColumnEps = 1e-10, kRangeEps = 1e-10;
// Largest P x P matrix that is kept; beyond it, blocks of its rows are computed anew for every chunk of U.
constexpr int64_t kMatrixBytes = int64_t{64} << 20;
constexpr int64_t kBlockBytes = int64_t{16} << 20;
// Chunk of U where nothing has to be computed anew: it stays in cache.
constexpr int64_t kStreamBytes = int64_t{2} << 20;
// Share of selected positions above which half of the whole symmetric product costs less than the selected rows.
constexpr double kSymmetricShare = 0.7;
constexpr int64_t kLanes = 16, kTile = 64;

enum class Variant { kHead, kV0, kPaper };
enum class Mode { kMax, kFirst, kSecond };

struct Options {
  Variant variant;
  Mode mode;
  bool relu_first, released_post;
  double fo_th, so_th, so_weight, delta_h, delta_l, eps;
};

template <typename T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > size_) {
      data_.reset(static_cast<T*>(::operator new[](size * sizeof(T), kAlignment)));
      size_ = size;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete[](data, kAlignment); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

template <typename T>
struct Statistics {
  T low, high, sum, squares;
};

// Sums run in kLanes interleaved parts, so their order is the same on every instruction set.
template <typename T>
WSOLFAST_SIMD Statistics<T> statistics(const T* row, int64_t size) {
  T low[kLanes], high[kLanes], sum[kLanes] = {}, squares[kLanes] = {};
  std::fill(low, low + kLanes, row[0]);
  std::fill(high, high + kLanes, row[0]);
  const auto take = [&](int64_t j, int64_t lane) {
    const T value = row[j + lane];
    low[lane] = value < low[lane] ? value : low[lane];
    high[lane] = high[lane] < value ? value : high[lane];
    sum[lane] += value;
    squares[lane] += value * value;
  };
  const int64_t whole = size / kLanes * kLanes;
  for (int64_t j = 0; j < whole; j += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) take(j, lane);
  }
  for (int64_t lane = 0; lane < size - whole; ++lane) take(whole, lane);
  Statistics<T> all{low[0], high[0], sum[0], squares[0]};
  for (int64_t l = 1; l < kLanes; ++l) {
    all.low = std::min(all.low, low[l]);
    all.high = std::max(all.high, high[l]);
    all.sum += sum[l];
    all.squares += squares[l];
  }
  return all;
}

// Adds a row to the running sums of squares and minima of its columns.
template <typename T>
WSOLFAST_SIMD void add_squares(const T* row, int64_t size, T* squares, T* low) {
  for (int64_t j = 0; j < size; ++j) {
    squares[j] += row[j] * row[j];
    low[j] = row[j] < low[j] ? row[j] : low[j];
  }
}

template <typename T>
WSOLFAST_SIMD void scale_to(const T* in, int64_t size, T scale, T* out) {
  for (int64_t j = 0; j < size; ++j) out[j] = in[j] * scale;
}

template <typename T>
WSOLFAST_SIMD void scale_each_to(const T* in, const T* scales, int64_t size, T* out) {
  for (int64_t j = 0; j < size; ++j) out[j] = in[j] * scales[j];
}

template <typename T>
WSOLFAST_SIMD void add_scaled(const T* in, int64_t size, T scale, T* out) {
  for (int64_t j = 0; j < size; ++j) out[j] += in[j] * scale;
}

template <typename T>
WSOLFAST_SIMD void cut_below(T* row, int64_t size, T smallest) {
  for (int64_t j = 0; j < size; ++j) row[j] = row[j] < smallest ? T(0) : row[j];
}

template <typename T>
WSOLFAST_SIMD void remove_own_terms(const T* similarity, const T* own, int64_t size, T own_u, T* paths) {
  for (int64_t j = 0; j < size; ++j) paths[j] -= (own_u + own[j]) * similarity[j];
}

// Numbers of a row's joint of both orders: max(first_scale a, second_weight cut(second_scale (t - shift))).
template <typename T>
struct JointScales {
  T first_scale, shift, second_scale, smallest, second_weight;
};

template <typename T>
WSOLFAST_SIMD void join_orders(const T* first, const T* second, int64_t size, JointScales<T> m, T* out) {
  for (int64_t j = 0; j < size; ++j) {
    const T scaled = (second[j] - m.shift) * m.second_scale;
    const T kept = scaled < m.smallest ? T(0) : scaled * m.second_weight;
    const T other = first[j] * m.first_scale;
    out[j] = other < kept ? kept : other;
  }
}

// total[j] += sum over the ranks r of (rows[r][j] - low[r]) scale[r], in short runs that are then added up.
template <typename T>
WSOLFAST_SIMD void add_rows(const T* rows, int64_t stride, int64_t begin, int64_t end,
                            const std::vector<int64_t>& ranks, const T* low, const T* scale, T* total) {
  const int64_t count = static_cast<int64_t>(ranks.size());
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int64_t width = std::min(kTile, end - tile);
    for (int64_t run = 0; run < count; run += kTile) {
      T part[kTile] = {};
      for (int64_t i = run; i < std::min(count, run + kTile); ++i) {
        const int64_t r = ranks[i];
        const T* row = rows + r * stride + tile;
        for (int64_t j = 0; j < width; ++j) part[j] += (row[j] - low[r]) * scale[r];
      }
      for (int64_t j = 0; j < width; ++j) total[tile + j] += part[j];
    }
  }
}

template <typename T>
void stretch(T* row, int64_t size) {
  const Statistics<T> all = statistics(row, size);
  const T range = all.high - all.low + static_cast<T>(kRangeEps);
  for (int64_t j = 0; j < size; ++j) row[j] = (row[j] - all.low) / range;
}

// One layer of one image: its unit feature vectors in the memory order of the input, and what the second order needs.
template <typename T>
struct Layer {
  int64_t channels = 0;
  bool channels_last = false, nonnegative = true, use_gram = false;
  Buffer<T> units, gram;
  // [P]: similarity of a position to itself, 1 but for a zero feature; reciprocal column sums of "head".
  std::vector<T> own, reciprocal;

  Matrix<T> rows(int64_t positions) const {
    const Matrix<T> channel_major = row_major(units.get(), channels, positions);
    return channels_last ? row_major(units.get(), positions, channels) : channel_major.transposed();
  }
};

// Reads features whose positions or channels are neighbours in memory. False if a feature is not finite.
template <typename T>
bool normalize_features(const T* features, int64_t positions, int64_t stride, Layer<T>& layer) {
  const int64_t channels = layer.channels;
  std::vector<T> squares(positions), low(positions), scale(positions);
  if (layer.channels_last) {
    for (int64_t p = 0; p < positions; ++p) {
      const Statistics<T> all = statistics(features + p * stride, channels);
      squares[p] = all.squares;
      low[p] = all.low;
    }
  } else {
    for (int64_t c = 0; c < channels; ++c) add_squares(features + c * stride, positions, squares.data(), low.data());
  }
  layer.own.resize(positions);
  layer.nonnegative = true;
  bool finite = true;
  for (int64_t p = 0; p < positions; ++p) {
    const T norm = std::sqrt(squares[p]);
    scale[p] = 1 / (norm + static_cast<T>(kNormEps));
    layer.own[p] = (norm * scale[p]) * (norm * scale[p]);
    layer.nonnegative &= low[p] >= 0;
    finite &= std::isfinite(norm);
  }
  T* units = layer.units.reserve(positions * channels);
  const int64_t rows = layer.channels_last ? positions : channels, width = layer.channels_last ? channels : positions;
  parallel_for(0, rows, std::max<int64_t>(1, 65536 / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (layer.channels_last) {
        scale_to(features + i * stride, width, scale[i], units + i * width);
      } else {
        scale_each_to(features + i * stride, scale.data(), width, units + i * width);
      }
    }
  });
  return finite;
}

// Rows of a chunk of U: at their rank in the chunk, or at their position where the whole matrix was computed.
template <typename T>
struct Rows {
  T* data;
  bool by_position;

  T* row(int64_t rank, int64_t position, int64_t positions) const {
    return data + (by_position ? position : rank) * positions;
  }
};

// Consecutive members of U.
struct Chunk {
  const int64_t* positions;
  int64_t count;
};

// Makes the maps of one image after another, in memory that is reused.
template <typename T>
class MapMaker {
 public:
  MapMaker(const Options& options, int64_t positions, int64_t layers)
      : o_(options), positions_(positions), layers_(layers) {}

  Layer<T>& layer(int64_t index) { return layers_[index]; }

  // cams and maps: [K, P]. The layers' units are those of the image.
  void run(const T* cams, int64_t classes, T* maps);

 private:
  int64_t grain() const { return std::max<int64_t>(1, 32768 / positions_); }
  int64_t rows_within(int64_t bytes) const {
    return std::max<int64_t>(32, bytes / (positions_ * static_cast<int64_t>(sizeof(T))));
  }
  bool fits() const { return positions_ <= rows_within(kMatrixBytes); }

  void select(const T* cams, int64_t classes);
  int64_t prepare();
  void hollow_and_cut(T* row, int64_t position) const;
  template <typename Finish, typename Use>
  void visit_blocks(const Layer<T>& layer, const Finish& finish, const Use& use);
  Matrix<T> units_of(const Layer<T>& layer, Chunk chunk);
  void similarities(const Layer<T>& layer, Chunk chunk);
  void whole_products(Layer<T>& layer, Chunk chunk);
  void gram_products(const Layer<T>& layer, Chunk chunk);
  void block_products(const Layer<T>& layer, Chunk chunk);
  void combine(const Layer<T>& layer, Chunk chunk, bool is_first_layer);
  void combine_row(const Layer<T>& layer, int64_t position, T* first, T* second, bool is_first_layer, T* out) const;
  void accumulate(Chunk chunk, int64_t chunk_begin, int64_t classes);
  void finish(const T* cams, int64_t classes, T* maps);

  const Options& o_;
  const int64_t positions_;
  std::vector<Layer<T>> layers_;
  Buffer<T> whole_, left_, block_, partial_, chosen_units_, projected_, first_buffer_, second_buffer_, correlation_;
  Rows<T> first_{}, second_{};
  std::vector<int64_t> selected_;                                   // U
  std::vector<std::vector<int64_t>> inside_ranks_, outside_ranks_;  // [K] of ranks in U
  std::vector<T> inside_, outside_;                                 // [K, P]
};

template <typename T>
void MapMaker<T>::select(const T* cams, int64_t classes) {
  const T high = static_cast<T>(o_.delta_h), low = static_cast<T>(o_.delta_l);
  selected_.clear();
  inside_ranks_.assign(classes, {});
  outside_ranks_.assign(classes, {});
  for (int64_t p = 0; p < positions_; ++p) {
    const int64_t rank = static_cast<int64_t>(selected_.size());
    bool wanted = false;
    for (int64_t k = 0; k < classes; ++k) {
      const T value = cams[k * positions_ + p];
      const bool inside = o_.released_post ? value >= high : value > high;
      const bool outside = o_.released_post ? value <= low : value < low;
      if (inside) inside_ranks_[k].push_back(rank);
      if (outside) outside_ranks_[k].push_back(rank);
      wanted |= inside || outside;
    }
    if (wanted) selected_.push_back(p);
  }
}

// Chooses each layer's route, computes what all chunks share, and returns how many rows of U a chunk holds.
template <typename T>
int64_t MapMaker<T>::prepare() {
  int64_t chunk = rows_within(kStreamBytes);
  if (o_.mode == Mode::kFirst) return chunk;
  for (Layer<T>& layer : layers_) {
    const Matrix<T> units = layer.rows(positions_);  // [P, C]
    layer.use_gram =
        o_.variant == Variant::kPaper && positions_ > 2 * layer.channels && (!o_.relu_first || layer.nonnegative);
    if (layer.use_gram) {
      T* gram = layer.gram.reserve(layer.channels * layer.channels);
      multiply_symmetric(units.transposed(), units, row_major(gram, layer.channels, layer.channels));
      continue;
    }
    chunk = std::max(chunk, fits() ? positions_ : rows_within(kMatrixBytes));
    if (o_.variant != Variant::kHead) continue;
    layer.reciprocal.resize(positions_);
    if (fits()) continue;
    const auto sum_up = [&](const T* row, int64_t i) {
      layer.reciprocal[i] = 1 / (statistics(row, positions_).sum + static_cast<T>(kFirstOrderEps));
    };
    visit_blocks(layer, sum_up, [](int64_t, const Matrix<T>&) {});
  }
  return chunk;
}

// A P x P matrix that is too large to keep: its blocks of rows are made, used and forgotten. finish(row, i) sees every
// row once, use(i, block) every block, whose first row is i.
template <typename T>
template <typename Finish, typename Use>
void MapMaker<T>::visit_blocks(const Layer<T>& layer, const Finish& finish, const Use& use) {
  const Matrix<T> units = layer.rows(positions_);  // [P, C]
  const int64_t height = rows_within(kBlockBytes);
  for (int64_t begin = 0; begin < positions_; begin += height) {
    const int64_t end = std::min(positions_, begin + height);
    const Matrix<T> block = row_major(block_.reserve(height * positions_), end - begin, positions_);
    multiply(units.row_range(begin, end), units.transposed(), block);
    parallel_for(begin, end, grain(), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        T* row = block.data + (i - begin) * positions_;
        hollow_and_cut(row, i);
        finish(row, i);
      }
    });
    use(begin, block);
  }
}

// From a row of similarities to the row that the second order multiplies.
template <typename T>
void MapMaker<T>::hollow_and_cut(T* row, int64_t position) const {
  row[position] = 0;
  if (o_.variant != Variant::kPaper) {
    cut_below(row, positions_, std::max(T(0), static_cast<T>(o_.fo_th)));
  } else if (o_.relu_first) {
    cut_below(row, positions_, T(0));
  }
}

// Unit vectors of the chunk, copied unless they are all.
template <typename T>
Matrix<T> MapMaker<T>::units_of(const Layer<T>& layer, Chunk chunk) {
  const Matrix<T> all = layer.rows(positions_);
  if (chunk.count == positions_) return all;
  T* copy = chosen_units_.reserve(chunk.count * layer.channels);
  if (layer.channels_last) {
    for (int64_t r = 0; r < chunk.count; ++r) {
      std::copy_n(all.data + chunk.positions[r] * layer.channels, layer.channels, copy + r * layer.channels);
    }
    return row_major(copy, chunk.count, layer.channels);
  }
  for (int64_t c = 0; c < layer.channels; ++c) {
    const T* row = all.data + c * positions_;
    for (int64_t r = 0; r < chunk.count; ++r) copy[c * chunk.count + r] = row[chunk.positions[r]];
  }
  return row_major(copy, layer.channels, chunk.count).transposed();
}

// First order alone.
template <typename T>
void MapMaker<T>::similarities(const Layer<T>& layer, Chunk chunk) {
  first_ = {first_buffer_.reserve(chunk.count * positions_), false};
  multiply(units_of(layer, chunk), layer.rows(positions_).transposed(),
           row_major(first_.data, chunk.count, positions_));
  parallel_for(0, chunk.count, grain(), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) hollow_and_cut(first_.data + r * positions_, chunk.positions[r]);
  });
}

// The P x P matrix is kept: its upper half is computed, and the product's too when most rows are wanted.
template <typename T>
void MapMaker<T>::whole_products(Layer<T>& layer, Chunk chunk) {
  const Matrix<T> units = layer.rows(positions_);  // [P, C]
  const Matrix<T> whole = row_major(whole_.reserve(positions_ * positions_), positions_, positions_);
  multiply_symmetric(units, units.transposed(), whole);
  const bool is_head = o_.variant == Variant::kHead;
  parallel_for(0, positions_, grain(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* row = whole.data + i * positions_;
      hollow_and_cut(row, i);
      if (is_head) layer.reciprocal[i] = 1 / (statistics(row, positions_).sum + static_cast<T>(kFirstOrderEps));
    }
  });
  const bool symmetric = static_cast<double>(chunk.count) > kSymmetricShare * static_cast<double>(positions_);
  const int64_t rows = symmetric ? positions_ : chunk.count;
  Matrix<T> left = whole;  // [rows, P]
  if (is_head || !symmetric) {
    left = row_major(left_.reserve(rows * positions_), rows, positions_);
    parallel_for(0, rows, grain(), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = whole.data + (symmetric ? r : chunk.positions[r]) * positions_;
        if (is_head) {
          scale_each_to(row, layer.reciprocal.data(), positions_, left.data + r * positions_);
        } else {
          std::copy_n(row, positions_, left.data + r * positions_);
        }
      }
    });
  }
  const Matrix<T> second = row_major(second_buffer_.reserve(rows * positions_), rows, positions_);
  if (symmetric) {
    multiply_symmetric(left, whole, second);
  } else {
    multiply(left, whole, second);
  }
  first_ = {whole.data, true};
  second_ = {second.data, symmetric};
}

// The second order as (f_u F^T F) F^T: no P x P matrix, legal where nothing is cut before it. This product holds the
// terms k = u and k = j; they are taken out here.
template <typename T>
void MapMaker<T>::gram_products(const Layer<T>& layer, Chunk chunk) {
  const Matrix<T> units = layer.rows(positions_), mine = units_of(layer, chunk);  // [P, C], [R, C], R rows of the chunk
  const Matrix<T> gram = row_major(layer.gram.get(), layer.channels, layer.channels);  // [C, C]
  // [R, C], then twice [R, P].
  const Matrix<T> projected = row_major(projected_.reserve(chunk.count * layer.channels), chunk.count, layer.channels);
  const Matrix<T> first = row_major(first_buffer_.reserve(chunk.count * positions_), chunk.count, positions_);
  const Matrix<T> second = row_major(second_buffer_.reserve(chunk.count * positions_), chunk.count, positions_);
  multiply(mine, gram, projected);
  multiply(mine, units.transposed(), first);
  multiply(projected, units.transposed(), second);
  parallel_for(0, chunk.count, grain(), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t u = chunk.positions[r];
      T* paths = second.data + r * positions_;
      remove_own_terms(first.data + r * positions_, layer.own.data(), positions_, layer.own[u], paths);
      paths[u] += layer.own[u] * layer.own[u];
    }
  });
  first_ = {first.data, false};
  second_ = {second.data, false};
}

template <typename T>
void MapMaker<T>::block_products(const Layer<T>& layer, Chunk chunk) {
  similarities(layer, chunk);
  // [R, P] each, R rows of the chunk.
  const Matrix<T> first = row_major(first_.data, chunk.count, positions_);
  const Matrix<T> second = row_major(second_buffer_.reserve(chunk.count * positions_), chunk.count, positions_);
  const Matrix<T> partial = row_major(partial_.reserve(chunk.count * positions_), chunk.count, positions_);
  const auto scale = [&](T* row, int64_t i) {
    if (o_.variant == Variant::kHead) scale_to(row, positions_, layer.reciprocal[i], row);
  };
  visit_blocks(layer, scale, [&](int64_t begin, const Matrix<T>& block) {
    multiply(first.block(0, begin, chunk.count, block.rows), block, begin == 0 ? second : partial);
    if (begin == 0) return;
    parallel_for(0, chunk.count, grain(), [&](int64_t from, int64_t to) {
      add_scaled(partial.data + from * positions_, (to - from) * positions_, T(1), second.data + from * positions_);
    });
  });
  second_ = {second.data, false};
}

template <typename T>
void MapMaker<T>::combine_row(const Layer<T>& layer, int64_t position, T* first, T* second, bool is_first_layer,
                              T* out) const {
  const T column_eps = static_cast<T>(kColumnEps);
  JointScales<T> m{1, 0, 0, std::numeric_limits<T>::lowest(), 1};
  first[position] = layer.own[position];
  if (o_.variant != Variant::kPaper) {
    if (first[position] < static_cast<T>(o_.fo_th)) first[position] = 0;
    if (o_.mode == Mode::kMax) m.second_weight = static_cast<T>(o_.so_weight);
  }
  if (o_.mode == Mode::kSecond) {
    m.first_scale = 0;
  } else if (o_.variant == Variant::kHead) {
    m.first_scale = 1 / (statistics(first, positions_).sum + static_cast<T>(kFirstOrderEps));
  }
  if (o_.mode != Mode::kFirst) {
    const Statistics<T> all = statistics(second, positions_);
    const T size = static_cast<T>(positions_);
    switch (o_.variant) {
      case Variant::kHead: {
        const T step = layer.reciprocal[position];
        m.second_scale = step / (step * all.sum + column_eps);
        m.smallest = static_cast<T>(o_.so_th / static_cast<double>(positions_));
        break;
      }
      case Variant::kV0:
        m.shift = all.low;
        m.second_scale = 1 / (all.high - all.low + static_cast<T>(kRangeEps));
        m.smallest = static_cast<T>(o_.so_th);
        break;
      case Variant::kPaper: {
        const T span = (all.high - all.low) / size + static_cast<T>(o_.eps);
        m.shift = all.low;
        m.second_scale = span > 0 ? 1 / (span * size) : T(0);
        break;
      }
    }
  }
  // Without a second order, zeros take its place: they cut the negatives of the first.
  T* met = is_first_layer ? out : second;
  join_orders(first, second, positions_, m, met);
  T scale = 1;
  if (o_.mode == Mode::kMax && o_.variant != Variant::kPaper) {
    scale = 1 / (statistics(met, positions_).sum + column_eps);
  }
  if (!is_first_layer) {
    add_scaled(met, positions_, scale, out);
  } else if (scale != 1) {
    scale_to(met, positions_, scale, out);
  }
}

template <typename T>
void MapMaker<T>::combine(const Layer<T>& layer, Chunk chunk, bool is_first_layer) {
  T* correlation = correlation_.reserve(chunk.count * positions_);
  parallel_for(0, chunk.count, grain(), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t u = chunk.positions[r];
      combine_row(layer, u, first_.row(r, u, positions_), second_.row(r, u, positions_), is_first_layer,
                  correlation + r * positions_);
    }
  });
}

template <typename T>
void MapMaker<T>::accumulate(Chunk chunk, int64_t chunk_begin, int64_t classes) {
  const T* correlation = correlation_.get();
  std::vector<T> low(chunk.count, T(0)), scale(chunk.count, T(1));
  if (o_.released_post) {
    parallel_for(0, chunk.count, grain(), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const Statistics<T> all = statistics(correlation + r * positions_, positions_);
        low[r] = all.low;
        scale[r] = 1 / (all.high - all.low + static_cast<T>(kRangeEps));
      }
    });
  }
  const auto in_chunk = [&](const std::vector<int64_t>& ranks) {
    std::vector<int64_t> local;
    const auto begin = std::lower_bound(ranks.begin(), ranks.end(), chunk_begin);
    for (auto rank = begin; rank != ranks.end() && *rank < chunk_begin + chunk.count; ++rank) {
      local.push_back(*rank - chunk_begin);
    }
    return local;
  };
  for (int64_t k = 0; k < classes; ++k) {
    const std::vector<int64_t> inside = in_chunk(inside_ranks_[k]), outside = in_chunk(outside_ranks_[k]);
    parallel_for(0, positions_, 16 * kTile, [&](int64_t begin, int64_t end) {
      add_rows(correlation, positions_, begin, end, inside, low.data(), scale.data(), inside_.data() + k * positions_);
      add_rows(correlation, positions_, begin, end, outside, low.data(), scale.data(),
               outside_.data() + k * positions_);
    });
  }
}

template <typename T>
void MapMaker<T>::finish(const T* cams, int64_t classes, T* maps) {
  for (int64_t k = 0; k < classes; ++k) {
    T *inside = inside_.data() + k * positions_, *outside = outside_.data() + k * positions_;
    T* map = maps + k * positions_;
    if (!std::all_of(cams + k * positions_, cams + (k + 1) * positions_,
                     [](T value) { return std::isfinite(value); })) {
      std::fill(map, map + positions_, std::numeric_limits<T>::quiet_NaN());
      continue;
    }
    if (o_.released_post) {
      stretch(inside, positions_);
      stretch(outside, positions_);
    } else {
      const auto mean = [&](T* sums, const std::vector<int64_t>& ranks) {
        scale_to(sums, positions_, T(1) / static_cast<T>(std::max<size_t>(1, ranks.size())), sums);
      };
      mean(inside, inside_ranks_[k]);
      mean(outside, outside_ranks_[k]);
    }
    for (int64_t p = 0; p < positions_; ++p) map[p] = std::max(T(0), inside[p] - outside[p]);
    if (o_.released_post) stretch(map, positions_);
  }
}

template <typename T>
void MapMaker<T>::run(const T* cams, int64_t classes, T* maps) {
  select(cams, classes);
  inside_.assign(classes * positions_, T(0));
  outside_.assign(classes * positions_, T(0));
  const int64_t total = static_cast<int64_t>(selected_.size()), chunk_rows = total > 0 ? prepare() : 1;
  for (int64_t begin = 0; begin < total; begin += chunk_rows) {
    const Chunk chunk{selected_.data() + begin, std::min(chunk_rows, total - begin)};
    for (Layer<T>& layer : layers_) {
      if (o_.mode == Mode::kFirst) {
        similarities(layer, chunk);
        T* zeros = second_buffer_.reserve(chunk.count * positions_);
        std::fill(zeros, zeros + chunk.count * positions_, T(0));
        second_ = {zeros, false};
      } else if (layer.use_gram) {
        gram_products(layer, chunk);
      } else if (fits()) {
        whole_products(layer, chunk);
      } else {
        block_products(layer, chunk);
      }
      combine(layer, chunk, &layer == &layers_.front());
    }
    accumulate(chunk, begin, classes);
  }
  finish(cams, classes, maps);
}

Options parse(const std::string& variant, const std::string& mode, const std::string& post) {
  Options o{};
  WSOLFAST_CHECK(variant == "head" || variant == "v0" || variant == "paper", kOp, "unknown variant ", variant);
  WSOLFAST_CHECK(mode == "max" || mode == "first" || mode == "second", kOp, "unknown mode ", mode);
  WSOLFAST_CHECK(post == "released" || post == "paper", kOp, "unknown post ", post);
  o.variant = variant == "head" ? Variant::kHead : variant == "v0" ? Variant::kV0 : Variant::kPaper;
  o.mode = mode == "max" ? Mode::kMax : mode == "first" ? Mode::kFirst : Mode::kSecond;
  o.released_post = post == "released";
  return o;
}

bool has_neighbouring_channels(const Tensor& features) {
  return features.stride(1) == 1 && features.stride(2) == features.stride(3) * features.size(3) &&
         features.stride(3) >= features.size(1);
}

bool has_neighbouring_positions(const Tensor& features) {
  return features.stride(3) == 1 && features.stride(2) == features.size(3);
}

Tensor self_correlation_map_cpu(std::vector<Tensor> features, Tensor cam, std::string variant, bool relu_first,
                                double fo_th, double so_th, double so_weight, std::string mode, double delta_h,
                                double delta_l, std::string post, double eps, [[maybe_unused]] std::string precision) {
  Options options = parse(variant, mode, post);
  options.relu_first = relu_first;
  options.fo_th = fo_th;
  options.so_th = so_th;
  options.so_weight = so_weight;
  options.delta_h = delta_h;
  options.delta_l = delta_l;
  options.eps = eps;
  WSOLFAST_CHECK(cam.dim() == 4 && !features.empty(), kOp, "expected layers of features and a cam [N, K, h, w]");
  const Tensor cams = torch::stable::contiguous(cam);
  const int64_t images = cams.size(0), classes = cams.size(1), positions = cams.size(2) * cams.size(3);
  for (Tensor& layer : features) {
    WSOLFAST_CHECK(layer.dim() == 4 && layer.size(0) == images && layer.size(1) > 0 && layer.size(2) == cams.size(2) &&
                       layer.size(3) == cams.size(3) && layer.scalar_type() == cams.scalar_type(),
                   kOp, "expected features [N, C, h, w] that fit the cam in size and dtype");
    if (!has_neighbouring_positions(layer) && !has_neighbouring_channels(layer))
      layer = torch::stable::contiguous(layer);
  }
  Tensor output = torch::stable::empty_like(cams);
  if (cams.numel() == 0) return output;
  wsolfast::dispatch_float_double(cams.scalar_type(), kOp, [&](auto zero) {
    using T = decltype(zero);
    T* maps = output.mutable_data_ptr<T>();
    const T* coarse = cams.const_data_ptr<T>();
    const auto make_maps = [&](int64_t begin, int64_t end) {
      MapMaker<T> maker(options, positions, static_cast<int64_t>(features.size()));
      for (int64_t n = begin; n < end; ++n) {
        bool finite = true;
        for (size_t i = 0; i < features.size(); ++i) {
          Layer<T>& layer = maker.layer(static_cast<int64_t>(i));
          layer.channels = features[i].size(1);
          layer.channels_last = !has_neighbouring_positions(features[i]);
          const T* data = features[i].const_data_ptr<T>() + n * features[i].stride(0);
          finite &= normalize_features(data, positions, features[i].stride(layer.channels_last ? 3 : 1), layer);
        }
        T* out = maps + n * classes * positions;
        if (finite) {
          maker.run(coarse + n * classes * positions, classes, out);
        } else {
          std::fill(out, out + classes * positions, std::numeric_limits<T>::quiet_NaN());
        }
      }
    };
    // Whole images per thread when there are enough of them; otherwise the products and row loops take the threads.
    if (images >= static_cast<int64_t>(torch::stable::get_num_threads())) {
      parallel_for(0, images, 1, make_maps);
    } else {
      make_maps(0, images);
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(wsolfast, CPU, m) { m.impl("self_correlation_map", TORCH_BOX(&self_correlation_map_cpu)); }
