// Forward convolution in bf16 by tiles of 16 positions x 32 inputs and 16 pairs x 16 outputs (AMX), or their emulation.
#pragma once

#include "conv_forward.h"

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace atras::step::ATRAS_ISA {

// Register tiles 0 to 3 hold sums (two of positions x two of outputs), 4 and 5 positions, 6 and 7 weights.
#if defined(__AMX_BF16__)
struct Tiles {
  Tiles() {
    struct alignas(64) Config {
      std::uint8_t palette = 1, start = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }

  void zero() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  void positions(const void* first, const void* second, int stride) {
    _tile_loadd(4, first, stride);
    _tile_loadd(5, second, stride);
  }
  void weights(const void* first, const void* second, int stride) {
    _tile_loadd(6, first, stride);
    _tile_loadd(7, second, stride);
  }
  void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  // Rows of 32 floats, 32 of them.
  void store(float* to) {
    _tile_stored(0, to, 4 * kBlock);
    _tile_stored(1, to + 16, 4 * kBlock);
    _tile_stored(2, to + 16 * kBlock, 4 * kBlock);
    _tile_stored(3, to + 16 * kBlock + 16, 4 * kBlock);
  }
};
#else
struct Tiles {
  float sums[4][16][16];
  std::uint32_t rows[2][16][16], columns[2][16][16];

  static void load(std::uint32_t (&tile)[16][16], const void* from, int stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(tile[r], static_cast<const char*>(from) + std::ptrdiff_t(r) * stride, 64);
  }
  static float half(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  void zero() { std::memset(sums, 0, sizeof sums); }
  void positions(const void* first, const void* second, int stride) {
    load(rows[0], first, stride);
    load(rows[1], second, stride);
  }
  void weights(const void* first, const void* second, int stride) {
    load(columns[0], first, stride);
    load(columns[1], second, stride);
  }
  void multiply() {
    for (int t = 0; t < 4; ++t)
      for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
          for (int n = 0; n < 16; ++n) {
            const std::uint32_t a = rows[t / 2][m][k], b = columns[t % 2][k][n];
            sums[t][m][n] += half(a << 16) * half(b << 16);
            sums[t][m][n] += half(a & 0xffff0000u) * half(b & 0xffff0000u);
          }
  }
  void store(float* to) {
    for (int t = 0; t < 4; ++t)
      for (int m = 0; m < 16; ++m)
        std::memcpy(to + (t / 2 * 16 + m) * kBlock + t % 2 * 16, sums[t][m], sizeof sums[t][m]);
  }
};
#endif

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
