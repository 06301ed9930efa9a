// Vectors of the width that the target has, through the compiler's vector extension (GCC and Clang).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace jaxcnn {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Simd {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  // Unaligned, and allowed to alias: arrays come from XLA and are cut anywhere.
  typedef T Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};

template <typename T>
using Vector = typename Simd<T>::Vector;

template <typename T>
inline constexpr int kLanes = Simd<T>::kLanes;

template <typename T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

template <typename T>
inline void store(T* to, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(to) = value;
}

// Absolute values as integers, which sort like the floats: infinity above all numbers, NaN last.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename T>
inline Vector<Bits<T>> magnitudes(Vector<T> value) {
  constexpr Bits<T> kAllButSign = static_cast<Bits<T>>(~(std::make_unsigned_t<Bits<T>>(1) << (8 * sizeof(T) - 1)));
  return reinterpret_cast<Vector<Bits<T>>>(value) & kAllButSign;
}

template <typename T>
inline T from_magnitude(Bits<T> bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename B>
inline Vector<B> larger(Vector<B> a, Vector<B> b) {
  return a > b ? a : b;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace jaxcnn
