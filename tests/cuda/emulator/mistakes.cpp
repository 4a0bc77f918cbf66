// Kernels with and without the mistakes that the emulator is there to find, and how the tests set the emulator up.
#include "cuda/launch.h"
#include "cuda/shared.cuh"
#include "entry.h"

namespace {

constexpr int kThreads = 64;
enum Mistake {
  kNone,
  kNoBarrier,
  kDivergentBarrier,
  kLeavesBeforeBarrier,
  kDivergentShuffle,
  kShuffleWithoutLane,
  kPastSharedMemory,
  kPastDeviceMemory,
  kUnwrittenSharedMemory,
  kLostUpdate,
};

// out[i] becomes i + 1 + (i + 32) % kThreads.
template <int kMistake>
__global__ void shift_kernel(int* out) {
  auto* values = reinterpret_cast<int*>(wsolfast::cuda::dynamic_shared());
  const int thread = static_cast<int>(threadIdx.x);
  if (kMistake != kUnwrittenSharedMemory || thread != 0) values[thread] = thread;
  if (kMistake == kPastSharedMemory && thread == 5) values[kThreads] = 1;
  if constexpr (kMistake == kDivergentBarrier) {
    if (thread % 2 == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if constexpr (kMistake == kLeavesBeforeBarrier) {
    if (thread == 3) return;
    __syncthreads();
  } else if constexpr (kMistake != kNoBarrier) {
    __syncthreads();
  }
  int one = 1;
  if constexpr (kMistake == kDivergentShuffle) {
    if (thread < 7) one = __shfl_sync(0xFFFFFFFF, one, 0);
  } else if constexpr (kMistake == kShuffleWithoutLane) {
    one = __shfl_sync(0x7FFFFFFF, one, 0);
  } else {
    one = __shfl_sync(0xFFFFFFFF, one, 0);
  }
  out[thread] = thread + one + values[(thread + 32) % kThreads];
}

// out[0] becomes the number of threads, unless two threads read the same value.
template <int kMistake>
__global__ void count_kernel(int* out) {
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
  if constexpr (kMistake == kLostUpdate) {
    const int before = atomicAdd(out, 0);
    atomicExch(out, before + 1);
  } else {
    atomicAdd(out, 1);
  }
}

// Writes behind its memory.
__global__ void overrun_kernel(unsigned char* memory, int64_t bytes) { memory[bytes] = 0; }

template <int kMistake>
void run(int* out) {
  const wsolfast::cuda::Launcher launch({"run_with_mistake", 0});
  if (kMistake == kPastDeviceMemory) {
    constexpr int64_t kBytes = 100;
    cuda_emulator::DeviceMemory memory;
    launch(overrun_kernel, 1, kThreads, 0, static_cast<unsigned char*>(memory(kBytes)), kBytes);
  } else if (kMistake == kLostUpdate) {
    launch(count_kernel<kMistake>, 1, kThreads, 0, out);
  } else {
    launch(shift_kernel<kMistake>, 1, kThreads, kThreads * sizeof(int), out);
  }
}

}  // namespace

WSOLFAST_ENTRY const char* run_with_mistake(int mistake, int* out) {
  return cuda_emulator::reported([&] {
    switch (mistake) {
      case kNone:
        return run<kNone>(out);
      case kNoBarrier:
        return run<kNoBarrier>(out);
      case kDivergentBarrier:
        return run<kDivergentBarrier>(out);
      case kLeavesBeforeBarrier:
        return run<kLeavesBeforeBarrier>(out);
      case kDivergentShuffle:
        return run<kDivergentShuffle>(out);
      case kShuffleWithoutLane:
        return run<kShuffleWithoutLane>(out);
      case kPastSharedMemory:
        return run<kPastSharedMemory>(out);
      case kPastDeviceMemory:
        return run<kPastDeviceMemory>(out);
      case kUnwrittenSharedMemory:
        return run<kUnwrittenSharedMemory>(out);
      case kLostUpdate:
        return run<kLostUpdate>(out);
    }
  });
}

WSOLFAST_ENTRY void set_order(int order, uint64_t seed) {
  cuda_emulator::set_order(static_cast<cuda_emulator::Order>(order), seed);
}

WSOLFAST_ENTRY void set_limits(int processors, int64_t shared_bytes, int64_t overflow_bytes) {
  wsolfast::cuda::emulated_limits = {processors, shared_bytes, overflow_bytes};
}
