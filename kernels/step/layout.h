// Shapes of one candidate and where each of its parameters lies in the flat buffer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../native/simd.h"

namespace atras::step {

constexpr int kBlock = 32;      // channels that lie side by side in an activation: [C/32][H][W][32]
constexpr int kLane = 16;       // rows of dense weights are padded to a multiple of this
constexpr int kPanel = 64;      // columns of a packed panel
constexpr int kPatch = 9 * kBlock;  // floats of one output channel's weights for one input block

constexpr int kTilesAtOnce = 96;   // of a convolution's inputs, whose products fit the L2 cache
constexpr int kTilesDeep = 192;    // over which the gradient of the weights is summed at once
constexpr int kTileDepth = 256;    // input channels whose weights' gradients are summed at once
constexpr int kTurnBlock = 32;     // channels of a work item that transforms weights

enum class Activation { relu, sigmoid, tanh, gelu };

// Files compiled for other instruction sets share this one: what is inlined everywhere leaves no copy that the linker
// could choose for a CPU that cannot run it.
ATRAS_INLINE int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }
ATRAS_INLINE int elements_of(int count, int size) { return (count + size - 1) / size; }

// A 3x3 convolution, its activation and what follows it. Input extents include the zero border of "same" padding.
struct Conv {
  int in_channels, out_channels;
  int in_h, in_w;        // as stored, border included
  int out_h, out_w;      // of the convolution: in - 2
  bool pool;             // 2x2 max-pool, odd remainders dropped
  int dropout_layer;     // layer word of the dropout counter, -1 without dropout
  int result_h, result_w;
  int border;            // zero border around the stored result, which is the next layer's input
  int store_h, store_w;  // result + 2 * border
  std::size_t weight, bias;

  ATRAS_INLINE int in_block() const { return in_channels < kBlock ? in_channels : kBlock; }
  ATRAS_INLINE int in_blocks() const { return in_channels / in_block(); }
  ATRAS_INLINE int out_blocks() const { return out_channels / kBlock; }
  ATRAS_INLINE int k_row() const { return 3 * in_block(); }
  ATRAS_INLINE std::size_t in_size() const { return std::size_t(in_h) * in_w * in_channels; }
  ATRAS_INLINE std::size_t store_size() const { return std::size_t(store_h) * store_w * out_channels; }
  ATRAS_INLINE std::size_t result_size() const { return std::size_t(result_h) * result_w * out_channels; }
  ATRAS_INLINE std::size_t weight_size() const { return std::size_t(9) * in_channels * out_channels; }
};

// A dense layer: weight [out][stride], bias [round_up(out, 16)].
struct Dense {
  int in, out;
  int stride;
  int dropout_layer;
  std::size_t weight, bias;

  ATRAS_INLINE int in_padded() const { return round_up(in, kLane); }
  ATRAS_INLINE int out_padded() const { return round_up(out, kLane); }
};

// Row stride of a matrix with `width` columns. Rows a multiple of 512 bytes apart would leave half of the cache's sets or
// more unused, and a panel of 64 columns and a batch's rows would not fit the rest.
ATRAS_INLINE int row_stride(int width) {
  const int padded = round_up(width, kLane);
  return padded % 128 == 0 ? padded + kLane : padded;
}

// How the products of a convolution are taken: patch by patch; by 4x4 tiles of inputs, which give 2x2 results (Winograd's
// minimal filtering, winograd.h); or where there is but one pixel, by the one weight of each kernel that meets it.
enum class Way { patches, tiles, point };
constexpr int kTileComponents = 16;

// A convolution of a member's own, of any kernel, stride and pool. Its input lies as [in_h][in_w][in_channels], with its
// zero border; patches are [kernel row][kernel column][channel]. Positions are the places of the kernel, row by row,
// without those that the pool drops.
struct ChainConv {
  int in_channels, out_channels, kernel, stride;
  int border;                  // zeros on each side of the input
  int in_h, in_w;              // border included
  int window;                  // side of the max-pool, 1 without one
  int result_h, result_w;
  int dropout_layer, rate256;  // layer word of the dropout counter, -1 without dropout
  Way way;
  bool moves_all;              // point: weights that meet no pixel have moments all the same, which the caller set
  std::size_t weight, bias;    // weight [round_up(depth, 16)][out_padded]

  ATRAS_INLINE int depth() const { return kernel * kernel * in_channels; }
  ATRAS_INLINE int patch_stride() const { return row_stride(depth()); }
  ATRAS_INLINE int out_padded() const { return round_up(out_channels, kLane); }
  ATRAS_INLINE int positions_h() const { return result_h * window; }
  ATRAS_INLINE int positions_w() const { return result_w * window; }
  ATRAS_INLINE int positions() const { return positions_h() * positions_w(); }
  ATRAS_INLINE std::size_t in_size() const { return std::size_t(in_h) * in_w * in_channels; }
  ATRAS_INLINE std::size_t result_size() const { return std::size_t(result_h) * result_w * out_channels; }
  ATRAS_INLINE std::size_t kept_size() const { return std::size_t(result_h) * result_w * out_padded(); }
  ATRAS_INLINE std::size_t weight_size() const { return std::size_t(round_up(depth(), kLane)) * out_padded(); }
  // Floats from the first weight to the end of the biases.
  ATRAS_INLINE std::size_t parameters() const { return bias + out_padded() - weight; }
  // Rows of results, and positions, whose patches are gathered at once: as many as a share of the L2 cache holds.
  ATRAS_INLINE int band() const { return window * positions_w(); }
  ATRAS_INLINE int bands_at_once() const { return at_least_one(32768 / (std::int64_t(band()) * patch_stride())); }
  ATRAS_INLINE int block() const { return bands_at_once() * band(); }
  // Tiles, or pixels, and what is made of each.
  ATRAS_INLINE int components() const { return way == Way::tiles ? kTileComponents : 1; }
  ATRAS_INLINE int tiles_h() const { return (positions_h() + 1) / 2; }
  ATRAS_INLINE int tiles_w() const { return (positions_w() + 1) / 2; }
  ATRAS_INLINE int tiles() const { return tiles_h() * tiles_w(); }
  ATRAS_INLINE int in_padded() const { return round_up(in_channels, kLane); }
  ATRAS_INLINE int tile_images() const { return at_least_one((kTilesAtOnce + tiles() / 2) / tiles()); }
  ATRAS_INLINE std::size_t point_weight() const {
    return weight + (std::size_t(border) * kernel + border) * in_channels * out_padded();
  }
  // Images the gradients of whose patches are kept at once.
  ATRAS_INLINE int images_at_once() const {
    const int images = at_least_one(65536 / (std::int64_t(positions()) * patch_stride()));
    return images < 16 ? images : 16;
  }
  // The gradient of a network's images is taken by rows of positions with zeros between them, so that what the kernel
  // reaches from a position can be added up by vectors along the row.
  ATRAS_INLINE int reach() const { return (kernel + stride - 1) / stride; }
  ATRAS_INLINE int pitch() const { return positions_w() + reach() - 1; }
  ATRAS_INLINE int columns() const { return round_up(positions_h() * pitch(), kLane); }
  ATRAS_INLINE int margin() const { return round_up(reach(), kLane); }  // zeros in front of the first row

  static ATRAS_INLINE int at_least_one(std::int64_t count) { return count < 1 ? 1 : int(count); }
};

// Work items of the phases of a dense layer and of the stem's update.
constexpr int kRowChunk = 96;
constexpr int kUpdateChunk = 4096;
ATRAS_INLINE int panels_of(int columns) { return (columns + kPanel - 1) / kPanel; }
ATRAS_INLINE int chunks_of(int rows) { return (rows + kRowChunk - 1) / kRowChunk; }

// Work items of the phases of a convolution of a member's own, for so many images.
struct ChainItems {
  const ChainConv& c;
  int rows;
  bool bf16;

  ATRAS_INLINE bool patches() const { return c.way == Way::patches; }
  ATRAS_INLINE int prepare_forward() const {
    if (patches()) return bf16 ? elements_of(c.depth(), kTurnBlock) : 0;
    return elements_of(c.in_channels, kTurnBlock);
  }
  ATRAS_INLINE int prepare_backward() const { return elements_of(c.out_channels, kTurnBlock); }
  ATRAS_INLINE int tile_chunks() const { return elements_of(rows * c.tiles(), kTilesAtOnce); }
  ATRAS_INLINE int image_chunks() const { return elements_of(rows, c.tile_images()); }
  ATRAS_INLINE int update() const {
    if (patches()) return elements_of(int(c.parameters()), kUpdateChunk);
    return panels_of(c.out_padded()) * elements_of(c.in_channels, kTileDepth);
  }
};

struct Spec {
  int channels, height, width, classes;
  int stem;  // 0 none, 2 conv2, 4 conv4
  Activation activation;
  int batch;            // most rows of a step
  int stem_rate256, head_rate256;
  bool adam;            // else SGD
  bool decoupled;       // weight decay, with Adam
  float momentum;
  float smoothing;      // share of each label that goes to all classes evenly
  double clip;          // longest 2-norm of a member's gradient, 0 for no limit
  double average;       // decay of the average of the weights, below 0 for none
  bool bf16;
};

// What all members share: the stem.
struct Stem {
  std::vector<Conv> convs;
  int image_border;
  int features;           // inputs of the first dense layer
  std::size_t size;       // floats of all stem parameters, at the start of each member's slice
  std::size_t image_size; // floats of one stored image
};

// Filters, kernel, stride, zero padding, pool and dropout rate of a convolution of a chain.
using ChainLayer = std::array<int, 6>;

struct Layers {
  std::vector<ChainLayer> chain;
  std::vector<int> hidden;
};

struct Member {
  std::vector<ChainConv> chain;  // in place of the stem where there are any
  std::vector<Dense> dense;
  std::size_t conv_size;         // floats of the parameters of all convolutions, at the start of the slice
  std::size_t offset, size;  // slice of the flat buffer
  double cost;               // multiply-adds a sample, for the order of work
};

Stem make_stem(const Spec& spec);
Member make_member(const Spec& spec, const Stem& stem, const Layers& layers, std::size_t offset);

}  // namespace atras::step
