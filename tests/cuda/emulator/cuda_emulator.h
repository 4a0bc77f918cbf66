// Compiles CUDA kernels for the host: included in front of a .cu, it supplies what nvcc would.
//
// The threads of a CTA are fibers of one operating-system thread. A fiber runs until it meets the others (a barrier, a
// shuffle, a vote), so what a kernel computes depends on the order of its threads only where it lacks a barrier;
// set_order() chooses that order. Whatever hardware would leave undefined ends the launch with an error: threads at
// different collectives, lanes missing from a mask, threads that left while others wait, writes past shared memory.
// CTAs run one after the other.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <type_traits>

#define __global__ inline
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulator {

using Where = std::source_location;

enum class Collective { kSyncWarp, kShuffle, kBallot, kReduce, kSyncThreads, kSyncThreadsCount };

enum class Order { kAscending, kDescending, kShuffled };

// For the launches that follow. A shuffled order also switches fibers at atomics.
void set_order(Order order, uint64_t seed);

// Runs `body` once per thread. Throws std::runtime_error where hardware would misbehave.
void run_grid(const std::function<void()>& body, unsigned grid, unsigned block, size_t shared_bytes);

// What the kernels' dynamic_shared() returns; filled with 0xCB before each CTA.
unsigned char* shared_memory();

// Meets the lanes of `mask`; afterwards lane i's operand is what gathered()[i] holds.
const uint64_t* meet_warp(Collective kind, unsigned mask, uint64_t operand, const Where& where);
// Meets all threads of the CTA and returns how many passed true.
int meet_cta(Collective kind, bool predicate, const Where& where);
// A place at which another thread may come in between.
void pause();

template <typename T>
uint64_t to_bits(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

template <typename T, typename Pick>
T shuffle(unsigned mask, T value, const Where& where, Pick pick) {
  const uint64_t* values = meet_warp(Collective::kShuffle, mask, to_bits(value), where);
  const int source = pick(lane());
  return source >= 0 && source < 32 ? from_bits<T>(values[source]) : value;
}

template <typename Combine>
auto reduce(unsigned mask, auto value, const Where& where, Combine combine) {
  const uint64_t* values = meet_warp(Collective::kReduce, mask, to_bits(value), where);
  bool first = true;
  decltype(value) result{};
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const auto other = from_bits<decltype(value)>(values[i]);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}

template <typename T, typename Change>
T atomic(T* address, Change change) {
  pause();
  const T before = *address;
  *address = change(before);
  return before;
}

}  // namespace cuda_emulator

#define WSOLFAST_HERE cuda_emulator::Where where = cuda_emulator::Where::current()

inline void __syncthreads(WSOLFAST_HERE) {
  cuda_emulator::meet_cta(cuda_emulator::Collective::kSyncThreads, false, where);
}
inline int __syncthreads_count(int predicate, WSOLFAST_HERE) {
  return cuda_emulator::meet_cta(cuda_emulator::Collective::kSyncThreadsCount, predicate != 0, where);
}
inline int __syncthreads_or(int predicate, WSOLFAST_HERE) { return __syncthreads_count(predicate, where) > 0; }
inline int __syncthreads_and(int predicate, WSOLFAST_HERE) { return __syncthreads_count(!predicate, where) == 0; }

inline void __syncwarp(unsigned mask = 0xFFFFFFFF, WSOLFAST_HERE) {
  cuda_emulator::meet_warp(cuda_emulator::Collective::kSyncWarp, mask, 0, where);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, WSOLFAST_HERE) {
  return cuda_emulator::shuffle(mask, value, where, [&](int) { return source & 31; });
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, WSOLFAST_HERE) {
  return cuda_emulator::shuffle(mask, value, where, [&](int lane) { return lane ^ bits; });
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int delta, WSOLFAST_HERE) {
  return cuda_emulator::shuffle(mask, value, where, [&](int lane) { return lane - delta; });
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int delta, WSOLFAST_HERE) {
  return cuda_emulator::shuffle(mask, value, where, [&](int lane) { return lane + delta; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, WSOLFAST_HERE) {
  const uint64_t* votes = cuda_emulator::meet_warp(cuda_emulator::Collective::kBallot, mask, predicate != 0, where);
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= static_cast<unsigned>((mask >> i & 1) && votes[i]) << i;
  return result;
}
inline int __any_sync(unsigned mask, int predicate, WSOLFAST_HERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, WSOLFAST_HERE) {
  return __ballot_sync(mask, predicate, where) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, WSOLFAST_HERE) {
  const uint64_t own = cuda_emulator::to_bits(value);
  const uint64_t* values = cuda_emulator::meet_warp(cuda_emulator::Collective::kReduce, mask, own, where);
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= static_cast<unsigned>((mask >> i & 1) && values[i] == own) << i;
  return result;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value, WSOLFAST_HERE) {
  return cuda_emulator::reduce(mask, value, where, [](T a, T b) { return static_cast<T>(a + b); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, WSOLFAST_HERE) {
  return cuda_emulator::reduce(mask, value, where, [](T a, T b) { return a < b ? b : a; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, WSOLFAST_HERE) {
  return cuda_emulator::reduce(mask, value, where, [](T a, T b) { return b < a ? b : a; });
}
#undef WSOLFAST_HERE

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T before) { return static_cast<T>(before + value); });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T before) { return value < before ? value : before; });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T before) { return before < value ? value : before; });
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T before) { return static_cast<T>(before | value); });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return cuda_emulator::atomic(address, [&](T before) { return before == compare ? value : before; });
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1; }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
