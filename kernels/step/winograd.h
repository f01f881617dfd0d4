// Minimal filtering F(2x2, 3x3): 2x2 results of a 3x3 convolution by 16 products of transformed 4x4 inputs and transformed
// weights where the patches take 36; and the adjoints of the transforms, which are the gradients'.
// Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), section 4.1.
#pragma once

#include "../native/vector.h"

namespace atras::step::ATRAS_ISA {

using namespace ::atras::ATRAS_ISA;

// Values of a tile, row by row.
typedef vf Tile16[16];

ATRAS_INLINE void transform_inputs(vf& a, vf& b, vf& c, vf& d) {
  const vf x = a - c, y = b + c, z = c - b, t = b - d;
  a = x, b = y, c = z, d = t;
}

ATRAS_INLINE void transform_inputs(Tile16& d) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) transform_inputs(d[i], d[4 + i], d[8 + i], d[12 + i]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) transform_inputs(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
}

ATRAS_INLINE void return_inputs(vf& a, vf& b, vf& c, vf& d) {
  const vf y = b - c + d, z = b + c - a;
  b = y, c = z, d = -d;
}

// The adjoint: from gradients of the transformed inputs to those of the inputs.
ATRAS_INLINE void return_inputs(Tile16& d) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) return_inputs(d[i], d[4 + i], d[8 + i], d[12 + i]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) return_inputs(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
}

ATRAS_INLINE void transform_weights(vf a, vf b, vf c, vf (&to)[4]) {
  const vf even = (a + c) * 0.5f, odd = b * 0.5f;
  to[0] = a, to[1] = even + odd, to[2] = even - odd, to[3] = c;
}

ATRAS_INLINE void transform_weights(const vf (&g)[9], Tile16& u) {
  vf rows[3][4];
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) transform_weights(g[i], g[3 + i], g[6 + i], rows[i]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    vf row[4];
    transform_weights(rows[0][i], rows[1][i], rows[2][i], row);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) u[4 * i + j] = row[j];
  }
}

ATRAS_INLINE void return_weights(vf a, vf b, vf c, vf d, vf (&to)[3]) {
  const vf sum = (b + c) * 0.5f;
  to[0] = a + sum, to[1] = (b - c) * 0.5f, to[2] = sum + d;
}

// The adjoint: from gradients of the transformed weights to those of the weights.
ATRAS_INLINE void return_weights(const Tile16& u, vf (&g)[9]) {
  vf rows[4][3];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) return_weights(u[4 * i], u[4 * i + 1], u[4 * i + 2], u[4 * i + 3], rows[i]);
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    vf column[3];
    return_weights(rows[0][j], rows[1][j], rows[2][j], rows[3][j], column);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) g[3 * i + j] = column[i];
  }
}

// From the 16 products to the 2x2 results.
ATRAS_INLINE void return_results(const Tile16& m, vf (&y)[4]) {
  vf top[4], bottom[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    top[i] = m[i] + m[4 + i] + m[8 + i];
    bottom[i] = m[4 + i] - m[8 + i] - m[12 + i];
  }
  y[0] = top[0] + top[1] + top[2], y[1] = top[1] - top[2] - top[3];
  y[2] = bottom[0] + bottom[1] + bottom[2], y[3] = bottom[1] - bottom[2] - bottom[3];
}

// The adjoint: from gradients of the 2x2 results to those of the 16 products.
ATRAS_INLINE void transform_results(const vf (&y)[4], Tile16& m) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const vf left = i == 0 ? y[0] : i == 1 ? y[0] + y[2] : i == 2 ? y[0] - y[2] : -y[2];
    const vf right = i == 0 ? y[1] : i == 1 ? y[1] + y[3] : i == 2 ? y[1] - y[3] : -y[3];
    m[4 * i] = left, m[4 * i + 1] = left + right, m[4 * i + 2] = left - right, m[4 * i + 3] = -right;
  }
}

}  // namespace atras::step::ATRAS_ISA
