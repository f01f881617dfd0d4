// Philox4x32-10 over consecutive counters, written so that the compiler vectorises over them.
// Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace atras {

// Writes 16 bytes for each of the counters (block + i, step, layer, 0), i in [0, count): little endian, word 0 first.
ATRAS_INLINE void philox(std::uint64_t key, std::uint32_t block, std::uint32_t step, std::uint32_t layer,
                         std::int32_t count, std::uint32_t* __restrict words) {
  for (std::int32_t i = 0; i < count; ++i) {
    std::uint32_t c0 = block + static_cast<std::uint32_t>(i), c1 = step, c2 = layer, c3 = 0;
    std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t first = std::uint64_t{c0} * 0xD2511F53u, second = std::uint64_t{c2} * 0xCD9E8D57u;
      c0 = static_cast<std::uint32_t>(second >> 32) ^ c1 ^ k0;
      c1 = static_cast<std::uint32_t>(second);
      c2 = static_cast<std::uint32_t>(first >> 32) ^ c3 ^ k1;
      c3 = static_cast<std::uint32_t>(first);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    words[4 * i] = c0, words[4 * i + 1] = c1, words[4 * i + 2] = c2, words[4 * i + 3] = c3;
  }
}

}  // namespace atras
