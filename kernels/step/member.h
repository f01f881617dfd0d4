// The phases of a member's step between the matrix products: images in, dropout, loss, the stem both ways.
#pragma once

#include "../philox.h"
#include "conv_backward.h"
#include "conv_forward.h"
#include "dense.h"
#if defined(ATRAS_TILES)
#include "tiles.h"
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

template <Activation A>
ATRAS_INLINE void finish_rows(const Run& r, const Dense& d, int row, bool last, float* to, float* slopes,
                              const Workspace& w) {
  const int stride = row_stride(d.out);
  const bool drop = r.training && d.dropout_layer >= 0;
  for (int b = row; b < row + V; ++b)
    for (int c = d.out; c < stride; ++c) {
      to[std::ptrdiff_t(b) * stride + c] = 0.0f;
      if (slopes) slopes[std::ptrdiff_t(b) * stride + c] = 0.0f;
    }
  for (int b = row; b < row + V; ++b) {
    const bool real = b < r.batch.rows;
    std::size_t past = 0;
    if (drop) {
      const std::uint64_t first = std::uint64_t(b) * d.out;
      past = first % 16;
      random_bytes(r, d.dropout_layer, first - past, past + d.out, w.bytes);
    }
    for (int c = 0; c < d.out; c += V) {
      float* y_at = to + std::ptrdiff_t(b) * stride + c;
      const vf z = load(y_at);  // transposed into place by dense_finish
      vf y = last ? z : activate<A>(z), slope = last ? z : slope_at<A>(z, y);
      if (drop) {
        const vf keep = keep_scale(w.bytes + past + c, r.spec->head_rate256);
        y *= keep;
        slope *= keep;
      }
      vi lane;
      for (int i = 0; i < V; ++i) lane[i] = i;
      const vi inside = real ? lane < d.out - c : vi{};
      store(y_at, inside ? y : vf{});
      if (slopes) store(slopes + std::ptrdiff_t(b) * stride + c, inside ? slope : vf{});
    }
  }
}

// Item: 16 rows of the batch. From transposed products to activations in rows, their slopes, and dropout.
inline void dense_finish(const Run& r, int layer, int item, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const bool last = layer + 1 == int(r.member->dense.size());
  float* to = last ? r.logits : r.hidden[layer];
  float* slopes = last ? nullptr : r.hidden_slopes[layer];
  const int first = item * kLane;
  transpose_matrix(r.transposed + first, round_up(r.rows_padded(), kPanel),
                   to + std::ptrdiff_t(first) * row_stride(d.out), row_stride(d.out), d.out_padded(), kLane);
  for (int row = first; row < first + kLane; row += V) switch (r.spec->activation) {
      case Activation::relu: finish_rows<Activation::relu>(r, d, row, last, to, slopes, w); break;
      case Activation::sigmoid: finish_rows<Activation::sigmoid>(r, d, row, last, to, slopes, w); break;
      case Activation::tanh: finish_rows<Activation::tanh>(r, d, row, last, to, slopes, w); break;
      case Activation::gelu: finish_rows<Activation::gelu>(r, d, row, last, to, slopes, w); break;
    }
}

ATRAS_INLINE float sum_lanes(vf x) {
  float total = 0.0f;
  for (int i = 0; i < V; ++i) total += x[i];
  return total;
}

// Softmax cross-entropy of one row: the loss, and dlogits = scale * (softmax - one at the label).
inline double row_loss(const float* z, int classes, std::int64_t label, float scale, float* dz) {
  float top = z[0];
  for (int c = 1; c < classes; ++c) top = z[c] > top || z[c] != z[c] ? z[c] : top;
  vf total{};
  for (int c = 0; c < round_up(classes, kLane); c += V) {
    vi lane;
    for (int i = 0; i < V; ++i) lane[i] = c + i;
    const vf e = lane < classes ? exponential(load(z + c) - top) : vf{};
    store(dz + c, e);
    total += e;
  }
  const float sum = sum_lanes(total);
  const double loss = std::log(double(sum)) - (double(z[label]) - double(top));
  for (int c = 0; c < round_up(classes, kLane); c += V) store(dz + c, load(dz + c) * (scale / sum));
  dz[label] -= scale;
  return loss;
}

inline int first_largest(const float* z, int classes) {
  int best = 0;
  for (int c = 1; c < classes; ++c)
    if (z[c] > z[best]) best = c;
  return best;
}

// Leaves d(loss)/d(logits) in `gradient`; the loss is the mean over the batch, or for attacks the sum.
inline void cross_entropy(Run& r, bool mean) {
  const int classes = r.spec->classes, stride = row_stride(classes), rows = r.batch.rows;
  const float scale = mean ? 1.0f / float(rows) : 1.0f;
  r.loss = 0.0;
  r.correct = 0;
  for (int b = 0; b < rows; ++b) {
    const float* z = r.logits + std::ptrdiff_t(b) * stride;
    const int predicted = first_largest(z, classes);
    std::int64_t label = predicted;
    if (r.training) {
      const std::int64_t index = r.batch.index ? r.batch.index[b] : r.batch.first + b;
      label = r.batch.labels[index >= r.batch.count ? index - r.batch.count : index];
    } else if (r.attack_labels) {
      label = r.attack_labels[b];
    }
    r.correct += predicted == label;
    float* dz = r.gradient + std::ptrdiff_t(b) * stride;
    r.loss += row_loss(z, classes, label, scale, dz);
  }
  r.loss *= mean ? 1.0 / rows : 1.0;
  std::memset(r.gradient + std::ptrdiff_t(rows) * stride, 0,
              std::size_t(r.rows_padded() - rows) * stride * sizeof(float));
}

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

inline void write_image_gradient(Run& r, int row, const float* dx) {
  const Spec& s = *r.spec;
  const int border = r.stem->image_border, wide = s.width + 2 * border;
  std::size_t to = std::size_t(row) * s.channels * s.height * s.width;
  for (int channel = 0; channel < s.channels; ++channel)
    for (int y = 0; y < s.height; ++y)
      for (int x = 0; x < s.width; ++x, ++to) {
        const std::size_t planar = (std::size_t(channel) * s.height + y) * s.width + x;
        const std::size_t interleaved = (std::size_t(y + border) * wide + x + border) * s.channels + channel;
        const std::size_t at = r.stem->convs.empty() ? planar : interleaved;
        const float value = dx[at];
        r.zero_gradients += value == 0.0f;
        r.nan_gradients += value != value;
        if (r.image_gradient) r.image_gradient[to] = value;
        const int sign = int(value > 0.0f) - int(value < 0.0f);
        if (r.image_signs) r.image_signs[to] = std::int8_t(r.direction * sign);
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
  }
  for (int row = first; row < last; ++row) stem_backward_image(r, row, gradients, w);
}

inline void stem_update(const Run& r, int item) {
  const std::size_t first = std::size_t(item) * kUpdateChunk;
  const std::size_t last = first + kUpdateChunk < r.stem->size ? first + kUpdateChunk : r.stem->size;
  for (std::size_t i = first; i < last; i += V) {
    vf total = load(r.partial + i);
    for (int group = 1; group < r.groups(); ++group) total += load(r.partial + group * r.stem->size + i);
    update_at(r, i, total);
  }
}

}  // namespace atras::step::ATRAS_ISA
