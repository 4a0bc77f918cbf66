// How kernels are started: on PyTorch's current stream, with as much dynamic shared memory as they ask for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "common/check.h"
#include "common/stream.h"
#include "cuda/kernels.h"

namespace wsolfast::cuda {

class Launcher {
 public:
  explicit Launcher(const Target& target) : op_(target.op), stream_(current_stream(target.device)) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t grid, int block, size_t shared_bytes,
                  Arguments... arguments) const {
    // 48 KB are had without asking, what a kernel declares included.
    constexpr size_t kWithoutAsking = 32 * 1024;
    WSOLFAST_CHECK(grid <= std::numeric_limits<int32_t>::max(), op_, "too many maps: ", grid);
    if (shared_bytes > kWithoutAsking) {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    }
    kernel<<<static_cast<unsigned>(grid), block, shared_bytes, stream_>>>(arguments...);
    check_launch(op_);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  const char* op_;
  cudaStream_t stream_;
};

// A number that every device has.
inline int attribute_of(int32_t device, cudaDeviceAttr attribute) {
  int value = 0;
  cudaDeviceGetAttribute(&value, attribute, device);
  WSOLFAST_CHECK(value > 0, "attribute_of", "device ", device, " does not tell its limits");
  return value;
}

}  // namespace wsolfast::cuda
