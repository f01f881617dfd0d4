// Matrix products of the dense layers by register tiles, and the optimizer's update of what they yield.
#pragma once

#include "activation.h"
#include "run.h"

namespace atras::step::ATRAS_ISA {

constexpr int kTileRows = 6;
constexpr int kAhead = 20;  // rows of the right operand, which may lie further apart than what a processor fetches by itself

// done(row, column, sum) takes each result once; done.soon(row, column) is told of it first, to fetch what it will touch.
// sum over k of a[row * a_row + k * a_k] * b[k * b_row + column], for R rows and N vectors of columns. In bf16 each k
// is a pair.
template <class P, int R, int N, bool First, class Done>
ATRAS_INLINE void product_tile(int depth, const typename P::Element* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                               const float* b, std::ptrdiff_t b_row, const Done& done, int row, int column) {
  vf sum[R][N];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sum[r][v] = vf{};
  const auto add = [&](int count) ATRAS_LAMBDA {
    for (int k = 0; k < count; ++k, a += a_k, b += b_row) {
      vf right[N];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) right[v] = load(b + v * V);
      if constexpr (First)
        for (int v = 0; v < N * V; v += kLane) __builtin_prefetch(b + kAhead * b_row + v);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sum[r][v] = P::add(sum[r][v], a + r * a_row, right[v]);
    }
  };
  if constexpr (Done::kFetches) {
    const int few = depth / (R * N);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) {
        done.soon(row + r, column + v * V);
        add(few);
      }
    depth -= few * R * N;
  }
  add(depth);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) done(row + r, column + v * V, sum[r][v]);
}

template <class P, int N, class Done>
void product_columns(int rows, int depth, const typename P::Element* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                     const float* b, std::ptrdiff_t b_row, const Done& done, int column) {
  // A single vector of columns takes more rows, for sums that do not wait for one another.
  constexpr int kRows = V == 16 && N == 1 ? 2 * kTileRows : kTileRows;
  int row = 0;
  if (rows >= kRows) {
    product_tile<P, kRows, N, true>(depth, a, a_row, a_k, b, b_row, done, row, column);
    for (row = kRows; row + kRows <= rows; row += kRows)
      product_tile<P, kRows, N, false>(depth, a + row * a_row, a_row, a_k, b, b_row, done, row, column);
  }
  if (kRows > kTileRows && row + kTileRows <= rows) {
    product_tile<P, kTileRows, N, false>(depth, a + row * a_row, a_row, a_k, b, b_row, done, row, column);
    row += kTileRows;
  }
  a += row * a_row;
  switch (rows - row) {
    case 5: return product_tile<P, 5, N, false>(depth, a, a_row, a_k, b, b_row, done, row, column);
    case 4: return product_tile<P, 4, N, false>(depth, a, a_row, a_k, b, b_row, done, row, column);
    case 3: return product_tile<P, 3, N, false>(depth, a, a_row, a_k, b, b_row, done, row, column);
    case 2: return product_tile<P, 2, N, false>(depth, a, a_row, a_k, b, b_row, done, row, column);
    case 1: return product_tile<P, 1, N, false>(depth, a, a_row, a_k, b, b_row, done, row, column);
    default: return;
  }
}

// As above for any number of rows and a multiple of 16 columns; done(row, column, vector) takes each result once.
template <class P, class Done>
void product(int rows, int columns, int depth, const typename P::Element* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
             const float* b, std::ptrdiff_t b_row, const Done& done) {
  constexpr int kWide = V == 16 ? 4 : V == 8 ? 2 : 4;
  for (int column = 0; column < columns;) {
    const float* at = b + column;
    const int left = (columns - column) / V;
    if (left >= kWide) {
      product_columns<P, kWide>(rows, depth, a, a_row, a_k, at, b_row, done, column);
      column += kWide * V;
    } else if (V == 16 && left >= 2) {
      product_columns<P, 2>(rows, depth, a, a_row, a_k, at, b_row, done, column);
      column += 2 * V;
    } else {
      product_columns<P, 1>(rows, depth, a, a_row, a_k, at, b_row, done, column);
      column += V;
    }
  }
}

// Adam with both bias corrections moved into the learning rate and the floor of the denominator, or SGD with momentum.
ATRAS_INLINE void update_vector(const Update& u, float* parameter, float* first, float* second, vf gradient) {
  vf m = load(first);
  if (!u.adam) {
    m = u.momentum * m + gradient;
    store(first, m);
    store(parameter, load(parameter) - u.learning_rate * m);
    return;
  }
  vf v = load(second);
  m = m + (gradient - m) * 0.1f;
  v = v * 0.999f + gradient * gradient * 0.001f;
  store(first, m);
  store(second, v);
#if defined(__AVX512F__)
  const vf y = reciprocal_root(v);
  store(parameter, load(parameter) - u.learning_rate * m * y * reciprocal(1.0f + u.floor * y));
#else
  store(parameter, load(parameter) - u.learning_rate * m / (root(v) + u.floor));
#endif
}

inline void update_plainly(const Run& r, std::size_t at, vf gradient) {
  update_vector(r.update, r.parameters + at, r.first_moment + at, r.second_moment + at, gradient);
}

// With weight decay and the average of the weights.
inline void update_fully(const Run& r, std::size_t at, vf gradient) {
  const Update& u = r.update;
  const vf parameter = load(r.parameters + at);
  if (u.coupled != 0.0f) gradient += u.coupled * parameter;
  if (u.shrink != 1.0f) store(r.parameters + at, u.shrink * parameter);
  update_plainly(r, at, gradient);
  if (!r.average) return;
  const vf now = load(r.parameters + at), average = load(r.average + at);
  store(r.average + at, u.average == 1.0f ? now : average + u.average * (now - average));
}

// Apart, so that the usual update stays as short as it is.
__attribute__((noinline, cold)) inline void keep_or_update_fully(const Run& r, std::size_t at, vf gradient) {
  if (r.kept) store(r.kept + at, gradient);
  else update_fully(r, at, gradient);
}

ATRAS_INLINE void update_at(const Run& r, std::size_t at, vf gradient) {
  if (__builtin_expect(r.update.plain, true)) update_plainly(r, at, gradient);
  else keep_or_update_fully(r, at, gradient);
}

// to[row][column] = bf16 of from, for columns up to a multiple of 32, zero past `columns`.
inline void to_bf16(const float* from, std::ptrdiff_t from_stride, int rows, int columns, std::uint16_t* to,
                    std::ptrdiff_t to_stride) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < round_up(columns, 2 * kLane); c += V)
      store_bf16(to + r * to_stride + c, c < columns ? load(from + r * from_stride + c) : vf{});
}

// to[pair][column] = rows 2 pair and 2 pair + 1 side by side as bf16; a missing last row counts as zero.
inline void pair_rows(const float* from, std::ptrdiff_t stride, int rows, int columns, float* to,
                      std::ptrdiff_t to_stride) {
  for (int r = 0; r < rows; r += 2)
    for (int c = 0; c < columns; c += V) {
      const vf high = r + 1 < rows ? load(from + (r + 1) * stride + c) : vf{};
      store(to + r / 2 * to_stride + c, bf16_pairs(load(from + r * stride + c), high));
    }
}

// Columns of the packed left operand in bf16, two to an element.
inline int paired(int columns) { return round_up(columns, 2 * kLane) / 2; }

// The product in fp32, or with both operands packed as pairs of bf16 along k in the workspace. `left_k` tells whether
// the left operand is contiguous along k (else along rows); `packed` is the right operand if it was packed before.
template <class Done>
void rounded_product(bool bf16, int rows, int columns, int depth, const float* a, std::ptrdiff_t a_stride, bool left_k,
                     const float* b, std::ptrdiff_t b_row, bool packed, const Workspace& w, const Done& done) {
  if (!bf16)
    return product<Fp32>(rows, columns, depth, a, left_k ? a_stride : 1, left_k ? 1 : a_stride, b, b_row, done);
  const int pairs = (depth + 1) / 2;
  if (left_k) {
    to_bf16(a, a_stride, rows, round_up(depth, kLane), reinterpret_cast<std::uint16_t*>(w.left), 2 * paired(depth));
  } else {
    pair_rows(a, a_stride, depth, round_up(rows, kLane), w.left, kRowChunk);
  }
  if (!packed) {
    pair_rows(b, b_row, depth, columns, w.right, kPanel);
    b = w.right;
    b_row = kPanel;
  }
  const std::uint32_t* left = reinterpret_cast<const std::uint32_t*>(w.left);
  product<Bf16>(rows, columns, pairs, left, left_k ? paired(depth) : 1, left_k ? 1 : kRowChunk, b, b_row, done);
}

// Transposes 64 rows of a layer's input.
inline void pack_panel(const Run& r, int layer, int panel, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const int first = panel * kPanel, left = r.rows_padded() - first, rows = left < kPanel ? left : kPanel;
  const float* from = r.dense_input(layer) + std::ptrdiff_t(first) * d.stride;
  float* to = r.panels + std::size_t(panel) * d.in_padded() * kPanel;
  if (!r.bf16) return transpose_matrix(from, d.stride, to, kPanel, rows, d.in_padded());
  to_bf16(from, d.stride, rows, d.in_padded(), reinterpret_cast<std::uint16_t*>(w.left), 2 * paired(d.in));
  transpose_matrix(w.left, paired(d.in), to, kPanel, rows, paired(d.in));
}

// Item: panel of batch rows x chunk of outputs. Writes transposed[out][batch row] with the bias.
struct WriteOutputs {
  float* to;
  std::ptrdiff_t stride;
  const float* bias;
  static constexpr bool kFetches = false;
  ATRAS_INLINE void operator()(int out, int column, vf value) const {
    store(to + out * stride + column, value + bias[out]);
  }
};

inline void dense_forward(const Run& r, int layer, int item, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const int panels = panels_of(r.rows_padded()), panel = item % panels, row = item / panels * kRowChunk;
  const int rows = d.out - row < kRowChunk ? d.out - row : kRowChunk;
  const int first = panel * kPanel, left = r.rows_padded() - first, stride = round_up(r.rows_padded(), kPanel);
  float* to = r.transposed + std::ptrdiff_t(row) * stride + first;
  rounded_product(r.bf16, rows, left < kPanel ? left : kPanel, d.in,
                  r.parameters + d.weight + std::ptrdiff_t(row) * d.stride, d.stride, true,
                  r.panels + std::size_t(panel) * d.in_padded() * kPanel, kPanel, true, w,
                  WriteOutputs{to, stride, r.parameters + d.bias + row});
}

// Item: panel of inputs x chunk of batch rows. The gradient of the layer's input, times the slope below it.
struct WriteGradient {
  float* to;
  std::ptrdiff_t stride;
  const float* slope;
  static constexpr bool kFetches = false;
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    const std::ptrdiff_t at = row * stride + column;
    store(to + at, slope ? value * load(slope + at) : value);
  }
};

inline void dense_input_gradient(const Run& r, int layer, int item, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const int panels = panels_of(d.in_padded()), first = item % panels * kPanel, row = item / panels * kRowChunk;
  const int rows = r.rows_padded() - row < kRowChunk ? r.rows_padded() - row : kRowChunk;
  const int left = d.in_padded() - first, from_stride = row_stride(d.out);
  const std::ptrdiff_t at = std::ptrdiff_t(row) * d.stride + first;
  rounded_product(r.bf16, rows, left < kPanel ? left : kPanel, d.out, r.gradient + std::ptrdiff_t(row) * from_stride,
                  from_stride, true, r.parameters + d.weight + first, d.stride, false, w,
                  WriteGradient{(layer == 0 ? r.dfeatures : r.next_gradient) + at, d.stride,
                                layer == 0 ? nullptr : r.hidden_slopes[layer - 1] + at});
}

inline void update_bias(const Run& r, const Dense& d) {
  const int stride = row_stride(d.out);
  for (int c = 0; c < d.out_padded(); c += V) {
    vf total{};
    for (int b = 0; b < r.batch.rows; ++b) total += load(r.gradient + std::ptrdiff_t(b) * stride + c);
    update_at(r, d.bias + c, total);
  }
}

// The weight gradient goes straight into the optimizer.
struct UpdateWeights {
  const Run& r;
  std::size_t from;
  std::ptrdiff_t stride;
  static constexpr bool kFetches = true;
  ATRAS_INLINE void soon(int row, int column) const {
    const std::size_t at = from + row * stride + column;
    __builtin_prefetch(r.parameters + at, 1);
    __builtin_prefetch(r.first_moment + at, 1);
    __builtin_prefetch(r.second_moment + at, 1);
  }
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    update_plainly(r, from + row * stride + column, value);
  }
};

// Item: panel of inputs x chunk of outputs.
inline void dense_update(const Run& r, int layer, int item, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const int panels = panels_of(d.in_padded()), first = item % panels * kPanel, row = item / panels * kRowChunk;
  const int rows = d.out - row < kRowChunk ? d.out - row : kRowChunk, left = d.in_padded() - first;
  const int columns = left < kPanel ? left : kPanel;
  const std::size_t at = d.weight + std::size_t(row) * d.stride + first;
  if (item == 0) update_bias(r, d);
  const auto multiply = [&](const auto& done) {
    rounded_product(r.bf16, rows, columns, r.batch.rows, r.gradient + row, row_stride(d.out), false,
                    r.dense_input(layer) + first, d.stride, false, w, done);
  };
  if (r.update.plain) return multiply(UpdateWeights{r, at, d.stride});
  if (r.kept) return multiply(WriteGradient{r.kept + at, d.stride, nullptr});
  multiply(WriteGradient{w.gradients, kPanel, nullptr});
  for (int o = 0; o < rows; ++o)
    for (int i = 0; i < columns; i += V) update_fully(r, at + o * d.stride + i, load(w.gradients + o * kPanel + i));
}

}  // namespace atras::step::ATRAS_ISA
