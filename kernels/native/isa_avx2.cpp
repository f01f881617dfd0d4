// The step compiled for one instruction set; CMakeLists.txt gives the flags.
#define ATRAS_ISA isa_avx2
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_avx2;
constexpr Kernels k_avx2 = ATRAS_ISA::make_kernels<Instructions::avx2>();
}  // namespace atras::step
