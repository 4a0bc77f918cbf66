// PyTorch's current CUDA stream, found at call time: libtorch_cuda is absent on CPU-only torch, where this library must
// still load.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>

#include "common/check.h"

namespace wsolfast {

inline cudaStream_t current_stream(int32_t device) {
  using GetStream = int32_t (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  WSOLFAST_CHECK(get_stream != nullptr, "current_stream", "libtorch_cuda is not loaded");
  void* stream = nullptr;
  WSOLFAST_CHECK(get_stream(device, &stream) == 0, "current_stream", "no stream for device ", device);
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  // setup.py's ARCHITECTURES.
  WSOLFAST_CHECK(error != cudaErrorNoKernelImageForDevice && error != cudaErrorUnsupportedPtxVersion, op,
                 "the CUDA kernels want compute capability 8.0 (Ampere) or newer; call it with tensors on the CPU");
  WSOLFAST_CHECK(error == cudaSuccess, op, cudaGetErrorString(error));
}

}  // namespace wsolfast
