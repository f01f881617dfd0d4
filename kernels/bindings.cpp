// Module _cpu: addresses and sizes in, nothing out. The callers in dispatch.py check shapes and own the memory.
#include <nanobind/nanobind.h>

#include "ops.h"
#include "simd.h"

namespace atras::step {
void bind(nanobind::module_& m);
}

NB_MODULE(_cpu, m) {
  using release = nanobind::call_guard<nanobind::gil_scoped_release>;
  m.def("instructions", &atras::instructions_name);
  m.def("fgsm", &atras::fgsm, release());
  m.def("fgsm_signs", &atras::fgsm_signs, release());
  m.def("apply_signs", &atras::apply_signs, release());
  m.def("dropout", &atras::dropout, release());
  atras::step::bind(m);
}
