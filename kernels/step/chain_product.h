// Products of patches, read where they lie in images, and the weights of a convolution: as `product` of dense.h, whose left
// operand is a matrix.
#pragma once

#include "dense.h"

namespace atras::step::ATRAS_ISA {

// Patches of one convolution: `kernel` runs of `run` values, `row` apart, from `images + offsets[position]` on.
struct Patches {
  const float* images;
  const int* offsets;
  int kernel, run;
  std::ptrdiff_t row;
};

constexpr int kNarrowRows = 8;  // of tiles of a single vector of columns, for sums that do not wait for one another

template <int R, int N, class Done>
ATRAS_INLINE void patch_tile(const Patches& p, const float* b, std::ptrdiff_t b_row, const Done& done, int row,
                             int column) {
  vf sum[R][N];
  const float* from[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    from[r] = p.images + p.offsets[row + r];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sum[r][v] = vf{};
  }
  for (int k = 0; k < p.kernel; ++k) {
    for (int j = 0; j < p.run; ++j, b += b_row) {
      vf right[N];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) right[v] = load(b + v * V);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sum[r][v] = Fp32::add(sum[r][v], from[r] + j, right[v]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) from[r] += p.row;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) done(row + r, column + v * V, sum[r][v]);
}

template <int N, class Done>
void patch_columns(int rows, const Patches& p, const float* b, std::ptrdiff_t b_row, const Done& done, int column) {
  constexpr int kRows = N == 1 ? kNarrowRows : kTileRows;
  int row = 0;
  for (; row + kRows <= rows; row += kRows) patch_tile<kRows, N>(p, b, b_row, done, row, column);
  switch (rows - row) {
    case 7: return patch_tile<7, N>(p, b, b_row, done, row, column);
    case 6: return patch_tile<6, N>(p, b, b_row, done, row, column);
    case 5: return patch_tile<5, N>(p, b, b_row, done, row, column);
    case 4: return patch_tile<4, N>(p, b, b_row, done, row, column);
    case 3: return patch_tile<3, N>(p, b, b_row, done, row, column);
    case 2: return patch_tile<2, N>(p, b, b_row, done, row, column);
    case 1: return patch_tile<1, N>(p, b, b_row, done, row, column);
    default: return;
  }
}

// For any number of patches and a multiple of V columns; done(row, column, vector) takes each result once.
template <class Done>
void patch_product(int rows, int columns, const Patches& p, const float* b, std::ptrdiff_t b_row, const Done& done) {
  constexpr int kWide = V == 16 ? 4 : V == 8 ? 2 : 4;
  for (int column = 0; column < columns;) {
    const int left = (columns - column) / V;
    if (left >= kWide) {
      patch_columns<kWide>(rows, p, b + column, b_row, done, column);
      column += kWide * V;
    } else if (V == 16 && left >= 2) {
      patch_columns<2>(rows, p, b + column, b_row, done, column);
      column += 2 * V;
    } else {
      patch_columns<1>(rows, p, b + column, b_row, done, column);
      column += V;
    }
  }
}

}  // namespace atras::step::ATRAS_ISA
