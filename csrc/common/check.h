// Argument checks of the kernels. Python validates first and says more; these guard memory for direct callers.
#pragma once

#include <torch/headeronly/util/Exception.h>

#define WSOLFAST_CHECK(condition, op, ...) STD_TORCH_CHECK(condition, op, ": ", __VA_ARGS__)
