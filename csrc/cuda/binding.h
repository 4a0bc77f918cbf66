// What the bindings of the ops need of PyTorch. The tests' emulator has its own copy of this header.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "common/check.h"
#include "cuda/target.h"

// Followed by { m.impl("<op>", TORCH_BOX(&function)); }.
#define WSOLFAST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(wsolfast, CUDA, m)

namespace wsolfast::cuda {

using torch::stable::accelerator::DeviceGuard;

// Memory of PyTorch's allocator, for Allocate. It goes back when the op returns: later work on the stream may reuse it.
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
