// Steps of projected gradient ascent with momentum in one pass. Every operation is the definition's, in its order, and
// the build joins none of them, so that results have the definition's bits.
#include <cstring>

#include "../native/ops.h"
#include "../native/simd.h"
#include "../native/threads.h"

namespace atras {
namespace {

constexpr std::int64_t kSerialBytes = 1 << 18;  // below this, waking threads costs more than it saves
constexpr std::int64_t kRows = 8;               // of a work item

template <class T>
struct Ball {
  T epsilon, weight, rest, low, high;
};

// Comparisons with NaN are false: a NaN stays.
template <class T>
ATRAS_INLINE T within(T value, T least, T most) {
  value = value < least ? least : value;
  return value > most ? most : value;
}

template <class T, bool Momentum>
struct Ascend {
  static ATRAS_INLINE void run(const T* __restrict points, const T* __restrict before, const T* __restrict gradients,
                               const T* __restrict clean, T* __restrict reached, std::int64_t n, T size,
                               const Ball<T>* ball) {
    const Ball<T> b = *ball;
    for (std::int64_t i = 0; i < n; ++i) {
      const T least = clean[i] - b.epsilon, most = clean[i] + b.epsilon, gradient = gradients[i], point = points[i];
      const T sign = T(gradient > T(0)) - T(gradient < T(0));
      T to = within(within(point + size * sign, least, most), b.low, b.high);
      if constexpr (Momentum) {
        to = point + b.weight * (to - point) + b.rest * (point - before[i]);
        to = within(within(to, least, most), b.low, b.high);
      }
      reached[i] = to;
    }
  }
};

template <class T>
const T* row(Address address, std::int64_t i, std::int64_t pixels) {
  return reinterpret_cast<const T*>(address) + i * pixels;
}

// Calls work(row) for every row, by threads where there are bytes enough.
template <class Work>
void over_rows(std::int64_t rows, std::int64_t bytes, int threads, const Work& work) {
  if (bytes < kSerialBytes) threads = 1;
  Pool::instance().run(threads, (rows + kRows - 1) / kRows, [&](std::int64_t item) {
    for (std::int64_t i = item * kRows; i < std::min(rows, (item + 1) * kRows); ++i) work(i);
  });
}

template <class T>
void all_rows(Address points, Address before, Address gradients, Address clean, Address sizes, Address reached,
              std::int64_t pairs, std::int64_t pixels, const Ball<T>& ball, int threads) {
  over_rows(pairs, pairs * pixels * std::int64_t(sizeof(T)), threads, [&](std::int64_t i) {
    const T *x = row<T>(points, i, pixels), *g = row<T>(gradients, i, pixels), *center = row<T>(clean, i, pixels);
    T* to = const_cast<T*>(row<T>(reached, i, pixels));
    const T size = *row<T>(sizes, i, 1);
    if (before) with_best_instructions<Ascend<T, true>>(x, row<T>(before, i, pixels), g, center, to, pixels, size, &ball);
    else with_best_instructions<Ascend<T, false>>(x, x, g, center, to, pixels, size, &ball);
  });
}

}  // namespace

void ascent_step(Address points, Address before, Address gradients, Address clean, Address sizes, Address reached,
                 bool wide, std::int64_t pairs, std::int64_t pixels, double epsilon, double weight, double rest,
                 double low, double high, int threads) {
  const auto all = [&](auto zero) {
    using T = decltype(zero);
    const Ball<T> ball{T(epsilon), T(weight), T(rest), T(low), T(high)};
    all_rows<T>(points, before, gradients, clean, sizes, reached, pairs, pixels, ball, threads);
  };
  if (wide) all(0.0);
  else all(0.0f);
}

void keep_rows(Address kept, Address values, Address chosen, std::int64_t rows, std::int64_t bytes, int threads) {
  const bool* take = reinterpret_cast<const bool*>(chosen);
  over_rows(rows, rows * bytes, threads, [&](std::int64_t i) {
    if (take[i]) std::memcpy(const_cast<char*>(row<char>(kept, i, bytes)), row<char>(values, i, bytes), bytes);
  });
}

}  // namespace atras
