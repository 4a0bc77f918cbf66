// Stands in for csrc/cuda/shared.cuh.
#pragma once

#include "cuda_emulator.h"

namespace wsolfast::cuda {

inline unsigned char* dynamic_shared() { return cuda_emulator::shared_memory(); }

}  // namespace wsolfast::cuda
