// Activations and their derivatives on vectors.
#pragma once

#include "../native/vector.h"
#include "layout.h"

namespace atras::step::ATRAS_ISA {

using namespace ::atras::ATRAS_ISA;

// Activation and its derivative. relu keeps NaN, so a diverged member shows in its loss and its gradients.
template <Activation A>
ATRAS_INLINE vf activate(vf z) {
  if constexpr (A == Activation::relu) return z < 0.0f ? vf{} : z;
  if constexpr (A == Activation::sigmoid) return sigmoid(z);
  if constexpr (A == Activation::tanh) return hyperbolic_tangent(z);
  return z * (0.5f + 0.5f * error_function(z * 0.70710678118654752f));
}

template <Activation A>
ATRAS_INLINE vf slope_at(vf z, vf y) {
  if constexpr (A == Activation::relu) return z <= 0.0f ? vf{} : splat(1.0f);
  if constexpr (A == Activation::sigmoid) return y * (1.0f - y);
  if constexpr (A == Activation::tanh) return 1.0f - y * y;
  const vf cdf = 0.5f + 0.5f * error_function(z * 0.70710678118654752f);
  return cdf + z * 0.39894228040143268f * exponential(-0.5f * z * z);
}

}  // namespace atras::step::ATRAS_ISA
