// Runs a generic lambda with a value of the C++ type behind a floating-point ScalarType.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include "common/check.h"

namespace wsolfast {

template <typename Function>
void dispatch_float_double(torch::headeronly::ScalarType type, const char* op, Function&& function) {
  using torch::headeronly::ScalarType;
  if (type == ScalarType::Float) {
    function(float{});
  } else if (type == ScalarType::Double) {
    function(double{});
  } else {
    WSOLFAST_CHECK(false, op, "expected float32 or float64, got ", torch::headeronly::toString(type));
  }
}

}  // namespace wsolfast
