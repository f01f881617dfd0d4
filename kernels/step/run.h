// One member's step: its shapes, where its parameters and scratch lie, and the functions each instruction set provides.
#pragma once

#include "layout.h"

namespace atras::step {

// What an image's gradient is of; see objectives.py.
enum class Objective { odds, margin, dlr };

// Source of a batch: uint8 or float images of which an index >= count means the adversarial copy of index - count.
struct Batch {
  const void* images;        // [count][C][H][W]
  bool bytes;
  std::int64_t count;
  const std::int8_t* signs;  // [count][C][H][W] of this member, or null
  float epsilon;
  const std::int64_t* index; // [rows], or null for first, first + 1, ...
  std::int64_t first;
  const std::int64_t* labels;  // [count], or null
  int rows;
};

// Optimizer constants of one step.
struct Update {
  bool adam;
  float learning_rate;   // Adam: times sqrt(1 - 0.999^t) / (1 - 0.9^t)
  float floor;           // Adam: 1e-8 sqrt(1 - 0.999^t)
  float momentum;
  bool plain;            // gradients go straight into the optimizer, and nothing of the following is wanted
  float coupled;         // weight decay: times a parameter, added to its gradient
  float shrink;          // decoupled weight decay: a parameter is multiplied by it first
  float average;         // share of the way from the average to the weights that the average goes, all of it at first
  float scale;           // of the gradients that were kept
};

// Scratch of a member's convolutions, where they are its own.
struct ChainScratch {
  float** inputs;            // per convolution [rows][in_size]
  float** slopes;            // per convolution [rows][kept_size], null for relu
  std::uint16_t** winners;   // per convolution [rows][kept_size]: the position in each window of the pool
  // Of the convolution at work.
  float* turned;             // its weights as its products take them
  float* kept;               // its transformed inputs as the gradient of its weights takes them
  float* g;                  // gradients of what its activation takes, at the results [rows][kept_size]
  float* gradients[2];       // of its inputs [rows][in_size], by turns
};

struct Run {
  const Spec* spec;
  const Stem* stem;
  const Member* member;
  float *parameters, *first_moment, *second_moment;  // this member's slice
  float* average;            // likewise, or null
  Batch batch;
  Update update;
  bool bf16;                 // arithmetic of the forward products
  bool training;             // keep what the backward pass needs, draw dropout
  std::uint64_t key;
  std::uint32_t step;
  int group;                 // images of a work item of convolutions
  // Scratch of the member's step.
  float* images;                     // [rows][stem.image_size]
  float** packed;                    // per convolution
  void** results;                    // per convolution but the last: float or bf16 [rows][store_size]
  std::uint8_t** argmax;             // per convolution
  float** slopes;                    // per convolution, null for relu
  ChainScratch chain;
  float* features;                   // [rows padded][row_stride(features)]
  float* dfeatures;                  // like features
  float** hidden;                    // per hidden layer [rows padded][row_stride(width)]
  float** hidden_slopes;             // the same
  float* panels;                     // packed columns: [rows padded / 64][in][64]
  float* transposed;                 // [out padded][rows padded to 64]
  float *gradient, *next_gradient;   // [rows padded][widest row_stride]
  float* partial;                    // per group, gradient of the convolutions' parameters
  float* logits;                     // [rows padded][row_stride(classes)]
  float* kept;                       // gradients of all of the member's parameters until they are clipped, or null
  double loss;
  std::int64_t correct;
  const float* cotangents;           // d(objective)/d(logits) [rows][classes] in place of the loss's, or null
  // Attack.
  const std::int64_t* attack_labels; // [rows] or null for the predicted ones
  Objective objective;
  const std::int64_t* attack_targets; // [rows], of the objective, or null
  float* image_gradient;             // [rows][C][H][W] or null
  std::int8_t* image_signs;          // the same, or null
  int direction;
  std::int64_t zero_gradients, nan_gradients;

  ATRAS_INLINE int rows_padded() const { return round_up(batch.rows, kLane); }
  ATRAS_INLINE int groups() const { return (batch.rows + group - 1) / group; }
  ATRAS_INLINE ChainItems items(int conv) const { return {member->chain[conv], batch.rows, bf16 && conv > 0}; }
  ATRAS_INLINE const float* dense_input(int layer) const { return layer == 0 ? features : hidden[layer - 1]; }
};

// Scratch of a thread for convolutions of a member's own.
struct ChainWorkspace {
  float* left;           // left operand of products as they take it, or the right one of a gradient of weights
  float* right;          // of a block's gradients, as pairs of bf16
  float* patches;        // [block][patch_stride], for gradients of weights
  float* products;       // [block][out_padded], or the gradients of patches
  float* g;              // gradient of the activation's input [positions][out_padded]
  float* turned_g;       // the same transposed
  float* row;            // an image's row of gradients, and before that a row of each phase of the stride
  float* image;          // an image in torch's order
  int *offsets, *result_offsets;  // of a block's positions in the inputs and in the results
};

// Scratch of a thread.
struct Workspace {
  ChainWorkspace chain;
  float* dx[2];          // gradients of a convolution's input
  float* g;              // compact gradient of a convolution's result
  float* raster;         // products of one image before the pool, for tiles
  float* expanded;       // a bf16 image as float
  void* lists;
  float* patches;        // the first convolution's weights as an image's gradient takes them
  std::uint8_t* bytes;   // dropout
  float *left, *right;   // operands of a dense product as pairs of bf16
  float* gradients;      // of an item of a dense layer's weights [kRowChunk][kPanel]
};

// Op step as one instruction set's file compiles it; where the set has no bf16, that is emulated.
struct Kernels {
  Instructions instructions;
  void (*pack)(const Run&, int conv);
  void (*stem_forward)(const Run&, int group, const Workspace&);
  void (*pack_panel)(const Run&, int layer, int panel, const Workspace&);
  void (*dense_forward)(const Run&, int layer, int item, const Workspace&);
  void (*dense_finish)(const Run&, int layer, int item, const Workspace&);
  void (*cross_entropy)(Run&, bool mean);
  void (*dense_input_gradient)(const Run&, int layer, int item, const Workspace&);
  void (*dense_update)(const Run&, int layer, int item, const Workspace&);
  void (*stem_backward)(Run&, int group, const Workspace&);
  void (*stem_update)(const Run&, int item);
  double (*kept_squares)(const Run&, int item);
  void (*kept_update)(const Run&, int item);
  void (*chain_enter)(const Run&, int conv, int group, const Workspace&);
  void (*chain_prepare)(const Run&, int conv, int item, bool backward);
  void (*chain_forward)(const Run&, int conv, int item, int parts, const Workspace&);
  void (*chain_keep)(const Run&, int conv, int item);
  void (*chain_gradient)(const Run&, int conv, int group);
  void (*chain_input_gradient)(const Run&, int conv, int item, int parts, const Workspace&);
  void (*chain_backward)(Run&, int conv, int group, const Workspace&);
  void (*chain_update)(const Run&, int conv, int item, const Workspace&);
};

// The functions of an instruction set, which must run here.
const Kernels& kernels_of(Instructions id);

}  // namespace atras::step
