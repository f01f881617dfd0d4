// What lies between the dense layers' matrix products: activations, dropout and the loss.
#pragma once

#include <limits>

#include "dense.h"
#include "objectives.h"
#include "stem_forward.h"

namespace atras::step::ATRAS_ISA {

template <Activation A>
ATRAS_INLINE void finish_rows(const Run& r, const Dense& d, int row, bool last, float* to, float* slopes,
                              const Workspace& w) {
  const int stride = row_stride(d.out);
  const bool drop = r.training && d.dropout_layer >= 0;
  for (int b = row; b < row + V; ++b)
    for (int c = d.out; c < stride; ++c) {
      to[std::ptrdiff_t(b) * stride + c] = 0.0f;
      if (slopes) slopes[std::ptrdiff_t(b) * stride + c] = 0.0f;
    }
  for (int b = row; b < row + V; ++b) {
    const bool real = b < r.batch.rows;
    std::size_t past = 0;
    if (drop) {
      const std::uint64_t first = std::uint64_t(b) * d.out;
      past = first % 16;
      random_bytes(r, d.dropout_layer, first - past, past + d.out, w.bytes);
    }
    for (int c = 0; c < d.out; c += V) {
      float* y_at = to + std::ptrdiff_t(b) * stride + c;
      const vf z = load(y_at);  // transposed into place by dense_finish
      vf y = last ? z : activate<A>(z), slope = last ? z : slope_at<A>(z, y);
      if (drop) {
        const vf keep = keep_scale(w.bytes + past + c, r.spec->head_rate256);
        y *= keep;
        slope *= keep;
      }
      vi lane;
      for (int i = 0; i < V; ++i) lane[i] = i;
      const vi inside = real ? lane < d.out - c : vi{};
      store(y_at, inside ? y : vf{});
      if (slopes) store(slopes + std::ptrdiff_t(b) * stride + c, inside ? slope : vf{});
    }
  }
}

// Item: 16 rows of the batch. From transposed products to activations in rows, their slopes, and dropout.
inline void dense_finish(const Run& r, int layer, int item, const Workspace& w) {
  const Dense& d = r.member->dense[layer];
  const bool last = layer + 1 == int(r.member->dense.size());
  float* to = last ? r.logits : r.hidden[layer];
  float* slopes = last ? nullptr : r.hidden_slopes[layer];
  const int first = item * kLane;
  transpose_matrix(r.transposed + first, round_up(r.rows_padded(), kPanel),
                   to + std::ptrdiff_t(first) * row_stride(d.out), row_stride(d.out), d.out_padded(), kLane);
  for (int row = first; row < first + kLane; row += V) switch (r.spec->activation) {
      case Activation::relu: finish_rows<Activation::relu>(r, d, row, last, to, slopes, w); break;
      case Activation::sigmoid: finish_rows<Activation::sigmoid>(r, d, row, last, to, slopes, w); break;
      case Activation::tanh: finish_rows<Activation::tanh>(r, d, row, last, to, slopes, w); break;
      case Activation::gelu: finish_rows<Activation::gelu>(r, d, row, last, to, slopes, w); break;
    }
}

ATRAS_INLINE float sum_lanes(vf x) {
  float total = 0.0f;
  for (int i = 0; i < V; ++i) total += x[i];
  return total;
}

// e^(z - top) of every class but the label, which gets 0, and their sum.
inline float exponentials(const float* z, int classes, std::int64_t label, float top, float* e) {
  vf total{};
  for (int c = 0; c < round_up(classes, kLane); c += V) {
    vi lane;
    for (int i = 0; i < V; ++i) lane[i] = c + i;
    const vi others = (lane < classes) & (lane != int(label));
    const vf each = others ? exponential(load(z + c) - top) : vf{};
    store(e + c, each);
    total += each;
  }
  return sum_lanes(total);
}

ATRAS_INLINE void multiply_row(float* row, int classes, float factor) {
  for (int c = 0; c < round_up(classes, kLane); c += V) store(row + c, load(row + c) * factor);
}

ATRAS_INLINE float larger(float top, float z) { return z > top || z != z ? z : top; }

// Softmax cross-entropy of one row: the loss, and dlogits = scale * (softmax - one at the label). At the label that is
// minus the sum of the others: the difference itself would be 0 where the label's probability rounds to 1.
inline double row_loss(const float* z, int classes, std::int64_t label, float scale, float* dz) {
  float top = z[0];
  for (int c = 1; c < classes; ++c) top = larger(top, z[c]);
  const float others = exponentials(z, classes, label, top, dz);
  const float sum = others + std::exp(z[label] - top);
  multiply_row(dz, classes, scale / sum);
  dz[label] = -others * (scale / sum);
  return std::log(double(sum)) - (double(z[label]) - double(top));
}

// Of the log-odds against the label, log((1 - p) / p) = log(sum of e^z of the others) - z[label]: the gradient by the
// logits is the softmax over the other classes, and -1 at the label. That of the cross-entropy is 1 - p times as long.
// Where no other class has any probability it is zero; where a logit is NaN, or infinite upwards, it is NaN.
inline void row_odds(const float* z, int classes, std::int64_t label, float* dz) {
  constexpr float lowest = -std::numeric_limits<float>::max();
  float top = z[label] < std::numeric_limits<float>::infinity() ? lowest : std::nanf("");
  for (int c = 0; c < classes; ++c)
    if (c != label) top = larger(top, z[c]);
  const float others = exponentials(z, classes, label, top, dz);
  const float factor = top == lowest ? 0.0f : 1.0f / others;
  multiply_row(dz, classes, factor);
  dz[label] = -others * factor;
}

// What the labels' smoothing adds to such a row: a share of each label goes to all classes evenly.
inline void smooth_label(int classes, std::int64_t label, float share, float scale, float* dz) {
  for (int c = 0; c < classes; ++c) dz[c] -= share * scale / float(classes);
  dz[label] += share * scale;
}

inline int first_largest(const float* z, int classes) {
  int best = 0;
  for (int c = 1; c < classes; ++c)
    if (z[c] > z[best]) best = c;
  return best;
}

// Leaves d(loss)/d(logits) in `gradient`: of the mean cross-entropy over the batch, or for attacks of each row's
// objective at its label.
inline void cross_entropy(Run& r, bool mean) {
  const int classes = r.spec->classes, stride = row_stride(classes), rows = r.batch.rows;
  const float scale = 1.0f / float(rows);
  r.loss = 0.0;
  r.correct = 0;
  for (int b = 0; b < rows; ++b) {
    const float* z = r.logits + std::ptrdiff_t(b) * stride;
    const int predicted = first_largest(z, classes);
    std::int64_t label = predicted;
    if (r.training) {
      const std::int64_t index = r.batch.index ? r.batch.index[b] : r.batch.first + b;
      label = r.batch.labels[index >= r.batch.count ? index - r.batch.count : index];
    } else if (r.attack_labels) {
      label = r.attack_labels[b];
    }
    r.correct += predicted == label;
    float* dz = r.gradient + std::ptrdiff_t(b) * stride;
    if (mean) {
      r.loss += row_loss(z, classes, label, scale, dz);
      if (r.spec->smoothing > 0.0f) smooth_label(classes, label, r.spec->smoothing, scale, dz);
    }
    else if (r.objective == Objective::odds) row_odds(z, classes, label, dz);
    else row_objective(z, classes, r.objective, label, r.attack_targets ? r.attack_targets[b] : -1, dz);
  }
  r.loss /= rows;
  std::memset(r.gradient + std::ptrdiff_t(rows) * stride, 0,
              std::size_t(r.rows_padded() - rows) * stride * sizeof(float));
}

}  // namespace atras::step::ATRAS_ISA
