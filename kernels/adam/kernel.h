// Op adam through op step's update, for one instruction set.
#pragma once

#include "../step/dense.h"

namespace atras::step::ATRAS_ISA {

// A last vector that is not full goes through copies, so that every element sees the same arithmetic.
inline void adam_range(const Update& update, float* parameters, const float* gradients, float* first, float* second,
                       std::int64_t count) {
  std::int64_t i = 0;
  for (; i + V <= count; i += V) update_vector(update, parameters + i, first + i, second + i, load(gradients + i));
  if (i == count) return;
  alignas(64) float rest[4][V] = {};
  float* const arrays[] = {parameters, first, second};
  const std::size_t bytes = (count - i) * sizeof(float);
  for (int a = 0; a < 3; ++a) std::memcpy(rest[a], arrays[a] + i, bytes);
  std::memcpy(rest[3], gradients + i, bytes);
  update_vector(update, rest[0], rest[1], rest[2], load(rest[3]));
  for (int a = 0; a < 3; ++a) std::memcpy(arrays[a] + i, rest[a], bytes);
}

}  // namespace atras::step::ATRAS_ISA
