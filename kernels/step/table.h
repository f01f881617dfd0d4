// What each instruction set's file compiles: op step and the single ops made of it, and the table of both.
#pragma once

#include "../adam/kernel.h"
#include "../conv_block/kernel.h"
#include "../cross_entropy/kernel.h"
#include "../dense/kernel.h"

namespace atras::step::ATRAS_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasBf16 = true;
#else
constexpr bool kHasBf16 = false;
#endif

// constexpr, so that nothing of this file runs before the CPU was asked what it can do.
constexpr Kernels make_kernels(const char* name) {
  return {name,         kHasBf16,      pack,         stem_forward,         pack_panel,    dense_forward,
          dense_finish, cross_entropy, dense_input_gradient, dense_update, stem_backward, stem_update,
          {pack_weights, conv_block_forward, conv_block_backward, single_dense_forward, single_dense_activation,
           single_dense_backward, cross_entropy_rows, adam_range}};
}

}  // namespace atras::step::ATRAS_ISA
