// How kernels are started: on PyTorch's current stream, with as much dynamic shared memory as they ask for. The tests'
// emulator has its own copy of this header.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "common/check.h"
#include "common/stream.h"
#include "cuda/target.h"

namespace wsolfast::cuda {

class Launcher {
 public:
  explicit Launcher(const Target& target) : target_(target), stream_(current_stream(target.device)) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t grid, int block, size_t shared_bytes,
                  Arguments... arguments) const {
    // 48 KB are had without asking, what a kernel declares included.
    constexpr size_t kWithoutAsking = 32 * 1024;
    WSOLFAST_CHECK(grid <= std::numeric_limits<int32_t>::max(), target_.op, "too many maps: ", grid);
    if (shared_bytes > kWithoutAsking) {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    }
    kernel<<<static_cast<unsigned>(grid), block, shared_bytes, stream_>>>(arguments...);
    check_launch(target_.op);
  }

  DeviceLimits limits() const {
    return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  }

  // Waits for what was launched and returns the numbers that stand at these places of the device.
  template <size_t kCount>
  std::array<int64_t, kCount> wait_for(const int64_t* const (&places)[kCount]) const {
    std::array<int64_t, kCount> numbers{};
    for (size_t i = 0; i < kCount; ++i) {
      cudaMemcpyAsync(&numbers[i], places[i], sizeof(int64_t), cudaMemcpyDeviceToHost, stream_);
    }
    const cudaError_t error = cudaStreamSynchronize(stream_);
    WSOLFAST_CHECK(error == cudaSuccess, target_.op, cudaGetErrorString(error));
    return numbers;
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    cudaDeviceGetAttribute(&value, which, target_.device);
    WSOLFAST_CHECK(value > 0, target_.op, "device ", target_.device, " does not tell its limits");
    return value;
  }

  Target target_;
  cudaStream_t stream_;
};

}  // namespace wsolfast::cuda
