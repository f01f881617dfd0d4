// Class Step for Python: addresses and sizes in; cpu.py owns the memory, and dispatch.py has checked shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "engine.h"

namespace nb = nanobind;

namespace atras::step {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Spec make_spec(int channels, int height, int width, int classes, int stem, int activation, int batch, int stem_rate256,
               int head_rate256, bool adam, bool decoupled, float momentum, float smoothing, double clip, double average,
               bool bf16) {
  return {channels, height,       width,        classes, stem,      Activation(activation),
          batch,    stem_rate256, head_rate256, adam,    decoupled, momentum,
          smoothing, clip,        average,      bf16};
}

Images make_images(Address images, bool bytes, std::int64_t count, Address signs, Address epsilons,
                   bool own, Address counts) {
  return {at<const void>(images), bytes, count, at<const std::int8_t>(signs), at<const double>(epsilons), own,
          at<const std::int64_t>(counts)};
}

// Which images a call takes, in what order, and its dropout.
struct Orders {
  Address order, order_of;
  std::int64_t rows;
  Address keys;
  std::uint32_t first_step;
  int batch;

  TrainCall call(const Images& images) const {
    TrainCall call{};
    call.images = images;
    call.order = at<const std::int64_t>(order);
    call.order_of = at<const std::int32_t>(order_of);
    call.rows = rows;
    call.keys = at<const std::uint64_t>(keys);
    call.first_step = first_step;
    call.batch = batch;
    return call;
  }
};

Orders make_orders(Address order, Address order_of, std::int64_t rows, Address keys, std::uint32_t first_step,
                   int batch) {
  return {order, order_of, rows, keys, first_step, batch};
}

Instructions wanted(const std::string& name) {
  if (const InstructionSet* set = find_instructions(name.c_str())) return set->id;
  throw std::invalid_argument("step: instructions (=" + name +
                              "): expected amx, avx512_bf16, avx512, avx2 or portable, and one that this CPU has");
}

}  // namespace

void bind(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Spec>(m, "Spec");
  nb::class_<Images>(m, "Images");
  nb::class_<Orders>(m, "Orders");
  m.def("make_spec", &make_spec);
  m.def("make_images", &make_images);
  m.def("make_orders", &make_orders);
  nb::class_<Step>(m, "Step")
      .def("__init__",
           [](Step* self, const Spec& spec, const std::vector<std::vector<int>>& hidden,
              const std::vector<std::vector<ChainLayer>>& chains, int threads, const std::string& instructions) {
             std::vector<Layers> layers;
             for (std::size_t i = 0; i < hidden.size(); ++i) layers.push_back({chains[i], hidden[i]});
             new (self) Step(spec, layers, threads, wanted(instructions));
           })
      .def("instructions", [](const Step& s) { return set_of(s.kernels().instructions).name; })
      .def("bytes", &Step::bytes)
      .def("copy_array", [](Step& s, int member, int array, int moment, Address values, bool in) {
        s.copy_array(member, array, moment, at<float>(values), in);
      })
      .def("steps", [](Step& s, int member) { return s.steps(member); })
      .def("set_steps", [](Step& s, int member, std::int64_t steps) { s.steps(member) = steps; })
      .def("reset_optimizer", &Step::reset_optimizer)
      .def("poison", &Step::poison)
      .def(
          "train",
          [](Step& s, const Images& images, Address labels, const Orders& orders, Address rates, Address decays,
             Address losses, Address correct, Address cotangents) {
            TrainCall call = orders.call(images);
            call.labels = at<const std::int64_t>(labels);
            call.learning_rates = at<const double>(rates);
            call.weight_decays = at<const double>(decays);
            call.losses = at<double>(losses);
            call.correct = at<std::int64_t>(correct);
            call.cotangents = at<const float>(cotangents);
            s.train(call);
          },
          release())
      .def(
          "training_logits",
          [](Step& s, const Images& images, const Orders& orders, Address values) {
            s.training_logits(orders.call(images), at<float>(values));
          },
          release())
      .def(
          "logits",
          [](Step& s, const Images& images, bool raw, Address values) { s.logits(images, raw, at<float>(values)); },
          release())
      .def(
          "attack",
          [](Step& s, const Images& images, Address labels, bool own_labels, int objective, Address targets,
             Address cotangents, Address logits, Address gradients, Address signs, int direction, bool raw,
             Address zero, Address nan) {
            s.attack({images, at<const std::int64_t>(labels), own_labels, Objective(objective),
                      at<const std::int64_t>(targets), at<const float>(cotangents), at<float>(logits),
                      at<float>(gradients), at<std::int8_t>(signs), direction, raw, at<std::int64_t>(zero),
                      at<std::int64_t>(nan)});
          },
          release());
}

}  // namespace atras::step
