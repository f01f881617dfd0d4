// Matrix registers: tiles of 16 positions x 32 inputs and 16 pairs x 16 outputs in bf16 (AMX), or their emulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace atras::ATRAS_ISA {

constexpr int kTileColumns = 32;  // outputs of two tiles side by side

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
    _tile_stored(0, to, 4 * kTileColumns);
    _tile_stored(1, to + 16, 4 * kTileColumns);
    _tile_stored(2, to + 16 * kTileColumns, 4 * kTileColumns);
    _tile_stored(3, to + 16 * kTileColumns + 16, 4 * kTileColumns);
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
        std::memcpy(to + (t / 2 * 16 + m) * kTileColumns + t % 2 * 16, sums[t][m], sizeof sums[t][m]);
  }
};
#endif

}  // namespace atras::ATRAS_ISA
