// The objectives of image gradients beside the log-odds: margins over the label, and the difference of logits ratio.
#pragma once

#include <limits>

#include "run.h"

namespace atras::step::ATRAS_ISA {

// A row's highest logits as a stable sort leaves them at its end, the highest first: NaN is higher than all others, and
// of equal logits the last one.
struct Highest {
  static constexpr int kMost = 4;
  float values[kMost];
  int indices[kMost];

  Highest(const float* z, int classes) {
    int count = 0;
    for (int c = 0; c < classes; ++c) {
      int at = count;
      while (at > 0 && (z[c] != z[c] || z[c] >= values[at - 1])) --at;
      if (at == kMost) continue;
      count = std::min(count + 1, kMost);
      for (int i = count - 1; i > at; --i) values[i] = values[i - 1], indices[i] = indices[i - 1];
      values[at] = z[c], indices[at] = c;
    }
  }
};

// What the margin is divided by, and where its gradient goes.
struct Ratio {
  float divisor;
  int first, third, fourth;  // of the logits that it is made of; fourth -1 where it is not
};

inline Ratio ratio_of(const float* z, int classes, bool targeted) {
  const Highest top(z, classes);
  const bool mean = targeted && classes > 3;
  const float low = mean ? (top.values[2] + top.values[3]) / 2.0f : top.values[2];
  return {top.values[0] - low + 1e-12f, top.indices[0], top.indices[2], mean ? top.indices[3] : -1};
}

// The highest logit but the label's, NaN if there is one.
inline float highest_other(const float* z, int classes, std::int64_t label) {
  float top = -std::numeric_limits<float>::infinity();
  for (int c = 0; c < classes; ++c)
    if (c != label && (z[c] != z[c] || z[c] > top)) top = z[c] != z[c] ? std::nanf("") : z[c];
  return top;
}

// `slope` times the gradient of the highest other logit: logits that are equally high share it.
inline void share_among_highest(const float* z, int classes, std::int64_t label, float top, float slope, float* dz) {
  int count = top == -std::numeric_limits<float>::infinity();  // the label stands among them as that
  for (int c = 0; c < classes; ++c) count += c != label && z[c] == top;
  for (int c = 0; c < classes; ++c)
    if (c != label) dz[c] = slope * float(z[c] == top) / float(count);
}

// The gradient by the logits of an objective at the label, and at the target unless that is negative. Every operation
// is the definition's, in its order.
inline void row_objective(const float* z, int classes, Objective objective, std::int64_t label, std::int64_t target,
                          float* dz) {
  const bool targeted = target >= 0, divided = objective == Objective::dlr && classes > 2;
  const float top = targeted ? z[target] : highest_other(z, classes, label);
  const Ratio ratio = divided ? ratio_of(z, classes, targeted) : Ratio{1.0f, 0, 0, -1};
  const float slope = 1.0f / ratio.divisor;
  std::memset(dz, 0, std::size_t(round_up(classes, kLane)) * sizeof(float));
  if (targeted) dz[target] += slope;
  else share_among_highest(z, classes, label, top, slope, dz);
  dz[label] -= slope;
  if (!divided) return;
  const float fall = -((top - z[label]) / ratio.divisor / ratio.divisor);
  dz[ratio.first] += fall;
  dz[ratio.third] -= ratio.fourth < 0 ? fall : fall / 2.0f;
  if (ratio.fourth >= 0) dz[ratio.fourth] -= fall / 2.0f;
}

}  // namespace atras::step::ATRAS_ISA
