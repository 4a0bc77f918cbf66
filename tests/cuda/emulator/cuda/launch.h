// Stands in for csrc/cuda/launch.h: kernels run in the emulator, on a device as large as the tests say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cuda/target.h"
#include "cuda_emulator.h"
#include "device_memory.h"

namespace wsolfast::cuda {

inline DeviceLimits emulated_limits{};

class Launcher {
 public:
  explicit Launcher(const Target&) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t grid, int block, size_t shared_bytes,
                  Arguments... arguments) const {
    cuda_emulator::run_grid([&] { kernel(static_cast<Parameters>(arguments)...); }, static_cast<unsigned>(grid),
                            static_cast<unsigned>(block), shared_bytes);
    cuda_emulator::DeviceMemory::check();
  }

  DeviceLimits limits() const { return emulated_limits; }

  template <size_t kCount>
  std::array<int64_t, kCount> wait_for(const int64_t* const (&places)[kCount]) const {
    std::array<int64_t, kCount> numbers{};
    for (size_t i = 0; i < kCount; ++i) numbers[i] = *places[i];
    return numbers;
  }
};

}  // namespace wsolfast::cuda
