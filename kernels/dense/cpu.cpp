// Op dense: panels of rows and chunks of outputs over threads.
#include <memory>

#include "../ops.h"
#include "../step/run.h"
#include "../threads.h"

namespace atras {
namespace {

using step::DenseLayer;

constexpr double kSerialWork = 1e6;  // multiply-adds below which waking threads costs more than it saves

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

std::unique_ptr<float[]> floats(std::size_t count) { return std::unique_ptr<float[]>(new float[count]); }

DenseLayer layer_of(const DenseShape& s, Address x, Address weight) {
  DenseLayer f{};
  f.activated = s.activation >= 0;
  f.activation = step::Activation(f.activated ? s.activation : 0);
  f.batch = s.batch, f.in = s.in, f.out = s.out;
  f.x = at<const float>(x), f.weight = at<const float>(weight);
  f.x_stride = s.x_shared ? 0 : std::size_t(s.batch) * s.in;
  f.weight_stride = s.weight_shared ? 0 : std::size_t(s.out) * s.in;
  return f;
}

int threads_for(const DenseShape& s) {
  return double(s.members) * s.batch * s.in * s.out < kSerialWork ? 1 : s.threads;
}

}  // namespace

void dense_forward(const DenseShape& s, Address x, Address weight, Address bias, Address y, Address slope) {
  const step::Kernels& k = step::best_kernels(s.instructions.c_str());
  DenseLayer f = layer_of(s, x, weight);
  f.bias = at<const float>(bias);
  f.bias_stride = s.bias_shared ? 0 : s.out;
  f.y = at<float>(y), f.slope = at<float>(slope);
  const std::int64_t items = s.members * step::panels_of(s.batch) * step::chunks_of(s.out);
  Pool::instance().run(threads_for(s), items, [&](std::int64_t item) {
    k.single.dense_forward(f, item, floats(f.forward_scratch()).get());
  });
}

void dense_backward(const DenseShape& s, Address gradient, Address x, Address weight, Address y, Address slope,
                    Address dx, Address dweight, Address dbias) {
  const step::Kernels& k = step::best_kernels(s.instructions.c_str());
  DenseLayer f = layer_of(s, x, weight);
  const auto dz = floats(std::size_t(s.members) * s.batch * s.out);
  f.gradient = at<const float>(gradient), f.y = at<float>(y), f.slope = at<float>(slope);
  f.dz = dz.get(), f.dx = at<float>(dx), f.dweight = at<float>(dweight), f.dbias = at<float>(dbias);
  const int threads = threads_for(s);
  Pool::instance().run(threads, s.members, [&](std::int64_t member) { k.single.dense_activation(f, member); });
  const int chunks = (dx ? step::chunks_of(s.batch) : 0) + (dweight ? step::chunks_of(s.out) : 0);
  Pool::instance().run(threads, s.members * step::panels_of(s.in) * chunks, [&](std::int64_t item) {
    k.single.dense_backward(f, item, floats(f.backward_scratch()).get());
  });
}

}  // namespace atras
