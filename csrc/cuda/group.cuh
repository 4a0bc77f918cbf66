// Threads that work together: the lanes of a warp, or all threads of a CTA. What is written for a group runs on both.
#pragma once

#include <cstdint>

namespace wsolfast::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

struct Warp {
  static constexpr int kSize = 32;

  __device__ static int rank() { return static_cast<int>(threadIdx.x % kSize); }
  // Afterwards every member sees what the others wrote before.
  __device__ static void sync() { __syncwarp(); }

  // combine() over all members, known to all of them; in no order.
  template <typename T, typename Combine>
  __device__ static T reduce(T value, Combine combine) {
    for (int bits = kSize / 2; bits > 0; bits /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
    return value;
  }

  // The sum over lower ranks; `total` is the sum over all.
  template <typename T>
  __device__ static T sum_before(T value, T* total) {
    T sum = value;
    for (int delta = 1; delta < kSize; delta *= 2) {
      const T other = __shfl_up_sync(kAllLanes, sum, delta);
      if (rank() >= delta) sum += other;
    }
    *total = __shfl_sync(kAllLanes, sum, kSize - 1);
    return sum - value;
  }
};

template <int kThreads>
struct Cta {
  static constexpr int kSize = kThreads;

  __device__ static int rank() { return static_cast<int>(threadIdx.x); }
  __device__ static void sync() { __syncthreads(); }

  template <typename T, typename Combine>
  __device__ static T reduce(T value, Combine combine) {
    __shared__ T values[kThreads];
    values[rank()] = value;
    __syncthreads();
    for (int stride = kThreads / 2; stride > 0; stride /= 2) {
      if (rank() < stride) values[rank()] = combine(values[rank()], values[rank() + stride]);
      __syncthreads();
    }
    const T result = values[0];
    __syncthreads();
    return result;
  }

  template <typename T>
  __device__ static T sum_before(T value, T* total) {
    __shared__ T totals[kThreads / Warp::kSize];
    T of_warp;
    T sum = Warp::sum_before(value, &of_warp);
    if (Warp::rank() == 0) totals[rank() / Warp::kSize] = of_warp;
    __syncthreads();
    T all = 0;
    for (int warp = 0; warp < kThreads / Warp::kSize; ++warp) {
      if (warp == rank() / Warp::kSize) sum += all;
      all += totals[warp];
    }
    *total = all;
    __syncthreads();
    return sum;
  }
};

template <typename T>
struct Largest {
  __device__ T operator()(T a, T b) const { return a < b ? b : a; }
};

template <typename T>
struct Sum {
  __device__ T operator()(T a, T b) const { return a + b; }
};

}  // namespace wsolfast::cuda
