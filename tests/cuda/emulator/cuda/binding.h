// Stands in for csrc/cuda/binding.h: the ops take tensors of the CPU and have a namespace of their own.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/check.h"
#include "cuda/target.h"
#include "device_memory.h"

#define WSOLFAST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(wsolfast_emulated, CPU, m)

namespace wsolfast::cuda {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

struct Scratch : cuda_emulator::DeviceMemory {
  explicit Scratch(const torch::stable::Tensor&) {}
};

}  // namespace wsolfast::cuda
