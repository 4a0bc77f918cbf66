// What a binding and the launcher behind it tell each other. Tensors stay with the bindings: nvcc would read torch's
// headers once for every architecture.
#pragma once

#include <cstdint>
#include <functional>

namespace wsolfast::cuda {

// The device that kernels run on, and the op that errors name.
struct Target {
  const char* op;
  int32_t device;
};

struct DeviceLimits {
  int processors;
  int64_t shared_bytes;                       // that a CTA can ask for
  int64_t overflow_bytes = int64_t{1} << 27;  // of device memory, for what does not fit shared memory
};

// Gives device memory, aligned to 16 bytes, that lives until the op returns.
using Allocate = std::function<void*(int64_t bytes)>;

}  // namespace wsolfast::cuda
