// Matrix products through PyTorch's dispatcher, on plain memory.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

namespace wsolfast {

template <typename T>
struct Matrix {
  T* data;
  int64_t rows, cols, row_stride, col_stride;

  Matrix transposed() const { return {data, cols, rows, col_stride, row_stride}; }
  Matrix block(int64_t row, int64_t col, int64_t height, int64_t width) const {
    return {data + row * row_stride + col * col_stride, height, width, row_stride, col_stride};
  }
  Matrix row_range(int64_t begin, int64_t end) const { return block(begin, 0, end - begin, cols); }
};

template <typename T>
Matrix<T> row_major(T* data, int64_t rows, int64_t cols) {
  return {data, rows, cols, cols, 1};
}

template <typename T>
torch::stable::Tensor as_tensor(const Matrix<T>& matrix) {
  constexpr auto kType =
      std::is_same_v<T, float> ? torch::headeronly::ScalarType::Float : torch::headeronly::ScalarType::Double;
  const std::array<int64_t, 2> sizes{matrix.rows, matrix.cols}, strides{matrix.row_stride, matrix.col_stride};
  return torch::stable::from_blob(matrix.data, sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), kType);
}

// out = left right.
template <typename T>
void multiply(const Matrix<T>& left, const Matrix<T>& right, const Matrix<T>& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(as_tensor(left)),
                                    torch::stable::detail::from(as_tensor(right)),
                                    torch::stable::detail::from(as_tensor(out))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

// out = left right for a product known to be symmetric: blocks on and above the diagonal, then their mirror images.
template <typename T>
void multiply_symmetric(const Matrix<T>& left, const Matrix<T>& right, const Matrix<T>& out) {
  constexpr int64_t kPanel = 96, kTile = 16;
  const int64_t size = out.rows, panels = std::max<int64_t>(1, size / kPanel);
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t begin = size * i / panels, end = size * (i + 1) / panels;
    multiply(left.row_range(begin, end), right.block(0, begin, right.rows, size - begin),
             out.block(begin, begin, end - begin, size - begin));
    torch::stable::parallel_for(end, size, 4 * kTile, [&](int64_t from, int64_t to) {
      for (int64_t row = from; row < to; row += kTile) {
        for (int64_t col = begin; col < end; col += kTile) {
          for (int64_t r = row; r < std::min(to, row + kTile); ++r) {
            T* mirrored = out.data + r * out.row_stride;
            for (int64_t c = col; c < std::min(end, col + kTile); ++c) mirrored[c] = out.data[c * out.row_stride + r];
          }
        }
      }
    });
  }
}

}  // namespace wsolfast
