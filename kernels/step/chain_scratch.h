// Memory for convolutions of members' own: of a member's step, and of a thread.
#pragma once

#include <algorithm>
#include <vector>

#include "run.h"

namespace atras::step {

// Hands out parts of a buffer; without one it only counts.
struct Arena {
  char* base = nullptr;
  std::size_t used = 0;

  template <class T>
  T* take(std::size_t count) {
    T* at = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (count * sizeof(T) + 63) / 64 * 64 + 64;  // a line between, against equal cache sets
    return at;
  }
};

constexpr std::size_t kPast = 2 * kLane;  // values that vectors read and write past the end of what they work on

// What a member's convolutions keep for the backward pass: for each place in a chain as much as any member's takes; and
// what the convolution at work needs.
struct ChainBuffers {
  std::vector<float*> inputs, slopes;
  std::vector<std::uint16_t*> winners;
  ChainScratch scratch{};
  std::size_t largest_result = 0, largest_sums = 0;

  void lay_out(Arena& a, const Spec& spec, const std::vector<Member>& members, std::size_t rows) {
    inputs.clear(), slopes.clear(), winners.clear();
    std::size_t longest = 0, turned = 0, kept_inputs = 0, g = 0, gradients[2] = {};
    for (const Member& m : members) longest = std::max(longest, m.chain.size());
    for (std::size_t i = 0; i < longest; ++i) {
      std::size_t in = 0, kept = 0, pooled = 0;
      for (const Member& m : members) {
        if (i >= m.chain.size()) continue;
        const ChainConv& c = m.chain[i];
        in = std::max(in, c.in_size());
        kept = std::max(kept, c.kept_size());
        if (c.window > 1) pooled = std::max(pooled, c.kept_size());
        largest_result = std::max(largest_result, c.result_size());
        if (i > 0) gradients[i % 2] = std::max(gradients[i % 2], c.in_size());
        turned = std::max(turned, turned_size(c));
        if (c.way == Way::patches) {
          largest_sums = std::max(largest_sums, c.parameters());
          continue;
        }
        kept_inputs = std::max(kept_inputs, kept_size(spec, c, rows));
        g = std::max(g, rows * c.kept_size());
      }
      inputs.push_back(a.take<float>(rows * in + kPast));
      slopes.push_back(spec.activation == Activation::relu ? nullptr : a.take<float>(rows * kept + kPast));
      winners.push_back(a.take<std::uint16_t>(pooled ? rows * pooled + kPast : 0));
    }
    if (longest == 0) return;
    scratch.turned = a.take<float>(turned + kPast);
    scratch.kept = a.take<float>(kept_inputs + kPast);
    scratch.g = a.take<float>(g + kPast);
    for (int i : {0, 1}) scratch.gradients[i] = a.take<float>(rows * gradients[i] + kPast);
  }

  // Weights as the products of either pass take them, in fp32 as evaluation does.
  static std::size_t turned_size(const ChainConv& c) {
    if (c.way == Way::patches) return std::size_t(c.out_padded()) * c.patch_stride();
    const std::size_t in = round_up(c.in_channels, 2), out = round_up(c.out_channels, 2);
    return c.components() * std::max(in * round_up(c.out_padded(), kPanel), out * round_up(c.in_padded(), kPanel));
  }

  // Transformed inputs, which only training keeps.
  static std::size_t kept_size(const Spec& spec, const ChainConv& c, std::size_t rows) {
    const std::size_t tiles = round_up(int(rows) * c.tiles(), 2) / (spec.bf16 ? 2 : 1);
    return c.components() * (tiles * row_stride(c.in_channels) + kLane);
  }

  ChainScratch pointers() {
    scratch.inputs = inputs.data(), scratch.slopes = slopes.data(), scratch.winners = winners.data();
    return scratch;
  }
};

// Most numbers that a thread's buffers take.
struct ChainExtents {
  std::size_t left = 0, right = 0, patches = 0, products = 0, g = 0, turned = 0, row = 0, image = 0, block = 0;

  void add_patches(const Spec& spec, const ChainConv& c, bool first) {
    const std::size_t padded = c.out_padded(), positions = std::size_t(c.images_at_once()) * c.positions();
    const std::size_t columns = row_stride(c.columns() + c.margin());
    patches = std::max(patches, std::size_t(c.block()) * c.patch_stride());
    products = std::max({products, c.block() * padded, positions * c.patch_stride()});
    g = std::max(g, positions * padded);
    block = std::max({block, std::size_t(c.block()), std::size_t(2 * c.in_w)});  // two numbers a pixel of a row
    if (!first) {
      if (!spec.bf16) return;
      const std::size_t pairs = round_up(c.block(), 2) / 2;
      left = std::max({left, c.block() * std::size_t(round_up(c.depth(), 2 * kLane) / 2), pairs * c.patch_stride(),
                       positions * (round_up(c.out_padded(), 2 * kLane) / 2)});
      right = std::max(right, pairs * padded);
      return;
    }
    products = std::max(products, c.depth() * columns);
    g = std::max(g, c.columns() * padded);
    turned = std::max(turned, padded * columns);
    row = std::max(row, std::size_t(2 * c.stride) * round_up(c.pitch() + 1, kLane) + 2 * c.in_w);
    image = std::size_t(spec.channels) * spec.height * spec.width;
  }

  void add_transformed(const ChainConv& c) {
    const std::size_t count = c.components(), rows = c.tile_images() * c.tiles(), wide = 2 * kLane;
    const std::size_t tiles = std::max<std::size_t>(rows, kTilesAtOnce);
    left = std::max({left, count * (kTilesAtOnce * std::size_t(round_up(c.in_channels, wide)) + kLane),
                     count * (rows * round_up(c.out_channels, wide) + kLane), count * (kTilesDeep * kPanel + kLane)});
    products = std::max({products, count * (tiles * kPanel + kLane), count * (kTileDepth * kPanel + kLane)});
  }
};

// Scratch of a thread.
inline ChainWorkspace lay_out_chain_workspace(Arena& a, const Spec& spec, const std::vector<Member>& members) {
  ChainExtents e;
  for (const Member& m : members)
    for (const ChainConv& c : m.chain)
      if (c.way == Way::patches) e.add_patches(spec, c, &c == &m.chain.front());
      else e.add_transformed(c);
  ChainWorkspace w{};
  w.left = a.take<float>(e.left + kPast);
  w.right = a.take<float>(e.right + kPast);
  w.patches = a.take<float>(e.patches + kPast);
  w.products = a.take<float>(e.products + kPast);
  w.g = a.take<float>(e.g + kPast);
  w.turned_g = a.take<float>(e.turned + kPast);
  w.row = a.take<float>(e.row + kPast);
  w.image = a.take<float>(e.image + kPast);
  w.offsets = a.take<int>(e.block + kPast);
  w.result_offsets = a.take<int>(e.block + kPast);
  return w;
}

}  // namespace atras::step
