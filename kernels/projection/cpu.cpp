// Steps onto linearised boundaries, pair by pair: all that a pair needs stays in the nearest caches.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "../native/ops.h"
#include "../native/simd.h"
#include "../native/threads.h"

namespace atras {
namespace {

constexpr std::int64_t kPairs = 8;                // of a work item, which has scratch of its own
constexpr std::int64_t kSerialElements = 16384;   // below this, waking threads costs more than it saves
constexpr int kLanes = 16;
constexpr double kLeastChange = 1e-8;

enum class Norm { linf, l2, l1 };

template <class T>
struct Pair {
  const T *point, *clean, *normal;
  T value;
  T* reached;
  std::int64_t pixels;
  T alpha, eta, low, high;
  T *weights, *moves, *biased;  // scratch, [pixels] each
};

// Sums in double of f(a[i], b[i]), i < n: in lanes, so that they can be vectors. f multiplies by a condition rather than
// choosing by it: GCC 12 makes reads under a condition of the latter, and vectors of wrong numbers of those.
template <class T, class F>
ATRAS_INLINE double sum(const T* a, const T* b, std::int64_t n, const F& f) {
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] += f(a[i + lane], b[i + lane]);
  double total = 0.0;
  for (; i < n; ++i) total += f(a[i], b[i]);
  for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  return total;
}

template <class T>
ATRAS_INLINE T sign(T x) {
  return T(x > T(0)) - T(x < T(0));
}

// Room becomes moves within it with sum(weights * moves) = wanted, of the least linf or l2 norm: min(t * rate, room)
// with rates 1 or the weights. The sum is concave in t, so Newton's steps from 0 come from below and end exactly.
template <Norm N, class T>
ATRAS_INLINE void even(const T* weights, T* room, double wanted, std::int64_t n) {
  T t = 0;
  const auto move = [&](T weight) ATRAS_LAMBDA { return N == Norm::linf ? t : t * weight; };
  double free = -1.0;
  for (std::int64_t step = 0; step <= n; ++step) {
    const double still = sum(weights, room, n, [&](T w, T most) ATRAS_LAMBDA { return double(move(w) < most); });
    if (still == free) break;
    free = still;
    const double slope = sum(weights, room, n, [&](T w, T most) ATRAS_LAMBDA {
      const double gain = N == Norm::linf ? double(w) : double(w) * double(w);
      return double(move(w) < most) * gain;
    });
    const double fixed = sum(weights, room, n, [&](T w, T most) ATRAS_LAMBDA {
      return double(!(move(w) < most)) * (double(w) * double(most));
    });
    if (slope > 0.0) t = std::max(t, T((wanted - fixed) / slope));
  }
  if (free == 0.0) return;  // as near as the bounds allow
  for (std::int64_t i = 0; i < n; ++i) {
    const T wish = move(weights[i]), most = room[i];
    room[i] = wish < most ? wish : most;
  }
}

// The same of the least l1 norm: pixels of highest weight are moved as far as they go, of equals the first. The weight
// at which it ends is found by bisection of the numbers' bits, which are ordered as they are.
template <class T>
ATRAS_INLINE void fill(const T* weights, T* room, double wanted, std::int64_t n) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  const auto above = [&](T least) ATRAS_LAMBDA {
    return sum(weights, room, n, [&](T w, T most) ATRAS_LAMBDA {
      return double(w >= least) * (double(w) * double(most));
    });
  };
  const auto number = [](Bits bits) ATRAS_LAMBDA {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  const T infinity = std::numeric_limits<T>::infinity();
  Bits low = 0, high;  // weights of at least `low` are enough, those of at least `high` are not
  std::memcpy(&high, &infinity, sizeof high);
  if (above(T(0)) <= wanted) {
    for (std::int64_t i = 0; i < n; ++i)
      if (weights[i] == T(0)) room[i] = T(0);
    return;
  }
  while (high - low > 1) {
    const Bits middle = low + (high - low) / 2;
    (above(number(middle)) >= wanted ? low : high) = middle;
  }
  const T last = number(low);
  double left = wanted - above(number(high));
  for (std::int64_t i = 0; i < n; ++i) {
    const T weight = weights[i];
    if (weight > last) continue;
    const double part = double(weight) * double(room[i]);
    if (weight == last && weight > T(0) && left < part) room[i] = T(left / double(weight));
    else if (weight != last || weight == T(0)) room[i] = T(0);
    if (weight == last) left = std::max(left - part, 0.0);
  }
}

// The smallest moves, each in its direction, from a point onto the hyperplane, and their norm.
template <Norm N, class T>
ATRAS_INLINE double project(const Pair<T>& p, const T* from, double offset, T* moves) {
  const T towards = -T(sign(offset));
  for (std::int64_t i = 0; i < p.pixels; ++i) {
    const T room = towards * sign(p.normal[i]) > T(0) ? p.high - from[i] : from[i] - p.low;
    moves[i] = room < T(0) ? T(0) : room;
  }
  const double wanted = std::abs(offset);
  if constexpr (N == Norm::l1) fill(p.weights, moves, wanted, p.pixels);
  else even<N>(p.weights, moves, wanted, p.pixels);
  T largest = 0;
  for (std::int64_t i = 0; i < p.pixels; ++i) {
    moves[i] *= towards * sign(p.normal[i]);
    if (N == Norm::linf) largest = std::max(largest, std::abs(moves[i]));
  }
  double size = double(largest);
  if (N == Norm::l2)
    size = std::sqrt(sum(moves, moves, p.pixels, [](T move, T) ATRAS_LAMBDA { return double(move) * double(move); }));
  if (N == Norm::l1)
    size = sum(moves, moves, p.pixels, [](T move, T) ATRAS_LAMBDA { return std::abs(double(move)); });
  return std::max(size, kLeastChange);
}

template <Norm N, class T>
struct Onto {
  static ATRAS_INLINE void run(const Pair<T>* pair) {
    const Pair<T> p = *pair;
    for (std::int64_t i = 0; i < p.pixels; ++i) {
      const T normal = p.normal[i];
      p.moves[i] = normal == normal ? normal : T(0);  // until there are moves, the normal without NaN
      p.weights[i] = std::abs(p.moves[i]);
    }
    const auto product = [](T a, T b) ATRAS_LAMBDA { return double(a) * double(b); };
    const double between = sum(p.moves, p.clean, p.pixels, product) - sum(p.moves, p.point, p.pixels, product);
    const double size = project<N>(p, p.point, double(p.value), p.moves);
    const double other = project<N>(p, p.clean, double(p.value) + between, p.biased);
    const T weight = std::min(T(size / (size + other)), p.alpha);
    for (std::int64_t i = 0; i < p.pixels; ++i) {
      const T own = p.point[i] + p.eta * p.moves[i], from_image = p.clean[i] + p.eta * p.biased[i];
      const T mean = own * (T(1) - weight) + from_image * weight;
      const T above = mean < p.low ? p.low : mean;  // comparisons with NaN are false: it stays
      p.reached[i] = above > p.high ? p.high : above;
    }
  }
};

template <class T>
void all_pairs(Address points, Address clean, Address normals, Address values, Address reached, std::int64_t pairs,
               std::int64_t pixels, Norm norm, double alpha, double eta, double low, double high, int threads) {
  const auto at = [](Address address) { return reinterpret_cast<T*>(address); };
  if (pairs * pixels < kSerialElements) threads = 1;
  Pool::instance().run(threads, (pairs + kPairs - 1) / kPairs, [&](std::int64_t item) {
    std::vector<T> scratch(3 * pixels);
    for (std::int64_t i = item * kPairs; i < std::min(pairs, (item + 1) * kPairs); ++i) {
      const std::int64_t from = i * pixels;
      const Pair<T> pair{at(points) + from, at(clean) + from, at(normals) + from, at(values)[i],  at(reached) + from,
                         pixels,            T(alpha),         T(eta),             T(low),         T(high),
                         scratch.data(),    scratch.data() + pixels, scratch.data() + 2 * pixels};
      switch (norm) {
        case Norm::linf: with_best_instructions<Onto<Norm::linf, T>>(&pair); break;
        case Norm::l2: with_best_instructions<Onto<Norm::l2, T>>(&pair); break;
        case Norm::l1: with_best_instructions<Onto<Norm::l1, T>>(&pair); break;
      }
    }
  });
}

}  // namespace

void boundary_step(Address points, Address clean, Address normals, Address values, Address reached, bool wide,
                   std::int64_t pairs, std::int64_t pixels, int norm, double alpha, double eta, double low, double high,
                   int threads) {
  const auto all = wide ? all_pairs<double> : all_pairs<float>;
  all(points, clean, normals, values, reached, pairs, pixels, Norm(norm), alpha, eta, low, high, threads);
}

}  // namespace atras
