#include "layout.h"

#include <stdexcept>

namespace atras::step {
namespace {

std::size_t take(std::size_t& next, std::size_t count) {
  const std::size_t at = next;
  next += (count + kLane - 1) / kLane * kLane;
  return at;
}

Conv make_conv(int in_channels, int out_channels, int in_h, int in_w, bool pool, int next_border, int dropout_layer) {
  Conv c{};
  c.in_channels = in_channels;
  c.out_channels = out_channels;
  c.in_h = in_h;
  c.in_w = in_w;
  c.out_h = in_h - 2;
  c.out_w = in_w - 2;
  c.pool = pool;
  c.dropout_layer = dropout_layer;
  c.result_h = pool ? c.out_h / 2 : c.out_h;
  c.result_w = pool ? c.out_w / 2 : c.out_w;
  c.border = next_border;
  c.store_h = c.result_h + 2 * next_border;
  c.store_w = c.result_w + 2 * next_border;
  return c;
}

// The first convolution has few channels, and the gradient of the images to yield.
Way way_of(const ChainConv& c, bool first) {
  if (first) return Way::patches;
  const int inside_h = c.in_h - 2 * c.border, inside_w = c.in_w - 2 * c.border;
  if (inside_h == 1 && inside_w == 1 && c.positions() == 1 && (c.in_h - c.kernel) / c.stride == 0) return Way::point;
  const bool wide = c.in_channels >= kLane && c.out_channels >= kLane && c.positions_h() > 1 && c.positions_w() > 1;
  return wide && c.kernel == 3 && c.stride == 1 && c.window <= 2 ? Way::tiles : Way::patches;
}

std::vector<ChainConv> make_chain(const Spec& s, const std::vector<ChainLayer>& layers, std::size_t& size) {
  std::vector<ChainConv> chain;
  int channels = s.channels, height = s.height, width = s.width;
  for (const auto& [filters, kernel, stride, padding, pool, rate256] : layers) {
    ChainConv c{};
    c.in_channels = channels;
    c.out_channels = filters;
    c.kernel = kernel;
    c.stride = stride;
    c.border = padding;
    c.in_h = height + 2 * padding;
    c.in_w = width + 2 * padding;
    c.window = pool < 1 ? 1 : pool;
    c.result_h = ((c.in_h - kernel) / stride + 1) / c.window;
    c.result_w = ((c.in_w - kernel) / stride + 1) / c.window;
    c.dropout_layer = rate256 ? int(chain.size()) : -1;
    c.rate256 = rate256;
    c.way = way_of(c, chain.empty());
    c.weight = take(size, c.weight_size());
    c.bias = take(size, c.out_padded());
    channels = filters;
    height = c.result_h;
    width = c.result_w;
    chain.push_back(c);
  }
  return chain;
}

}  // namespace

Stem make_stem(const Spec& s) {
  Stem stem{};
  if (s.stem == 0) {
    stem.features = s.channels * s.height * s.width;
    stem.image_size = row_stride(stem.features);
    return stem;
  }
  if (s.height < 10 || s.width < 10)
    throw std::invalid_argument("step: images of " + std::to_string(s.height) + "x" + std::to_string(s.width) +
                  " are too small for a convolutional stem; expected 10x10 or more, or stem none");
  auto& convs = stem.convs;
  if (s.stem == 2) {
    convs.push_back(make_conv(s.channels, 32, s.height, s.width, true, 0, -1));
    convs.push_back(make_conv(32, 64, convs[0].store_h, convs[0].store_w, true, 0, -1));
  } else {
    stem.image_border = 1;
    convs.push_back(make_conv(s.channels, 32, s.height + 2, s.width + 2, false, 0, -1));
    convs.push_back(make_conv(32, 32, convs[0].store_h, convs[0].store_w, true, 1, s.stem_rate256 ? 1 : -1));
    convs.push_back(make_conv(32, 64, convs[1].store_h, convs[1].store_w, false, 0, -1));
    convs.push_back(make_conv(64, 64, convs[2].store_h, convs[2].store_w, true, 0, s.stem_rate256 ? 3 : -1));
  }
  std::size_t next = 0;
  for (Conv& c : convs) {
    c.weight = take(next, c.weight_size());
    c.bias = take(next, c.out_channels);
  }
  stem.size = next;
  stem.features = int(convs.back().result_size());
  stem.image_size = std::size_t(round_up(int(convs[0].in_size()), kLane));
  return stem;
}

Member make_member(const Spec& spec, const Stem& stem, const Layers& layers, std::size_t offset) {
  Member m{};
  m.offset = offset;
  m.chain = make_chain(spec, layers.chain, m.conv_size);
  const bool own = !m.chain.empty();
  if (!own) m.conv_size = stem.size;
  std::size_t next = m.conv_size;
  int in = own ? int(m.chain.back().result_size()) : stem.features;
  int layer = int(own ? m.chain.size() : stem.convs.size());
  const std::vector<int>& hidden = layers.hidden;
  for (std::size_t i = 0; i <= hidden.size(); ++i) {
    const bool last = i == hidden.size();
    Dense d{};
    d.in = in;
    d.out = last ? spec.classes : hidden[i];
    d.stride = row_stride(in);
    d.dropout_layer = last || spec.head_rate256 == 0 ? -1 : layer++;
    d.weight = take(next, std::size_t(d.out) * d.stride);
    d.bias = take(next, d.out_padded());
    m.cost += 3.0 * d.in * d.out;
    in = d.out;
    m.dense.push_back(d);
  }
  m.size = next;
  if (!own)
    for (const Conv& c : stem.convs) m.cost += 9.0 * c.in_channels * c.out_channels * c.out_h * c.out_w;
  for (const ChainConv& c : m.chain) m.cost += 3.0 * c.depth() * c.out_channels * c.positions();
  return m;
}

}  // namespace atras::step
