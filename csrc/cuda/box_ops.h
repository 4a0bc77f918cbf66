// What the bindings of the box ops share: checked tensors, the pipeline's memory, the device's limits.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <type_traits>

#include "common/check.h"
#include "common/make_rule.h"
#include "cuda/box_pipeline.cuh"
#include "cuda/launch.h"
#include "cuda/score_maps.h"
#include "cuda/scratch.h"

namespace wsolfast::cuda {

inline DeviceLimits limits_of(int32_t device) {
  return {attribute_of(device, cudaDevAttrMultiProcessorCount),
          attribute_of(device, cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

// Digitises the maps and hands the pipeline to `function`.
template <typename Function>
void with_boxes(const char* op, const Tensor& maps, const Tensor& thresholds, const MapRule& map_rule,
                const boxes::Rule& rule, const Function& function) {
  const Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  const Scratch scratch(input);
  const Launcher launch(op, input.get_device());
  with_pixels(input, op, [&](const auto* pixels) {
    constexpr bool kBytes = std::is_same_v<decltype(pixels), const uint8_t*>;
    BoxPipeline pipeline(launch, scratch, limits_of(input.get_device()), input.size(0), map_rule, cuts.numel(), rule,
                         kBytes);
    pipeline.digitize(pixels, cuts.const_data_ptr<double>());
    function(pipeline, launch);
  });
}

}  // namespace wsolfast::cuda
