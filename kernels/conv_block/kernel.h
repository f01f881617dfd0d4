// One convolution of op conv_block through the convolutions of op step, for one instruction set.
#pragma once

#include "../step/member.h"

namespace atras::step::ATRAS_ISA {

constexpr int kDrawn = 4096;  // random bytes at a time

// Copies between [height][width][channels] and blocks of channels [blocks][..][row][block]; what the blocks have past
// the channels is left as it is.
template <bool ToBlocks, class T>
ATRAS_INLINE void exchange(T* plain, T* blocks, int height, int width, int channels, int block, std::size_t row,
                           std::size_t block_stride) {
  const auto copy = [](T* a, T* b, std::size_t count) {
    std::memcpy(ToBlocks ? b : a, ToBlocks ? a : b, count * sizeof(T));
  };
  for (int first = 0; first < channels; first += block, blocks += block_stride)
    for (int y = 0; y < height; ++y) {
      T* from = plain + std::size_t(y) * width * channels + first;
      T* to = blocks + y * row;
      if (channels == block) {
        copy(from, to, std::size_t(width) * channels);
        continue;
      }
      const int n = channels - first < block ? channels - first : block;
      for (int x = 0; x < width; ++x, from += channels, to += block) {
        if (n == kBlock) copy(from, to, kBlock);
        else
          for (int i = 0; i < n; ++i) (ToBlocks ? to : from)[i] = (ToBlocks ? from : to)[i];
      }
    }
}

template <bool ToBlocks>
ATRAS_INLINE void exchange_image(const ConvBlock& f, float* plain, float* blocks) {
  const Conv& c = f.conv;
  const std::size_t row = std::size_t(c.in_w) * c.in_block();
  float* inside = blocks + f.padding * (row + c.in_block());
  exchange<ToBlocks>(plain, inside, f.height, f.width, f.channels, c.in_block(), row, c.in_h * row);
}

template <bool ToBlocks, class T>
ATRAS_INLINE void exchange_result(const ConvBlock& f, T* plain, T* blocks) {
  const Conv& c = f.conv;
  const std::size_t row = std::size_t(c.result_w) * kBlock;
  exchange<ToBlocks>(plain, blocks, c.result_h, f.result_width, f.outputs, kBlock, row, c.result_h * row);
}

// Dropout of `count` values at the position `first` of a member, and of their slopes.
inline void drop(const ConvBlock& f, std::int64_t member, std::uint64_t first, std::size_t count, float* y,
                 float* slope) {
  alignas(64) std::uint8_t bytes[kDrawn + 64];
  const std::uint64_t key = std::uint64_t(f.keys[member * f.keys_stride]);
  const std::uint32_t step = std::uint32_t(f.steps[member * f.steps_stride]);
  const float scale = 256.0f / float(256 - f.rate256);
  for (std::size_t at = 0, n; at < count; at += n) {
    const std::uint64_t position = first + at;
    const int past = int(position % 16);
    n = count - at < kDrawn - 16 ? count - at : kDrawn - 16;
    philox(key, std::uint32_t(position / 16), step, f.layer, std::int32_t((past + n + 15) / 16),
           reinterpret_cast<std::uint32_t*>(bytes));
    const std::uint8_t* drawn = bytes + past;
    for (std::size_t i = 0; i < n; ++i) y[at + i] = drawn[i] < f.rate256 ? 0.0f : y[at + i] * scale;
    if (!slope) continue;
    for (std::size_t i = 0; i < n; ++i) slope[at + i] = drawn[i] < f.rate256 ? 0.0f : slope[at + i] * scale;
  }
}

// Item: a tile of a member's images.
inline void conv_block_forward(const ConvBlock& f, std::int64_t item, float* scratch) {
  const Conv& c = f.conv;
  const std::int64_t member = item / f.tiles(), first = item % f.tiles() * f.tile;
  const int images = f.batch - first < f.tile ? int(f.batch - first) : f.tile;
  float* x = scratch;
  float* out = x + f.tile * c.in_size();
  float* slope = out + f.tile * c.result_size();
  std::uint8_t* argmax = reinterpret_cast<std::uint8_t*>(slope + f.tile * c.result_size());
  std::memset(x, 0, images * c.in_size() * sizeof(float));
  const float* from = f.x + member * f.x_stride + first * f.image_size();
  for (int i = 0; i < images; ++i)
    exchange_image<true>(f, const_cast<float*>(from) + i * f.image_size(), x + i * c.in_size());
  ConvForward k{};
  k.conv = &c;
  k.images = images;
  k.x = x;
  k.x_stride = c.in_size();
  k.weights = f.packed + (f.weights_stride ? member * c.weight_size() : 0);
  k.bias = f.bias + member * f.bias_stride;
  k.out = out;
  k.out_stride = c.result_size();
  k.argmax = f.argmax ? argmax : nullptr;
  k.slope = f.slope ? slope : nullptr;
  conv_forward(k, f.activation, false);
  const std::size_t size = f.result_size(), to = (member * f.batch + first) * size;
  for (int i = 0; i < images; ++i) {
    exchange_result<false>(f, f.y + to + i * size, out + i * c.result_size());
    if (f.slope) exchange_result<false>(f, f.slope + to + i * size, slope + i * c.result_size());
    if (f.argmax) exchange_result<false>(f, f.argmax + to + i * size, argmax + i * c.result_size());
  }
  if (f.rate256) drop(f, member, first * size, images * size, f.y + to, f.slope ? f.slope + to : nullptr);
}

// g = gradient of the activation's input in blocks, zero past the channels; `known` takes slope or result on the way.
ATRAS_INLINE void block_gradient(const ConvBlock& f, std::size_t at, float* g, float* known) {
  exchange_result<true>(f, const_cast<float*>(f.gradient) + at, g);
  exchange_result<true>(f, (f.slope ? f.slope : f.y) + at, known);
  const float scale = f.rate256 ? 256.0f / float(256 - f.rate256) : 1.0f;
  for (std::size_t i = 0; i < f.conv.result_size(); i += V) {
    const vf up = load(g + i), told = load(known + i);
    store(g + i, f.slope ? up * told : told <= 0.0f ? vf{} : up * scale);  // NaN passes
  }
}

ATRAS_INLINE void conv_block_weights(const ConvBlock& f, ConvBackward b, float* partial) {
  const Conv& c = *b.conv;
  add_bias_gradient(c, b.g, partial + c.weight_size());
  b.dweights = partial;
  if (c.in_channels >= kBlock) return weight_gradient(b);
  const std::size_t results = std::size_t(c.result_h) * c.result_w * kBlock;
  for (int ob = 0; ob < c.out_blocks(); ++ob) {
    first_weight_gradient(b);
    b.dweights += 9 * c.in_channels * kBlock;
    b.g += results;
    if (f.argmax) b.argmax += results;
  }
}

ATRAS_INLINE void conv_block_image(const ConvBlock& f, ConvBackward b, float* dx) {
  const Conv& c = *b.conv;
  std::memset(dx, 0, c.in_size() * sizeof(float));
  b.dx = dx;
  if (c.in_channels >= kBlock) return input_gradient(b);
  const std::size_t results = std::size_t(c.result_h) * c.result_w * kBlock;
  for (int ob = 0; ob < c.out_blocks(); ++ob) {
    image_gradient(b);
    b.weights += 9 * c.in_channels * kBlock;
    b.g += results;
    if (f.argmax) b.argmax += results;
  }
}

// Item: a group of a member's images. Writes their gradients, and the group's sum of gradients of the weights.
inline void conv_block_backward(const ConvBlock& f, std::int64_t item, float* scratch) {
  const Conv& c = f.conv;
  const std::int64_t member = item / f.groups(), first = item % f.groups() * kGroup;
  const std::int64_t last = first + kGroup < f.batch ? first + kGroup : f.batch;
  float* x = scratch;
  float* dx = x + c.in_size();
  float* g = dx + c.in_size();
  float* known = g + c.result_size();
  std::uint8_t* argmax = reinterpret_cast<std::uint8_t*>(known + c.result_size());
  std::memset(scratch, 0, f.backward_scratch() * sizeof(float));
  float* partial = f.partial ? f.partial + item * f.partial_size() : nullptr;
  if (partial) std::memset(partial, 0, f.partial_size() * sizeof(float));
  ConvBackward b{};
  b.conv = &c;
  b.x = x;
  b.g = g;
  b.argmax = f.argmax ? argmax : nullptr;
  b.weights = f.weights + member * f.weights_stride;
  b.lists = reinterpret_cast<Entry*>(known + 2 * c.result_size());
  for (std::int64_t image = first; image < last; ++image) {
    const std::size_t at = (member * f.batch + image) * f.result_size();
    block_gradient(f, at, g, known);
    if (f.argmax) exchange_result<true>(f, f.argmax + at, argmax);
    if (partial) {
      exchange_image<true>(f, const_cast<float*>(f.x) + member * f.x_stride + image * f.image_size(), x);
      conv_block_weights(f, b, partial);
    }
    if (!f.dx) continue;
    conv_block_image(f, b, dx);
    exchange_image<false>(f, f.dx + (member * f.batch + image) * f.image_size(), dx);
  }
}

}  // namespace atras::step::ATRAS_ISA
