// The phases of a convolution of a member's own, whichever way its products are taken.
#pragma once

#include "chain_backward.h"
#include "chain_winograd_backward.h"

namespace atras::step::ATRAS_ISA {

// Item: a block of the weights as the products of the pass take them.
inline void chain_prepare(const Run& r, int index, int item, bool backward) {
  const ChainConv& c = r.member->chain[index];
  if (c.way == Way::patches) {
    if (!backward) return pair_weights(r, index, item);
    return rounds_patches(r, index) ? turn_weights<Bf16>(r, index, item) : turn_weights<Fp32>(r, index, item);
  }
  as_transformed(r, c, [&](auto arithmetic, auto tiled) {
    using P = decltype(arithmetic);
    if (backward) transform_backward_weights<P, decltype(tiled)::value>(r, c, item);
    else transform_forward_weights<P, decltype(tiled)::value>(r, c, item);
  });
}

// Item: a group of images, or a chunk of tiles x one of `parts` of the outputs.
inline void chain_forward(const Run& r, int index, int item, int parts, const Workspace& w) {
  const ChainConv& c = r.member->chain[index];
  if (c.way == Way::patches) {
    const int first = item * r.group, left = r.batch.rows - first;
    return patches_forward(r, index, first, left < r.group ? left : r.group, w.chain);
  }
  as_transformed(r, c, [&](auto arithmetic, auto tiled) {
    transformed_forward<decltype(arithmetic), decltype(tiled)::value>(r, index, item, parts, w.chain);
  });
}

inline void chain_keep(const Run& r, int index, int item) {
  as_transformed(r, r.member->chain[index], [&](auto arithmetic, auto tiled) {
    keep_inputs<decltype(arithmetic), decltype(tiled)::value>(r, index, item);
  });
}

// Gradients of what the activation takes, at the results of a group of images.
inline void chain_gradient(const Run& r, int index, int group) {
  const ChainConv& c = r.member->chain[index];
  const int first = group * r.group, end = first + r.group, last = end < r.batch.rows ? end : r.batch.rows;
  const Pixels given = given_gradient(r, index, 0), results = results_of_chain(r, index, 0);
  const float* slopes = r.chain.slopes[index];
  const float scale = dropout_scale(r, c);
  const int padded = c.out_padded();
  std::size_t kept = first * c.kept_size();
  for (int image = first; image < last; ++image)
    for (int y = 0; y < c.result_h; ++y)
      for (int x = 0; x < c.result_w; ++x, kept += padded) {
        const std::ptrdiff_t pixel = std::ptrdiff_t(x) * c.out_channels;
        const float* up = given.at + image * given.image_step + y * given.row_step + pixel;
        const float* result = results.at + image * results.image_step + y * results.row_step + pixel;
        for (int o = 0; o < padded; o += V)
          store(r.chain.g + kept + o, through_activation(load(up + o), result + o, slopes ? slopes + kept + o : nullptr,
                                                         scale, c.out_channels - o));
      }
}

inline void chain_input_gradient(const Run& r, int index, int item, int parts, const Workspace& w) {
  as_transformed(r, r.member->chain[index], [&](auto arithmetic, auto tiled) {
    transformed_input_gradient<decltype(arithmetic), decltype(tiled)::value>(r, index, item, parts, w.chain);
  });
}

inline void chain_update(const Run& r, int index, int item, const Workspace& w) {
  const ChainConv& c = r.member->chain[index];
  if (c.way == Way::patches) return update_from_groups(r, c.weight, c.parameters(), item);
  as_transformed(r, c, [&](auto arithmetic, auto tiled) {
    transformed_update<decltype(arithmetic), decltype(tiled)::value>(r, index, item, w.chain);
  });
}

}  // namespace atras::step::ATRAS_ISA
