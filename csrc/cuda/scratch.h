// Memory of PyTorch's allocator, for Allocate.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

namespace wsolfast::cuda {

// Gives its memory back when the op returns: later work on the stream may then reuse it.
class Scratch {
 public:
  explicit Scratch(const torch::stable::Tensor& like) : like_(like) {}

  void* operator()(int64_t bytes) {
    blocks_.push_back(torch::stable::new_empty(like_, {bytes}, torch::headeronly::ScalarType::Byte));
    return blocks_.back().mutable_data_ptr();
  }

 private:
  torch::stable::Tensor like_;
  std::vector<torch::stable::Tensor> blocks_;
};

}  // namespace wsolfast::cuda
