// Rows of op cross_entropy through op step's loss, for one instruction set.
#pragma once

#include "../step/member.h"

namespace atras::step::ATRAS_ISA {

// Sum of the rows' losses; gradient = scale * (softmax - one at the label). Scratch: two padded rows.
inline double cross_entropy_rows(const float* logits, const std::int64_t* labels, std::int64_t rows, int classes,
                                 float scale, float* gradient, float* scratch) {
  const int padded = round_up(classes, kLane);
  float *z = scratch, *dz = scratch + padded;
  std::memset(z, 0, padded * sizeof(float));
  double total = 0.0;
  for (std::int64_t row = 0; row < rows; ++row, logits += classes, gradient += classes) {
    std::memcpy(z, logits, classes * sizeof(float));
    total += row_loss(z, classes, labels[row], scale, dz);
    std::memcpy(gradient, dz, classes * sizeof(float));
  }
  return total;
}

}  // namespace atras::step::ATRAS_ISA
