// The step compiled for AVX-512 with AMX tiles; CMakeLists.txt gives the flags.
#define ATRAS_ISA isa_amx
#define ATRAS_TILES
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_amx;
constexpr Kernels k_amx = ATRAS_ISA::make_kernels<Instructions::amx>();
}  // namespace atras::step
