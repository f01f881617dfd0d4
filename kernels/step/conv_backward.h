// Gradients of a 3x3 convolution by lists of what is not zero: past a pool and relu that is a quarter or less.
#pragma once

#include "activation.h"

namespace atras::step::ATRAS_ISA {

constexpr int kRowVectors = 3 * kBlock / V;           // vectors of a patch row
constexpr int kPatchRows = V == 16 ? 3 : 1;           // patch rows held in registers at once
constexpr int kListLength = 64;                       // positions of a strip

struct Entry {
  std::int32_t offset;
  float value;
};

// patch[ky][kx][ci] += sum over the channels in `mask` of g[channel] * weights[channel][ky][kx][ci].
ATRAS_INLINE void add_patch(std::uint32_t mask, const float* g, const float* weights, float* patch,
                            std::ptrdiff_t next_row) {
  for (int ky = 0; ky < 3; ky += kPatchRows) {
    vf sum[kPatchRows][kRowVectors];
    for (auto& row : sum)
      for (vf& s : row) s = vf{};
    for (std::uint32_t left = mask; left; left &= left - 1) {
      const int channel = __builtin_ctz(left);
      const float value = g[channel];
      const float* w = weights + channel * kPatch + ky * 3 * kBlock;
#pragma GCC unroll 3
      for (int r = 0; r < kPatchRows; ++r)
#pragma GCC unroll 24
        for (int v = 0; v < kRowVectors; ++v) sum[r][v] += value * load(w + (r * kRowVectors + v) * V);
    }
    for (int r = 0; r < kPatchRows; ++r)
      for (int v = 0; v < kRowVectors; ++v) {
        float* to = patch + (ky + r) * next_row + v * V;
        store(to, load(to) + sum[r][v]);
      }
  }
}

// The same for two horizontal neighbours at once, whose patches overlap: four columns instead of twice three.
ATRAS_INLINE void add_patches(std::uint32_t left, const float* g_left, std::uint32_t right, const float* g_right,
                              const float* weights, float* patch, std::ptrdiff_t next_row) {
  constexpr int kColumn = kBlock / V, kWide = 4 * kColumn;
  vf sum[3][kWide];
  for (auto& row : sum)
    for (vf& s : row) s = vf{};
  for (; left; left &= left - 1) {
    const int channel = __builtin_ctz(left);
    const float value = g_left[channel];
    const float* w = weights + channel * kPatch;
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r)
#pragma GCC unroll 24
      for (int v = 0; v < kRowVectors; ++v) sum[r][v] += value * load(w + (r * kRowVectors + v) * V);
  }
  for (; right; right &= right - 1) {
    const int channel = __builtin_ctz(right);
    const float value = g_right[channel];
    const float* w = weights + channel * kPatch;
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r)
#pragma GCC unroll 24
      for (int v = 0; v < kRowVectors; ++v) sum[r][v + kColumn] += value * load(w + (r * kRowVectors + v) * V);
  }
  for (int r = 0; r < 3; ++r)
    for (int v = 0; v < kWide; ++v) {
      float* to = patch + r * next_row + v * V;
      store(to, load(to) + sum[r][v]);
    }
}

// weights[ky][kx][ci] += sum over the list of value * x[offset + (ky, kx, ci)].
ATRAS_INLINE void add_weights(const Entry* list, int count, const float* x, std::ptrdiff_t next_row, float* weights) {
  for (int ky = 0; ky < 3; ky += kPatchRows) {
    float* to = weights + ky * 3 * kBlock;
    vf sum[kPatchRows][kRowVectors];
    for (int r = 0; r < kPatchRows; ++r)
      for (int v = 0; v < kRowVectors; ++v) sum[r][v] = load(to + (r * kRowVectors + v) * V);
    for (int e = 0; e < count; ++e) {
      const float value = list[e].value;
      const float* from = x + list[e].offset + ky * next_row;
#pragma GCC unroll 3
      for (int r = 0; r < kPatchRows; ++r)
#pragma GCC unroll 24
        for (int v = 0; v < kRowVectors; ++v) sum[r][v] += value * load(from + r * next_row + v * V);
    }
    for (int r = 0; r < kPatchRows; ++r)
      for (int v = 0; v < kRowVectors; ++v) store(to + (r * kRowVectors + v) * V, sum[r][v]);
  }
}

// One image.
struct ConvBackward {
  const Conv* conv;
  const float* x;              // [in_blocks][in_h][in_w][in_block]
  // Gradient of the activation's input at the winners, [out_blocks][result_h][result_w][32].
  const float* g;
  const std::uint8_t* argmax;  // like g where pooled, else null
  const float* weights;        // [in_block][out][3][3][in_block channels]
  float* dweights;             // the same, added to; null where not wanted
  float* dx;                   // like x, zeroed by the caller and added to; null where not wanted
  Entry* lists;                // scratch [32][kListLength]
  const float* patches;        // of the first convolution, as pack_patches leaves them
};

ATRAS_INLINE std::ptrdiff_t position_of(const Conv& c, int index, int q, int pixel) {
  const int y = index / c.result_w, x = index % c.result_w;
  if (!c.pool) return (std::ptrdiff_t(y) * c.in_w + x) * pixel;
  return (std::ptrdiff_t(2 * y + q / 2) * c.in_w + 2 * x + q % 2) * pixel;
}

// Upper and lower pair of each pool window.
inline void pooled_pairs(const ConvBackward& b, const float* g, const std::uint8_t* argmax, const float* weights,
                         float* dx) {
  const Conv& c = *b.conv;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * kBlock;
  for (int p = 0; p < c.result_h * c.result_w; ++p, g += kBlock, argmax += kBlock) {
    const std::uint32_t any = nonzero32(g);
    for (int q = 0; q < 4; q += 2) {
      const std::uint32_t left = any & equal32(argmax, q), right = any & equal32(argmax, q + 1);
      if (left | right) add_patches(left, g, right, g, weights, dx + position_of(c, p, q, kBlock), next_row);
    }
  }
}

// Every two positions of a row; the last of an odd row has no right neighbour.
inline void neighbour_pairs(const ConvBackward& b, const float* g, const float* weights, float* dx) {
  const Conv& c = *b.conv;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * kBlock;
  for (int y = 0; y < c.result_h; ++y)
    for (int x = 0; x < c.result_w; x += 2) {
      const float* at = g + (std::size_t(y) * c.result_w + x) * kBlock;
      float* patch = dx + y * next_row + x * kBlock;
      const float* right = at + kBlock;
      if (x + 1 < c.result_w) add_patches(nonzero32(at), at, nonzero32(right), right, weights, patch, next_row);
      else add_patch(nonzero32(at), at, weights, patch, next_row);
    }
}

__attribute__((noinline)) inline void input_gradient(const ConvBackward& b) {
  const Conv& c = *b.conv;
  const int results = c.result_h * c.result_w, choices = c.pool ? 4 : 1;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * kBlock;
  for (int ib = 0; ib < c.in_blocks(); ++ib)
    for (int ob = 0; ob < c.out_blocks(); ++ob) {
      const float* weights = b.weights + (std::size_t(ib) * c.out_channels + ob * kBlock) * kPatch;
      float* dx = b.dx + std::size_t(ib) * c.in_h * next_row;
      const float* g = b.g + std::size_t(ob) * results * kBlock;
      if constexpr (V == 16) {
        if (c.pool) pooled_pairs(b, g, b.argmax + std::size_t(ob) * results * kBlock, weights, dx);
        else neighbour_pairs(b, g, weights, dx);
        continue;
      }
      for (int p = 0; p < results; ++p) {
        const std::uint32_t any = nonzero32(g + p * kBlock);
        for (int q = 0; q < choices; ++q) {
          const std::uint32_t mask =
              c.pool ? any & equal32(b.argmax + (std::size_t(ob) * results + p) * kBlock, q) : any;
          if (mask) add_patch(mask, g + p * kBlock, weights, dx + position_of(c, p, q, kBlock), next_row);
        }
      }
    }
}

// Lists, for each of 32 output channels, the positions of [from, to) with a gradient.
__attribute__((noinline)) inline void fill_lists(const ConvBackward& b, int ob, int from, int to,
                                                 int (&count)[kBlock]) {
  const Conv& c = *b.conv;
  const int results = c.result_h * c.result_w;
  for (int& n : count) n = 0;
  for (int p = from; p < to; ++p) {
    const std::size_t at = (std::size_t(ob) * results + p) * kBlock;
    std::int32_t offset[4];
    for (int q = 0; q < (c.pool ? 4 : 1); ++q) offset[q] = std::int32_t(position_of(c, p, q, kBlock));
    for (int channel = 0; channel < kBlock; ++channel) {
      const float value = b.g[at + channel];
      b.lists[channel * kListLength + count[channel]] = {offset[c.pool ? b.argmax[at + channel] : 0], value};
      count[channel] += value != 0.0f;
    }
  }
}

__attribute__((noinline)) inline void weight_gradient(const ConvBackward& b) {
  const Conv& c = *b.conv;
  const int rows = c.result_w < kListLength ? (kListLength - 1) / c.result_w : 0;
  const int strip = rows ? rows * c.result_w : kListLength - 1;
  const int results = c.result_h * c.result_w;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * kBlock;
  for (int ob = 0; ob < c.out_blocks(); ++ob)
    for (int from = 0; from < results; from += strip) {
      int count[kBlock];
      fill_lists(b, ob, from, from + strip < results ? from + strip : results, count);
      for (int ib = 0; ib < c.in_blocks(); ++ib) {
        float* dweights = b.dweights + (std::size_t(ib) * c.out_channels + ob * kBlock) * kPatch;
        const float* x = b.x + std::size_t(ib) * c.in_h * next_row;
        for (int channel = 0; channel < kBlock; ++channel)
          add_weights(b.lists + channel * kListLength, count[channel], x, next_row, dweights + channel * kPatch);
      }
    }
}

#if defined(__AVX512F__)
// One input channel and a pool: a window reads a 4x4 patch, one vector, out of which each channel picks its winner's
// pixel.
inline void first_weight_gradient_pooled(const ConvBackward& b) {
  const Conv& c = *b.conv;
  __m512 sum[9][2];
  for (auto& row : sum) row[0] = row[1] = _mm512_setzero_ps();
  const float* g = b.g;
  const std::uint8_t* argmax = b.argmax;
  for (int y = 0; y < c.result_h; ++y)
    for (int x = 0; x < c.result_w; ++x, g += kBlock, argmax += kBlock) {
      const float* corner = b.x + std::ptrdiff_t(2 * y) * c.in_w + 2 * x;
      __m512 patch = _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(corner));
      patch = _mm512_maskz_insertf32x4(0xffff, patch, _mm_loadu_ps(corner + c.in_w), 1);
      patch = _mm512_maskz_insertf32x4(0xffff, patch, _mm_loadu_ps(corner + 2 * c.in_w), 2);
      patch = _mm512_maskz_insertf32x4(0xffff, patch, _mm_loadu_ps(corner + 3 * c.in_w), 3);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m512 value = _mm512_loadu_ps(g + v * 16);
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(argmax + v * 16));
        const __m512i q = _mm512_maskz_cvtepu8_epi32(0xffff, bytes);
        const __m512i at = _mm512_add_epi32(q, _mm512_and_si512(q, _mm512_set1_epi32(2)));  // 0, 1, 4, 5
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) {
          const __m512i from = _mm512_add_epi32(at, _mm512_set1_epi32(k / 3 * 4 + k % 3));
          sum[k][v] = _mm512_fmadd_ps(_mm512_maskz_permutexvar_ps(0xffff, from, patch), value, sum[k][v]);
        }
      }
    }
  for (int k = 0; k < 9; ++k)
    for (int v = 0; v < 2; ++v) {
      float* to = b.dweights + k * kBlock + v * 16;
      store(to, load(to) + (vf)sum[k][v]);
    }
}
#endif

// The first convolution's weights are [k][32]: gradients as vectors over output channels, nine k at a time.
__attribute__((noinline)) inline void first_weight_gradient(const ConvBackward& b) {
  const Conv& c = *b.conv;
  const int results = c.result_h * c.result_w, choices = c.pool ? 4 : 1, k_row = c.k_row(), ks = 3 * k_row;
#if defined(__AVX512F__)
  if (c.pool && c.in_channels == 1) return first_weight_gradient_pooled(b);
#endif
  constexpr int kAtOnce = V == 16 ? 9 : 6, kWide = V == 4 ? 2 : kBlock / V > 2 ? 2 : kBlock / V;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * c.in_channels;
  for (int k0 = 0; k0 < ks; k0 += kAtOnce)
    for (int v0 = 0; v0 < kBlock / V; v0 += kWide) {
      const int n = ks - k0 < kAtOnce ? ks - k0 : kAtOnce;
      std::ptrdiff_t shift[kAtOnce];
      for (int k = 0; k < kAtOnce; ++k) {
        const int at = k < n ? k0 + k : k0;
        shift[k] = at / k_row * next_row + at % k_row;
      }
      vf sum[kAtOnce][kWide];
      for (auto& row : sum)
        for (vf& s : row) s = vf{};
      for (int p = 0; p < results; ++p)
        for (int q = 0; q < choices; ++q) {
          const float* x = b.x + position_of(c, p, q, c.in_channels);
          vf g[kWide];
          for (int v = 0; v < kWide; ++v) {
            const std::size_t at = std::size_t(p) * kBlock + (v0 + v) * V;
            g[v] = load(b.g + at);
            if (c.pool) {
              vb bytes;
              std::memcpy(&bytes, b.argmax + at, sizeof bytes);
              g[v] = __builtin_convertvector(bytes, vi) == q ? g[v] : vf{};
            }
          }
#pragma GCC unroll 9
          for (int k = 0; k < kAtOnce; ++k)
#pragma GCC unroll 2
            for (int v = 0; v < kWide; ++v) sum[k][v] += x[shift[k]] * g[v];
        }
      for (int k = 0; k < n; ++k)
        for (int v = 0; v < kWide; ++v) {
          float* to = b.dweights + std::size_t(k0 + k) * kBlock + (v0 + v) * V;
          store(to, load(to) + sum[k][v]);
        }
    }
}

// How the gradient of the image adds up: all that one output position, or one pool window, can add to lies side by side
// in a patch of `rows` x `row` floats.
struct ImagePatch {
  int rows, row, lanes;

  ATRAS_INLINE explicit ImagePatch(const Conv& c)
      : rows(c.pool ? 4 : 3), row(rows * c.in_channels), lanes(round_up(rows * row, V)) {}
};

// to[q][channel][lanes] = what one output channel adds to the patch where position q of the pool won, zeros around it;
// from the first convolution's weights [k][32].
inline void pack_patches(const Conv& c, const float* weights, float* to) {
  const ImagePatch patch(c);
  const int k_row = c.k_row(), choices = c.pool ? 4 : 1;
  std::memset(to, 0, std::size_t(choices) * kBlock * patch.lanes * sizeof(float));
  for (int q = 0; q < choices; ++q)
    for (int channel = 0; channel < kBlock; ++channel, to += patch.lanes)
      for (int k = 0; k < 3 * k_row; ++k) {
        const int y = q / 2 + k / k_row, x = q % 2 * c.in_channels + k % k_row;
        to[y * patch.row + x] = weights[k * kBlock + channel];
      }
}

// patch[N vectors] = sum over the channels of one position or window.
template <int N>
ATRAS_INLINE void sum_patch(const float* g, const std::uint8_t* argmax, const float* patches, int lanes, float* patch) {
  constexpr int kChains = N == 1 ? 4 : 2;  // sums that do not wait for one another
  vf sum[kChains][N];
  for (auto& chain : sum)
    for (vf& s : chain) s = vf{};
#pragma GCC unroll 32
  for (int channel = 0; channel < kBlock; ++channel) {
    const float* from = patches + ((argmax ? argmax[channel] : 0) * kBlock + channel) * lanes;
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sum[channel % kChains][v] += g[channel] * load(from + v * V);
  }
  for (int v = 0; v < N; ++v) {
    vf total = sum[0][v] + sum[1][v];
    if constexpr (kChains == 4) total += sum[2][v] + sum[3][v];
    store(patch + v * V, total);
  }
}

ATRAS_INLINE void sum_patch(const float* g, const std::uint8_t* argmax, const float* patches, int lanes, float* patch) {
  int at = 0;
  for (; at + 4 * V <= lanes; at += 4 * V) sum_patch<4>(g, argmax, patches + at, lanes, patch + at);
  switch ((lanes - at) / V) {
    case 3: return sum_patch<3>(g, argmax, patches + at, lanes, patch + at);
    case 2: return sum_patch<2>(g, argmax, patches + at, lanes, patch + at);
    case 1: return sum_patch<1>(g, argmax, patches + at, lanes, patch + at);
    default: return;
  }
}

// Row is the length of a patch's row where it is known at compile time, else 0.
template <int Row>
ATRAS_INLINE void add_rows(const ImagePatch& patch, const float* from, float* to, std::ptrdiff_t next_row) {
  const int row = Row ? Row : patch.row;
  for (int y = 0; y < patch.rows; ++y)
    for (int i = 0; i < row; ++i) to[y * next_row + i] += from[y * row + i];
}

// Gradient of the image itself, added to dx [in_h][in_w][channels]. Neighbours overlap, and what was stored a moment ago
// is slow to load: so a row is gone through in turns of those that do not.
template <int Row>
__attribute__((noinline)) void image_gradient_as(const ConvBackward& b) {
  const Conv& c = *b.conv;
  const ImagePatch patch(c);
  const int turns = c.pool ? 2 : 3, stride = c.pool ? 2 : 1;
  const std::ptrdiff_t next_row = std::ptrdiff_t(c.in_w) * c.in_channels;
  alignas(64) float sum[kBlock * 16 + V];
  for (int y = 0; y < c.result_h; ++y)
    for (int turn = 0; turn < turns; ++turn)
      for (int x = turn; x < c.result_w; x += turns) {
        const std::size_t at = (std::size_t(y) * c.result_w + x) * kBlock;
        if (!nonzero32(b.g + at)) continue;
        sum_patch(b.g + at, b.argmax ? b.argmax + at : nullptr, b.patches, patch.lanes, sum);
        add_rows<Row>(patch, sum, b.dx + y * stride * next_row + x * stride * c.in_channels, next_row);
      }
}

inline void image_gradient(const ConvBackward& b) {
  switch (ImagePatch(*b.conv).row) {
    case 3: return image_gradient_as<3>(b);
    case 4: return image_gradient_as<4>(b);
    case 9: return image_gradient_as<9>(b);
    case 12: return image_gradient_as<12>(b);
    default: return image_gradient_as<0>(b);
  }
}

}  // namespace atras::step::ATRAS_ISA
