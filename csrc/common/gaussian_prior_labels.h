// Pseudo labels on the host, which the CUDA op falls back on for Gaussians of contours.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/gaussian_prior.h"

namespace wsolfast {

// [N, h, w] on the CPU -> uint8 [N, height, width].
torch::stable::Tensor gaussian_prior_labels_on_host(const torch::stable::Tensor& cam, int64_t height, int64_t width,
                                                    const gaussian_prior::Rule& rule);

}  // namespace wsolfast
