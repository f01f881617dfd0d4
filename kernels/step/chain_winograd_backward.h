// Backward pass of a convolution by tiles or pixels, the adjoint of its forward pass.
#pragma once

#include "chain_winograd_forward.h"

namespace atras::step::ATRAS_ISA {

// Item: a chunk of tiles, whose transformed inputs the gradient of the weights takes.
template <class P, bool Tiled>
void keep_inputs(const Run& r, int index, int item) {
  constexpr int kCount = kNumbers<Tiled>;
  const ChainConv& c = r.member->chain[index];
  const int total = r.batch.rows * c.tiles(), first = item * kTilesAtOnce, width = row_stride(c.in_channels);
  const int count = total - first < kTilesAtOnce ? total - first : kTilesAtOnce;
  put_tiles<P, kCount>(c, first, count, c.in_channels, r.chain.kept + std::ptrdiff_t(first / P::kPack) * width, width,
                       component_of<P>(round_up(total, P::kPack), width),
                       [&](const TileAt& t, int channel, vf (&d)[kCount]) ATRAS_LAMBDA {
                         transformed_inputs<Tiled>(c, r.chain.inputs[index], t.image, t.y, t.x, channel, d);
                       });
}

// Item: some images x one of `parts` of the panels of input channels. The gradient of the inputs, border included.
template <bool Tiled>
void return_gradients(const ChainConv& c, int first, int count, int column, int columns, const float* products,
                      std::ptrdiff_t component, float* dx) {
  const std::ptrdiff_t row = std::ptrdiff_t(c.in_w) * c.in_channels;
  over_tiles(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    const float* from = products + std::ptrdiff_t(i) * kPanel;
    float* to = dx + image * c.in_size() + column;
    if (Tiled) to += 2 * y * row + 2 * std::ptrdiff_t(x) * c.in_channels;
    else to += c.border * (row + c.in_channels);
    const int rows = c.in_h - 2 * y, across = c.in_w - 2 * x;
    for (int o = 0; o < columns; o += V) {
      const int left = c.in_channels - column - o;
      if constexpr (!Tiled) {
        store_lanes(to + o, load(from + o), left);
      } else {
        Tile16 d;
#pragma GCC unroll 16
        for (int k = 0; k < kTileComponents; ++k) d[k] = load(from + k * component + o);
        return_inputs(d);
#pragma GCC unroll 16
        for (int k = 0; k < 16; ++k) {
          if (k / 4 >= rows || k % 4 >= across) continue;
          float* at = to + k / 4 * row + k % 4 * std::ptrdiff_t(c.in_channels) + o;
          store_lanes(at, load(at) + d[k], left);
        }
      }
    }
  });
}

// Zeros in some channels of images' gradients.
inline void clear_channels(const ChainConv& c, int image, int images, int column, int columns, float* dx) {
  const int left = c.in_channels - column, count = left < columns ? left : columns;
  float* to = dx + image * c.in_size() + column;
  for (std::ptrdiff_t pixel = 0; pixel < std::ptrdiff_t(images) * c.in_h * c.in_w; ++pixel)
    std::memset(to + pixel * c.in_channels, 0, count * sizeof(float));
}

template <class P, bool Tiled>
void transformed_input_gradient(const Run& r, int index, int item, int parts, const ChainWorkspace& w) {
  using Element = typename P::Element;
  constexpr int kCount = kNumbers<Tiled>;
  const ChainConv& c = r.member->chain[index];
  const int at_once = c.tile_images(), chunks = elements_of(r.batch.rows, at_once), image = item % chunks * at_once;
  const int images = r.batch.rows - image < at_once ? r.batch.rows - image : at_once, count = images * c.tiles();
  const int first = image * c.tiles(), width = round_up(c.out_channels, 2 * kLane), rows = at_once * c.tiles();
  const std::ptrdiff_t component = component_of<P>(rows, width), result = component_of<Fp32>(rows, kPanel);
  over_tiles(c, first, count, [&](int image, int y, int x, int i) ATRAS_LAMBDA {
    for (int o = 0; o < c.out_channels; o += V) {
      vf m[kCount];
      transformed_gradients<Tiled>(c, r.chain.g, r.chain.winners[index], image, y, x, o, m);
#pragma GCC unroll 16
      for (int k = 0; k < kCount; ++k)
        put_number<P>(w.left, P::kPack * k * component + std::ptrdiff_t(i) * width + o, m[k]);
    }
  });
  float* dx = r.chain.gradients[index % 2];
  const int depth = elements_of(c.out_channels, P::kPack), panels = panels_of(c.in_padded());
  for (int panel = item / chunks; panel < panels; panel += parts) {
    const int column = panel * kPanel, columns = c.in_padded() - column < kPanel ? c.in_padded() - column : kPanel;
    const float* weights = r.chain.turned + std::ptrdiff_t(panel) * kCount * depth * kPanel;
    for (int k = 0; k < kCount; ++k)
      product<P>(count, columns, depth, reinterpret_cast<const Element*>(w.left + k * component), width / P::kPack, 1,
                 weights + std::ptrdiff_t(k) * depth * kPanel, kPanel,
                 StoreProducts{w.products + k * result, kPanel, nullptr});
    if (Tiled) clear_channels(c, image, images, column, columns, dx);
    return_gradients<Tiled>(c, first, count, column, columns, w.products, result, dx);
  }
}

// Transformed gradients of some tiles and a panel of outputs.
template <class P, bool Tiled>
void gradient_panel(const Run& r, int index, int first, int count, int column, int columns, float* to,
                    std::ptrdiff_t component) {
  constexpr int kCount = kNumbers<Tiled>;
  const ChainConv& c = r.member->chain[index];
  put_tiles<P, kCount>(c, first, count, columns, to, kPanel, component,
                       [&](const TileAt& t, int channel, vf (&m)[kCount]) ATRAS_LAMBDA {
                         transformed_gradients<Tiled>(c, r.chain.g, r.chain.winners[index], t.image, t.y, t.x,
                                                      column + channel, m);
                       });
}

// The optimizer's step for some input channels from `first` on, out of gradients of the transformed weights.
template <bool Tiled>
void update_transformed(const Run& r, const ChainConv& c, int first, int count, int column, int columns,
                        const float* sums, std::ptrdiff_t component) {
  const std::size_t padded = c.out_padded(), tap = std::size_t(c.in_channels) * padded;
  const std::size_t start = Tiled ? c.weight : c.point_weight();
  constexpr int kTaps = Tiled ? 9 : 1;
  for (int in = 0; in < count; ++in) {
    const std::size_t own = start + (first + in) * padded + column;
    for (int o = 0; o < columns; o += V) {
      const float* from = sums + std::ptrdiff_t(in) * kPanel + o;
      for (int k = 0; k < kTaps && o % kLane == 0; ++k) {  // the next channel's, which hardware does not foresee
        const std::size_t next = own + 2 * padded + k * tap + o;
        __builtin_prefetch(r.parameters + next, 1);
        __builtin_prefetch(r.first_moment + next, 1);
        __builtin_prefetch(r.second_moment + next, 1);
      }
      if constexpr (Tiled) {
        Tile16 u;
        vf taps[9];
#pragma GCC unroll 16
        for (int k = 0; k < kTileComponents; ++k) u[k] = load(from + k * component);
        return_weights(u, taps);
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) update_at(r, own + k * tap + o, taps[k]);
      } else {
        update_at(r, own + o, load(from));
      }
    }
  }
}

// Weights that meet no pixel have no gradient, but may have moments from elsewhere.
inline void update_other_taps(const Run& r, const ChainConv& c, int first, int count, int column, int columns) {
  const std::size_t padded = c.out_padded();
  for (int k = 0; k < c.kernel * c.kernel; ++k) {
    const std::size_t start = c.weight + (std::size_t(k) * c.in_channels + first) * padded + column;
    if (start == c.point_weight() + first * padded + column) continue;
    for (int in = 0; in < count; ++in)
      for (int o = 0; o < columns; o += V) update_at(r, start + in * padded + o, vf{});
  }
}

inline void update_chain_bias(const Run& r, const ChainConv& c, int column, int columns) {
  const std::size_t rows = std::size_t(r.batch.rows) * c.result_h * c.result_w, padded = c.out_padded();
  for (int o = column; o < column + columns; o += V) {
    vf total{};
    for (std::size_t row = 0; row < rows; ++row) total += load(r.chain.g + row * padded + o);
    update_at(r, c.bias + o, total);
  }
}

// Item: a panel of outputs x a block of input channels.
template <class P, bool Tiled>
void transformed_update(const Run& r, int index, int item, const ChainWorkspace& w) {
  using Element = typename P::Element;
  constexpr int kCount = kNumbers<Tiled>;
  const ChainConv& c = r.member->chain[index];
  const int panels = panels_of(c.out_padded()), column = item % panels * kPanel, first = item / panels * kTileDepth;
  const int columns = c.out_padded() - column < kPanel ? c.out_padded() - column : kPanel;
  const int inputs = c.in_channels - first < kTileDepth ? c.in_channels - first : kTileDepth;
  const int total = r.batch.rows * c.tiles(), width = row_stride(c.in_channels);
  const std::ptrdiff_t kept = component_of<P>(round_up(total, P::kPack), width);
  const std::ptrdiff_t right = component_of<P>(kTilesDeep, kPanel), sums = component_of<Fp32>(kTileDepth, kPanel);
  for (int tile = 0; tile < total; tile += kTilesDeep) {
    const int count = total - tile < kTilesDeep ? total - tile : kTilesDeep;
    gradient_panel<P, Tiled>(r, index, tile, count, column, columns, w.left, right);
    for (int k = 0; k < kCount; ++k) {
      const float* from = r.chain.kept + k * kept + std::ptrdiff_t(tile / P::kPack) * width + first;
      const auto multiply = [&](const auto& done) {
        product<P>(inputs, columns, elements_of(count, P::kPack), reinterpret_cast<const Element*>(from), 1, width,
                   w.left + k * right, kPanel, done);
      };
      if (tile == 0) multiply(StoreProducts{w.products + k * sums, kPanel, nullptr});
      else multiply(AddProducts{w.products + k * sums, kPanel});
    }
  }
  update_transformed<Tiled>(r, c, first, inputs, column, columns, w.products, sums);
  if (!Tiled && (c.moves_all || !r.update.plain)) update_other_taps(r, c, first, inputs, column, columns);
  if (first == 0) update_chain_bias(r, c, column, columns);
}

}  // namespace atras::step::ATRAS_ISA
