// The square attack's proposals and comparison, in place: of every pair's images only the squares are read and written.
#include <cmath>
#include <limits>
#include <type_traits>

#include "../native/ops.h"
#include "../native/simd.h"
#include "../native/threads.h"

namespace atras {
namespace {

constexpr std::int64_t kSerialElements = 32768;  // below this, waking threads costs more than it saves
constexpr std::int64_t kItemsPerThread = 4;      // so that a thread that is held up does not hold up the rest
constexpr int kLanes = 8;                        // sums that are added to in turn, so that they are vectors
constexpr std::int64_t kAhead = 4;               // pairs whose squares are fetched before their turn,
constexpr std::int64_t kLongest = 12;            // of no longer side: longer rows are fetched by themselves,
constexpr std::int64_t kFarBytes = 16 << 20;     // where the images are too large for the caches
constexpr double kTiny = 1e-12;

struct Sizes {
  std::int64_t pairs, channels, height, width, side;

  std::int64_t plane() const { return height * width; }

  bool far(std::int64_t bytes) const {
    return side <= kLongest && pairs * channels * plane() * bytes >= kFarBytes;
  }
};

// Where a square begins, in pixels of a channel.
struct Place {
  std::int64_t row, column;

  ATRAS_INLINE bool has(std::int64_t y, std::int64_t x, std::int64_t side) const {
    return y >= row && y < row + side && x >= column && x < column + side;
  }
};

template <class T>
ATRAS_INLINE std::int64_t first_of(T drawn, std::int64_t side, std::int64_t size) {
  const double at = (static_cast<double>(drawn) + 1) / 2 * static_cast<double>(size - side + 1);
  if (!(at > 0)) return 0;
  return at < static_cast<double>(size - side) ? static_cast<std::int64_t>(at) : size - side;
}

template <class T>
ATRAS_INLINE Place place(const T* drawn, const Sizes& s) {
  return {first_of(drawn[0], s.side, s.height), first_of(drawn[1], s.side, s.width)};
}

// Asks for the pixels of a later pair's square, for memory is what takes the time.
template <class T>
ATRAS_INLINE void fetch(const T* images, std::int64_t pair, const T* drawn, const Sizes& s) {
  const Place at = place(drawn, s);
  for (std::int64_t c = 0; c < s.channels; ++c) {
    const T* square = images + (pair * s.channels + c) * s.plane() + at.row * s.width + at.column;
    for (std::int64_t y = 0; y < s.side; ++y) {
      __builtin_prefetch(square + y * s.width, 1);
      __builtin_prefetch(square + y * s.width + s.side - 1, 1);
    }
  }
}

// A comparison with NaN is false, so a NaN pixel stays NaN.
template <class T>
ATRAS_INLINE T clamp(T value, T low, T high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <class T>
struct Corners {
  T *tried;
  const T *clean, *drawn;
  Sizes s;
  T epsilon, low, high;

  static ATRAS_INLINE void run(const Corners* op, std::int64_t from, std::int64_t to) {
    const Sizes s = op->s;
    const T low = op->low, high = op->high;
    const bool far = s.far(sizeof(T));
    for (std::int64_t pair = from; pair < to; ++pair) {
      const T* drawn = op->drawn + pair * (2 + s.channels);
      if (far && pair + kAhead < to) {
        fetch(op->clean, pair + kAhead, drawn + kAhead * (2 + s.channels), s);
        fetch(op->tried, pair + kAhead, drawn + kAhead * (2 + s.channels), s);
      }
      const Place at = place(drawn, s);
      for (std::int64_t c = 0; c < s.channels; ++c) {
        const T change = drawn[2 + c] < T(0) ? -op->epsilon : op->epsilon;
        const std::int64_t start = (pair * s.channels + c) * s.plane() + at.row * s.width + at.column;
        for (std::int64_t y = 0; y < s.side; ++y) {
          const T* __restrict clean = op->clean + start + y * s.width;
          T* __restrict tried = op->tried + start + y * s.width;
          for (std::int64_t x = 0; x < s.side; ++x) tried[x] = clamp(clean[x] + change, low, high);
        }
      }
    }
  }
};

// A sum in an order that does not depend on the instruction set.
struct Sum {
  double lanes[kLanes] = {};

  template <class F>
  ATRAS_INLINE void add(std::int64_t n, const F& value) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      for (int k = 0; k < kLanes; ++k) lanes[k] += value(i + k);
    for (int k = 0; i < n; ++i, ++k) lanes[k] += value(i);
  }

  ATRAS_INLINE double total() const {
    double sum = 0;
    for (double lane : lanes) sum += lane;
    return sum;
  }
};

template <class T>
struct Bumps {
  T *tried;
  const T *best, *clean, *drawn, *bumps;  // the bump that is taken where its number is below 0, and the other
  const double* spent;
  double* after;
  Sizes s;
  double epsilon;
  T low, high;

  static ATRAS_INLINE void run(const Bumps* op, std::int64_t from, std::int64_t to) {
    const bool far = op->s.far(sizeof(T));
    for (std::int64_t pair = from; pair < to; ++pair) {
      const T* drawn = op->drawn + (pair + kAhead) * (5 + op->s.channels);
      for (int square = 0; far && pair + kAhead < to && square < 2; ++square)
        for (const T* images : {op->best, op->clean, static_cast<const T*>(op->tried)})
          fetch(images, pair + kAhead, drawn + 2 * square, op->s);
      op->make(pair);
    }
  }

  ATRAS_INLINE void make(std::int64_t pair) const {
    const T* own = drawn + pair * (5 + s.channels);
    const Place to = place(own, s), giving = place(own + 2, s);
    const T* bump = own[4] < T(0) ? bumps : bumps + s.side * s.side;
    const double spare = (epsilon * epsilon - spent[pair]) / static_cast<double>(s.channels);
    double total = spent[pair];
    for (std::int64_t c = 0; c < s.channels; ++c) {
      const std::int64_t start = (pair * s.channels + c) * s.plane();
      const double sign = own[5 + c] < T(0) ? -1 : 1;
      total += make_channel(best + start, clean + start, tried + start, to, giving, bump, sign, spare);
    }
    after[pair] = total;
  }

  // By how much the squared norm of the change grows.
  ATRAS_INLINE double make_channel(const T* best, const T* clean, T* tried, Place to, Place giving, const T* bump,
                                   double sign, double spare) const {
    const std::int64_t side = s.side, width = s.width, at = to.row * width + to.column;
    const auto change = [&](std::int64_t i) ATRAS_LAMBDA { return double(best[i]) - double(clean[i]); };
    Sum kept, given;
    for (std::int64_t y = 0; y < side; ++y)
      kept.add(side, [&](std::int64_t x) ATRAS_LAMBDA { return square(change(at + y * width + x)); });
    for (std::int64_t y = giving.row; y < giving.row + side; ++y) {
      // Pixels of the other square count once: they lie together, at one end of the row or the other.
      const bool meets = y >= to.row && y < to.row + side;
      std::int64_t begin = giving.column, end = giving.column + side;
      if (meets && giving.column < to.column) end = std::min(end, to.column);
      if (meets && giving.column >= to.column) begin = std::max(begin, to.column + side);
      const std::int64_t row = y * width + begin;
      given.add(end - begin, [&](std::int64_t x) ATRAS_LAMBDA { return square(change(row + x)); });
      for (std::int64_t x = 0; x < end - begin; ++x) tried[row + x] = clamp(clean[row + x], low, high);
    }
    const double before = kept.total(), mass = before + given.total();
    const double inverse = 1 / std::max(std::sqrt(before), kTiny);
    const auto shape = [&](std::int64_t y, std::int64_t x) ATRAS_LAMBDA {
      return sign * double(bump[y * side + x]) + change(at + y * width + x) * inverse;
    };
    Sum length, made;
    for (std::int64_t y = 0; y < side; ++y)
      length.add(side, [&](std::int64_t x) ATRAS_LAMBDA { return square(shape(y, x)); });
    const double scale = std::sqrt(std::max(spare + mass, 0.0)) / std::max(std::sqrt(length.total()), kTiny);
    for (std::int64_t y = 0; y < side; ++y) {
      const std::int64_t row = at + y * width;
      for (std::int64_t x = 0; x < side; ++x)
        tried[row + x] = clamp(static_cast<T>(double(clean[row + x]) + shape(y, x) * scale), low, high);
      made.add(side, [&](std::int64_t x) ATRAS_LAMBDA {
        return square(double(tried[row + x]) - double(clean[row + x]));
      });
    }
    return made.total() - mass;
  }

  static ATRAS_INLINE double square(double value) { return value * value; }
};

// NaN where one of the logits is, or the label is none of the classes.
template <class T>
ATRAS_INLINE T margin(const T* logits, std::int64_t classes, std::int64_t label) {
  T own = std::numeric_limits<T>::quiet_NaN(), highest = -std::numeric_limits<T>::infinity();
  bool nan = false;
  for (std::int64_t y = 0; y < classes; ++y) {
    nan |= logits[y] != logits[y];
    if (y == label) own = logits[y];
    else highest = logits[y] > highest ? logits[y] : highest;
  }
  return nan ? std::numeric_limits<T>::quiet_NaN() : highest - own;
}

template <class T>
struct Keep {
  T *best, *tried, *values;
  const T *logits, *drawn;
  const std::int64_t* labels;
  double* spent;
  const double* after;
  Sizes s;
  std::int64_t classes, numbers;

  static ATRAS_INLINE void run(const Keep* op, std::int64_t from, std::int64_t to) {
    const bool far = op->s.far(sizeof(T));
    for (std::int64_t pair = from; pair < to; ++pair) {
      const T value = margin(op->logits + pair * op->classes, op->classes, op->labels[pair]);
      const bool better = value > op->values[pair] && !(op->values[pair] > T(0));
      const T* drawn = op->drawn + pair * op->numbers;
      if (far && pair + kAhead < to) {
        for (std::int64_t square = 0; square < (op->spent == nullptr ? 1 : 2); ++square) {
          fetch<T>(op->best, pair + kAhead, drawn + kAhead * op->numbers + 2 * square, op->s);
          fetch<T>(op->tried, pair + kAhead, drawn + kAhead * op->numbers + 2 * square, op->s);
        }
      }
      op->copy(pair, place(drawn, op->s), better);
      if (op->spent != nullptr) op->copy(pair, place(drawn + 2, op->s), better);
      if (better) op->values[pair] = value;
      if (better && op->spent != nullptr) op->spent[pair] = op->after[pair];
    }
  }

  ATRAS_INLINE void copy(std::int64_t pair, Place at, bool better) const {
    const T* source = better ? tried : best;
    T* target = better ? best : tried;
    for (std::int64_t c = 0; c < s.channels; ++c) {
      const std::int64_t start = (pair * s.channels + c) * s.plane() + at.row * s.width + at.column;
      for (std::int64_t y = 0; y < s.side; ++y) {
        const T* __restrict from = source + start + y * s.width;
        T* __restrict to = target + start + y * s.width;
        for (std::int64_t x = 0; x < s.side; ++x) to[x] = from[x];
      }
    }
  }
};

// Runs an op for all pairs, on several threads where their squares are worth it.
template <class Op>
void over_pairs(const Op& op, std::int64_t squares, int threads) {
  const std::int64_t pairs = op.s.pairs;
  if (pairs * squares * op.s.channels * op.s.side * op.s.side < kSerialElements) threads = 1;
  const std::int64_t items = threads < 2 ? 1 : std::min(pairs, kItemsPerThread * threads);
  Pool::instance().run(threads, items, [&](std::int64_t item) {
    with_best_instructions<Op>(&op, item * pairs / items, (item + 1) * pairs / items);
  });
}

template <class P>
P* at(Address address) {
  return reinterpret_cast<P*>(address);
}

// Calls f with a null pointer that carries the type of the pixels.
template <class F>
void with_type(bool wide, const F& f) {
  if (wide) f((double*)nullptr);
  else f((float*)nullptr);
}

}  // namespace

void square_corners(Address tried, Address clean, Address drawn, bool wide, std::int64_t pairs, std::int64_t channels,
                    std::int64_t height, std::int64_t width, std::int64_t side, double epsilon, double low, double high,
                    int threads) {
  with_type(wide, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Sizes sizes{pairs, channels, height, width, side};
    const Corners<T> op{at<T>(tried), at<const T>(clean), at<const T>(drawn), sizes, T(epsilon), T(low), T(high)};
    over_pairs(op, 1, threads);
  });
}

void square_bumps(Address tried, Address best, Address clean, Address spent, Address after, Address drawn,
                  Address bumps, bool wide, std::int64_t pairs, std::int64_t channels, std::int64_t height,
                  std::int64_t width, std::int64_t side, double epsilon, double low, double high, int threads) {
  with_type(wide, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Sizes sizes{pairs, channels, height, width, side};
    const Bumps<T> op{at<T>(tried),         at<const T>(best),       at<const T>(clean), at<const T>(drawn),
                      at<const T>(bumps),   at<const double>(spent), at<double>(after),  sizes,
                      epsilon,              T(low),                  T(high)};
    over_pairs(op, 4, threads);
  });
}

void square_keep(Address best, Address tried, Address values, Address logits, Address labels, Address drawn,
                 Address spent, Address after, bool wide, std::int64_t pairs, std::int64_t channels,
                 std::int64_t height, std::int64_t width, std::int64_t classes, std::int64_t numbers, std::int64_t side,
                 int threads) {
  with_type(wide, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Sizes sizes{pairs, channels, height, width, side};
    const Keep<T> op{at<T>(best),         at<T>(tried),                   at<T>(values),     at<const T>(logits),
                     at<const T>(drawn),  at<const std::int64_t>(labels), at<double>(spent), at<const double>(after),
                     sizes,               classes,                        numbers};
    over_pairs(op, spent == 0 ? 1 : 2, threads);
  });
}

}  // namespace atras
