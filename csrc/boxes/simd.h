// The instruction set that the hot loops run on, decided at run time.
//
// A hot loop is one always-inline body in plain C++, compiled once per instruction set by WSOLFAST_DISPATCH: the same
// source gives every path, so the paths agree by construction. Floating-point contraction is off for the whole build.
#pragma once

#include <string>

namespace wsolfast::boxes {

enum class Simd { kScalar, kAvx2, kAvx512 };

// The best set this machine has, unless WSOLFAST_SIMD=scalar|avx2|avx512 or use_simd() asked for less.
Simd active_simd();

// "scalar", "avx2", "avx512"; throws std::invalid_argument on another name or when the machine lacks the set.
void use_simd(const std::string& name);

const char* simd_name(Simd simd);

}  // namespace wsolfast::boxes

#define WSOLFAST_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define WSOLFAST_X86 1
#define WSOLFAST_TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))
#define WSOLFAST_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,bmi,bmi2,lzcnt,popcnt")))

// Defines `name params`, which runs `name_body args` compiled for the active instruction set.
#define WSOLFAST_DISPATCH(name, params, args)                                   \
  static void name##_scalar params { name##_body args; }                        \
  WSOLFAST_TARGET_AVX2 static void name##_avx2 params { name##_body args; }     \
  WSOLFAST_TARGET_AVX512 static void name##_avx512 params { name##_body args; } \
  void name params {                                                            \
    switch (active_simd()) {                                                    \
      case Simd::kAvx512:                                                       \
        return name##_avx512 args;                                              \
      case Simd::kAvx2:                                                         \
        return name##_avx2 args;                                                \
      case Simd::kScalar:                                                       \
        return name##_scalar args;                                              \
    }                                                                           \
  }
#else
#define WSOLFAST_X86 0
#define WSOLFAST_DISPATCH(name, params, args) \
  void name params { name##_body args; }
#endif
