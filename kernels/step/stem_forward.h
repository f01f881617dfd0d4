// A stem's forward pass: images in, convolutions, dropout.
#pragma once

#include "../native/philox.h"
#include "conv_forward.h"
#include "run.h"
#if defined(ATRAS_TILES)
#include "conv_tiles.h"
#endif

namespace atras::step::ATRAS_ISA {

// Writes packed weights [out_block][in_block][3][k_row][32], pairs of k side by side as bf16 where asked.
inline void pack_weights(const Conv& c, const float* from, float* to, bool bf16) {
  if (c.in_channels < kBlock) {
    std::memcpy(to, from, c.weight_size() * sizeof(float));
    return;
  }
  const std::ptrdiff_t out_step = kPatch;
  for (int ob = 0; ob < c.out_blocks(); ++ob)
    for (int ib = 0; ib < c.in_blocks(); ++ib) {
      const float* block = from + (std::size_t(ib) * c.out_channels + ob * kBlock) * kPatch;
      if (!bf16) {
        transpose_matrix(block, out_step, to, kBlock, kBlock, kPatch);
        to += kPatch * kBlock;
        continue;
      }
      std::uint16_t* pairs = reinterpret_cast<std::uint16_t*>(to);
      for (int o = 0; o < kBlock; ++o)
        for (int k = 0; k < kPatch; k += V) {
          alignas(64) std::uint16_t bits[V];
          store_bf16(bits, load(block + o * out_step + k));
          for (int i = 0; i < V; ++i) pairs[((k + i) / 2 * kBlock + o) * 2 + (k + i) % 2] = bits[i];
        }
      to += kPatch * kBlock / 2;
    }
}

inline void pack(const Run& r, int index) {
  const Conv& c = r.stem->convs[index];
  pack_weights(c, r.parameters + c.weight, r.packed[index], r.bf16);
}

// One image of the batch in [0, 1], in torch's order.
inline void read_image(const Batch& batch, int row, std::int64_t size, float* to) {
  const std::int64_t index = batch.index ? batch.index[row] : batch.first + row;
  const bool adversarial = index >= batch.count;
  const std::int64_t at = (adversarial ? index - batch.count : index) * size;
  if (batch.bytes) {
    const std::uint8_t* from = static_cast<const std::uint8_t*>(batch.images) + at;
    for (std::int64_t i = 0; i < size; ++i) to[i] = float(from[i]) / 255.0f;
  } else {
    std::memcpy(to, static_cast<const float*>(batch.images) + at, size * sizeof(float));
  }
  if (!adversarial) return;
  const std::int8_t* signs = batch.signs + at;
  for (std::int64_t i = 0; i < size; ++i) {
    const float pixel = to[i] + batch.epsilon * float(signs[i]);
    to[i] = pixel < 0.0f ? 0.0f : pixel > 1.0f ? 1.0f : pixel;
  }
}

// From [C][H][W] to [H][W][C] with a zero border.
inline void interleave(const Spec& s, int border, const float* from, float* to) {
  const int wide = s.width + 2 * border;
  for (int channel = 0; channel < s.channels; ++channel)
    for (int y = 0; y < s.height; ++y) {
      float* row = to + ((y + border) * wide + border) * s.channels + channel;
      for (int x = 0; x < s.width; ++x) row[x * s.channels] = *from++;
    }
}

inline void load_images(const Run& r, int first, int last, const Workspace& w) {
  const Spec& s = *r.spec;
  const int border = r.stem->image_border;
  const std::int64_t size = std::int64_t(s.channels) * s.height * s.width;
  for (int row = first; row < last; ++row) {
    if (r.stem->convs.empty()) {
      const int stride = row_stride(r.stem->features);
      float* to = r.features + std::ptrdiff_t(row) * stride;
      std::memset(to + size, 0, (stride - size) * sizeof(float));
      read_image(r.batch, row, size, to);
      continue;
    }
    float* to = r.images + row * r.stem->image_size;
    if (s.channels == 1 && border == 0) {
      read_image(r.batch, row, size, to);
      continue;
    }
    if (border) std::memset(to, 0, r.stem->image_size * sizeof(float));
    read_image(r.batch, row, size, w.expanded);
    interleave(s, border, w.expanded, to);
  }
}

// bytes[i] = random byte of position first + i, first a multiple of 16; writes up to 15 more.
inline void random_bytes(const Run& r, int layer, std::uint64_t first, std::size_t count, std::uint8_t* bytes) {
  philox(r.key, std::uint32_t(first / 16), r.step, layer, std::int32_t((count + 15) / 16),
         reinterpret_cast<std::uint32_t*>(bytes));
}

ATRAS_INLINE vf keep_scale(const std::uint8_t* bytes, int rate256) {
  vb drawn;
  std::memcpy(&drawn, bytes, sizeof drawn);
  const vf scale = splat(256.0f / float(256 - rate256));
  return __builtin_convertvector(drawn, vi) < rate256 ? vf{} : scale;
}

// Results of one layer as float or bf16.
ATRAS_INLINE vf load_result(const void* p, bool bf16, std::size_t at) {
  return bf16 ? bf16_to_float(static_cast<const std::uint16_t*>(p) + at) : load(static_cast<const float*>(p) + at);
}

struct Results {
  void* at;
  bool bf16;
  std::size_t stride;  // values an image
};

inline Results results_of(const Run& r, int conv) {
  const bool last = conv + 1 == int(r.stem->convs.size());
  if (last) return {r.features, false, std::size_t(row_stride(r.stem->features))};
  return {r.results[conv], r.bf16, r.stem->convs[conv].store_size()};
}

// Calls f(offset in the stored result, offset in the compact result, channel, pixel) for every vector of an image.
template <class F>
ATRAS_INLINE void over_results(const Conv& c, const F& f) {
  for (int ob = 0; ob < c.out_blocks(); ++ob)
    for (int y = 0; y < c.result_h; ++y)
      for (int x = 0; x < c.result_w; ++x) {
        const std::size_t pixel = std::size_t(y) * c.result_w + x;
        const std::size_t stored =
            ((std::size_t(ob) * c.store_h + y + c.border) * c.store_w + x + c.border) * kBlock;
        const std::size_t compact = (std::size_t(ob) * c.result_h * c.result_w + pixel) * kBlock;
        for (int v = 0; v < kBlock; v += V) f(stored + v, compact + v, ob * kBlock + v, pixel);
      }
}

inline void stem_dropout(const Run& r, int conv, int row, const Workspace& w) {
  const Conv& c = r.stem->convs[conv];
  const Results out = results_of(r, conv);
  const int rate = r.spec->stem_rate256;
  random_bytes(r, c.dropout_layer, row * c.result_size(), c.result_size(), w.bytes);
  float* slope = r.slopes[conv] ? r.slopes[conv] + row * out.stride : nullptr;
  over_results(c, [&](std::size_t stored, std::size_t, int channel, std::size_t pixel) {
    const vf keep = keep_scale(w.bytes + pixel * c.out_channels + channel, rate);
    const std::size_t at = row * out.stride + stored;
    const vf y = load_result(out.at, out.bf16, at) * keep;
    if (out.bf16) store_bf16(static_cast<std::uint16_t*>(out.at) + at, y);
    else store(static_cast<float*>(out.at) + at, y);
    if (slope) store(slope + stored, load(slope + stored) * keep);
  });
}

inline void clear_border(const Conv& c, void* image, std::size_t bytes_a_value) {
  if (c.border == 0) return;
  std::memset(image, 0, c.store_size() * bytes_a_value);
}

inline void stem_forward(const Run& r, int group, const Workspace& w) {
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  load_images(r, first, last, w);
  const auto& convs = r.stem->convs;
  for (int i = 0; i < int(convs.size()); ++i) {
    const Conv& c = convs[i];
    const Results out = results_of(r, i);
    const std::size_t value = out.bf16 ? 2 : 4;
    ConvForward f{};
    f.conv = &c;
    f.images = last - first;
    if (i == 0) {
      f.x = r.images + first * r.stem->image_size;
      f.x_stride = r.stem->image_size;
    } else {
      const Results in = results_of(r, i - 1);
      f.x = static_cast<const char*>(in.at) + first * in.stride * (in.bf16 ? 2 : 4);
      f.x_stride = in.bf16 ? in.stride / 2 : in.stride;
    }
    f.weights = r.packed[i];
    f.bias = r.parameters + c.bias;
    f.out = static_cast<char*>(out.at) + first * out.stride * value;
    f.out_stride = out.stride;
    f.out_bf16 = out.bf16;
    f.argmax = r.argmax[i] ? r.argmax[i] + first * c.result_size() : nullptr;
    f.slope = r.slopes[i] ? r.slopes[i] + first * out.stride : nullptr;
    for (int row = 0; row < f.images; ++row)
      clear_border(c, static_cast<char*>(f.out) + row * out.stride * value, value);
    f.raster = w.raster;
#if defined(ATRAS_TILES)
    if (i > 0 && r.bf16) conv_forward_tiles(f, r.spec->activation);
    else
#endif
      conv_forward(f, r.spec->activation, i > 0 && r.bf16);
    if (r.training && c.dropout_layer >= 0 && r.spec->stem_rate256 > 0)
      for (int row = first; row < last; ++row) stem_dropout(r, i, row, w);
  }
}

}  // namespace atras::step::ATRAS_ISA
