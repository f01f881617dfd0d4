// Module _cpu: addresses and sizes in, nothing out. The callers in dispatch.py check shapes and own the memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "ops.h"
#include "simd.h"

namespace atras::step {
void bind(nanobind::module_& m);
}

// A struct from its fields in order.
template <class T, class... Fields>
T make(Fields... fields) {
  return T{fields...};
}

NB_MODULE(_cpu, m) {
  using release = nanobind::call_guard<nanobind::gil_scoped_release>;
  m.def("instructions", &atras::instructions_name);
  m.def("fgsm", &atras::fgsm, release());
  m.def("fgsm_signs", &atras::fgsm_signs, release());
  m.def("apply_signs", &atras::apply_signs, release());
  m.def("dropout", &atras::dropout, release());
  nanobind::class_<atras::ConvBlockShape>(m, "ConvBlockShape");
  nanobind::class_<atras::DenseShape>(m, "DenseShape");
  m.def("conv_block_shape", &make<atras::ConvBlockShape, bool, bool, bool, bool, bool, std::int64_t, int, int, int, int,
                                  int, int, int, bool, int, std::uint32_t, int, std::string>);
  m.def("dense_shape",
        &make<atras::DenseShape, bool, bool, bool, std::int64_t, int, int, int, int, int, std::string>);
  m.def("conv_block_forward", &atras::conv_block_forward, release());
  m.def("conv_block_backward", &atras::conv_block_backward, release());
  m.def("dense_forward", &atras::dense_forward, release());
  m.def("dense_backward", &atras::dense_backward, release());
  m.def("cross_entropy", &atras::cross_entropy, release());
  m.def("adam", &atras::adam, release());
  atras::step::bind(m);
}
