// 3x3 convolution with bias, activation and max-pool, by register tiles.
#pragma once

#include "activation.h"

namespace atras::step::ATRAS_ISA {

// A forward tile is kUnits units of four positions (a pool window, or four in a row) by kColumns output channels.
constexpr int kColumns = V == 16 ? 32 : 16;
constexpr int kVectors = kColumns / V;
constexpr int kUnits = V == 16 ? 3 : 1;
constexpr int kPositions = 4 * kUnits;

struct ConvForward {
  const Conv* conv;
  int images;
  const void* x;               // Element [images][in_blocks][in_h][in_w][in_block]
  std::size_t x_stride;        // elements an image
  const float* weights;        // packed: [out_block][in_block][3][k_row / pack][32]
  const float* bias;
  void* out;                   // float or bf16 [images][out_blocks][store_h][store_w][32]
  std::size_t out_stride;      // values an image
  bool out_bf16;
  std::uint8_t* argmax;        // [images][out_blocks][result_h][result_w][32] where pooled, else null
  float* raster;               // scratch of the tiles
  float* slope;                // activation's derivative, like out; null for relu and where no gradient is wanted
};

// C is the number of elements between horizontal neighbours where it is known at compile time, else 0.
template <class P, bool Pool, int C>
ATRAS_INLINE void tile_product(const typename P::Element* const (&unit)[kUnits], std::ptrdiff_t next_row,
                               std::ptrdiff_t pixel, int k_row, int blocks, std::ptrdiff_t block_stride,
                               const float* w, vf (&sum)[kPositions][kVectors]) {
  const std::ptrdiff_t right = C ? C : pixel;
  for (int block = 0; block < blocks; ++block)
    for (int ky = 0; ky < 3; ++ky) {
      const std::ptrdiff_t shift = block * block_stride + ky * next_row;
      const typename P::Element* row[kUnits];
      for (int u = 0; u < kUnits; ++u) row[u] = unit[u] + shift;
      for (int k = 0; k < k_row; ++k, w += kBlock) {
        vf b[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) b[v] = load(w + v * V);
#pragma GCC unroll 12
        for (int i = 0; i < kPositions; ++i) {
          const int u = i / 4, q = i % 4;
          const std::ptrdiff_t at = Pool ? (q / 2) * next_row + (q % 2) * right : q * right;
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[i][v] = P::add(sum[i][v], row[u] + at + k, b[v]);
        }
      }
    }
}

ATRAS_INLINE void put(const ConvForward& f, std::size_t at, vf y) {
  if (f.out_bf16) store_bf16(static_cast<std::uint16_t*>(f.out) + at, y);
  else store(static_cast<float*>(f.out) + at, y);
}

ATRAS_INLINE void put_bytes(std::uint8_t* to, vi x) {
  const vb bytes = __builtin_convertvector(x, vb);
  std::memcpy(to, &bytes, sizeof bytes);
}

// Largest of four; the first wins a tie, as in torch. gelu is not monotonic, so it goes before the maximum.
template <Activation A>
ATRAS_INLINE void finish_window(const ConvForward& f, const vf (&z)[4], std::size_t at, std::size_t at_argmax) {
  vf key = A == Activation::gelu ? activate<A>(z[0]) : z[0], best = z[0];
  vi which{};
#pragma GCC unroll 3
  for (int q = 1; q < 4; ++q) {
    const vf other = A == Activation::gelu ? activate<A>(z[q]) : z[q];
    const vi more = other > key;
    key = more ? other : key;
    best = more ? z[q] : best;
    which = more ? vi{} + q : which;
  }
  const vf y = A == Activation::gelu ? key : activate<A>(best);
  put(f, at, y);
  if (f.argmax) put_bytes(f.argmax + at_argmax, which);
  if (f.slope) store(f.slope + at, slope_at<A>(best, y));
}

template <Activation A>
ATRAS_INLINE void finish_position(const ConvForward& f, vf z, std::size_t at) {
  const vf y = activate<A>(z);
  put(f, at, y);
  if (f.slope) store(f.slope + at, slope_at<A>(z, y));
}

// Where a unit reads and writes.
struct Unit {
  int image, y, x;  // in results for a pool window, else in positions
};

ATRAS_INLINE Unit unit_at(const Conv& c, int index, int per_row, int per_image) {
  Unit u;
  u.image = index / per_image;
  const int rest = index % per_image;
  u.y = rest / per_row;
  u.x = rest % per_row;
  if (!c.pool) u.x = 4 * u.x < c.out_w - 4 ? 4 * u.x : c.out_w - 4;  // the last four overlap
  return u;
}

template <class P, Activation A, bool Pool, int C>
__attribute__((noinline)) void conv_forward_as(const ConvForward& f) {
  using Element = typename P::Element;
  const Conv& c = *f.conv;
  const std::ptrdiff_t pixel = c.in_block() / P::kPack, next_row = c.in_w * pixel;
  const std::ptrdiff_t block_stride = c.in_h * next_row;
  const int k_row = c.k_row() / P::kPack, blocks = c.in_blocks();
  const std::size_t packed_block = std::size_t(blocks) * 3 * k_row * kBlock;
  const int per_row = Pool ? c.result_w : (c.out_w + 3) / 4, per_image = per_row * c.result_h;
  const int total = f.images * per_image;
  const std::size_t out_block = std::size_t(c.store_h) * c.store_w * kBlock;
  const std::size_t argmax_block = std::size_t(c.result_h) * c.result_w * kBlock;
  for (int ob = 0; ob < c.out_blocks(); ++ob)
    for (int first = 0; first < total; first += kUnits) {
      Unit at[kUnits];
      const Element* unit[kUnits];
      for (int u = 0; u < kUnits; ++u) {
        at[u] = unit_at(c, first + u < total ? first + u : total - 1, per_row, per_image);
        const int scale = Pool ? 2 : 1;
        unit[u] = static_cast<const Element*>(f.x) + at[u].image * f.x_stride + scale * at[u].y * next_row +
                  scale * at[u].x * pixel;
      }
      for (int column = 0; column < kBlock; column += kColumns) {
        vf sum[kPositions][kVectors];
        for (int v = 0; v < kVectors; ++v) {
          const vf bias = load(f.bias + ob * kBlock + column + v * V);
          for (int i = 0; i < kPositions; ++i) sum[i][v] = bias;
        }
        tile_product<P, Pool, C>(unit, next_row, pixel, k_row, blocks, block_stride,
                                 f.weights + ob * packed_block + column, sum);
        for (int u = 0; u < kUnits; ++u) {
          const std::size_t pixel_at = std::size_t(at[u].y + c.border) * c.store_w + at[u].x + c.border;
          const std::size_t to = at[u].image * f.out_stride + ob * out_block + pixel_at * kBlock + column;
          const std::size_t to_argmax = at[u].image * c.result_size() + ob * argmax_block +
                                        (std::size_t(at[u].y) * c.result_w + at[u].x) * kBlock + column;
          for (int v = 0; v < kVectors; ++v) {
            const vf z[4] = {sum[4 * u][v], sum[4 * u + 1][v], sum[4 * u + 2][v], sum[4 * u + 3][v]};
            if constexpr (Pool) {
              finish_window<A>(f, z, to + v * V, to_argmax + v * V);
            } else {
              for (int q = 0; q < 4; ++q) finish_position<A>(f, z[q], to + q * kBlock + v * V);
            }
          }
        }
      }
    }
}

template <Activation A>
void conv_forward_act(const ConvForward& f, bool bf16) {
  const Conv& c = *f.conv;
  if (c.in_channels < kBlock) {
    if (c.pool) return conv_forward_as<Fp32, A, true, 0>(f);
    return conv_forward_as<Fp32, A, false, 0>(f);
  }
  if (bf16) {
    if (c.pool) return conv_forward_as<Bf16, A, true, kBlock / 2>(f);
    return conv_forward_as<Bf16, A, false, kBlock / 2>(f);
  }
  if (c.pool) return conv_forward_as<Fp32, A, true, kBlock>(f);
  conv_forward_as<Fp32, A, false, kBlock>(f);
}

inline void conv_forward(const ConvForward& f, Activation activation, bool bf16) {
  switch (activation) {
    case Activation::relu: return conv_forward_act<Activation::relu>(f, bf16);
    case Activation::sigmoid: return conv_forward_act<Activation::sigmoid>(f, bf16);
    case Activation::tanh: return conv_forward_act<Activation::tanh>(f, bf16);
    case Activation::gelu: return conv_forward_act<Activation::gelu>(f, bf16);
  }
}

}  // namespace atras::step::ATRAS_ISA
