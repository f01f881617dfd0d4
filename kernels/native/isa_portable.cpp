// The step compiled for one instruction set; CMakeLists.txt gives the flags.
#define ATRAS_ISA isa_portable
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_portable;
constexpr Kernels k_portable = ATRAS_ISA::make_kernels<Instructions::portable>();
}  // namespace atras::step
