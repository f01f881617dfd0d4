// Op conv_block: torch's arrays, channels innermost, to the convolutions of op step and back.
#include <algorithm>
#include <memory>
#include <vector>

#include "../ops.h"
#include "../step/run.h"
#include "../threads.h"

namespace atras {
namespace {

using step::ConvBlock;
using step::kBlock;

constexpr std::size_t kTileFloats = 1 << 17;  // of a forward tile's arrays, which should stay in L2
constexpr double kSerialWork = 1e6;           // multiply-adds below which waking threads costs more than it saves

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

std::unique_ptr<float[]> floats(std::size_t count) { return std::unique_ptr<float[]>(new float[count]); }

// Rows of fewer than four results are widened, for the kernels take four at a time.
ConvBlock shape_of(const ConvBlockShape& s) {
  ConvBlock f{};
  step::Conv& c = f.conv;
  c.in_channels = s.channels < kBlock ? s.channels : step::round_up(s.channels, kBlock);
  c.out_channels = step::round_up(s.outputs, kBlock);
  c.in_h = s.height + 2 * s.padding;
  c.in_w = s.pool ? s.width + 2 * s.padding : std::max(s.width + 2 * s.padding, 6);
  c.out_h = c.in_h - 2;
  c.out_w = c.in_w - 2;
  c.pool = s.pool;
  c.dropout_layer = -1;
  c.result_h = c.store_h = s.pool ? c.out_h / 2 : c.out_h;
  c.result_w = c.store_w = s.pool ? c.out_w / 2 : c.out_w;
  const int out_w = s.width + 2 * s.padding - 2;
  f.activation = step::Activation(s.activation);
  f.channels = s.channels, f.outputs = s.outputs, f.height = s.height, f.width = s.width, f.padding = s.padding;
  f.result_width = s.pool ? out_w / 2 : out_w;
  f.batch = s.batch;
  f.tile = int(std::clamp<std::size_t>(kTileFloats / (c.in_size() + 3 * c.result_size()), 1, step::kGroup));
  f.rate256 = s.rate256;
  f.layer = s.layer;
  return f;
}

// From torch's [outputs][channels][3][3] to where the kernels have it; one that is past either is zero.
std::size_t weight_at(const ConvBlock& f, int output, int channel, int tap) {
  const step::Conv& c = f.conv;
  if (c.in_channels < kBlock)
    return (std::size_t(output / kBlock * 9 + tap) * c.in_channels + channel) * kBlock + output % kBlock;
  return ((std::size_t(channel / kBlock) * c.out_channels + output) * 9 + tap) * kBlock + channel % kBlock;
}

template <class F>
void over_weights(const ConvBlock& f, const F& call) {
  std::size_t plain = 0;
  for (int output = 0; output < f.outputs; ++output)
    for (int channel = 0; channel < f.channels; ++channel)
      for (int tap = 0; tap < 9; ++tap, ++plain) call(plain, weight_at(f, output, channel, tap));
}

struct Weights {
  std::unique_ptr<float[]> weights, packed, bias;
};

// All members' weights and biases as the kernels take them; one of each where they are shared.
Weights load_weights(ConvBlock& f, const ConvBlockShape& s, const step::Kernels& k, Address weight, Address bias,
                     int threads) {
  const step::Conv& c = f.conv;
  const std::size_t size = c.weight_size(), plain = std::size_t(9) * f.channels * f.outputs;
  const std::int64_t copies = s.weight_shared ? 1 : s.members, biases = s.bias_shared ? 1 : s.members;
  Weights w{floats(copies * size), floats(copies * size), floats(biases * c.out_channels)};
  Pool::instance().run(threads, copies, [&](std::int64_t member) {
    const float* from = at<const float>(weight) + member * plain;
    float* to = w.weights.get() + member * size;
    std::fill(to, to + size, 0.0f);
    over_weights(f, [&](std::size_t i, std::size_t j) { to[j] = from[i]; });
    k.single.pack(c, to, w.packed.get() + member * size, false);
  });
  for (std::int64_t member = 0; member < biases; ++member) {
    float* to = w.bias.get() + member * c.out_channels;
    std::copy_n(at<const float>(bias) + member * f.outputs, f.outputs, to);
    std::fill(to + f.outputs, to + c.out_channels, 0.0f);
  }
  f.weights = w.weights.get(), f.packed = w.packed.get(), f.bias = w.bias.get();
  f.weights_stride = s.weight_shared ? 0 : size;
  f.bias_stride = s.bias_shared ? 0 : c.out_channels;
  return w;
}

void load_images(ConvBlock& f, const ConvBlockShape& s, Address x) {
  f.x = at<const float>(x);
  f.x_stride = s.x_shared ? 0 : std::size_t(f.batch) * f.image_size();
}

int threads_for(const ConvBlock& f, const ConvBlockShape& s) {
  const double work = 9.0 * f.channels * f.outputs * f.conv.out_h * f.conv.out_w * f.batch * s.members;
  return work < kSerialWork ? 1 : s.threads;
}

// Adds up the groups in order, so that the sum does not depend on who computed them.
void sum_groups(const ConvBlock& f, std::int64_t member, float* dweight, float* dbias) {
  float* total = f.partial + member * std::max(f.groups(), 1) * f.partial_size();
  if (f.groups() == 0) std::fill_n(total, f.partial_size(), 0.0f);
  for (int group = 1; group < f.groups(); ++group) {
    const float* more = total + group * f.partial_size();
    for (std::size_t i = 0; i < f.partial_size(); ++i) total[i] += more[i];
  }
  dweight += member * 9 * f.channels * f.outputs;
  over_weights(f, [&](std::size_t i, std::size_t j) { dweight[i] = total[j]; });
  std::copy_n(total + f.conv.weight_size(), f.outputs, dbias + member * f.outputs);
}

}  // namespace

void conv_block_forward(const ConvBlockShape& s, Address x, Address weight, Address bias, Address keys, Address steps,
                        Address y, Address slope, Address argmax) {
  const step::Kernels& k = step::best_kernels(s.instructions.c_str());
  ConvBlock f = shape_of(s);
  const int threads = threads_for(f, s);
  const Weights weights = load_weights(f, s, k, weight, bias, threads);
  load_images(f, s, x);
  f.keys = at<const std::int64_t>(keys), f.steps = at<const std::int64_t>(steps);
  f.keys_stride = !s.key_shared, f.steps_stride = !s.step_shared;
  f.y = at<float>(y), f.slope = at<float>(slope), f.argmax = at<std::uint8_t>(argmax);
  Pool::instance().run(threads, s.members * f.tiles(), [&](std::int64_t item) {
    k.single.conv_forward(f, item, floats(f.forward_scratch()).get());
  });
}

void conv_block_backward(const ConvBlockShape& s, Address gradient, Address x, Address weight, Address bias, Address y,
                         Address slope, Address argmax, Address dx, Address dweight, Address dbias) {
  const step::Kernels& k = step::best_kernels(s.instructions.c_str());
  ConvBlock f = shape_of(s);
  const int threads = threads_for(f, s);
  const Weights weights = load_weights(f, s, k, weight, bias, threads);
  load_images(f, s, x);
  f.y = at<float>(y), f.slope = at<float>(slope), f.argmax = at<std::uint8_t>(argmax);
  f.gradient = at<const float>(gradient), f.dx = at<float>(dx);
  const auto partial = floats(dweight ? s.members * std::max(f.groups(), 1) * f.partial_size() : 0);
  f.partial = dweight ? partial.get() : nullptr;
  Pool::instance().run(threads, s.members * f.groups(), [&](std::int64_t item) {
    k.single.conv_backward(f, item, floats(f.backward_scratch()).get());
  });
  if (!dweight) return;
  Pool::instance().run(threads, s.members, [&](std::int64_t member) {
    sum_groups(f, member, at<float>(dweight), at<float>(dbias));
  });
}

}  // namespace atras
