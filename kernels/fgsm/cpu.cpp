// FGSM's pixel update in one pass. A tile of a shared image is read once and stays in cache for all members.
#include <cmath>
#include <type_traits>

#include "../native/ops.h"
#include "../native/simd.h"
#include "../native/threads.h"

namespace atras {
namespace {

// A tile of an image stays in L2 while the members go by; a short one would break up the reading of their gradients.
constexpr std::int64_t kSmallestTile = 8192, kLargestTile = 131072;
constexpr std::int64_t kItemsPerThread = 4;      // so that a thread that is held up does not hold up the rest
constexpr std::int64_t kPiece = 256;             // elements computed in L1 before they are streamed out
constexpr std::int64_t kStreamBytes = 16 << 20;  // outputs from this size on bypass the caches
constexpr std::int64_t kSerialElements = 32768;  // below this, waking threads costs more than it saves

template <class T>
using Count = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

template <class T, class I>
ATRAS_INLINE T to_pixel(I image) {
  if constexpr (std::is_same_v<I, std::uint8_t>) return static_cast<T>(image) / T(255);
  else return image;
}

// A comparison with NaN is false, so a NaN pixel stays NaN.
template <class T>
ATRAS_INLINE T clamp(T value, T low, T high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <class T>
struct Step {
  T epsilon, direction, low, high;
};

struct Counts {
  std::int64_t nan = 0, zero = 0;
};

// Zeros are told from NaN only in pieces that have either, which are few.
template <class T>
ATRAS_INLINE void count(const T* gradients, std::int64_t n, Count<T> still, Counts* counts) {
  if (still == 0) return;
  Count<T> zero = 0;
  for (std::int64_t i = 0; i < n; ++i) zero += gradients[i] == T(0);
  counts->zero += zero, counts->nan += still - zero;
}

template <class T, class I>
struct Perturb {
  static ATRAS_INLINE void run(const I* __restrict images, const T* __restrict gradients, T* __restrict values,
                               std::int64_t n, const Step<T>* step, Counts* counts) {
    const Step<T> s = *step;
    Count<T> still = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const T gradient = gradients[i];
      const bool moves = (gradient > T(0)) | (gradient < T(0));
      still += !moves;
      const T sign = moves ? std::copysign(T(1), gradient) * s.direction : T(0);
      values[i] = clamp(to_pixel<T>(images[i]) + s.epsilon * sign, s.low, s.high);
    }
    count(gradients, n, still, counts);
  }
};

template <class T>
struct Signs {
  static ATRAS_INLINE void run(const T* __restrict gradients, std::int8_t* __restrict values, std::int64_t n,
                               std::int8_t direction, Counts* counts) {
    Count<T> still = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const T gradient = gradients[i];
      const Count<T> sign = Count<T>(gradient > T(0)) - Count<T>(gradient < T(0));
      still += sign == 0;
      values[i] = static_cast<std::int8_t>(sign * direction);
    }
    count(gradients, n, still, counts);
  }
};

template <class T, class I>
struct Apply {
  static ATRAS_INLINE void run(const I* __restrict images, const std::int8_t* __restrict signs, T* __restrict values,
                               std::int64_t n, const Step<T>* step) {
    const Step<T> s = *step;
    for (std::int64_t i = 0; i < n; ++i)
      values[i] = clamp(to_pixel<T>(images[i]) + s.epsilon * static_cast<T>(signs[i]), s.low, s.high);
  }
};

// Calls part(from, to, n) for pieces of one tile. Large outputs are made piece by piece in L1 and streamed out: a plain
// store would first read what it overwrites. Pieces end where the output's cache lines do.
template <class V, class Part>
void in_pieces(V* values, std::int64_t n, bool streamed, const Part& part) {
  alignas(64) V piece[kPiece];
  const std::int64_t past = (reinterpret_cast<std::uintptr_t>(values) & 63) / sizeof(V);
  for (std::int64_t from = 0, size; from < n; from += size) {
    size = std::min(n - from, from == 0 ? kPiece - past : kPiece);
    part(from, streamed ? piece : values + from, size);
    if (streamed) stream(values + from, piece, size * sizeof(V));
  }
  if (streamed) fence();
}

// Calls tile(member, from, n) for every tile of every member: tile by tile where the members share their image, else
// member by member.
template <class Tile>
void over_tiles(std::int64_t members, std::int64_t pixels, bool shared, int threads, const Tile& tile) {
  if (members * pixels < kSerialElements) threads = 1;
  const std::int64_t even = members * pixels / (kItemsPerThread * threads);
  const std::int64_t size = std::clamp(even / kSmallestTile * kSmallestTile, kSmallestTile, kLargestTile);
  const std::int64_t tiles = (pixels + size - 1) / size;
  Pool::instance().run(threads, tiles * members, [&](std::int64_t item) {
    const std::int64_t member = shared ? item % members : item / tiles;
    const std::int64_t from = (shared ? item / members : item % tiles) * size;
    tile(member, from, std::min(size, pixels - from));
  });
}

void add(std::int64_t* total, std::int64_t count) { __atomic_fetch_add(total, count, __ATOMIC_RELAXED); }

template <class P>
P* at(Address address) {
  return reinterpret_cast<P*>(address);
}

// Calls f with null pointers that carry the value type and the image type.
template <class F>
void with_types(bool wide, bool bytes, const F& f) {
  if (wide && bytes) f((double*)nullptr, (const std::uint8_t*)nullptr);
  else if (wide) f((double*)nullptr, (const double*)nullptr);
  else if (bytes) f((float*)nullptr, (const std::uint8_t*)nullptr);
  else f((float*)nullptr, (const float*)nullptr);
}

template <class T>
Step<T> make_step(double epsilon, double direction, double low, double high) {
  return {static_cast<T>(epsilon), static_cast<T>(direction), static_cast<T>(low), static_cast<T>(high)};
}

}  // namespace

void fgsm(Address images, Address gradients, Address values, Address nan_counts, Address zero_counts, bool shared,
          bool bytes, bool wide, std::int64_t members, std::int64_t pixels, Address epsilons, int direction, double low,
          double high, int threads) {
  with_types(wide, bytes, [&](auto* value_type, auto* image_type) {
    using T = std::remove_pointer_t<decltype(value_type)>;
    using I = std::remove_const_t<std::remove_pointer_t<decltype(image_type)>>;
    const bool streamed = members * pixels * std::int64_t(sizeof(T)) >= kStreamBytes;
    over_tiles(members, pixels, shared, threads, [&](std::int64_t member, std::int64_t from, std::int64_t n) {
      const Step<T> step = make_step<T>(at<const double>(epsilons)[member], direction, low, high);
      const I* image = at<const I>(images) + (shared ? 0 : member * pixels) + from;
      const T* gradient = at<const T>(gradients) + member * pixels + from;
      Counts counts;
      in_pieces(at<T>(values) + member * pixels + from, n, streamed, [&](std::int64_t i, T* to, std::int64_t size) {
        with_best_instructions<Perturb<T, I>>(image + i, gradient + i, to, size, &step, &counts);
      });
      add(at<std::int64_t>(nan_counts) + member, counts.nan);
      add(at<std::int64_t>(zero_counts) + member, counts.zero);
    });
  });
}

void fgsm_signs(Address gradients, Address values, Address nan_counts, Address zero_counts, bool wide,
                std::int64_t members, std::int64_t pixels, int direction, int threads) {
  with_types(wide, true, [&](auto* value_type, auto*) {
    using T = std::remove_pointer_t<decltype(value_type)>;
    over_tiles(members, pixels, false, threads, [&](std::int64_t member, std::int64_t from, std::int64_t n) {
      const T* gradient = at<const T>(gradients) + member * pixels + from;
      std::int8_t* value = at<std::int8_t>(values) + member * pixels + from;
      Counts counts;
      in_pieces(value, n, false, [&](std::int64_t i, std::int8_t* to, std::int64_t size) {
        with_best_instructions<Signs<T>>(gradient + i, to, size, static_cast<std::int8_t>(direction), &counts);
      });
      add(at<std::int64_t>(nan_counts) + member, counts.nan);
      add(at<std::int64_t>(zero_counts) + member, counts.zero);
    });
  });
}

void apply_signs(Address images, Address signs, Address values, bool shared, bool bytes, bool wide,
                 std::int64_t members, std::int64_t pixels, Address epsilons, double low, double high, int threads) {
  with_types(wide, bytes, [&](auto* value_type, auto* image_type) {
    using T = std::remove_pointer_t<decltype(value_type)>;
    using I = std::remove_const_t<std::remove_pointer_t<decltype(image_type)>>;
    const bool streamed = members * pixels * std::int64_t(sizeof(T)) >= kStreamBytes;
    over_tiles(members, pixels, shared, threads, [&](std::int64_t member, std::int64_t from, std::int64_t n) {
      const Step<T> step = make_step<T>(at<const double>(epsilons)[member], 1, low, high);
      const I* image = at<const I>(images) + (shared ? 0 : member * pixels) + from;
      const std::int8_t* sign = at<const std::int8_t>(signs) + member * pixels + from;
      in_pieces(at<T>(values) + member * pixels + from, n, streamed, [&](std::int64_t i, T* to, std::int64_t size) {
        with_best_instructions<Apply<T, I>>(image + i, sign + i, to, size, &step);
      });
    });
  });
}

}  // namespace atras
