// The step compiled for one instruction set; CMakeLists.txt gives the flags.
#define ATRAS_ISA isa_avx512
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_avx512;
constexpr Kernels k_avx512 = ATRAS_ISA::make_kernels<Instructions::avx512>();
}  // namespace atras::step
