// Gradients that are kept until all of a member's are there, and then go into the optimizer.
#pragma once

#include "dense.h"
#include "head.h"

namespace atras::step::ATRAS_ISA {

struct KeptRange {
  std::size_t first, last;

  ATRAS_INLINE KeptRange(const Run& r, int item) : first(std::size_t(item) * kUpdateChunk), last(first + kUpdateChunk) {
    if (last > r.member->size) last = r.member->size;
  }
};

// Item: some of the gradients. The sum of their squares, whatever the threads.
inline double kept_squares(const Run& r, int item) {
  const KeptRange range(r, item);
  vf total{};
  for (std::size_t i = range.first; i < range.last; i += V) {
    const vf gradient = load(r.kept + i);
    total += gradient * gradient;
  }
  return sum_lanes(total);
}

inline void kept_update(const Run& r, int item) {
  const KeptRange range(r, item);
  for (std::size_t i = range.first; i < range.last; i += V) update_fully(r, i, load(r.kept + i) * r.update.scale);
}

}  // namespace atras::step::ATRAS_ISA
