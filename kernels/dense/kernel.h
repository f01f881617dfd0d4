// One dense layer of op dense through the matrix products of op step, for one instruction set.
#pragma once

#include "../step/dense.h"

namespace atras::step::ATRAS_ISA {

// to[row][column] of `rows` x `columns`, zero up to `padded` columns and `padded_rows` rows.
ATRAS_INLINE void copy_padded(const float* from, std::ptrdiff_t from_stride, int rows, int columns, float* to,
                              std::ptrdiff_t to_stride, int padded_rows, int padded) {
  for (int r = 0; r < padded_rows; ++r) {
    const int real = r < rows ? columns : 0;
    if (real) std::memcpy(to + r * to_stride, from + r * from_stride, real * sizeof(float));
    if (padded > real) std::memset(to + r * to_stride + real, 0, (padded - real) * sizeof(float));
  }
}

// The first n floats of a vector.
ATRAS_INLINE void store_first(float* to, vf value, int n) {
  if (n >= V) return store(to, value);
  alignas(64) float kept[V];
  store(kept, value);
  for (int i = 0; i < n; ++i) to[i] = kept[i];
}

template <Activation A>
ATRAS_INLINE void activate_row(const float* z, int n, float* y, float* slope) {
  for (int c = 0; c < n; c += V) {
    const vf value = load(z + c), result = activate<A>(value);
    store_first(y + c, result, n - c);
    if (slope) store_first(slope + c, slope_at<A>(value, result), n - c);
  }
}

ATRAS_INLINE void finish_row(const DenseLayer& f, const float* z, int n, float* y, float* slope) {
  if (!f.activated) {
    std::memcpy(y, z, n * sizeof(float));
    return;
  }
  switch (f.activation) {
    case Activation::relu: return activate_row<Activation::relu>(z, n, y, slope);
    case Activation::sigmoid: return activate_row<Activation::sigmoid>(z, n, y, slope);
    case Activation::tanh: return activate_row<Activation::tanh>(z, n, y, slope);
    case Activation::gelu: return activate_row<Activation::gelu>(z, n, y, slope);
  }
}

// Item: a panel of a member's batch rows x a chunk of outputs.
inline void single_dense_forward(const DenseLayer& f, std::int64_t item, float* scratch) {
  const int panels = panels_of(f.batch), chunks = chunks_of(f.out), at = int(item % (panels * chunks));
  const std::int64_t member = item / (panels * chunks);
  const int first = at % panels * kPanel, out = at / panels * kRowChunk;
  const int rows = f.batch - first < kPanel ? f.batch - first : kPanel, padded_rows = round_up(rows, kLane);
  const int outs = f.out - out < kRowChunk ? f.out - out : kRowChunk, depth = round_up(f.in, kLane);
  float* panel = scratch;
  float* straight = panel + std::ptrdiff_t(depth) * kPanel;
  float* transposed = straight + std::ptrdiff_t(kPanel) * row_stride(f.in);
  copy_padded(f.x + member * f.x_stride + std::ptrdiff_t(first) * f.in, f.in, rows, f.in, straight, row_stride(f.in),
              padded_rows, depth);
  transpose_matrix(straight, row_stride(f.in), panel, kPanel, padded_rows, depth);
  product<Fp32>(outs, padded_rows, f.in, f.weight + member * f.weight_stride + std::ptrdiff_t(out) * f.in, f.in, 1,
                panel, kPanel, WriteOutputs{transposed, kPanel, f.bias + member * f.bias_stride + out});
  float* z = transposed + kRowChunk * kPanel;  // [row][kRowChunk]
  for (int row = outs; row < round_up(outs, kLane); ++row) std::memset(transposed + row * kPanel, 0, kPanel * 4);
  transpose_matrix(transposed, kPanel, z, kRowChunk, round_up(outs, kLane), padded_rows);
  for (int row = 0; row < rows; ++row) {
    const std::size_t to = (std::size_t(member) * f.batch + first + row) * f.out + out;
    finish_row(f, z + row * kRowChunk, outs, f.y + to, f.slope ? f.slope + to : nullptr);
  }
}

// dz = gradient of the activation's input, and its sum over the batch.
inline void single_dense_activation(const DenseLayer& f, std::int64_t member) {
  float* dbias = f.dbias + member * f.out;
  std::memset(dbias, 0, f.out * sizeof(float));
  const bool relu = f.activated && f.activation == Activation::relu;
  for (int row = 0; row < f.batch; ++row) {
    const std::size_t at = (std::size_t(member) * f.batch + row) * f.out;
    for (int c = 0; c < f.out; ++c) {
      const float up = f.gradient[at + c];
      const float g = relu ? (f.y[at + c] <= 0.0f ? 0.0f : up) : f.slope ? up * f.slope[at + c] : up;  // NaN passes
      f.dz[at + c] = g;
      dbias[c] += g;
    }
  }
}

struct WriteColumns {
  float* to;
  std::ptrdiff_t stride;
  int columns;
  ATRAS_INLINE void soon(int, int) const {}
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    if (column < columns) store_first(to + row * stride + column, value, columns - column);
  }
};

// Item: a panel of a member's inputs x a chunk of batch rows (gradient of x), then of outputs (gradient of the weight).
inline void single_dense_backward(const DenseLayer& f, std::int64_t item, float* scratch) {
  const int panels = panels_of(f.in), for_x = f.dx ? chunks_of(f.batch) : 0, for_w = f.dweight ? chunks_of(f.out) : 0;
  const int at = int(item % (panels * (for_x + for_w))), first = at % panels * kPanel, chunk = at / panels;
  const std::int64_t member = item / (panels * (for_x + for_w));
  const int columns = f.in - first < kPanel ? f.in - first : kPanel, padded = round_up(columns, kLane);
  const float* dz = f.dz + std::size_t(member) * f.batch * f.out;
  if (chunk < for_x) {
    const int row = chunk * kRowChunk, rows = f.batch - row < kRowChunk ? f.batch - row : kRowChunk;
    copy_padded(f.weight + member * f.weight_stride + first, f.in, f.out, columns, scratch, kPanel, f.out, padded);
    float* to = f.dx + (std::size_t(member) * f.batch + row) * f.in + first;
    product<Fp32>(rows, padded, f.out, dz + std::size_t(row) * f.out, f.out, 1, scratch, kPanel,
                  WriteColumns{to, f.in, columns});
    return;
  }
  const int out = (chunk - for_x) * kRowChunk, outs = f.out - out < kRowChunk ? f.out - out : kRowChunk;
  copy_padded(f.x + member * f.x_stride + first, f.in, f.batch, columns, scratch, kPanel, f.batch, padded);
  float* to = f.dweight + (std::size_t(member) * f.out + out) * f.in + first;
  product<Fp32>(outs, padded, f.batch, dz + out, 1, f.out, scratch, kPanel, WriteColumns{to, f.in, columns});
}

}  // namespace atras::step::ATRAS_ISA
