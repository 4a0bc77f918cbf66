// exp(x) for x <= 0, branch-free so that a loop over it vectorises; within two units in the last place.
#pragma once

#include <bit>
#include <cstdint>

namespace wsolfast {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = int32_t;
  static constexpr float kSmallest = -87.0f;       // below it the result would be subnormal: zero
  static constexpr float kRound = 12582912.0f;     // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f;  // ln 2 in two parts, the first exact when multiplied
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr int kDegree = 7;
  static constexpr Bits kBias = 127, kMantissa = 23;
};

template <>
struct ExpConstants<double> {
  using Bits = int64_t;
  static constexpr double kSmallest = -708.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693145751953125;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kDegree = 13;
  static constexpr Bits kBias = 1023, kMantissa = 52;
};

template <typename T>
inline T exp_of_nonpositive(T x) {
  using C = ExpConstants<T>;
  using Bits = typename C::Bits;
  constexpr T kLog2E = T(1.44269504088896340736);
  // A NaN fails the comparison and stays.
  const T clamped = x < C::kSmallest ? C::kSmallest : x;
  const T shifted = clamped * kLog2E + C::kRound;
  const T power = shifted - C::kRound;
  const T rest = (clamped - power * C::kLn2High) - power * C::kLn2Low;
  T series = T(1);
  for (int n = C::kDegree; n > 0; --n) series = T(1) + series * rest * (T(1) / T(n));
  const Bits exponent = std::bit_cast<Bits>(shifted) - std::bit_cast<Bits>(C::kRound) + C::kBias;
  const T value = series * std::bit_cast<T>(exponent << C::kMantissa);
  return x < C::kSmallest ? T(0) : value;
}

}  // namespace wsolfast
