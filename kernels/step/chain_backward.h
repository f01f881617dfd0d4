// Backward pass of convolutions of a member's own: gradients of their parameters, of their inputs, and of the images.
#pragma once

#include "chain_transform.h"
#include "stem_backward.h"

namespace atras::step::ATRAS_ISA {

// Item: a block of outputs, whose weights the gradient of a convolution's inputs takes [output][patch_stride], or pairs.
template <class P>
void turn_weights(const Run& r, int index, int item) {
  const ChainConv& c = r.member->chain[index];
  const int first = item * kTurnBlock, end = first + kTurnBlock < c.out_channels ? first + kTurnBlock : c.out_channels;
  for (int k = 0; k < c.depth(); k += V)
    for (int out = first; out < end; out += V) {
      vf block[V];
      for (int i = 0; i < V; ++i) block[i] = load(r.parameters + c.weight + std::ptrdiff_t(k + i) * c.out_padded() + out);
      transpose(block);
      put_rows<P>(block, end - out, r.chain.turned + std::ptrdiff_t(out / P::kPack) * c.patch_stride() + k, c.patch_stride());
    }
}

// The gradient of what an activation takes, out of that of its result, where dropout and activation let it through.
ATRAS_INLINE vf through_activation(vf value, const float* result, const float* slopes, float scale, int channels) {
  if (slopes) value = value * load(slopes);
  else value = load(result) <= 0.0f ? vf{} : value * scale;  // NaN passes
  return first_lanes(value, channels);
}

ATRAS_INLINE float dropout_scale(const Run& r, const ChainConv& c) {
  return r.training && c.dropout_layer >= 0 ? 256.0f / float(256 - c.rate256) : 1.0f;
}

// g[position][out_padded] = gradient of the activation's input for images of the batch from `first` on, out of `given`,
// that of the results. Rows of positions are `pitch` apart, an image's `size`; what is between them is zero.
inline void through_chain_activation(const Run& r, int index, int first, int images, const Pixels& given, int pitch,
                                     int size, float* g) {
  const ChainConv& c = r.member->chain[index];
  const Pixels results = results_of_chain(r, index, first);
  const std::ptrdiff_t padded = c.out_padded();
  const float* slopes = r.chain.slopes[index];
  const float scale = dropout_scale(r, c);
  for (int image = 0; image < images; ++image, g += size * padded) {
    for (int y = 0; y < c.positions_h() && pitch > c.positions_w(); ++y)
      std::memset(g + (y * pitch + c.positions_w()) * padded, 0, (pitch - c.positions_w()) * padded * sizeof(float));
    const int end = c.positions_h() * pitch;
    std::memset(g + end * padded, 0, (size - end) * padded * sizeof(float));
    std::size_t kept = (first + image) * c.kept_size();
    for (int y = 0; y < c.result_h; ++y)
      for (int x = 0; x < c.result_w; ++x, kept += padded) {
        const std::ptrdiff_t pixel = std::ptrdiff_t(x) * c.out_channels;
        const float* up = given.at + image * given.image_step + y * given.row_step + pixel;
        const float* result = results.at + image * results.image_step + y * results.row_step + pixel;
        float* to = g + (y * c.window * pitch + x * c.window) * padded;
        for (int o = 0; o < c.out_padded(); o += V) {
          const vf value = through_activation(load(up + o), result + o, slopes ? slopes + kept + o : nullptr, scale,
                                              c.out_channels - o);
          if (c.window == 1) {
            store(to + o, value);
            continue;
          }
          vh places;
          std::memcpy(&places, r.chain.winners[index] + kept + o, sizeof places);
          const vi winner = __builtin_convertvector(places, vi);
          for (int v = 0, q = 0; v < c.window; ++v)
            for (int u = 0; u < c.window; ++u, ++q)
              store(to + (v * pitch + u) * padded + o, winner == q ? value : vf{});
        }
      }
  }
}

struct AddProducts {
  float* to;
  std::ptrdiff_t stride;
  static constexpr bool kFetches = false;
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    float* at = to + row * stride + column;
    store(at, load(at) + value);
  }
};

// Adds the gradients of weights and bias, of some images' `count` positions, to `sums`.
inline void add_chain_gradients(const Run& r, int index, int first, int count, float* sums, const ChainWorkspace& w) {
  const ChainConv& c = r.member->chain[index];
  const int padded = c.out_padded(), columns = round_up(c.out_channels, V), block = c.block();
  const std::ptrdiff_t stride = c.patch_stride();
  for (int at = 0; at < count; at += block) {
    const int taken = count - at < block ? count - at : block;
    const float* g = w.g + std::ptrdiff_t(at) * padded;
    gather_patches(c, r.chain.inputs[index] + first * c.in_size(), at, taken, w.patches);
    if (!rounds_patches(r, index)) {
      product<Fp32>(c.depth(), columns, taken, w.patches, 1, stride, g, padded, AddProducts{sums, padded});
      continue;
    }
    pair_rows(w.patches, stride, taken, round_up(c.depth(), kLane), w.left, stride);
    pair_rows(g, padded, taken, padded, w.right, padded);
    product<Bf16>(c.depth(), columns, elements_of(taken, 2), reinterpret_cast<const std::uint32_t*>(w.left), 1, stride,
                  w.right, padded, AddProducts{sums, padded});
  }
  float* bias = sums + (c.bias - c.weight);
  for (int o = 0; o < padded; o += V) {
    vf total = load(bias + o);
    for (int position = 0; position < count; ++position) total += load(w.g + std::ptrdiff_t(position) * padded + o);
    store(bias + o, total);
  }
}

// The positions whose kernels cover a pixel, border included.
struct Covering {
  int first, last;
};

ATRAS_INLINE Covering covering(const ChainConv& c, int at, int positions) {
  const int last = at / c.stride;
  return {at < c.kernel ? 0 : (at - c.kernel) / c.stride + 1, last < positions ? last : positions - 1};
}

// Adds up what the patches' gradients have for each pixel inside the border, in the order of the positions. `places`
// takes numbers for each pixel of a row.
inline void collect_patches(const ChainConv& c, const float* patches, float* dx, int* places) {
  const int channels = c.in_channels, inside = c.in_w - c.border;
  const std::ptrdiff_t stride = c.patch_stride(), next = stride - c.stride * channels;  // a position to the right
  for (int x = c.border; x < inside; ++x) {
    const Covering across = covering(c, x, c.positions_w());
    places[2 * x] = int(across.first * stride) + (x - across.first * c.stride) * channels;
    places[2 * x + 1] = across.last - across.first + 1;
  }
  const std::ptrdiff_t down = c.positions_w() * stride, back = std::ptrdiff_t(c.stride) * c.kernel * channels;
  for (int y = c.border; y < c.in_h - c.border; ++y) {
    const Covering rows = covering(c, y, c.positions_h());
    const float* row = patches + rows.first * down + (y - rows.first * c.stride) * c.kernel * std::ptrdiff_t(channels);
    for (int x = c.border; x < inside; ++x) {
      float* to = dx + (std::ptrdiff_t(y) * c.in_w + x) * channels;
      for (int o = 0; o < channels; o += V) {
        vf total{};
        const float* first = row + places[2 * x] + o;
        for (int v = rows.first; v <= rows.last; ++v, first += down - back)
          for (int u = 0; u < places[2 * x + 1]; ++u) total += load(first + u * next);
        store_lanes(to + o, total, channels - o);  // behind the last pixel lies the next image, another thread's
      }
    }
  }
}

// The gradients of patches at some images' positions.
inline void multiply_gradients(const Run& r, int index, int positions, const ChainWorkspace& w) {
  const ChainConv& c = r.member->chain[index];
  const int padded = c.out_padded(), columns = round_up(c.depth(), V);
  const StoreProducts done{w.products, c.patch_stride(), nullptr};
  if (!rounds_patches(r, index))
    return product<Fp32>(positions, columns, c.out_channels, w.g, padded, 1, r.chain.turned, c.patch_stride(), done);
  to_bf16(w.g, padded, positions, padded, reinterpret_cast<std::uint16_t*>(w.left), 2 * paired(padded));
  product<Bf16>(positions, columns, elements_of(c.out_channels, 2), reinterpret_cast<const std::uint32_t*>(w.left),
                paired(padded), 1, r.chain.turned, c.patch_stride(), done);
}

// Gradients of a group's parameters into `sums`, where there are any, and of its inputs, but for the first.
inline void patches_backward(const Run& r, int index, int first, int images, const Pixels& given, float* sums,
                             const ChainWorkspace& w) {
  const ChainConv& c = r.member->chain[index];
  const int positions = c.positions();
  for (int image = 0; image < images; image += c.images_at_once()) {
    const int left = images - image, taken = left < c.images_at_once() ? left : c.images_at_once();
    const Pixels own{given.at + image * given.image_step, given.image_step, given.row_step};
    through_chain_activation(r, index, first + image, taken, own, c.positions_w(), positions, w.g);
    if (sums) add_chain_gradients(r, index, first + image, taken * positions, sums, w);
    if (index == 0) continue;
    multiply_gradients(r, index, taken * positions, w);
    for (int i = 0; i < taken; ++i)
      collect_patches(c, w.products + std::ptrdiff_t(i) * positions * c.patch_stride(),
                      r.chain.gradients[index % 2] + (first + image + i) * c.in_size(), w.offsets);
  }
}

// row[step * x + phase] = phases[phase][x].
inline void interleave_phases(const float* phases, int step, int length, float* row) {
  if (step == 2) {
    for (int x = 0; x < length; x += V) {
      const vf a = load(phases + x), b = load(phases + length + x);
      store(row + 2 * x, __builtin_shufflevector(a, b, ATRAS_ZIP_LOW));
      store(row + 2 * x + V, __builtin_shufflevector(a, b, ATRAS_ZIP_HIGH));
    }
    return;
  }
  for (int phase = 0; phase < step; ++phase)
    for (int x = 0; x < length; ++x) row[step * x + phase] = phases[phase * length + x];
}

// A row of a channel of an image's gradient, border included, from the gradients of patches [depth][stride].
inline float* chain_gradient_row(const ChainConv& c, const float* patches, std::ptrdiff_t stride, int y, int channel,
                                 float* scratch) {
  const int kernel = c.kernel, step = c.stride, pitch = c.pitch(), length = round_up(pitch, V);
  const std::ptrdiff_t right = step * c.in_channels * stride - 1;  // a stride along the kernel, from a position before
  const Covering rows = covering(c, y, c.positions_h());
  for (int phase = 0; phase < step; ++phase)
    for (int x = 0; x < length; x += V) {
      vf total{};
      for (int v = rows.first; v <= rows.last; ++v) {
        const std::ptrdiff_t value = (std::ptrdiff_t(y - v * step) * kernel + phase) * c.in_channels + channel;
        const float* from = patches + value * stride + std::ptrdiff_t(v) * pitch + x;
        for (int k = phase; k < kernel; k += step, from += right) total += load(from);
      }
      store(scratch + phase * length + x, total);
    }
  float* row = scratch;
  if (step > 1) {
    row += step * length;
    interleave_phases(scratch, step, length, row);
  }
  for (int x = step * pitch; x < c.in_w; ++x) row[x] = 0.0f;  // no position reaches so far
  return row;
}

inline void chain_image_gradient(Run& r, int first, int images, const Pixels& given, const ChainWorkspace& w) {
  const Spec& s = *r.spec;
  const ChainConv& c = r.member->chain[0];
  const int padded = c.out_padded(), columns = c.columns(), margin = c.margin();
  const std::ptrdiff_t stride = row_stride(columns + margin);
  std::size_t to = std::size_t(first) * s.channels * s.height * s.width;
  for (int image = 0; image < images; ++image) {
    const Pixels own{given.at + image * given.image_step, given.image_step, given.row_step};
    through_chain_activation(r, 0, first + image, 1, own, c.pitch(), columns, w.g);
    transpose_matrix(w.g, padded, w.turned_g, stride, columns, padded);
    for (int k = 0; k < c.depth(); ++k) std::memset(w.products + k * stride, 0, margin * sizeof(float));
    product<Fp32>(c.depth(), columns, c.out_channels, r.parameters + c.weight, padded, 1, w.turned_g, stride,
                  StoreProducts{w.products + margin, stride, nullptr});
    for (int channel = 0; channel < s.channels; ++channel)
      for (int y = c.border; y < c.in_h - c.border; ++y, to += s.width) {
        const float* row = chain_gradient_row(c, w.products + margin, stride, y, channel, w.row);
        write_gradient_row<1>(r, row + c.border, 1, to);
      }
  }
}

// The gradient of a convolution's results, from an image of the batch on.
inline Pixels given_gradient(const Run& r, int index, int first) {
  const auto& chain = r.member->chain;
  if (index + 1 < int(chain.size())) {
    const ChainConv& next = chain[index + 1];
    return inside_border(next, r.chain.gradients[(index + 1) % 2] + first * next.in_size());
  }
  const std::ptrdiff_t stride = r.member->dense[0].stride;
  return {r.dfeatures + first * stride, stride, std::ptrdiff_t(chain[index].result_w) * chain[index].out_channels};
}

// Training: the group's own sum of gradients. Attack: in front of the first convolution the gradient of its images.
inline void chain_backward(Run& r, int index, int group, const Workspace& w) {
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  const std::size_t size = r.member->chain[index].parameters();
  float* sums = nullptr;
  if (r.training) {
    sums = r.partial + group * size;
    std::memset(sums, 0, size * sizeof(float));
  }
  const Pixels given = given_gradient(r, index, first);
  if (index == 0 && !sums) return chain_image_gradient(r, first, last - first, given, w.chain);
  patches_backward(r, index, first, last - first, given, sums, w.chain);
}

}  // namespace atras::step::ATRAS_ISA
