// Forward pass of a convolution by tiles or pixels: transformed inputs times transformed weights.
#pragma once

#include "chain_transform.h"

namespace atras::step::ATRAS_ISA {

// A convolution's results, and what is kept of them for the backward pass.
struct Results2x2 {
  Pixels out;
  const float* bias;
  std::uint16_t* winners;
  float* slopes;
};

// Bias, activation and pool of the 2x2 results of a tile, for a vector of channels.
template <Activation A>
ATRAS_INLINE void finish_tile(const ChainConv& c, const Results2x2& f, vf (&z)[4], int image, int y, int x, int channel) {
  const vf bias = load(f.bias + channel);
  const int left = c.out_channels - channel, padded = c.out_padded();
  float* to = f.out.at + image * f.out.image_step + channel;
  const std::size_t kept = image * c.kept_size() + channel;
  if (c.window == 2) {
    Largest<A> largest(z[0] + bias);
#pragma GCC unroll 3
    for (int q = 1; q < 4; ++q) largest.take(z[q] + bias, q);
    const std::size_t own = kept + (y * std::size_t(c.result_w) + x) * padded;
    largest.finish(to + y * f.out.row_step + x * std::ptrdiff_t(c.out_channels), left, f.winners + own,
                   A == Activation::relu ? nullptr : f.slopes + own);
    return;
  }
  for (int q = 0; q < 4; ++q) {
    const int v = 2 * y + q / 2, u = 2 * x + q % 2;
    if (v >= c.result_h || u >= c.result_w) continue;
    const vf sum = z[q] + bias, value = activate<A>(sum);
    store_lanes(to + v * f.out.row_step + u * std::ptrdiff_t(c.out_channels), value, left);
    if (A != Activation::relu)
      store(f.slopes + kept + (v * std::size_t(c.result_w) + u) * padded, slope_at<A>(sum, value));
  }
}

template <bool Tiled, Activation A>
void finish_products(const ChainConv& c, const Results2x2& f, int first, int count, int column, int columns,
                     const float* products, std::ptrdiff_t component) {
  over_tiles(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    const float* from = products + std::ptrdiff_t(i) * kPanel;
    for (int o = 0; o < columns; o += V) {
      vf z[4] = {};
      if constexpr (Tiled) {
        Tile16 m;
#pragma GCC unroll 16
        for (int k = 0; k < kTileComponents; ++k) m[k] = load(from + k * component + o);
        return_results(m, z);
      } else {
        z[0] = load(from + o);
      }
      finish_tile<A>(c, f, z, image, y, x, column + o);
    }
  });
}

// Item: a chunk of tiles x one of `parts` of the panels of outputs.
template <class P, bool Tiled, Activation A>
void transformed_forward(const Run& r, int index, int item, int parts, const ChainWorkspace& w) {
  using Element = typename P::Element;
  constexpr int kCount = kNumbers<Tiled>;
  const ChainConv& c = r.member->chain[index];
  const int total = r.batch.rows * c.tiles(), chunks = elements_of(total, kTilesAtOnce), first = item % chunks * kTilesAtOnce;
  const int count = total - first < kTilesAtOnce ? total - first : kTilesAtOnce, width = round_up(c.in_channels, 2 * kLane);
  const std::ptrdiff_t component = component_of<P>(kTilesAtOnce, width), result = component_of<Fp32>(kTilesAtOnce, kPanel);
  over_tiles(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    for (int channel = 0; channel < c.in_channels; channel += V) {
      vf d[kCount];
      transformed_inputs<Tiled>(c, r.chain.inputs[index], image, y, x, channel, d);
#pragma GCC unroll 16
      for (int k = 0; k < kCount; ++k)
        put_number<P>(w.left, P::kPack * k * component + std::ptrdiff_t(i) * width + channel, d[k]);
    }
  });
  const Results2x2 results{results_of_chain(r, index, 0), r.parameters + c.bias, r.chain.winners[index],
                           r.chain.slopes[index]};
  const int depth = elements_of(c.in_channels, P::kPack), panels = panels_of(c.out_padded());
  for (int panel = item / chunks; panel < panels; panel += parts) {
    const int column = panel * kPanel, columns = c.out_padded() - column < kPanel ? c.out_padded() - column : kPanel;
    const float* weights = r.chain.turned + std::ptrdiff_t(panel) * kCount * depth * kPanel;
    for (int k = 0; k < kCount; ++k)
      product<P>(count, columns, depth, reinterpret_cast<const Element*>(w.left + k * component), width / P::kPack, 1,
                 weights + std::ptrdiff_t(k) * depth * kPanel, kPanel,
                 StoreProducts{w.products + k * result, kPanel, nullptr});
    finish_products<Tiled, A>(c, results, first, count, column, columns, w.products, result);
  }
}

template <class P, bool Tiled>
void transformed_forward(const Run& r, int index, int item, int parts, const ChainWorkspace& w) {
  switch (r.spec->activation) {
    case Activation::relu: return transformed_forward<P, Tiled, Activation::relu>(r, index, item, parts, w);
    case Activation::sigmoid: return transformed_forward<P, Tiled, Activation::sigmoid>(r, index, item, parts, w);
    case Activation::tanh: return transformed_forward<P, Tiled, Activation::tanh>(r, index, item, parts, w);
    case Activation::gelu: return transformed_forward<P, Tiled, Activation::gelu>(r, index, item, parts, w);
  }
}

// Calls f with the arithmetic and the way of a convolution that goes by tiles or pixels.
template <class F>
ATRAS_INLINE void as_transformed(const Run& r, const ChainConv& c, const F& f) {
  const std::true_type tiled{};
  const std::false_type single{};
  if (c.way == Way::tiles) return r.bf16 ? f(Bf16{}, tiled) : f(Fp32{}, tiled);
  return r.bf16 ? f(Bf16{}, single) : f(Fp32{}, single);
}

}  // namespace atras::step::ATRAS_ISA
