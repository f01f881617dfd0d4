// The step compiled for one instruction set; CMakeLists.txt gives the flags.
#define ATRAS_ISA isa_avx512_bf16
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_avx512_bf16;
constexpr Kernels k_avx512_bf16 = ATRAS_ISA::make_kernels<Instructions::avx512_bf16>();
}  // namespace atras::step
