// Op step's functions of each instruction set.
#include "run.h"

namespace atras::step {

extern const Kernels k_portable, k_amx_emulated;
#if defined(__x86_64__)
extern const Kernels k_avx2, k_avx512, k_avx512_bf16, k_amx;
#endif

const Kernels& kernels_of(Instructions id) {
  switch (id) {
#if defined(__x86_64__)
    case Instructions::amx: return k_amx;
    case Instructions::avx512_bf16: return k_avx512_bf16;
    case Instructions::avx512: return k_avx512;
    case Instructions::avx2: return k_avx2;
#endif
    case Instructions::amx_emulated: return k_amx_emulated;
    default: return k_portable;
  }
}

}  // namespace atras::step
