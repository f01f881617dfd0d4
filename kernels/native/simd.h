// Code compiled for several instruction sets and run for the best one here, and stores that bypass the caches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "instructions.h"

#define ATRAS_INLINE inline __attribute__((always_inline))
#define ATRAS_LAMBDA __attribute__((always_inline))

namespace atras {

#if defined(__x86_64__)
#if defined(__clang__)
#define ATRAS_AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#else
#define ATRAS_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif

template <class Body, class... A>
__attribute__((target(ATRAS_AVX512))) void with_avx512(A... a) {
  Body::run(a...);
}

template <class Body, class... A>
__attribute__((target("avx2"))) void with_avx2(A... a) {
  Body::run(a...);
}
#endif

// Body::run(a...), compiled for each instruction set and called for the best one here. Body::run and what it calls must
// be ATRAS_INLINE, for only inlined code is compiled anew.
template <class Body, class... A>
void with_best_instructions(A... a) {
#if defined(__x86_64__)
  switch (best_instructions()) {
    case Instructions::amx:
    case Instructions::avx512_bf16:  // what is compiled here has no use for more than AVX-512
    case Instructions::avx512: return with_avx512<Body>(a...);
    case Instructions::avx2: return with_avx2<Body>(a...);
    default: break;
  }
#endif
  Body::run(a...);
}

// memcpy that does not read the destination's cache lines first. Call fence() before another thread reads them.
inline void stream(void* to, const void* from, std::size_t bytes) {
#if defined(__x86_64__)
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  const std::size_t head = std::min<std::size_t>(bytes, -reinterpret_cast<std::uintptr_t>(target) & 15);
  std::memcpy(target, source, head);
  std::size_t at = head;
  for (; at + 16 <= bytes; at += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(target + at),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at)));
  std::memcpy(target + at, source + at, bytes - at);
#else
  std::memcpy(to, from, bytes);
#endif
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace atras
