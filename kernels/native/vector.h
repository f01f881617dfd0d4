// Vectors of the widest kind this translation unit may use, through the compiler's vector extension.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace atras::ATRAS_ISA {

#if defined(__AVX512F__)
constexpr int V = 16;
#elif defined(__AVX2__)
constexpr int V = 8;
#else
constexpr int V = 4;
#endif

typedef float vf __attribute__((vector_size(4 * V)));
typedef std::int32_t vi __attribute__((vector_size(4 * V)));
typedef std::uint32_t vu __attribute__((vector_size(4 * V)));
typedef float vf_any __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef std::uint8_t vb __attribute__((vector_size(V)));
typedef std::uint16_t vh __attribute__((vector_size(2 * V)));

ATRAS_INLINE vf splat(float x) { return x - vf{}; }
ATRAS_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
ATRAS_INLINE void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }
ATRAS_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
ATRAS_INLINE vf larger(vf a, vf b) { return a > b ? a : b; }

ATRAS_INLINE vf root(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < V; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// 1 / sqrt(x) for x of at least 0, and 1 / x for x of at least 1, with a relative error below 2e-7; NaN stays NaN. Where
// there is an estimate of 14 bits, one step of Newton's method doubles them, many times as fast as the division. There,
// x below 1e-36 counts as that, and infinity as the largest number.
ATRAS_INLINE vf reciprocal_root(vf x) {
#if defined(__AVX512F__)
  const __m512 low = _mm512_set1_ps(1e-36f), high = _mm512_set1_ps(3e38f);
  x = (vf)_mm512_maskz_max_ps(0xffff, low, _mm512_maskz_min_ps(0xffff, high, (__m512)x));  // NaN is the second operand
  const vf y = (vf)_mm512_maskz_rsqrt14_ps(0xffff, (__m512)x);
  return y + y * 0.5f * (1.0f - x * y * y);
#else
  return 1.0f / root(x);
#endif
}

ATRAS_INLINE vf reciprocal(vf x) {
#if defined(__AVX512F__)
  const vf y = (vf)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// e^x by range reduction and a polynomial of degree 6 (Cephes expf): relative error below 2e-7; NaN stays NaN.
ATRAS_INLINE vf exponential(vf x) {
  x = x > 88.0f ? splat(88.0f) : x;
  x = x < -87.0f ? splat(-87.0f) : x;
  const vf magic = splat(12582912.0f);
  const vf n = (x * 1.44269504088896341f + magic) - magic;
  vf r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const vi power = (__builtin_convertvector(n, vi) + 127) << 23;
  return p * (vf)power;
}

ATRAS_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

// Near zero by a polynomial (Cephes tanhf), elsewhere through e^2x.
ATRAS_INLINE vf hyperbolic_tangent(vf x) {
  const vf far = 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
  const vf s = x * x;
  vf p = splat(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const vf near = p * s * x + x;
  return s < 0.390625f ? near : far;
}

// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
ATRAS_INLINE vf error_function(vf x) {
  const vf a = x < 0.0f ? -x : x;
  const vf t = 1.0f / (1.0f + 0.3275911f * a);
  vf p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const vf y = 1.0f - p * t * exponential(-a * a);
  return x < 0.0f ? -y : y;
}

ATRAS_INLINE vf bf16_to_float(const std::uint16_t* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}

// Round to nearest, ties to even; NaN stays NaN.
ATRAS_INLINE vu bf16_bits(vf x) {
#if defined(__AVX512BF16__)
  return (vu)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
  const vu u = (vu)x;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (vu)(x == x ? (vi)rounded : (vi)((u >> 16) | 0x40u));
#endif
}

ATRAS_INLINE void store_bf16(std::uint16_t* p, vf x) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(p, &h, sizeof h);
#else
  const vh h = __builtin_convertvector(bf16_bits(x), vh);
  std::memcpy(p, &h, sizeof h);
#endif
}

// bf16 of two vectors side by side in each lane, `low` in its low half.
ATRAS_INLINE vf bf16_pairs(vf low, vf high) {
#if defined(__AVX512BF16__)
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vf)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
#else
  return (vf)(bf16_bits(low) | bf16_bits(high) << 16);
#endif
}

// Two bf16 products added to each float lane; a and b hold pairs, the low half first.
ATRAS_INLINE vf dot_pairs(vf sum, vu a, vu b) {
#if defined(__AVX512BF16__)
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum += (vf)(a << 16) * (vf)(b << 16);
  return sum + (vf)(a & 0xffff0000u) * (vf)(b & 0xffff0000u);
#endif
}

// Arithmetic of a matrix product: the elements that are broadcast are floats, or pairs of bf16.
struct Fp32 {
  using Element = float;
  static constexpr int kPack = 1;
  static ATRAS_INLINE vf add(vf sum, const float* x, vf w) { return sum + *x * w; }
};

struct Bf16 {
  using Element = std::uint32_t;
  static constexpr int kPack = 2;
  static ATRAS_INLINE vf add(vf sum, const std::uint32_t* x, vf w) { return dot_pairs(sum, *x - vu{}, (vu)w); }
};

// Bit c is set where values[c] != 0, c < 32. NaN counts as set.
ATRAS_INLINE std::uint32_t nonzero32(const float* values) {
  std::uint32_t bits = 0;
#if defined(__AVX512F__)
  const __m512 zero = _mm512_setzero_ps();
  bits = _mm512_cmp_ps_mask(_mm512_loadu_ps(values), zero, _CMP_NEQ_UQ);
  bits |= std::uint32_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(values + 16), zero, _CMP_NEQ_UQ)) << 16;
#elif defined(__AVX2__)
  for (int i = 0; i < 4; ++i) {
    const __m256 ne = _mm256_cmp_ps(_mm256_loadu_ps(values + 8 * i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    bits |= std::uint32_t(_mm256_movemask_ps(ne)) << (8 * i);
  }
#else
  for (int i = 0; i < 32; ++i) bits |= std::uint32_t(values[i] != 0.0f) << i;
#endif
  return bits;
}

// Bit c is set where bytes[c] == value, c < 32.
ATRAS_INLINE std::uint32_t equal32(const std::uint8_t* bytes, int value) {
#if defined(__AVX2__)
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  return std::uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, _mm256_set1_epi8(char(value)))));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= std::uint32_t(bytes[i] == value) << i;
  return bits;
#endif
}

#if defined(__AVX512F__)
#define ATRAS_ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ATRAS_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define ATRAS_ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ATRAS_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define ATRAS_ZIP_LOW 0, 4, 1, 5
#define ATRAS_ZIP_HIGH 2, 6, 3, 7
#endif

// Transpose V x V: log2 V rounds of the perfect shuffle.
ATRAS_INLINE void transpose(vf (&rows)[V]) {
#pragma GCC unroll 4
  for (int round = 1; round < V; round *= 2) {
    vf next[V];
#pragma GCC unroll 16
    for (int i = 0; i < V / 2; ++i) {
      next[2 * i] = __builtin_shufflevector(rows[i], rows[i + V / 2], ATRAS_ZIP_LOW);
      next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + V / 2], ATRAS_ZIP_HIGH);
    }
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i) rows[i] = next[i];
  }
}

// to[c][r] = from[r][c] for rows x columns, both multiples of 16.
inline void transpose_matrix(const float* from, std::ptrdiff_t from_stride, float* to, std::ptrdiff_t to_stride,
                             int rows, int columns) {
  for (int r = 0; r < rows; r += V)
    for (int c = 0; c < columns; c += V) {
      vf block[V];
      for (int i = 0; i < V; ++i) block[i] = load(from + (r + i) * from_stride + c);
      transpose(block);
      for (int i = 0; i < V; ++i) store(to + (c + i) * to_stride + r, block[i]);
    }
}

}  // namespace atras::ATRAS_ISA
