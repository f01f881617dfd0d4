// AMX's tiles in plain C++: tests the tile kernel's indices where there is no AMX. Never chosen by itself.
#define ATRAS_ISA isa_amx_emulated
#define ATRAS_TILES
#include "../step/table.h"

namespace atras::step {
extern const Kernels k_amx_emulated;
constexpr Kernels k_amx_emulated = ATRAS_ISA::make_kernels<Instructions::amx_emulated>();
}  // namespace atras::step
