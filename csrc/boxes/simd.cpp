#include "boxes/simd.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace wsolfast::boxes {
namespace {

bool is_supported(Simd simd) {
#if WSOLFAST_X86
  switch (simd) {
    case Simd::kScalar:
      return true;
    case Simd::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    case Simd::kAvx512:
      return is_supported(Simd::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512cd");
  }
#endif
  return simd == Simd::kScalar;
}

Simd parse(const std::string& name) {
  for (Simd simd : {Simd::kScalar, Simd::kAvx2, Simd::kAvx512}) {
    if (name != simd_name(simd)) continue;
    if (!is_supported(simd)) throw std::invalid_argument("this machine has no " + name + ": choose a smaller set");
    return simd;
  }
  throw std::invalid_argument("instruction set: expected scalar, avx2 or avx512, got '" + name + "'");
}

Simd initial() {
  if (const char* wanted = std::getenv("WSOLFAST_SIMD"); wanted != nullptr && *wanted != '\0') return parse(wanted);
  if (is_supported(Simd::kAvx512)) return Simd::kAvx512;
  return is_supported(Simd::kAvx2) ? Simd::kAvx2 : Simd::kScalar;
}

std::atomic<Simd>& active() {
  static std::atomic<Simd> simd{initial()};
  return simd;
}

}  // namespace

Simd active_simd() { return active().load(std::memory_order_relaxed); }

void use_simd(const std::string& name) { active().store(parse(name), std::memory_order_relaxed); }

const char* simd_name(Simd simd) {
  switch (simd) {
    case Simd::kAvx512:
      return "avx512";
    case Simd::kAvx2:
      return "avx2";
    case Simd::kScalar:
      break;
  }
  return "scalar";
}

}  // namespace wsolfast::boxes
