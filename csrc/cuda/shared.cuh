// The memory that a launch sets aside for each CTA. The tests' emulator has its own copy of this header.
#pragma once

namespace wsolfast::cuda {

__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

}  // namespace wsolfast::cuda
