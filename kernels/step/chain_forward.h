// Forward pass of convolutions of a member's own: patches of some positions times the weights.
#pragma once

#include "chain_product.h"
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
ATRAS_INLINE void finish_chain_window(const ChainConv& c, const float* corner, float* to, int left,
                                      std::uint16_t* winners, float* slopes) {
  const std::ptrdiff_t padded = c.out_padded(), down = c.positions_w() * padded;
  vf best = load(corner), key = A == Activation::gelu ? activate<A>(best) : best;
  vi which{};
  int q = 0;
  const auto take = [&](const float* at) ATRAS_LAMBDA {
    const vf z = load(at);
    const vf other = A == Activation::gelu ? activate<A>(z) : z;
    const vi more = (other > key) | (other != other);
    key = more ? other : key;
    best = more ? z : best;
    which = more ? vi{} + q : which;
    ++q;
  };
  for (int y = 0; y < c.window; ++y)
    for (int x = 0; x < c.window; ++x) take(corner + y * down + x * padded);
  const vf y = A == Activation::gelu ? key : activate<A>(best);
  store_lanes(to, y, left);
  store_places(winners, which);
  if (A != Activation::relu) store(slopes, slope_at<A>(best, y));
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

template <Activation A>
void chain_conv_forward(const Run& r, int index, int first, int images, const ChainWorkspace& w) {
  const ChainConv& c = r.member->chain[index];
  const Pixels out = results_of_chain(r, index, first);
  const float *inputs = r.chain.inputs[index] + first * c.in_size(), *bias = r.parameters + c.bias;
  const std::size_t kept = first * c.kept_size();
  float* slopes = A == Activation::relu ? nullptr : r.chain.slopes[index] + kept;
  const int bands = images * c.result_h, columns = round_up(c.out_channels, V), padded = c.out_padded();
  for (int band = 0; band < bands; band += c.bands_at_once()) {
    const int left = bands - band, taken = left < c.bands_at_once() ? left : c.bands_at_once();
    const int at = band * c.band(), count = taken * c.band();
    const Patches patches = patches_at(c, inputs, at, count, w.offsets);
    const auto multiply = [&](const auto& done) ATRAS_LAMBDA {
      patch_product(count, columns, patches, r.parameters + c.weight, padded, done);
    };
    if (c.window > 1) {
      multiply(StoreProducts{w.products, padded, bias});
      finish_bands<A>(c, w.products, band, taken, out, r.chain.winners[index] + kept, slopes);
      continue;
    }
    over_positions(c, at, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
      w.result_offsets[i] = int(image * out.image_step + y * out.row_step) + x * c.out_channels;
    });
    multiply(FinishPositions<A>{out.at, w.result_offsets, A == Activation::relu ? nullptr : slopes + std::ptrdiff_t(at) * padded,
                                padded, bias, c.out_channels});
  }
}

inline void chain_conv_forward(const Run& r, int index, int first, int images, const ChainWorkspace& w) {
  switch (r.spec->activation) {
    case Activation::relu: return chain_conv_forward<Activation::relu>(r, index, first, images, w);
    case Activation::sigmoid: return chain_conv_forward<Activation::sigmoid>(r, index, first, images, w);
    case Activation::tanh: return chain_conv_forward<Activation::tanh>(r, index, first, images, w);
    case Activation::gelu: return chain_conv_forward<Activation::gelu>(r, index, first, images, w);
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
    read_image(r.batch, row, size, w.gradients[0]);
    interleave(s, c.border, w.gradients[0], to);
  }
}

inline void chain_forward(const Run& r, int group, const Workspace& w) {
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  const auto& chain = r.member->chain;
  load_chain_images(r, first, last, w.chain);
  for (int i = 0; i < int(chain.size()); ++i) {
    if (i > 0)
      for (int row = first; row < last; ++row) clear_border(chain[i], r.chain.inputs[i] + row * chain[i].in_size());
    chain_conv_forward(r, i, first, last - first, w.chain);
    if (r.training && chain[i].dropout_layer >= 0)
      for (int row = first; row < last; ++row) chain_dropout(r, i, row, w.bytes);
  }
  const Dense& d = r.member->dense[0];
  for (int row = first; row < last; ++row)
    std::memset(r.features + std::ptrdiff_t(row) * d.stride + d.in, 0, (d.stride - d.in) * sizeof(float));
}

}  // namespace atras::step::ATRAS_ISA
