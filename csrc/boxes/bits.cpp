#include "boxes/bits.h"

#include <bit>

#include "boxes/simd.h"

#if WSOLFAST_X86
#include <immintrin.h>
#endif

namespace wsolfast::boxes {
namespace {

// Per instruction set: a word of a[x] >= b[x], and one of row[x] >= least.
WSOLFAST_INLINE uint64_t word_of_pair_scalar(const uint8_t* a, const uint8_t* b) {
  uint64_t bits = 0;
  for (int x = 0; x < 64; ++x) bits |= static_cast<uint64_t>(a[x] >= b[x]) << x;
  return bits;
}

WSOLFAST_INLINE uint64_t word_scalar(const uint8_t* row, int least) {
  uint64_t bits = 0;
  for (int x = 0; x < 64; ++x) bits |= static_cast<uint64_t>(row[x] >= least) << x;
  return bits;
}

#if WSOLFAST_X86
// There is no unsigned byte comparison, but a >= b is max(a, b) == a.
WSOLFAST_TARGET_AVX2 WSOLFAST_INLINE uint64_t halves_avx2(__m256i a0, __m256i a1, __m256i b0, __m256i b1) {
  const uint32_t low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(a0, b0), a0));
  const uint32_t high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(a1, b1), a1));
  return low | static_cast<uint64_t>(high) << 32;
}

WSOLFAST_TARGET_AVX2 WSOLFAST_INLINE __m256i half_avx2(const uint8_t* row) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
}

WSOLFAST_TARGET_AVX2 WSOLFAST_INLINE uint64_t word_of_pair_avx2(const uint8_t* a, const uint8_t* b) {
  return halves_avx2(half_avx2(a), half_avx2(a + 32), half_avx2(b), half_avx2(b + 32));
}

WSOLFAST_TARGET_AVX2 WSOLFAST_INLINE uint64_t word_avx2(const uint8_t* row, int least) {
  const __m256i limit = _mm256_set1_epi8(static_cast<char>(least));
  return halves_avx2(half_avx2(row), half_avx2(row + 32), limit, limit);
}

WSOLFAST_TARGET_AVX512 WSOLFAST_INLINE uint64_t word_of_pair_avx512(const uint8_t* a, const uint8_t* b) {
  return _mm512_cmpge_epu8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

WSOLFAST_TARGET_AVX512 WSOLFAST_INLINE uint64_t word_avx512(const uint8_t* row, int least) {
  return _mm512_cmpge_epu8_mask(_mm512_loadu_si512(row), _mm512_set1_epi8(static_cast<char>(least)));
}
#endif

// The three functions of the header for one instruction set.
#define WSOLFAST_BITS(set, target)                                                                                \
  target void reached_bits_##set(const uint8_t* row, int words, int least, uint64_t* bits) {                      \
    for (int word = 0; word < words; ++word) bits[word] = word_##set(row + 64 * word, least);                     \
  }                                                                                                               \
  target void step_bits_##set(const uint8_t* row, const uint8_t* next, int words, uint64_t* up, uint64_t* down) { \
    for (int word = 0; word < words; ++word) {                                                                    \
      up[word] = ~word_of_pair_##set(row + 64 * word, next + 64 * word);                                          \
      down[word] = ~word_of_pair_##set(next + 64 * word, row + 64 * word);                                        \
    }                                                                                                             \
  }                                                                                                               \
  target int count_reached_##set(const uint8_t* levels, int size, int least) {                                    \
    int count = 0;                                                                                                \
    for (; size > 64; size -= 64, levels += 64) count += std::popcount(word_##set(levels, least));                \
    return count + std::popcount(word_##set(levels, least) & (~uint64_t{0} >> (64 - size)));                      \
  }

WSOLFAST_BITS(scalar, )
#if WSOLFAST_X86
WSOLFAST_BITS(avx2, WSOLFAST_TARGET_AVX2)
WSOLFAST_BITS(avx512, WSOLFAST_TARGET_AVX512)
#endif
#undef WSOLFAST_BITS

}  // namespace

#if WSOLFAST_X86
#define WSOLFAST_PICK(name, args) \
  switch (active_simd()) {        \
    case Simd::kAvx512:           \
      return name##_avx512 args;  \
    case Simd::kAvx2:             \
      return name##_avx2 args;    \
    case Simd::kScalar:           \
      break;                      \
  }                               \
  return name##_scalar args
#else
#define WSOLFAST_PICK(name, args) return name##_scalar args
#endif

void reached_bits(const uint8_t* row, int words, int least, uint64_t* bits) {
  WSOLFAST_PICK(reached_bits, (row, words, least, bits));
}

void step_bits(const uint8_t* row, const uint8_t* next, int words, uint64_t* up, uint64_t* down) {
  WSOLFAST_PICK(step_bits, (row, next, words, up, down));
}

int count_reached(const uint8_t* levels, int size, int least) { WSOLFAST_PICK(count_reached, (levels, size, least)); }

}  // namespace wsolfast::boxes
