// Counter-based dropout: random bytes are drawn a tile at a time into cache and used at once.
#include <vector>

#include "../native/ops.h"
#include "../native/philox.h"
#include "../native/threads.h"

namespace atras {
namespace {

constexpr std::int64_t kTile = 8192;             // positions a work item
constexpr std::int64_t kSerialElements = 16384;  // below this, waking threads costs more than it saves

struct Stream {
  std::uint64_t key;
  std::uint32_t step, layer;
};

struct Draw {
  static ATRAS_INLINE void run(const Stream* stream, std::int64_t block, std::int64_t count, std::uint32_t* words) {
    philox(stream->key, static_cast<std::uint32_t>(block), stream->step, stream->layer,
           static_cast<std::int32_t>(count), words);
  }
};

// The random bytes of positions [begin, end).
class Bytes {
 public:
  Bytes(const Stream& stream, std::int64_t begin, std::int64_t end) : skip_(begin % 16) {
    const std::int64_t block = begin / 16, count = (end + 15) / 16 - block;
    words_.resize(4 * count);
    with_best_instructions<Draw>(&stream, block, count, words_.data());
  }
  const std::uint8_t* data() const { return reinterpret_cast<const std::uint8_t*>(words_.data()) + skip_; }

 private:
  std::vector<std::uint32_t> words_;
  std::int64_t skip_;
};

template <class T>
struct Mask {
  static ATRAS_INLINE void run(const T* __restrict x, T* __restrict y, const std::uint8_t* __restrict bytes,
                               std::int64_t n, std::uint8_t rate256, T scale) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = bytes[i] < rate256 ? T(0) : x[i] * scale;
  }
};

// Transposes an 8 x 8 block of bytes, each row one word (Warren, "Hacker's Delight", section 7-3).
inline void transpose_block(const std::uint8_t* from, std::int64_t from_stride, std::uint8_t* to,
                            std::int64_t to_stride) {
  std::uint64_t row[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&row[i], from + i * from_stride, 8);
  constexpr std::uint64_t kLow[3] = {0x00000000FFFFFFFFu, 0x0000FFFF0000FFFFu, 0x00FF00FF00FF00FFu};
  for (int level = 0, step = 4; step > 0; ++level, step /= 2)
    for (int i = 0; i < 8; ++i) {
      if (i & step) continue;
      const std::uint64_t swap = (row[i] >> 8 * step ^ row[i + step]) & kLow[level];
      row[i] ^= swap << 8 * step;
      row[i + step] ^= swap;
    }
  for (int i = 0; i < 8; ++i) std::memcpy(to + i * to_stride, &row[i], 8);
}

// from [rows, columns] -> to [columns, rows].
void transpose(const std::uint8_t* from, std::uint8_t* to, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; r += 8)
    for (std::int64_t c = 0; c < columns; c += 8) {
      if (r + 8 <= rows && c + 8 <= columns) {
        transpose_block(from + r * columns + c, columns, to + c * rows + r, rows);
        continue;
      }
      for (std::int64_t i = r; i < std::min(r + 8, rows); ++i)
        for (std::int64_t j = c; j < std::min(c + 8, columns); ++j) to[j * rows + i] = from[i * columns + j];
    }
}

template <class T>
class Dropout {
 public:
  Dropout(Address x, Address y, Address keys, Address steps, Address widths, std::int64_t rows, std::int64_t spots,
          std::int64_t channels, std::uint32_t layer, int rate256)
      : x_(reinterpret_cast<const T*>(x)), y_(reinterpret_cast<T*>(y)),
        keys_(reinterpret_cast<const std::int64_t*>(keys)), steps_(reinterpret_cast<const std::int64_t*>(steps)),
        widths_(reinterpret_cast<const std::int64_t*>(widths)), rows_(rows), spots_(spots), channels_(channels),
        layer_(layer), rate256_(static_cast<std::uint8_t>(rate256)), scale_(static_cast<T>(256.0 / (256 - rate256))) {}

  // Rows that lie in memory as their positions count, but for padding past a member's width.
  void dense(std::int64_t members, int threads) const {
    const std::int64_t size = rows_ * spots_ * channels_, tiles = (size + kTile - 1) / kTile;
    Pool::instance().run(threads, members * tiles, [&](std::int64_t item) {
      const std::int64_t member = item / tiles, tile = item % tiles;
      if (widths_ != nullptr) return padded_tile(member, tile, tiles);
      const std::int64_t begin = tile * kTile, end = std::min(begin + kTile, size), at = member * size + begin;
      mask(at, Bytes(stream(member), begin, end).data(), end - begin);
    });
  }

  // Images whose channels are planes: the bytes of a tile of spots are transposed first.
  void planar(std::int64_t members, int threads) const {
    const std::int64_t span = std::max<std::int64_t>(kTile / channels_ / 8 * 8, 8), tiles = (spots_ + span - 1) / span;
    Pool::instance().run(threads, members * rows_ * tiles, [&](std::int64_t item) {
      const std::int64_t image = item / tiles, spot = item % tiles * span, n = std::min(span, spots_ - spot);
      const std::int64_t begin = (image % rows_ * spots_ + spot) * channels_, end = begin + n * channels_;
      std::vector<std::uint8_t> planes(n * channels_);
      transpose(Bytes(stream(image / rows_), begin, end).data(), planes.data(), n, channels_);
      for (std::int64_t channel = 0; channel < channels_; ++channel)
        mask((image * channels_ + channel) * spots_ + spot, planes.data() + channel * n, n);
    });
  }

 private:
  Stream stream(std::int64_t member) const {
    return {static_cast<std::uint64_t>(keys_[member]), static_cast<std::uint32_t>(steps_[member]), layer_};
  }

  void mask(std::int64_t at, const std::uint8_t* bytes, std::int64_t n) const {
    with_best_instructions<Mask<T>>(x_ + at, y_ + at, bytes, n, rate256_, scale_);
  }

  // Tiles count a member's real positions; the last ones of a narrow member have none. Padding is shared out by rows.
  void padded_tile(std::int64_t member, std::int64_t tile, std::int64_t tiles) const {
    const std::int64_t width = std::clamp<std::int64_t>(widths_[member], 0, channels_);
    const std::int64_t start = member * rows_ * channels_;
    const std::int64_t begin = tile * kTile, end = std::min(begin + kTile, rows_ * width);
    if (begin < end) {
      const Bytes bytes(stream(member), begin, end);
      for (std::int64_t position = begin, n; position < end; position += n) {
        const std::int64_t row = position / width, column = position % width;
        n = std::min(width - column, end - position);
        mask(start + row * channels_ + column, bytes.data() + (position - begin), n);
      }
    }
    for (std::int64_t row = tile; row < rows_; row += tiles) {
      T* first = y_ + start + row * channels_;
      std::fill(first + width, first + channels_, T(0));
    }
  }

  const T* x_;
  T* y_;
  const std::int64_t *keys_, *steps_, *widths_;
  std::int64_t rows_, spots_, channels_;
  std::uint32_t layer_;
  std::uint8_t rate256_;
  T scale_;
};

}  // namespace

void dropout(Address x, Address y, Address keys, Address steps, Address widths, bool wide, bool planar,
             std::int64_t members, std::int64_t rows, std::int64_t spots, std::int64_t channels, std::uint32_t layer,
             int rate256, int threads) {
  if (members * rows * spots * channels < kSerialElements) threads = 1;
  const auto run = [&](auto op) { planar ? op.planar(members, threads) : op.dense(members, threads); };
  if (wide) run(Dropout<double>(x, y, keys, steps, widths, rows, spots, channels, layer, rate256));
  else run(Dropout<float>(x, y, keys, steps, widths, rows, spots, channels, layer, rate256));
}

}  // namespace atras
