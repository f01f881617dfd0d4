// Forward pass of convolutions of a member's own: patches of some positions times the weights.
#pragma once

#include "chain_product.h"
#include "dense.h"
#include "stem_forward.h"

namespace atras::step::ATRAS_ISA {

// Images' pixels: (y, x) of an image lies at `at + image * image_step + y * row_step + x * channels`.
struct Pixels {
  float* at;
  std::ptrdiff_t image_step, row_step;
};

// What is inside the border of a convolution's inputs.
ATRAS_INLINE Pixels inside_border(const ChainConv& c, float* inputs) {
  const std::ptrdiff_t row = std::ptrdiff_t(c.in_w) * c.in_channels;
  return {inputs + c.border * (row + c.in_channels), std::ptrdiff_t(c.in_size()), row};
}

// Results of a convolution, from an image of the batch on: the next one's inputs, or the features.
inline Pixels results_of_chain(const Run& r, int index, int image) {
  const auto& chain = r.member->chain;
  const std::ptrdiff_t stride = r.member->dense[0].stride;
  if (index + 1 == int(chain.size()))
    return {r.features + image * stride, stride, std::ptrdiff_t(chain[index].result_w) * chain[index].out_channels};
  return inside_border(chain[index + 1], r.chain.inputs[index + 1] + image * chain[index + 1].in_size());
}

// The first n lanes.
ATRAS_INLINE void store_lanes(float* to, vf x, int n) {
  if (n >= V) return store(to, x);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), (__m512)x);
#else
  for (int i = 0; i < n; ++i) to[i] = x[i];
#endif
}

ATRAS_INLINE vf first_lanes(vf x, int n) {
  vi lane;
  for (int i = 0; i < V; ++i) lane[i] = i;
  return lane < n ? x : vf{};
}

inline void clear_border(const ChainConv& c, float* image) {
  if (c.border == 0) return;
  const std::size_t row = std::size_t(c.in_w) * c.in_channels, side = std::size_t(c.border) * c.in_channels;
  std::memset(image, 0, c.border * row * sizeof(float));
  std::memset(image + (c.in_h - c.border) * row, 0, c.border * row * sizeof(float));
  for (int y = c.border; y < c.in_h - c.border; ++y) {
    std::memset(image + y * row, 0, side * sizeof(float));
    std::memset(image + (y + 1) * row - side, 0, side * sizeof(float));
  }
}

// Takes products to activations where there is no pool.
template <Activation A>
struct FinishPositions {
  float* results;
  const int* offsets;  // of each position
  float* slopes;
  std::ptrdiff_t padded;
  const float* bias;
  int channels;
  static constexpr bool kFetches = false;
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    const vf z = value + load(bias + column), y = activate<A>(z);
    store_lanes(results + offsets[row] + column, y, channels - column);
    if (A != Activation::relu) store(slopes + row * padded + column, slope_at<A>(z, y));
  }
};

// to[row][column] = the product, with a bias where there is one.
struct StoreProducts {
  float* to;
  std::ptrdiff_t stride;
  const float* bias;
  static constexpr bool kFetches = false;
  ATRAS_INLINE void operator()(int row, int column, vf value) const {
    store(to + row * stride + column, bias ? value + load(bias + column) : value);
  }
};

ATRAS_INLINE void store_places(std::uint16_t* to, vi places) {
  const vh narrow = __builtin_convertvector(places, vh);
  std::memcpy(to, &narrow, sizeof narrow);
}

// The largest of a window, as torch has it: of equals the first, and a NaN before all. gelu is not monotonic, so it goes
// before the maximum.
template <Activation A>
struct Largest {
  vf best, key;
  vi which{};

  ATRAS_INLINE explicit Largest(vf z) : best(z), key(A == Activation::gelu ? activate<A>(z) : z) {}
  ATRAS_INLINE void take(vf z, int q) {
    const vf other = A == Activation::gelu ? activate<A>(z) : z;
    const vi more = (other > key) | (other != other);
    key = more ? other : key;
    best = more ? z : best;
    which = more ? vi{} + q : which;
  }
  ATRAS_INLINE void finish(float* to, int left, std::uint16_t* winners, float* slopes) const {
    const vf y = A == Activation::gelu ? key : activate<A>(best);
    store_lanes(to, y, left);
    store_places(winners, which);
    if (A != Activation::relu) store(slopes, slope_at<A>(best, y));
  }
};

template <Activation A>
ATRAS_INLINE void finish_chain_window(const ChainConv& c, const float* corner, float* to, int left,
                                      std::uint16_t* winners, float* slopes) {
  const std::ptrdiff_t padded = c.out_padded(), down = c.positions_w() * padded;
  Largest<A> largest(load(corner));
  int q = 0;
  for (int y = 0; y < c.window; ++y)
    for (int x = 0; x < c.window; ++x, ++q)
      if (q > 0) largest.take(load(corner + y * down + x * padded), q);
  largest.finish(to, left, winners, slopes);
}

// Windows of some rows of results, from number `first` of the images on.
template <Activation A>
void finish_bands(const ChainConv& c, const float* products, int first, int bands, const Pixels& out,
                  std::uint16_t* winners, float* slopes) {
  const int padded = c.out_padded();
  for (int band = 0; band < bands; ++band) {
    const int image = (first + band) / c.result_h, y = (first + band) % c.result_h;
    for (int x = 0; x < c.result_w; ++x) {
      const float* corner = products + (std::ptrdiff_t(band) * c.band() + x * c.window) * padded;
      float* to = out.at + image * out.image_step + y * out.row_step + std::ptrdiff_t(x) * c.out_channels;
      const std::size_t kept = (std::size_t(first + band) * c.result_w + x) * padded;
      for (int o = 0; o < c.out_channels; o += V)
        finish_chain_window<A>(c, corner + o, to + o, c.out_channels - o, winners + kept + o,
                               A == Activation::relu ? nullptr : slopes + kept + o);
    }
  }
}

// Calls f(image, y, x, number) for `count` positions from number `first` of the images on, numbered from 0.
template <class F>
ATRAS_INLINE void over_positions(const ChainConv& c, int first, int count, const F& f) {
  const int width = c.positions_w(), positions = c.positions();
  int image = first / positions, y = first % positions / width, x = first % width;
  for (int i = 0; i < count; ++i) {
    f(image, y, x, i);
    if (++x < width) continue;
    x = 0;
    if (++y == c.positions_h()) y = 0, ++image;
  }
}

inline Patches patches_at(const ChainConv& c, const float* images, int first, int count, int* offsets) {
  const int row = c.in_w * c.in_channels;
  over_positions(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    offsets[i] = int(image * c.in_size()) + y * c.stride * row + x * c.stride * c.in_channels;
  });
  return {images, offsets, c.kernel, c.kernel * c.in_channels, row};
}

// to[position][patch_stride] = the patches at `count` positions of images, from number `first` on. Vectors write past a
// row of the kernel, and past a patch, what the next ones replace.
inline void gather_patches(const ChainConv& c, const float* images, int first, int count, float* to) {
  const int run = c.kernel * c.in_channels;
  const std::ptrdiff_t row = std::ptrdiff_t(c.in_w) * c.in_channels, stride = c.patch_stride();
  over_positions(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    const float* from = images + image * c.in_size() + y * c.stride * row + x * c.stride * c.in_channels;
    for (int k = 0; k < c.kernel; ++k)
      for (int j = 0; j < run; j += V) store(to + i * stride + k * run + j, load(from + k * row + j));
  });
}

// The first convolution, whose patches are short, computes in fp32 even where training is in bf16.
ATRAS_INLINE bool rounds_patches(const Run& r, int index) { return r.bf16 && index > 0; }

// Products of the patches at some positions and the weights, which are paired where they are of bf16.
template <class Done>
void multiply_patches(const Run& r, int index, const float* inputs, int first, int count, const ChainWorkspace& w,
                      const Done& done) {
  const ChainConv& c = r.member->chain[index];
  const int columns = round_up(c.out_channels, V), padded = c.out_padded(), depth = c.depth();
  if (!rounds_patches(r, index))
    return patch_product(count, columns, patches_at(c, inputs, first, count, w.offsets), r.parameters + c.weight, padded,
                         done);
  gather_patches(c, inputs, first, count, w.patches);
  for (int i = 0; depth % 2 && i < count; ++i) w.patches[std::ptrdiff_t(i) * c.patch_stride() + depth] = 0.0f;
  to_bf16(w.patches, c.patch_stride(), count, round_up(depth, kLane), reinterpret_cast<std::uint16_t*>(w.left),
          2 * paired(depth));
  product<Bf16>(count, columns, elements_of(depth, 2), reinterpret_cast<const std::uint32_t*>(w.left), paired(depth), 1,
                r.chain.turned, padded, done);
}

// Item: a block of rows of the weights as pairs of bf16.
inline void pair_weights(const Run& r, int index, int item) {
  const ChainConv& c = r.member->chain[index];
  const int first = item * kTurnBlock, left = c.depth() - first, padded = c.out_padded();
  pair_rows(r.parameters + c.weight + std::ptrdiff_t(first) * padded, padded, left < kTurnBlock ? left : kTurnBlock, padded,
            r.chain.turned + std::ptrdiff_t(first / 2) * padded, padded);
}

template <Activation A>
void patches_forward(const Run& r, int index, int first, int images, const ChainWorkspace& w) {
  const ChainConv& c = r.member->chain[index];
  const Pixels out = results_of_chain(r, index, first);
  const float *inputs = r.chain.inputs[index] + first * c.in_size(), *bias = r.parameters + c.bias;
  const std::size_t kept = first * c.kept_size();
  float* slopes = A == Activation::relu ? nullptr : r.chain.slopes[index] + kept;
  const int bands = images * c.result_h, padded = c.out_padded();
  for (int band = 0; band < bands; band += c.bands_at_once()) {
    const int left = bands - band, taken = left < c.bands_at_once() ? left : c.bands_at_once();
    const int at = band * c.band(), count = taken * c.band();
    if (c.window > 1) {
      multiply_patches(r, index, inputs, at, count, w, StoreProducts{w.products, padded, bias});
      finish_bands<A>(c, w.products, band, taken, out, r.chain.winners[index] + kept, slopes);
      continue;
    }
    over_positions(c, at, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
      w.result_offsets[i] = int(image * out.image_step + y * out.row_step) + x * c.out_channels;
    });
    multiply_patches(r, index, inputs, at, count, w,
                     FinishPositions<A>{out.at, w.result_offsets,
                                        A == Activation::relu ? nullptr : slopes + std::ptrdiff_t(at) * padded, padded,
                                        bias, c.out_channels});
  }
}

inline void patches_forward(const Run& r, int index, int first, int images, const ChainWorkspace& w) {
  switch (r.spec->activation) {
    case Activation::relu: return patches_forward<Activation::relu>(r, index, first, images, w);
    case Activation::sigmoid: return patches_forward<Activation::sigmoid>(r, index, first, images, w);
    case Activation::tanh: return patches_forward<Activation::tanh>(r, index, first, images, w);
    case Activation::gelu: return patches_forward<Activation::gelu>(r, index, first, images, w);
  }
}

// Draws the mask of an image's results as it multiplies them; positions count pixel by pixel, channels innermost.
inline void chain_dropout(const Run& r, int index, int row, std::uint8_t* bytes) {
  const ChainConv& c = r.member->chain[index];
  const Pixels out = results_of_chain(r, index, row);
  float* slopes = r.chain.slopes[index] ? r.chain.slopes[index] + row * c.kept_size() : nullptr;
  const std::uint64_t first = std::uint64_t(row) * c.result_size(), past = first % 16;
  random_bytes(r, c.dropout_layer, first - past, past + c.result_size(), bytes);
  bytes += past;
  for (int y = 0; y < c.result_h; ++y)
    for (int x = 0; x < c.result_w; ++x, bytes += c.out_channels)
      for (int o = 0; o < c.out_channels; o += V) {
        const vf keep = keep_scale(bytes + o, c.rate256);
        float* to = out.at + y * out.row_step + std::ptrdiff_t(x) * c.out_channels + o;
        store_lanes(to, load(to) * keep, c.out_channels - o);
        if (!slopes) continue;
        float* slope = slopes + (std::ptrdiff_t(y) * c.result_w + x) * c.out_padded() + o;
        store(slope, load(slope) * keep);
      }
}

inline void load_chain_images(const Run& r, int first, int last, const ChainWorkspace& w) {
  const Spec& s = *r.spec;
  const ChainConv& c = r.member->chain[0];
  const std::int64_t size = std::int64_t(s.channels) * s.height * s.width;
  for (int row = first; row < last; ++row) {
    float* to = r.chain.inputs[0] + row * c.in_size();
    if (s.channels == 1 && c.border == 0) {
      read_image(r.batch, row, size, to);
      continue;
    }
    clear_border(c, to);
    read_image(r.batch, row, size, w.image);
    interleave(s, c.border, w.image, to);
  }
}

// What lies in front of a convolution, or with the number past the last one behind it, for a group of images: the images,
// or dropout of the results before it, and zeros around them.
inline void chain_enter(const Run& r, int index, int group, const Workspace& w) {
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  const auto& chain = r.member->chain;
  if (index == 0) return load_chain_images(r, first, last, w.chain);
  if (r.training && chain[index - 1].dropout_layer >= 0)
    for (int row = first; row < last; ++row) chain_dropout(r, index - 1, row, w.bytes);
  if (index < int(chain.size())) {
    for (int row = first; row < last; ++row)
      clear_border(chain[index], r.chain.inputs[index] + row * chain[index].in_size());
    return;
  }
  const Dense& d = r.member->dense[0];
  for (int row = first; row < last; ++row)
    std::memset(r.features + std::ptrdiff_t(row) * d.stride + d.in, 0, (d.stride - d.in) * sizeof(float));
}

}  // namespace atras::step::ATRAS_ISA
