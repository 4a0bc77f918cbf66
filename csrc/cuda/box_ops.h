// What the bindings of the box ops share: checked tensors, the pipeline's memory, the device's limits.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/make_rule.h"
#include "cuda/box_pipeline.cuh"
#include "cuda/launch.h"
#include "cuda/score_maps.h"

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

inline DeviceLimits limits_of(int32_t device) {
  int processors = 0, shared_bytes = 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  WSOLFAST_CHECK(processors > 0 && shared_bytes > 0, "limits_of", "device ", device, " does not tell its limits");
  return {processors, shared_bytes};
}

// Digitises the maps and hands the pipeline to `function`.
template <typename Function>
void with_boxes(const char* op, const Tensor& maps, const Tensor& thresholds, const boxes::Rule& rule,
                const Function& function) {
  const Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  const Scratch scratch(input);
  const Launcher launch(op, input.get_device());
  with_pixels(input, op, [&](const auto* pixels) {
    constexpr bool kBytes = std::is_same_v<decltype(pixels), const uint8_t*>;
    BoxPipeline pipeline(launch, scratch, limits_of(input.get_device()), input.size(0), input.size(1), input.size(2),
                         cuts.numel(), rule, kBytes);
    pipeline.digitize(pixels, cuts.const_data_ptr<double>());
    function(pipeline, launch);
  });
}

}  // namespace wsolfast::cuda
