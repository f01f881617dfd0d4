// What the single ops hand to the code of an instruction set: torch's arrays, with channels innermost, and scratch.
#pragma once

#include "layout.h"

namespace atras::step {

struct Update;

// Images of a work item of the backward pass, whose gradients of the weights are summed before the groups' are.
constexpr int kGroup = 16;

// One 3x3 convolution of M members with what follows it. A stride of 0 between members means that they share the array.
struct ConvBlock {
  Conv conv;                 // as the kernels take it: channels in whole blocks, padding as border of the input
  Activation activation;
  int channels, outputs;     // of the arrays
  int height, width;         // of x
  int padding;
  int result_width;          // of the arrays; conv.result_w may be larger
  int batch, tile;           // images, and those of a work item of the forward pass
  int rate256;               // 0 without dropout
  std::uint32_t layer;
  const float* x;            // [B][height][width][channels]
  std::size_t x_stride;
  const float* weights;      // as op step stores them, blocks of the first convolution one after the other
  std::size_t weights_stride;
  const float* packed;       // for the forward pass
  const float* bias;         // [conv.out_channels]
  std::size_t bias_stride;
  const std::int64_t *keys, *steps;
  int keys_stride, steps_stride;
  float* y;                  // [M][B][result_h][result_width][outputs]
  float* slope;              // the same: derivative of activation and dropout; null for relu, where y tells it
  std::uint8_t* argmax;      // the same where pooled, else null
  // Backward.
  const float* gradient;     // like y
  float* dx;                 // [M][B][height][width][channels], null where not wanted
  float* partial;            // [M][groups][conv.weight_size() + conv.out_channels], null where not wanted

  ATRAS_INLINE std::size_t result_size() const { return std::size_t(conv.result_h) * result_width * outputs; }
  ATRAS_INLINE std::size_t image_size() const { return std::size_t(height) * width * channels; }
  ATRAS_INLINE std::size_t partial_size() const { return conv.weight_size() + conv.out_channels; }
  ATRAS_INLINE int tiles() const { return (batch + tile - 1) / tile; }
  ATRAS_INLINE int groups() const { return (batch + kGroup - 1) / kGroup; }
  // Floats of an item's scratch.
  ATRAS_INLINE std::size_t forward_scratch() const { return tile * (conv.in_size() + 3 * conv.result_size()); }
  ATRAS_INLINE std::size_t backward_scratch() const {
    return 2 * conv.in_size() + 3 * conv.result_size() + 2 * kBlock * 64;
  }
};

// One dense layer of M members.
struct DenseLayer {
  bool activated;            // else activation `none`
  Activation activation;
  int batch, in, out;
  const float* x;            // [B][in]
  std::size_t x_stride;      // between members, as above
  const float* weight;       // [out][in]
  std::size_t weight_stride;
  const float* bias;         // [out]
  std::size_t bias_stride;
  float* y;                  // [M][B][out]
  float* slope;              // the same: derivative of the activation; null for relu and none
  // Backward.
  const float* gradient;     // like y
  float* dz;                 // like y
  float* dx;                 // [M][B][in], null where not wanted
  float* dweight;            // [M][out][in], null where not wanted
  float* dbias;              // [M][out]

  // Floats of an item's scratch.
  ATRAS_INLINE std::size_t forward_scratch() const {
    return std::size_t(kPanel) * (round_up(in, kLane) + row_stride(in) + 2 * kRowChunk);
  }
  ATRAS_INLINE std::size_t backward_scratch() const { return std::size_t(kPanel) * (batch > out ? batch : out); }
};

struct SingleOps {
  void (*pack)(const Conv&, const float* weights, float* packed, bool bf16);
  void (*conv_forward)(const ConvBlock&, std::int64_t item, float* scratch);
  void (*conv_backward)(const ConvBlock&, std::int64_t item, float* scratch);
  void (*dense_forward)(const DenseLayer&, std::int64_t item, float* scratch);
  void (*dense_activation)(const DenseLayer&, std::int64_t member);
  void (*dense_backward)(const DenseLayer&, std::int64_t item, float* scratch);
  double (*cross_entropy)(const float* logits, const std::int64_t* labels, std::int64_t rows, int classes, float scale,
                          float* gradient, float* scratch);
  void (*adam)(const Update&, float* parameters, const float* gradients, float* first, float* second,
               std::int64_t count);
};

}  // namespace atras::step
