// A stem's backward pass: gradients of its parameters or of the images, and the parameters' update.
#pragma once

#include "conv_backward.h"
#include "dense.h"
#include "stem_forward.h"

namespace atras::step::ATRAS_ISA {

// g = gradient of the activation's input, compact; from the gradient of the stored result, border included.
inline void through_activation(const Run& r, int conv, int row, const float* gradient, float* g) {
  const Conv& c = r.stem->convs[conv];
  const Results out = results_of(r, conv);
  const float* slope = r.slopes[conv] ? r.slopes[conv] + row * out.stride : nullptr;
  const bool dropped = r.training && c.dropout_layer >= 0;
  const float scale = dropped ? 256.0f / float(256 - r.spec->stem_rate256) : 1.0f;
  over_results(c, [&](std::size_t stored, std::size_t compact, int, std::size_t) {
    const vf up = load(gradient + stored);
    vf value;
    if (slope) value = up * load(slope + stored);
    else value = load_result(out.at, out.bf16, row * out.stride + stored) <= 0.0f ? vf{} : up * scale;  // NaN passes
    store(g + compact, value);
  });
}

inline void add_bias_gradient(const Conv& c, const float* g, float* dbias) {
  const int results = c.result_h * c.result_w;
  for (int o = 0; o < c.out_channels; o += V) {
    vf total = load(dbias + o);
    const float* from = g + std::size_t(o / kBlock) * results * kBlock + o % kBlock;
    for (int p = 0; p < results; ++p) total += load(from + std::size_t(p) * kBlock);
    store(dbias + o, total);
  }
}

inline const float* input_of(const Run& r, int conv, int row, const Workspace& w) {
  if (conv == 0) return r.images + row * r.stem->image_size;
  const Results in = results_of(r, conv - 1);
  if (!in.bf16) return static_cast<const float*>(in.at) + row * in.stride;
  const std::uint16_t* from = static_cast<const std::uint16_t*>(in.at) + row * in.stride;
  for (std::size_t i = 0; i < in.stride; i += V) store(w.expanded + i, bf16_to_float(from + i));
  return w.expanded;
}

// A row of an image's gradient as the caller wants it; Apart is the distance of its pixels, or 0 for that of `apart`.
template <int Apart>
ATRAS_INLINE void write_gradient_row(Run& r, const float* dx, int apart, std::size_t to) {
  const int width = r.spec->width, step = Apart ? Apart : apart;
  int zero = 0, nan = 0;
  for (int x = 0; x < width; ++x) {
    zero += dx[x * step] == 0.0f;
    nan += dx[x * step] != dx[x * step];
  }
  r.zero_gradients += zero;
  r.nan_gradients += nan;
  if (float* gradient = r.image_gradient)
    for (int x = 0; x < width; ++x) gradient[to + x] = dx[x * step];
  if (std::int8_t* signs = r.image_signs) {
    const int direction = r.direction;
    for (int x = 0; x < width; ++x) {
      const int sign = int(dx[x * step] > 0.0f) - int(dx[x * step] < 0.0f);
      signs[to + x] = std::int8_t(direction * sign);
    }
  }
}

inline void write_image_gradient(Run& r, int row, const float* dx) {
  const Spec& s = *r.spec;
  const bool planar = r.stem->convs.empty();
  const int border = r.stem->image_border, wide = s.width + 2 * border, apart = planar ? 1 : s.channels;
  std::size_t to = std::size_t(row) * s.channels * s.height * s.width;
  for (int channel = 0; channel < s.channels; ++channel)
    for (int y = 0; y < s.height; ++y, to += s.width) {
      const std::size_t interleaved = (std::size_t(y + border) * wide + border) * s.channels + channel;
      const float* from = dx + (planar ? (std::size_t(channel) * s.height + y) * s.width : interleaved);
      if (apart == 1) write_gradient_row<1>(r, from, apart, to);
      else write_gradient_row<0>(r, from, apart, to);
    }
}

inline void stem_backward_image(Run& r, int row, float* gradients, const Workspace& w) {
  const auto& convs = r.stem->convs;
  const float* gradient = r.dfeatures + std::ptrdiff_t(row) * row_stride(r.stem->features);
  for (int i = int(convs.size()) - 1; i >= 0; --i) {
    const Conv& c = convs[i];
    through_activation(r, i, row, gradient, w.g);
    ConvBackward b{};
    b.conv = &c;
    b.g = w.g;
    b.argmax = r.argmax[i] ? r.argmax[i] + row * c.result_size() : nullptr;
    b.weights = r.parameters + c.weight;
    b.lists = static_cast<Entry*>(w.lists);
    b.patches = w.patches;
    if (gradients) {
      add_bias_gradient(c, w.g, gradients + c.bias);
      b.x = input_of(r, i, row, w);
      b.dweights = gradients + c.weight;
      if (i == 0) first_weight_gradient(b);
      else weight_gradient(b);
    }
    if (i == 0 && gradients) break;
    b.dx = w.dx[i % 2];
    std::memset(b.dx, 0, c.in_size() * sizeof(float));
    if (i == 0) image_gradient(b);
    else input_gradient(b);
    gradient = b.dx;
  }
  if (!gradients) write_image_gradient(r, row, gradient);
}

// Training: the group's own sum of gradients. Attack: the gradient of its images.
inline void stem_backward(Run& r, int group, const Workspace& w) {
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  float* gradients = nullptr;
  if (r.training) {
    gradients = r.partial + group * r.stem->size;
    std::memset(gradients, 0, r.stem->size * sizeof(float));
  } else if (!r.stem->convs.empty()) {
    pack_patches(r.stem->convs[0], r.parameters + r.stem->convs[0].weight, w.patches);
  }
  for (int row = first; row < last; ++row) stem_backward_image(r, row, gradients, w);
}

// Item: some of `size` parameters from `start` on, of whose gradients each group has its own sum.
inline void update_from_groups(const Run& r, std::size_t start, std::size_t size, int item) {
  const std::size_t first = std::size_t(item) * kUpdateChunk;
  const std::size_t last = first + kUpdateChunk < size ? first + kUpdateChunk : size;
  for (std::size_t i = first; i < last; i += V) {
    vf total = load(r.partial + i);
    for (int group = 1; group < r.groups(); ++group) total += load(r.partial + group * size + i);
    update_at(r, start + i, total);
  }
}

inline void stem_update(const Run& r, int item) { update_from_groups(r, 0, r.member->conv_size, item); }

}  // namespace atras::step::ATRAS_ISA
