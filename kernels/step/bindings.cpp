// Class Step for Python: addresses and sizes in; dispatch.py checks shapes and owns the memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

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
               int head_rate256, bool adam, float momentum, bool bf16) {
  return {channels, height,       width,        classes, stem,     Activation(activation),
          batch,    stem_rate256, head_rate256, adam,    momentum, bf16};
}

Images make_images(Address images, bool bytes, std::int64_t count, Address signs, double epsilon, bool own) {
  return {at<const void>(images), bytes, count, at<const std::int8_t>(signs), float(epsilon), own};
}

}  // namespace

void bind(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Spec>(m, "Spec");
  nb::class_<Images>(m, "Images");
  m.def("make_spec", &make_spec);
  m.def("make_images", &make_images);
  m.def("step_instructions", [] { return best_kernels("").name; });
  m.def("step_has_bf16", [] { return best_kernels("").bf16; });
  nb::class_<Step>(m, "Step")
      .def("__init__",
           [](Step* self, const Spec& spec, const std::vector<std::vector<int>>& hidden, int threads,
              const std::string& instructions) { new (self) Step(spec, hidden, threads, instructions.c_str()); })
      .def("instructions", [](const Step& s) { return s.kernels().name; })
      .def("has_bf16", [](const Step& s) { return s.kernels().bf16; })
      .def("bytes", &Step::bytes)
      .def("pour", [](Step& s, int member, int array, int moment, Address values, bool in) {
        s.pour(member, array, moment, at<float>(values), in);
      })
      .def("steps", [](Step& s, int member) { return s.steps(member); })
      .def("set_steps", [](Step& s, int member, std::int64_t steps) { s.steps(member) = steps; })
      .def("reset_optimizer", &Step::reset_optimizer)
      .def("poison", &Step::poison)
      .def(
          "train",
          [](Step& s, const Images& images, Address labels, Address order, Address order_of, std::int64_t rows,
             Address keys, std::uint32_t first_step, Address rates, Address losses, Address correct) {
            s.train({images, at<const std::int64_t>(labels), at<const std::int64_t>(order),
                     at<const std::int32_t>(order_of), rows, at<const std::uint64_t>(keys), first_step,
                     at<const double>(rates), at<double>(losses), at<std::int64_t>(correct)});
          },
          release())
      .def(
          "logits", [](Step& s, const Images& images, Address values) { s.logits(images, at<float>(values)); },
          release())
      .def(
          "attack",
          [](Step& s, const Images& images, Address labels, std::int64_t label_stride, Address gradients, Address signs,
             int direction, Address zero, Address nan) {
            s.attack({images, at<const std::int64_t>(labels), label_stride, at<float>(gradients),
                      at<std::int8_t>(signs), direction, at<std::int64_t>(zero), at<std::int64_t>(nan)});
          },
          release());
}

}  // namespace atras::step
