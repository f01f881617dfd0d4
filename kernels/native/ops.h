// The ops of _cpu that are plain functions, over raw pointers.
#pragma once

#include <cstdint>

namespace atras {

using Address = std::uintptr_t;

// values[m, i] = clamp(pixel + epsilons[m] * direction * sign(gradients[m, i]), low, high); counts of NaN and zero
// gradients. images: [members or 1, pixels], uint8 or the gradients' type; gradients, values: float or (wide) double;
// epsilons: double.
void fgsm(Address images, Address gradients, Address values, Address nan_counts, Address zero_counts, bool shared,
          bool bytes, bool wide, std::int64_t members, std::int64_t pixels, Address epsilons, int direction, double low,
          double high, int threads);

// values[m, i] = direction * sign(gradients[m, i]) as int8, and the same counts.
void fgsm_signs(Address gradients, Address values, Address nan_counts, Address zero_counts, bool wide,
                std::int64_t members, std::int64_t pixels, int direction, int threads);

// values[m, i] = clamp(pixel + epsilons[m] * signs[m, i], low, high).
void apply_signs(Address images, Address signs, Address values, bool shared, bool bytes, bool wide,
                 std::int64_t members, std::int64_t pixels, Address epsilons, double low, double high, int threads);

// Dropout of x [members, rows, spots, channels], or [members, rows, channels, spots] if planar; widths (int64, or 0 for
// none) gives each member's real channels where rows of one spot are padded.
void dropout(Address x, Address y, Address keys, Address steps, Address widths, bool wide, bool planar,
             std::int64_t members, std::int64_t rows, std::int64_t spots, std::int64_t channels, std::uint32_t layer,
             int rate256, int threads);

// The square attack, of images [pairs, channels, height, width] of float or (wide) double, in place; `kernels/square`.
// drawn [pairs, 2 + channels]: tried becomes clean +- epsilon in a square, clamped.
void square_corners(Address tried, Address clean, Address drawn, bool wide, std::int64_t pairs, std::int64_t channels,
                    std::int64_t height, std::int64_t width, std::int64_t side, double epsilon, double low, double high,
                    int threads);

// drawn [pairs, 5 + channels]: tried becomes one of the bumps [2, side, side] in one square and clean in another; spent
// and after are the squared norms of the change before and then, double [pairs].
void square_bumps(Address tried, Address best, Address clean, Address spent, Address after, Address drawn,
                  Address bumps, bool wide, std::int64_t pairs, std::int64_t channels, std::int64_t height,
                  std::int64_t width, std::int64_t side, double epsilon, double low, double high, int threads);

// drawn [pairs, numbers], logits [pairs, classes]: the squares of the better of best and tried are copied to the other;
// spent (0 where there is one square) takes what `after` has of the better.
void square_keep(Address best, Address tried, Address values, Address logits, Address labels, Address drawn,
                 Address spent, Address after, bool wide, std::int64_t pairs, std::int64_t channels,
                 std::int64_t height, std::int64_t width, std::int64_t classes, std::int64_t numbers, std::int64_t side,
                 int threads);
// reached[p] = a step of ascent of pair p, without momentum where before is 0: weight of the step, rest of the one before.
// sizes: [pairs], all else [pairs, pixels]; float or (wide) double.
void ascent_step(Address points, Address before, Address gradients, Address clean, Address sizes, Address reached,
                 bool wide, std::int64_t pairs, std::int64_t pixels, double epsilon, double weight, double rest,
                 double low, double high, int threads);

// kept[i] = values[i] where chosen[i] (bool); of rows of so many bytes.
void keep_rows(Address kept, Address values, Address chosen, std::int64_t rows, std::int64_t bytes, int threads);

// reached[p] = FAB's step of pair p from points and clean images, by their hyperplane; norm 0 is linf, 1 l2, 2 l1. All
// are [pairs, pixels] but values [pairs]; float or (wide) double.
void boundary_step(Address points, Address clean, Address normals, Address values, Address reached, bool wide,
                   std::int64_t pairs, std::int64_t pixels, int norm, double alpha, double eta, double low, double high,
                   int threads);

}  // namespace atras
