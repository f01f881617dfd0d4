// Operands of a convolution by tiles of inputs, or by single pixels: transformed inputs, weights and gradients.
#pragma once

#include "chain_forward.h"
#include "winograd.h"

namespace atras::step::ATRAS_ISA {

// Numbers of a tile that is 4 x 4 inputs (Tiled), or of a pixel.
template <bool Tiled>
constexpr int kNumbers = Tiled ? kTileComponents : 1;

struct TileAt {
  int image, y, x;
};

ATRAS_INLINE TileAt tile_at(const ChainConv& c, int number) {
  const int rest = number % c.tiles();
  return {number / c.tiles(), rest / c.tiles_w(), rest % c.tiles_w()};
}

// Calls f(image, y, x, number) for `count` tiles of a batch from number `first` on, numbered from 0.
template <class F>
ATRAS_INLINE void over_tiles(const ChainConv& c, int first, int count, const F& f) {
  auto [image, y, x] = tile_at(c, first);
  for (int i = 0; i < count; ++i) {
    f(image, y, x, i);
    if (++x < c.tiles_w()) continue;
    x = 0;
    if (++y == c.tiles_h()) y = 0, ++image;
  }
}

// One number of what is multiplied, as the arithmetic takes it.
template <class P>
ATRAS_INLINE void put_number(float* to, std::ptrdiff_t at, vf x) {
  if constexpr (P::kPack == 1) store(to + at, x);
  else store_bf16(reinterpret_cast<std::uint16_t*>(to) + at, x);
}

// Some numbers to every `component`th place, or two of each side by side as bf16.
template <class P, int N>
ATRAS_INLINE void put_numbers(float* to, std::ptrdiff_t component, const vf (&low)[N], const vf (&high)[N]) {
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k) store(to + k * component, P::kPack == 1 ? low[k] : bf16_pairs(low[k], high[k]));
}

// A copy in memory, which frees the registers that its numbers were in.
template <int N>
struct Spilled {
  vf values[N];
  ATRAS_INLINE explicit Spilled(const vf (&from)[N]) {
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) values[k] = from[k];
    asm volatile("" : : "r"(values) : "memory");
  }
};

// Numbers of tiles as a sum over tiles takes them, `width` of each: to[component][tile][width], in bf16 two tiles side by
// side and zero beside an odd last one. make(tile, channel, numbers) makes those of a vector of channels.
template <class P, int N, class Make>
ATRAS_INLINE void put_tiles(const ChainConv& c, int first, int count, int channels, float* to, std::ptrdiff_t width,
                            std::ptrdiff_t component, const Make& make) {
  for (int i = 0; i < count; i += P::kPack) {
    const TileAt tile = tile_at(c, first + i), next = tile_at(c, first + i + 1);
    float* row = to + std::ptrdiff_t(i / P::kPack) * width;
    for (int channel = 0; channel < channels; channel += V) {
      vf numbers[N], others[N] = {};
      make(tile, channel, numbers);
      if constexpr (P::kPack == 1) {
        put_numbers<P>(row + channel, component, numbers, others);
      } else {
        const Spilled<N> kept(numbers);
        if (i + 1 < count) make(next, channel, others);
        put_numbers<P>(row + channel, component, kept.values, others);
      }
    }
  }
}

// Floats from one component of an operand to the next; a line between, against equal cache sets.
template <class P>
ATRAS_INLINE std::ptrdiff_t component_of(int rows, int width) {
  return std::ptrdiff_t(rows) * width / P::kPack + kLane;
}

// The transformed inputs of a tile, zero past the channels.
template <bool Tiled>
ATRAS_INLINE void transformed_inputs(const ChainConv& c, const float* inputs, int image, int y, int x, int channel,
                                     vf (&d)[kNumbers<Tiled>]) {
  const int left = c.in_channels - channel;
  const std::ptrdiff_t row = std::ptrdiff_t(c.in_w) * c.in_channels;
  const float* at = inputs + image * c.in_size() + channel;
  if constexpr (!Tiled) {
    d[0] = first_lanes(load(at + c.border * (row + c.in_channels)), left);
  } else {
    at += 2 * y * row + 2 * std::ptrdiff_t(x) * c.in_channels;
    const int rows = c.in_h - 2 * y, columns = c.in_w - 2 * x;
    if (rows >= 4 && columns >= 4) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) d[i] = load(at + i / 4 * row + i % 4 * c.in_channels);
      if (left < V) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) d[i] = first_lanes(d[i], left);
      }
    } else {
      for (int i = 0; i < 16; ++i)
        d[i] = i / 4 < rows && i % 4 < columns ? first_lanes(load(at + i / 4 * row + i % 4 * c.in_channels), left) : vf{};
    }
    transform_inputs(d);
  }
}

// The transformed gradients of a tile's results, out of those of the batch [kept rows][out_padded].
template <bool Tiled>
ATRAS_INLINE void transformed_gradients(const ChainConv& c, const float* g, const std::uint16_t* winners, int image,
                                        int y, int x, int channel, vf (&m)[kNumbers<Tiled>]) {
  const std::ptrdiff_t padded = c.out_padded();
  const std::size_t at = image * c.kept_size() + channel;
  if constexpr (!Tiled) {
    m[0] = load(g + at);
  } else {
    vf results[4];
    if (c.window == 2) {
      const std::size_t own = at + (y * std::ptrdiff_t(c.result_w) + x) * padded;
      const vf value = load(g + own);
      vh places;
      std::memcpy(&places, winners + own, sizeof places);
      const vi winner = __builtin_convertvector(places, vi);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) results[q] = winner == q ? value : vf{};
    } else {
      for (int q = 0; q < 4; ++q) {
        const int v = 2 * y + q / 2, u = 2 * x + q % 2;
        const bool inside = v < c.result_h && u < c.result_w;
        results[q] = inside ? load(g + at + (v * std::ptrdiff_t(c.result_w) + u) * padded) : vf{};
      }
    }
    transform_results(results, m);
  }
}

// The transformed weights of an input channel for a vector of output channels.
template <bool Tiled>
ATRAS_INLINE void transformed_weights(const Run& r, const ChainConv& c, int in, int out, vf (&u)[kNumbers<Tiled>]) {
  const std::ptrdiff_t padded = c.out_padded();
  if constexpr (!Tiled) {
    u[0] = load(r.parameters + c.point_weight() + in * padded + out);
  } else {
    const float* at = r.parameters + c.weight + in * padded + out;
    vf taps[9];
#pragma GCC unroll 9
    for (int k = 0; k < 9; ++k) taps[k] = load(at + k * c.in_channels * padded);
    transform_weights(taps, u);
  }
}

// Weights as the forward products take them, of a block of input channels: [panel of outputs][component][input][64].
template <class P, bool Tiled>
void transform_forward_weights(const Run& r, const ChainConv& c, int item) {
  constexpr int kCount = kNumbers<Tiled>;
  const int depth = elements_of(c.in_channels, P::kPack), first = item * kTurnBlock;
  const int end = first + kTurnBlock < c.in_channels ? first + kTurnBlock : c.in_channels;
  for (int out = 0; out < c.out_padded(); out += V) {
    float* to = r.chain.turned + std::ptrdiff_t(out / kPanel) * kCount * depth * kPanel + out % kPanel;
    for (int in = first; in < end; in += P::kPack) {
      vf u[kCount], next[kCount] = {};
      transformed_weights<Tiled>(r, c, in, out, u);
      if (P::kPack == 2 && in + 1 < end) transformed_weights<Tiled>(r, c, in + 1, out, next);
      put_numbers<P>(to + std::ptrdiff_t(in / P::kPack) * kPanel, std::ptrdiff_t(depth) * kPanel, u, next);
    }
  }
}

// Rows of a transposed block, or pairs of them, `stride` apart; the first `count` rows.
template <class P>
ATRAS_INLINE void put_rows(const vf (&rows)[V], int count, float* to, std::ptrdiff_t stride) {
  for (int i = 0; i < V && i < count; i += P::kPack) {
    if constexpr (P::kPack == 1) store(to + i * stride, rows[i]);
    else store(to + i / 2 * stride, bf16_pairs(rows[i], rows[i + 1]));
  }
}

// Weights as the products for the inputs' gradient take them, of a block of outputs: [panel of inputs][component][output][64].
template <class P, bool Tiled>
void transform_backward_weights(const Run& r, const ChainConv& c, int item) {
  constexpr int kCount = kNumbers<Tiled>;
  const int depth = elements_of(c.out_channels, P::kPack), first = item * kTurnBlock;
  const int end = first + kTurnBlock < c.out_channels ? first + kTurnBlock : c.out_channels;
  for (int in = 0; in < c.in_padded(); in += V) {
    float* to = r.chain.turned + std::ptrdiff_t(in / kPanel) * kCount * depth * kPanel + in % kPanel;
    for (int out = first; out < end; out += V) {
      vf blocks[kCount][V];
      for (int i = 0; i < V; ++i) {
        vf u[kCount] = {};
        if (in + i < c.in_channels) transformed_weights<Tiled>(r, c, in + i, out, u);
        for (int k = 0; k < kCount; ++k) blocks[k][i] = u[k];
      }
      for (int k = 0; k < kCount; ++k) {
        transpose(blocks[k]);
        put_rows<P>(blocks[k], end - out, to + (std::ptrdiff_t(k) * depth + out / P::kPack) * kPanel, kPanel);
      }
    }
  }
}

}  // namespace atras::step::ATRAS_ISA
