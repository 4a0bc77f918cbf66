// Memory and limits of a device.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "common/check.h"

namespace wsolfast::cuda {

using torch::stable::Tensor;

// Memory of PyTorch's allocator, given back when the op returns: later work on the stream may then reuse it.
class Scratch {
 public:
  explicit Scratch(const Tensor& like) : like_(like) {}

  void* operator()(int64_t bytes) const {
    blocks_.push_back(torch::stable::new_empty(like_, {bytes}, torch::headeronly::ScalarType::Byte));
    return blocks_.back().mutable_data_ptr();
  }

 private:
  Tensor like_;
  mutable std::vector<Tensor> blocks_;
};

// A number that every device has.
inline int attribute_of(int32_t device, cudaDeviceAttr attribute) {
  int value = 0;
  cudaDeviceGetAttribute(&value, attribute, device);
  WSOLFAST_CHECK(value > 0, "attribute_of", "device ", device, " does not tell its limits");
  return value;
}

}  // namespace wsolfast::cuda
