// Score maps as the CUDA kernels take them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/check.h"

namespace wsolfast::cuda {

// Runs function(pixels) with the elements of a contiguous map tensor: uint8_t, float or double.
template <typename Function>
void with_pixels(const torch::stable::Tensor& maps, const char* op, const Function& function) {
  using torch::headeronly::ScalarType;
  const ScalarType type = maps.scalar_type();
  if (type == ScalarType::Byte) {
    function(maps.const_data_ptr<uint8_t>());
  } else if (type == ScalarType::Double) {
    function(maps.const_data_ptr<double>());
  } else {
    WSOLFAST_CHECK(type == ScalarType::Float, op, "expected float32, float64 or uint8 maps, got ",
                   torch::headeronly::toString(type));
    function(maps.const_data_ptr<float>());
  }
}

}  // namespace wsolfast::cuda
