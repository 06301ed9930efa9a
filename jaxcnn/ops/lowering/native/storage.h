// Numbers of 16 bits in memory. They are converted to float32 in registers, and results are rounded once, when stored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "simd.h"

namespace jaxcnn {

// The upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

// IEEE 754's binary16.
struct Float16 {
  uint16_t bits;
};

// Whether the processor converts float16; where not, XLA does before and after a call.
#if defined(__F16C__)
inline constexpr bool kReadsFloat16 = true;
#else
inline constexpr bool kReadsFloat16 = false;
#endif

template <typename S>
inline constexpr bool kIsHalf = std::is_same_v<S, BFloat16> || std::is_same_v<S, Float16>;

// The type that stored numbers are computed in.
template <typename S>
using Wide = std::conditional_t<kIsHalf<S>, float, S>;

// 16 bits for each lane of a vector of float32.
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

template <typename S>
inline Vector<Wide<S>> load_wide(const S* from) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const Halves halves = *reinterpret_cast<const Halves*>(from);
    return reinterpret_cast<Vector<float>>(__builtin_convertvector(halves, Vector<uint32_t>) << 16);
#if defined(__F16C__)
  } else if constexpr (std::is_same_v<S, Float16>) {
#if defined(__AVX512F__)
    return Vector<float>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#else
    return Vector<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
#endif
  } else {
    return load(from);
  }
}

// Rounds to the nearest number of the stored type, ties to even; infinity and NaN stay what they are.
template <typename S>
inline void store_rounded(S* to, Vector<Wide<S>> value) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    const auto bits = reinterpret_cast<Vector<uint32_t>>(value);
    const auto rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN stays one also where only lower bits say so.
    const auto nan = bits >> 16 | 0x40;
    const Vector<uint32_t> either = value == value ? rounded : nan;
    *reinterpret_cast<Halves*>(to) = __builtin_convertvector(either, Halves);
#if defined(__F16C__)
  } else if constexpr (std::is_same_v<S, Float16>) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(__m512(value), _MM_FROUND_TO_NEAREST_INT));
#else
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(__m256(value), _MM_FROUND_TO_NEAREST_INT));
#endif
#endif
  } else {
    store(to, value);
  }
}

// Copies numbers from storage.
template <typename S>
inline void widen(const S* from, int64_t count, Wide<S>* to) {
  if constexpr (!kIsHalf<S>) {
    std::copy_n(from, count, to);
  } else {
    int64_t i = 0;
    for (; i + kLanes<float> <= count; i += kLanes<float>) store(to + i, load_wide(from + i));
    if (i == count) return;
    S rest[kLanes<float>] = {};
    float numbers[kLanes<float>];
    std::copy_n(from + i, count - i, rest);
    store(numbers, load_wide(rest));
    std::copy_n(numbers, count - i, to + i);
  }
}

template <typename S>
inline Wide<S> widened(S number) {
  Wide<S> wide;
  if constexpr (std::is_same_v<S, BFloat16>) {
    const uint32_t bits = static_cast<uint32_t>(number.bits) << 16;
    std::memcpy(&wide, &bits, sizeof(wide));
  } else {
    widen(&number, 1, &wide);
  }
  return wide;
}

// Copies numbers to storage, rounded.
template <typename S>
inline void round_to(const Wide<S>* from, int64_t count, S* to) {
  if constexpr (!kIsHalf<S>) {
    std::copy_n(from, count, to);
  } else {
    int64_t i = 0;
    for (; i + kLanes<float> <= count; i += kLanes<float>) store_rounded(to + i, load(from + i));
    if (i == count) return;
    float rest[kLanes<float>] = {};
    S numbers[kLanes<float>];
    std::copy_n(from + i, count - i, rest);
    store_rounded(numbers, load(rest));
    std::copy_n(numbers, count - i, to + i);
  }
}

// Numbers of a call, such as a kernel, in the type that they are computed in: in place, or as a copy.
template <typename S>
class Widened {
 public:
  Widened(const S* from, int64_t count, Workers& workers) : copy_(kIsHalf<S> ? count : 0) {
    if constexpr (kIsHalf<S>) {
      constexpr int64_t kPiece = 1 << 15;
      workers.for_each(ceil_div(count, kPiece), [&](int64_t piece) {
        const int64_t start = piece * kPiece;
        widen(from + start, std::min(kPiece, count - start), copy_.get() + start);
      });
      numbers_ = copy_.get();
    } else {
      numbers_ = from;
    }
  }

  const Wide<S>* get() const { return numbers_; }

 private:
  Buffer<Wide<S>> copy_;
  const Wide<S>* numbers_;
};

}  // namespace jaxcnn
