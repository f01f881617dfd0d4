// Module _cpu: addresses and sizes in, nothing out. The callers in cpu.py own the memory, and those in dispatch.py have checked shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "instructions.h"
#include "ops.h"

namespace atras::step {
void bind(nanobind::module_& m);
}

NB_MODULE(_cpu, m) {
  using release = nanobind::call_guard<nanobind::gil_scoped_release>;
  // Names of the sets that run here, the best one first.
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const atras::InstructionSet& set : atras::kInstructionSets)
      if (atras::runs_here(set.id)) names.push_back(set.name);
    return names;
  });
  m.def("vendor", [] { return std::string(atras::vendor()); });
  m.def("fgsm", &atras::fgsm, release());
  m.def("fgsm_signs", &atras::fgsm_signs, release());
  m.def("apply_signs", &atras::apply_signs, release());
  m.def("dropout", &atras::dropout, release());
  m.def("square_corners", &atras::square_corners, release());
  m.def("square_bumps", &atras::square_bumps, release());
  m.def("square_keep", &atras::square_keep, release());
  m.def("ascent_step", &atras::ascent_step, release());
  m.def("keep_rows", &atras::keep_rows, release());
  m.def("boundary_step", &atras::boundary_step, release());
  atras::step::bind(m);
}
