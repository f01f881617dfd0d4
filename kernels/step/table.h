// What each instruction set's file compiles of op step, and the table of it.
#pragma once

#include "chain.h"
#include "head.h"
#include "kept.h"
#include "stem_backward.h"
#include "stem_forward.h"

namespace atras::step::ATRAS_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasBf16 = true;
#else
constexpr bool kHasBf16 = false;
#endif

// constexpr, so that nothing of this file runs before the CPU was asked what it can do.
template <Instructions Id>
constexpr Kernels make_kernels() {
  static_assert(set_of(Id).bf16 == kHasBf16);
  return {Id,           pack,          stem_forward,         pack_panel,   dense_forward,
          dense_finish, cross_entropy, dense_input_gradient, dense_update, stem_backward, stem_update,
          kept_squares, kept_update,
          chain_enter,  chain_prepare, chain_forward,        chain_keep,   chain_gradient, chain_input_gradient,
          chain_backward, chain_update};
}

}  // namespace atras::step::ATRAS_ISA
