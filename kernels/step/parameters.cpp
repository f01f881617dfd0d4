// A population's parameters and moments, in and out.
#include <algorithm>
#include <cstring>

#include "engine.h"

namespace atras::step {

namespace {

// Whether weights that meet no pixel of a single one have moments.
bool any_beside_point(const ChainConv& c, const float* moments) {
  if (c.way != Way::point) return false;
  const std::size_t tap = std::size_t(c.in_channels) * c.out_padded();
  for (std::size_t i = 0; i < c.kernel * c.kernel * tap; ++i)
    if (moments[c.weight + i] != 0.0f && (c.weight + i < c.point_weight() || c.weight + i >= c.point_weight() + tap))
      return true;
  return false;
}

}  // namespace

void Step::reset_optimizer() {
  std::memset(first_.data(), 0, first_.bytes());
  if (second_.data()) std::memset(second_.data(), 0, second_.bytes());
  std::fill(steps_.begin(), steps_.end(), 0);
}

void Step::copy_array(int member, int array, int moment, float* values, bool in) {
  Member& m = members_[member];
  const bool average = moment > 1 + int(spec_.adam);
  const Buffer& buffer = moment == 0 ? parameters_ : average ? average_ : moment == 1 ? first_ : second_;
  float* base = reinterpret_cast<float*>(buffer.data()) + m.offset;
  const auto copy = [in](float& internal, float& external) { (in ? internal : external) = in ? external : internal; };
  const bool own = !m.chain.empty();
  const int layer = array / 2, convs = int(own ? m.chain.size() : stem_.convs.size());
  if (own && layer < convs) {
    ChainConv& c = m.chain[layer];
    const int taps = c.kernel * c.kernel;
    for (int o = 0; o < c.out_channels; ++o) {
      if (array % 2) {
        copy(base[c.bias + o], values[o]);
        continue;
      }
      for (int i = 0; i < c.in_channels; ++i)
        for (int k = 0; k < taps; ++k)
          copy(base[c.weight + (std::size_t(k) * c.in_channels + i) * c.out_padded() + o],
               values[(std::size_t(o) * c.in_channels + i) * taps + k]);
    }
    if (in && moment > 0 && !average) c.moves_all = c.moves_all || any_beside_point(c, base);
    return;
  }
  if (layer < convs) {
    const Conv& c = stem_.convs[layer];
    if (array % 2) {
      for (int o = 0; o < c.out_channels; ++o) copy(base[c.bias + o], values[o]);
      return;
    }
    const bool first = c.in_channels < kBlock;
    for (int o = 0; o < c.out_channels; ++o)
      for (int i = 0; i < c.in_channels; ++i)
        for (int k = 0; k < 9; ++k) {
          const std::size_t at = first ? std::size_t(k * c.in_channels + i) * c.out_channels + o
                                       : ((std::size_t(i / kBlock) * c.out_channels + o) * 9 + k) * kBlock + i % kBlock;
          copy(base[c.weight + at], values[(std::size_t(o) * c.in_channels + i) * 9 + k]);
        }
    return;
  }
  const Dense& d = m.dense[layer - convs];
  if (array % 2) {
    for (int o = 0; o < d.out; ++o) copy(base[d.bias + o], values[o]);
    return;
  }
  const bool after_convolutions = layer == convs && convs > 0;
  int pixels = 1, block = kBlock;
  if (after_convolutions) {
    pixels = own ? m.chain.back().result_h * m.chain.back().result_w
                 : stem_.convs.back().result_h * stem_.convs.back().result_w;
    if (own) block = m.chain.back().out_channels;
  }
  for (int o = 0; o < d.out; ++o)
    for (int i = 0; i < d.in; ++i) {
      // torch flattens [C][H][W]; ours is [C/32][H][W][32], or [H][W][C] after convolutions of a member's own.
      const int channel = i / pixels, pixel = i % pixels;
      const int at = after_convolutions ? (channel / block * pixels + pixel) * block + channel % block : i;
      copy(base[d.weight + std::size_t(o) * d.stride + at], values[std::size_t(o) * d.in + i]);
    }
}

}  // namespace atras::step
