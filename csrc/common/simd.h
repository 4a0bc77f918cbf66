// Compiles a function once per instruction set and picks at load time. The build keeps fused multiply-adds off, so all
// copies give the same bits as long as the function spells out the order of its sums.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WSOLFAST_SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WSOLFAST_SIMD
#endif
