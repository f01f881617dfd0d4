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

// What a member's convolutions keep for the backward pass: for each place in a chain as much as any member's takes.
struct ChainBuffers {
  std::vector<float*> inputs, turned, slopes;
  std::vector<std::uint16_t*> winners;
  std::size_t largest_result = 0;

  void lay_out(Arena& a, const Spec& spec, const std::vector<Member>& members, std::size_t rows) {
    inputs.clear(), turned.clear(), slopes.clear(), winners.clear();
    std::size_t longest = 0;
    for (const Member& m : members) longest = std::max(longest, m.chain.size());
    for (std::size_t i = 0; i < longest; ++i) {
      std::size_t in = 0, weights = 0, kept = 0, pooled = 0;
      for (const Member& m : members) {
        if (i >= m.chain.size()) continue;
        const ChainConv& c = m.chain[i];
        in = std::max(in, c.in_size());
        weights = std::max(weights, std::size_t(c.out_padded()) * c.patch_stride());
        kept = std::max(kept, c.kept_size());
        if (c.window > 1) pooled = std::max(pooled, c.kept_size());
        largest_result = std::max(largest_result, c.result_size());
      }
      inputs.push_back(a.take<float>(rows * in + kPast));
      turned.push_back(a.take<float>(weights + kPast));
      slopes.push_back(spec.activation == Activation::relu ? nullptr : a.take<float>(rows * kept + kPast));
      winners.push_back(a.take<std::uint16_t>(pooled ? rows * pooled + kPast : 0));
    }
  }

  ChainScratch pointers() { return {inputs.data(), turned.data(), slopes.data(), winners.data()}; }
};

// Scratch of a thread that works on groups of so many images.
inline ChainWorkspace lay_out_chain_workspace(Arena& a, const Spec& spec, const std::vector<Member>& members,
                                              int group) {
  std::size_t patches = 0, products = 0, g = 0, turned = 0, row = 0, in = 0, block = 0;
  for (const Member& m : members)
    for (const ChainConv& c : m.chain) {
      const std::size_t padded = c.out_padded(), positions = std::size_t(c.images_at_once()) * c.positions();
      const std::size_t columns = row_stride(c.columns() + c.margin());
      patches = std::max(patches, std::size_t(c.block()) * c.patch_stride());
      products = std::max({products, c.block() * padded, positions * c.patch_stride()});
      g = std::max(g, positions * padded);
      in = std::max(in, c.in_size());
      block = std::max({block, std::size_t(c.block()), std::size_t(2 * c.in_w)});  // two numbers a pixel of a row
      if (&c != &m.chain.front()) continue;
      products = std::max(products, c.depth() * columns);
      g = std::max(g, c.columns() * padded);
      turned = std::max(turned, padded * columns);
      row = std::max(row, std::size_t(2 * c.stride) * round_up(c.pitch() + 1, kLane) + 2 * c.in_w);
      in = std::max(in, std::size_t(spec.channels) * spec.height * spec.width);
    }
  ChainWorkspace w{};
  w.patches = a.take<float>(patches + kPast);
  w.products = a.take<float>(products + kPast);
  w.g = a.take<float>(g + kPast);
  w.turned_g = a.take<float>(turned + kPast);
  w.row = a.take<float>(row + kPast);
  for (float*& each : w.gradients) each = a.take<float>(group * in + kPast);
  w.offsets = a.take<int>(block + kPast);
  w.result_offsets = a.take<int>(block + kPast);
  return w;
}

}  // namespace atras::step
