// Forward convolution in bf16 by tiles of matrix registers.
#pragma once

#include "../native/tiles.h"
#include "conv_forward.h"

namespace atras::step::ATRAS_ISA {

static_assert(kBlock == kTileColumns);

// Positions of the last row of tiles may lie past the image: up to 31 + 2 rows + 2 more are read and not used.
template <Activation A>
void conv_forward_tiles(const ConvForward& f) {
  const Conv& c = *f.conv;
  const int rows = c.pool ? 2 * c.result_h : c.out_h, columns = c.pool ? 2 * c.result_w : c.out_w;
  const int positions = (rows - 1) * c.in_w + columns;
  constexpr int kBytes = 2 * kBlock, kTap = 16 * 4 * kBlock;  // of a position, of a tap's packed weights
  const std::size_t block = std::size_t(c.in_h) * c.in_w * kBytes;
  const std::size_t out_block = std::size_t(c.store_h) * c.store_w * kBlock;
  const std::size_t argmax_block = std::size_t(c.result_h) * c.result_w * kBlock;
  Tiles tiles;
  for (int ob = 0; ob < c.out_blocks(); ++ob)
    for (int image = 0; image < f.images; ++image) {
      const char* x = static_cast<const char*>(f.x) + image * f.x_stride * 4;
      for (int p = 0; p < positions; p += 32) {
        const char* w = reinterpret_cast<const char*>(f.weights) + std::size_t(ob) * c.in_blocks() * 9 * kTap;
        tiles.zero();
        for (int ib = 0; ib < c.in_blocks(); ++ib)
          for (int tap = 0; tap < 9; ++tap, w += kTap) {
            const char* from = x + ib * block + std::size_t(p + tap / 3 * c.in_w + tap % 3) * kBytes;
            tiles.positions(from, from + 16 * kBytes, kBytes);
            tiles.weights(w, w + 64, 4 * kBlock);
            tiles.multiply();
          }
        tiles.store(f.raster + std::size_t(p) * kBlock);
      }
      for (int y = 0; y < c.result_h; ++y)
        for (int x_at = 0; x_at < c.result_w; ++x_at)
          for (int v = 0; v < kBlock; v += V) {
            const std::size_t pixel = std::size_t(y + c.border) * c.store_w + x_at + c.border;
            const std::size_t to = image * f.out_stride + ob * out_block + pixel * kBlock + v;
            const vf bias = load(f.bias + ob * kBlock + v);
            if (!c.pool) {
              finish_position<A>(f, load(f.raster + (std::size_t(y) * c.in_w + x_at) * kBlock + v) + bias, to);
              continue;
            }
            const float* corner = f.raster + (std::size_t(2 * y) * c.in_w + 2 * x_at) * kBlock + v;
            const float* below = corner + std::size_t(c.in_w) * kBlock;
            const vf z[4] = {load(corner) + bias, load(corner + kBlock) + bias, load(below) + bias,
                             load(below + kBlock) + bias};
            const std::size_t to_argmax = image * c.result_size() + ob * argmax_block +
                                          (std::size_t(y) * c.result_w + x_at) * kBlock + v;
            finish_window<A>(f, z, to, to_argmax);
          }
    }
}

inline void conv_forward_tiles(const ConvForward& f, Activation activation) {
  switch (activation) {
    case Activation::relu: return conv_forward_tiles<Activation::relu>(f);
    case Activation::sigmoid: return conv_forward_tiles<Activation::sigmoid>(f);
    case Activation::tanh: return conv_forward_tiles<Activation::tanh>(f);
    case Activation::gelu: return conv_forward_tiles<Activation::gelu>(f);
  }
}

}  // namespace atras::step::ATRAS_ISA
