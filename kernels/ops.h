// Every op of _cpu over raw pointers, for bindings.cpp and for ops made of other ops.
#pragma once

#include <cstdint>
#include <string>

namespace atras {

using Address = std::uintptr_t;

// values[m, i] = clamp(pixel + epsilon * direction * sign(gradients[m, i]), low, high); counts of NaN and zero gradients.
// images: [members or 1, pixels], uint8 or the gradients' type; gradients, values: float or (wide) double.
void fgsm(Address images, Address gradients, Address values, Address nan_counts, Address zero_counts, bool shared,
          bool bytes, bool wide, std::int64_t members, std::int64_t pixels, double epsilon, int direction, double low,
          double high, int threads);

// values[m, i] = direction * sign(gradients[m, i]) as int8, and the same counts.
void fgsm_signs(Address gradients, Address values, Address nan_counts, Address zero_counts, bool wide,
                std::int64_t members, std::int64_t pixels, int direction, int threads);

// values[m, i] = clamp(pixel + epsilon * signs[m, i], low, high).
void apply_signs(Address images, Address signs, Address values, bool shared, bool bytes, bool wide,
                 std::int64_t members, std::int64_t pixels, double epsilon, double low, double high, int threads);

// Dropout of x [members, rows, spots, channels], or [members, rows, channels, spots] if planar; widths (int64, or 0 for
// none) gives each member's real channels where rows of one spot are padded.
void dropout(Address x, Address y, Address keys, Address steps, Address widths, bool wide, bool planar,
             std::int64_t members, std::int64_t rows, std::int64_t spots, std::int64_t channels, std::uint32_t layer,
             int rate256, int threads);

// The single ops made of op step's code. `..._shared` means one array for all members; addresses of results may be 0
// where they are not wanted; `instructions` is empty for the best of this CPU. Images have their channels innermost.
struct ConvBlockShape {
  bool x_shared, weight_shared, bias_shared, key_shared, step_shared;
  std::int64_t members;
  int batch, channels, height, width, outputs;
  int activation, padding;
  bool pool;
  int rate256;  // 0 without dropout
  std::uint32_t layer;
  int threads;
  std::string instructions;
};

// x [members or 1, batch, height, width, channels] -> y, slope, argmax [members, batch, height', width', outputs].
void conv_block_forward(const ConvBlockShape& shape, Address x, Address weight, Address bias, Address keys,
                        Address steps, Address y, Address slope, Address argmax);
void conv_block_backward(const ConvBlockShape& shape, Address gradient, Address x, Address weight, Address bias,
                         Address y, Address slope, Address argmax, Address dx, Address dweight, Address dbias);

struct DenseShape {
  bool x_shared, weight_shared, bias_shared;
  std::int64_t members;
  int batch, in, out;
  int activation;  // -1 for none
  int threads;
  std::string instructions;
};

// x [members or 1, batch, in], weight [members or 1, out, in] -> y, slope [members, batch, out].
void dense_forward(const DenseShape& shape, Address x, Address weight, Address bias, Address y, Address slope);
void dense_backward(const DenseShape& shape, Address gradient, Address x, Address weight, Address y, Address slope,
                    Address dx, Address dweight, Address dbias);

// logits [members, rows, classes] -> mean losses [members] and their gradients, like logits.
void cross_entropy(Address logits, Address labels, Address losses, Address gradients, bool labels_shared,
                   std::int64_t members, std::int64_t rows, int classes, int threads, const std::string& instructions);

// One Adam step in place of every member's slice [offsets[m], offsets[m + 1]) of four flat arrays.
void adam(Address parameters, Address gradients, Address first, Address second, Address offsets, Address steps,
          Address rates, std::int64_t members, int threads, const std::string& instructions);

}  // namespace atras
