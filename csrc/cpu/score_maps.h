// Code that the kernels over score maps share: pixels as the box engine takes them, threads by map, the rule.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <exception>
#include <span>
#include <vector>

#include "boxes/map_rule.h"
#include "boxes/normalize.h"
#include "boxes/packed_rule.h"
#include "boxes/resize.h"
#include "common/check.h"

namespace wsolfast {

using torch::stable::Tensor;

inline std::span<const double> span_of(const Tensor& contiguous) {
  return {contiguous.const_data_ptr<double>(), static_cast<size_t>(contiguous.numel())};
}

// Runs function(n) for each map on PyTorch's threads; the exception of the first failing map comes out.
template <typename Function>
void for_each_map(int64_t count, const Function& function) {
  std::vector<std::exception_ptr> errors(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      try {
        function(n);
      } catch (...) {
        errors[n] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Runs function(n, pixels) for each map of a contiguous [N, h, w]: uint8_t as they are, everything else as double.
template <typename Function>
void for_each_score_map(const Tensor& maps, const char* op, const Function& function) {
  using torch::headeronly::ScalarType;
  const int64_t size = maps.size(1) * maps.size(2);
  const ScalarType type = maps.scalar_type();
  if (type == ScalarType::Byte) {
    const uint8_t* pixels = maps.const_data_ptr<uint8_t>();
    for_each_map(maps.size(0), [&](int64_t n) { function(n, pixels + n * size); });
  } else if (type == ScalarType::Double) {
    const double* pixels = maps.const_data_ptr<double>();
    for_each_map(maps.size(0), [&](int64_t n) { function(n, pixels + n * size); });
  } else {
    WSOLFAST_CHECK(type == ScalarType::Float, op, "expected float32, float64 or uint8 maps, got ",
                   torch::headeronly::toString(type));
    const float* pixels = maps.const_data_ptr<float>();
    for_each_map(maps.size(0), [&](int64_t n) {
      static thread_local std::vector<double> wide;
      wide.assign(pixels + n * size, pixels + (n + 1) * size);
      function(n, static_cast<const double*>(wide.data()));
    });
  }
}

// Resizes and normalises a map as normalize_score_map does: [height, width].
template <typename Pixel>
void normalize_map(const Pixel* map, const boxes::MapRule& rule, double* target) {
  static thread_local boxes::Resizer resizer;
  static thread_local std::vector<double> source;
  const boxes::ResizeShape& shape = rule.shape;
  const int64_t source_size = static_cast<int64_t>(shape.h) * shape.w;
  const int64_t size = static_cast<int64_t>(shape.height) * shape.width;
  source.assign(map, map + source_size);
  if (rule.normalize_first) boxes::normalize_map(source.data(), source_size, rule.normalization, rule.eps);
  resizer.resize(source.data(), shape.h, shape.w, rule.interpolation, target, shape.height, shape.width);
  if (!rule.normalize_first) boxes::normalize_map(target, size, rule.normalization, rule.eps);
}

// As for_each_score_map, after normalize_score_map where the rule is given; one map per thread is kept.
template <typename Function>
void for_each_normalized_map(const Tensor& maps, const char* op, const boxes::MapRule& rule, const Function& function) {
  if (!rule.given) return for_each_score_map(maps, op, function);
  for_each_score_map(maps, op, [&](int64_t n, const auto* map) {
    static thread_local std::vector<double> normalized;
    normalized.resize(static_cast<size_t>(rule.shape.height) * rule.shape.width);
    normalize_map(map, rule, normalized.data());
    function(n, static_cast<const double*>(normalized.data()));
  });
}

}  // namespace wsolfast
