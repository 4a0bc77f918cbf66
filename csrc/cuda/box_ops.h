// Code that the bindings of the box ops share.
#pragma once

#include <functional>

#include "boxes/packed_rule.h"
#include "cuda/binding.h"
#include "cuda/box_pipeline.h"
#include "cuda/score_maps.h"

namespace wsolfast::cuda {

// Runs function(target, allocate, maps) with the maps as the kernels take them.
template <typename Function>
void with_box_maps(const char* op, const torch::stable::Tensor& maps, const torch::stable::Tensor& thresholds,
                   const boxes::MapRule& map_rule, const boxes::Rule& rule, const Function& function) {
  const torch::stable::Tensor input = torch::stable::contiguous(maps), cuts = torch::stable::contiguous(thresholds);
  Scratch scratch(input);
  with_pixels(input, op, [&](const auto* pixels) {
    function(Target{op, input.get_device()}, std::ref(scratch),
             BoxMaps{pixels, input.size(0), cuts.const_data_ptr<double>(), cuts.numel(), map_rule, rule});
  });
}

}  // namespace wsolfast::cuda
